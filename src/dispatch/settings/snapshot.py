"""Numbered snapshots of the settings on disk, one file a role, each with only what that role may know.

The processes read settings from here and nowhere else, so that a start needs neither the file nor the
database, and so that no process holds what it has no use for. All files of one publication
carry the same number, which only grows; a process compares it with the number that it works by.

Rules:
- A file is replaced as a whole: written beside, synced, renamed, and the folder synced. A reader sees the
  old settings or the new ones.
- Only one process publishes. Dying between two files leaves roles at different numbers, which is a state
  like any other: the next publication has a higher number than all of them.
- Keys that this version does not know are ignored, and those that are missing have their defaults:
  a snapshot outlives an upgrade, and a downgrade.
- Secrets stand in it sealed with a key of the role's own, which its process is born with: who can read one
  process's memory, or a backup of the folder, learns nothing of another's. Without that key the rest can be
  read all the same, and a secret is withheld.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from dispatch.security.vault import Vault, VaultFault
from dispatch.settings.keys import ROLES, WITHHELD, Entry, Role
from dispatch.settings.mistakes import SettingsUnreadable
from dispatch.settings.model import CERTIFICATE_ROLES, KEYS, REPEATED, Certificate, Settings

_FORMAT = 1


class NoSnapshot(Exception):
    """Nothing usable is there for this role: never published, or damaged."""


class _Number(msgspec.Struct, frozen=True):
    number: int


class _File(msgspec.Struct, frozen=True):
    format: int
    number: int
    settings: Settings
    sealed: str = ""


class _Secrets(msgspec.Struct, frozen=True):
    """What is sealed, for one role."""

    values: dict[str, str]
    """By section and key, `relays.NAME.password`."""
    certificate: Certificate | None = None


Seals = Mapping[Role, Vault]
"""By role, what its secrets are sealed with."""


def publish(folder: Path, settings: Settings, seals: Seals | None = None) -> int:
    """Write a snapshot for every role; returns its number, from 1. Raises `OSError`, which names the file.

    The folder is made where it is missing (0700); files are for their owner only (0600). Settings with
    secrets need `seals`.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    number = 1 + max(_number(_path(folder, role)) for role in ROLES)
    for role in ROLES:
        with _naming(_path(folder, role)):
            replace_file(_path(folder, role), _encode(number, settings, role, seals))
    with _naming(folder):
        sync_folder(folder)
    return number


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What a write or a sync raises does not say of which file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def load(folder: Path, role: Role, seal: Vault | None = None) -> tuple[int, Settings]:
    """The latest number and settings for one role; without its `seal` secrets are withheld.

    Raises `NoSnapshot`; `PermissionError` where another user published; `SettingsUnreadable` where nothing
    can be said of what is there, and the next try may be good. Using a setting that the role is not told is
    an `AssertionError`.
    """
    path = _path(folder, role)
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except (FileNotFoundError, msgspec.MsgspecError) as error:
        raise NoSnapshot(f"{path}: {error}") from error
    except PermissionError:
        raise
    except OSError as error:
        raise SettingsUnreadable(path, error) from error
    if file.format != _FORMAT:
        raise NoSnapshot(f"{path} has format {file.format}: this version reads {_FORMAT}")
    if seal is None:
        return file.number, _withholding(file.settings, role, secrets=True)
    try:
        secrets = _opened(file.sealed, role, seal)
    except VaultFault as error:
        raise NoSnapshot(f"{path}: {error}") from error
    return file.number, _withholding(_completed(file.settings, secrets), role, secrets=False)


