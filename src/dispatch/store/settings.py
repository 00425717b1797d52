"""The settings store: relays, rules and logins that were configured by command, the values of the vault, and
the suppression list.

`settings.db` is the one file of which a loss cannot be made good from elsewhere but a backup, so each commit
is on stable storage when it returns (`synchronous=FULL`).

Rules:
- Only control writes it, or who holds the supervisor's lock. Others may look (`read_settings`).
- Secrets are sealed before they are written, each under its path (`relays.smarthost.password`). Whoever looks
  without the vault is told that there is one, and nothing of it.
- What stands here is as a person wrote it, key by key, and is checked where all sources meet
  (`dispatch.settings.loading`), within the transaction that changes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import cast

import apsw
import msgspec

from dispatch.security.vault import Vault
from dispatch.settings.mistakes import Origin
from dispatch.settings.model import KEYS
from dispatch.settings.sources import Given
from dispatch.store.sqlite import (
    closed_on_failure,
    faults,
    open_database,
    open_read_only,
    schema_version,
    statements,
    transaction,
)
from dispatch.store.suppressions import SuppressionTable

ORIGIN = Origin("database", "settings.db")
"""Of everything that stands here."""

_SQL = statements("settings")


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sealed: str


Value = str | int | float | bool | list[str | int | float]
"""As in the file, or as text that says nothing about its type."""
_Body = dict[str, Value | _Sealed]
_BODY = msgspec.json.Decoder(_Body)


class SettingsStore:
    """The writing end. One thread at a time."""

    def __init__(self, connection: apsw.Connection, vault: Vault) -> None:
        self._connection = connection
        self.vault = vault
        self.suppressions = SuppressionTable(connection)

    @classmethod
    def open(cls, path: Path, vault: Vault) -> SettingsStore:
        """Open or make the database. Raises `StoreFault`."""
        connection = open_database(path, "settings", synchronous="FULL")
        with closed_on_failure(connection):
            path.chmod(0o600)
            return cls(connection, vault)

    def close(self) -> None:
        with faults("settings: close"):
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes made within are kept on stable storage, or none where something is raised."""
        with transaction(self._connection):
            yield

    def given(self) -> list[Given]:
        """What the database says, with its secrets. Raises `StoreFault`, and `VaultFault`."""
        with faults("settings: read"):
            return list(_given(self._connection, self.vault))

    def holds(self, section: str, name: str) -> bool:
        with faults("settings: read"):
            return self._connection.execute(_SQL["entry"], (section, name)).get is not None

    def put(self, section: str, name: str, keys: Mapping[str, Value | None]) -> None:
        """Make an entry, or change these keys of it; None takes a key away. Within a transaction."""
        written = cast(str | None, self._connection.execute(_SQL["entry"], (section, name)).get)
        body: _Body = {} if written is None else _BODY.decode(written)
        for key, value in keys.items():
            if value is None:
                body.pop(key, None)
                continue
            entry = KEYS[section].get(key)
            if entry is not None and entry.key.secret:
                path = f"{section}.{name}.{key}"
                body[key] = _Sealed(self.vault.seal(path, str(value).encode()))
            else:
                body[key] = value
        self._connection.execute(_SQL["put_entry"], (section, name, msgspec.json.encode(body).decode()))

    def remove(self, section: str, name: str) -> bool:
        """Whether it was there. Within a transaction."""
        return self._connection.execute(_SQL["remove_entry"], (section, name)).get is not None

    def secret(self, name: str) -> bytes | None:
        """A value of the vault; None where there is none. Raises `VaultFault`."""
        with faults("settings: read"):
            sealed = cast(str | None, self._connection.execute(_SQL["secret"], (name,)).get)
        return None if sealed is None else self.vault.unseal(name, sealed)

    def put_secret(self, name: str, secret: bytes) -> None:
        """Within a transaction."""
        self._connection.execute(_SQL["put_secret"], (name, self.vault.seal(name, secret)))

    def remove_secret(self, name: str) -> None:
        """Within a transaction."""
        self._connection.execute(_SQL["remove_secret"], (name,))

    def reseal(self, old: Vault) -> int:
        """Seal everything with this store's vault that is sealed with the old one; how many values.

        One transaction. Raises `VaultFault`, and then nothing was changed.
        """
        count = 0
        with self.transaction():
            for section, name, body in _entries(self._connection):
                for key, value in body.items():
                    if isinstance(value, _Sealed):
                        path = f"{section}.{name}.{key}"
                        body[key] = _Sealed(self.vault.reseal(path, value.sealed, old))
                        count += 1
                written = msgspec.json.encode(body).decode()
                self._connection.execute(_SQL["put_entry"], (section, name, written))
            for kept_as, sealed in self._connection.execute(_SQL["secrets"]).fetchall():
                resealed = self.vault.reseal(str(kept_as), str(sealed), old)
                self._connection.execute(_SQL["put_secret"], (str(kept_as), resealed))
                count += 1
        return count


def read_settings(path: Path) -> list[Given]:
    """What the database says, its secrets withheld; empty where there is none yet. Raises `StoreFault`."""
    with _looking(path) as connection:
        return [] if connection is None else list(_given(connection, None))


def holds_sealed(path: Path) -> bool:
    """Whether something was sealed that only a key of before opens. Raises `StoreFault`."""
    with _looking(path) as connection:
        if connection is None:
            return False
        bodies = (body for _, _, body in _entries(connection))
        secrets = connection.execute(_SQL["secrets"]).get is not None
        return secrets or any(isinstance(value, _Sealed) for body in bodies for value in body.values())


@contextmanager
def _looking(path: Path) -> Iterator[apsw.Connection | None]:
    """None where nothing was ever written."""
    if not path.exists():
        yield None
        return
    with closing(open_read_only(path)) as connection, faults(f"{path.name}: cannot be read"):
        yield connection if schema_version(connection) else None


def _entries(connection: apsw.Connection) -> list[tuple[str, str, _Body]]:
    rows = connection.execute(_SQL["entries"]).fetchall()
    return [(str(section), str(name), _BODY.decode(str(body))) for section, name, body in rows]


def _given(connection: apsw.Connection, vault: Vault | None) -> Iterator[Given]:
    for section, name, body in _entries(connection):
        table = f"{section}.{name}"
        yield Given(table, "name", name, True, ORIGIN, table)
        for key, value in body.items():
            path = f"{table}.{key}"
            if not isinstance(value, _Sealed):
                # What is written as text may be of any type, as on a command line.
                yield Given(table, key, value, isinstance(value, str), ORIGIN, path)
            elif vault is None:
                yield Given(table, key, "", True, ORIGIN, path, withheld=True)
            else:
                opened = vault.unseal(path, value.sealed).decode()
                yield Given(table, key, opened, True, ORIGIN, path)