def _withholding(settings: Settings, role: Role, *, secrets: bool) -> Settings:
    """The defaults that stand in for what the role is not told, replaced by what no code can mistake.

    `secrets`: these, too.
    """

    def withheld(entry: Entry) -> bool:
        return role not in entry.key.roles or (secrets and entry.key.secret)

    sections: dict[str, object] = {}
    for name, entries in KEYS.items():
        absent = {entry.name: WITHHELD for entry in entries.values() if withheld(entry)}
        if name not in REPEATED:
            sections[name] = msgspec.structs.replace(getattr(settings, name), **absent)
        elif not any(role in entry.key.roles for entry in entries.values()):
            sections[name] = WITHHELD
        else:
            tables = getattr(settings, name)
            sections[name] = tuple(msgspec.structs.replace(table, **absent) for table in tables)
    if secrets or role not in CERTIFICATE_ROLES:
        sections["certificate"] = WITHHELD
    return msgspec.structs.replace(settings, **sections)


def _encode(number: int, settings: Settings, role: Role, seals: Seals | None) -> bytes:
    told: dict[str, object] = {}
    for name, entries in KEYS.items():
        known = [entry for entry in entries.values() if role in entry.key.roles]
        plain = [entry.name for entry in known if not entry.key.secret]
        if name not in REPEATED:
            told[name] = {key: getattr(getattr(settings, name), key) for key in plain}
        elif known:
            tables = getattr(settings, name)
            told[name] = [{key: getattr(table, key) for key in plain} for table in tables]
    file: dict[str, object] = {"format": _FORMAT, "number": number, "settings": told}
    secrets = _secrets_of(settings, role)
    if seals is not None:
        file["sealed"] = seals[role].seal(_sealed_name(role), msgspec.msgpack.encode(secrets))
    else:
        assert not secrets.values and secrets.certificate is None, "secrets are not published unsealed"
    return msgspec.json.format(msgspec.json.encode(file), indent=1)


def _secrets_of(settings: Settings, role: Role) -> _Secrets:
    values: dict[str, str] = {}
    for name, entries in KEYS.items():
        secret = [entry.name for entry in entries.values() if entry.key.secret and role in entry.key.roles]
        if not secret:
            continue
        here = getattr(settings, name)
        tables = {f"{name}.{each.name}": each for each in here} if name in REPEATED else {name: here}
        for path, table in tables.items():
            values |= {f"{path}.{key}": value for key in secret if (value := getattr(table, key))}
    return _Secrets(values, settings.certificate if role in CERTIFICATE_ROLES else None)


def _opened(sealed: str, role: Role, seal: Vault) -> _Secrets:
    if not sealed:
        return _Secrets({})
    return msgspec.msgpack.decode(seal.unseal(_sealed_name(role), sealed), type=_Secrets)


def _completed(settings: Settings, secrets: _Secrets) -> Settings:
    by_table: dict[str, dict[str, str]] = {}
    for path, value in secrets.values.items():
        table, _, key = path.rpartition(".")
        by_table.setdefault(table, {})[key] = value
    sections: dict[str, object] = {"certificate": secrets.certificate}
    for name in KEYS:
        if name in REPEATED:
            sections[name] = tuple(
                msgspec.structs.replace(table, **by_table.get(f"{name}.{table.name}", {}))
                for table in getattr(settings, name)
            )
        elif name in by_table:
            sections[name] = msgspec.structs.replace(getattr(settings, name), **by_table[name])
    return msgspec.structs.replace(settings, **sections)


def _sealed_name(role: Role) -> str:
    return f"snapshot.{role}"


def _path(folder: Path, role: Role) -> Path:
    return folder / f"{role}.json"


def _number(path: Path) -> int:
    """The number of a file, 0 where it holds none: what is damaged is to be replaced."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Number).number
    except (FileNotFoundError, msgspec.MsgspecError):
        return 0
    except OSError as error:
        # A sector gone bad is damage; what is only unreadable now may hold the highest number.
        if error.errno == errno.EIO:
            return 0
        raise


def replace_file(path: Path, content: bytes) -> None:
    """It holds this, on stable storage, or what it did; its folder is not synced. Raises `OSError`."""
    beside = path.with_suffix(".new")
    # What a crash left there may have another mode; it is no use to anybody.
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)


def sync_folder(folder: Path) -> None:
    """Names in it survive a power cut. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
