"""The shared certificate on disk: `certificates/shared.p12`, and in the vault its password and its history.

A file and a database cannot change in one step. So a new certificate is written beside the old one, then
its password is committed, then it takes the old one's name: whichever of the two files the password in the
vault opens is the certificate, and a change that was cut short is finished by the next look.

What stands in the vault besides the password: whether we made the certificate (then we renew it), and whether
somebody removed it (then none is made in its place).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from dispatch.security.certificates import Identity, from_store, generate, to_store
from dispatch.security.tls import server_context
from dispatch.store.settings import SettingsStore

FILE = "shared.p12"
SECRET = "certificate.shared"  # noqa: S105 - its name in the vault


class _Note(msgspec.Struct, frozen=True):
    password: str
    made_here: bool
    removed: bool = False


class Kept(NamedTuple):
    identity: Identity
    made_here: bool
    """By this relay, which renews it; otherwise it was uploaded."""


class CertificateUnusable(Exception):
    """There should be one, and it cannot be opened. It was left as it is."""


class SharedCertificate:
    def __init__(self, folder: Path, store: SettingsStore) -> None:
        self._folder = folder
        self._path = folder / FILE
        self._beside = self._path.with_suffix(".new")
        self._store = store

    @property
    def never_made(self) -> bool:
        """Nobody has made or removed one yet. Raises `VaultFault`, as all here."""
        return self._note() is None

    def load(self) -> Kept | None:
        """The certificate; None where there is none. Raises `CertificateUnusable`, and `OSError`."""
        note = self._note()
        if note is None or note.removed:
            return None
        for path in (self._path, self._beside):
            try:
                identity = from_store(path.read_bytes(), note.password)
            except (FileNotFoundError, ValueError):
                continue
            if path == self._beside:
                self._put_in_place()
            return Kept(identity, note.made_here)
        raise CertificateUnusable(
            f"{self._path} is gone, or damaged: put it back from a backup, upload it again "
            "(dispatch cert upload), or have another made (dispatch cert generate)"
        )

    def generate(self, names: Sequence[str], addresses: Sequence[str], now: datetime) -> Identity:
        """Make one of our own and keep it. Raises `ValueError` for names that are none."""
        identity = generate(names, addresses, now=now)
        self.replace(identity, made_here=True)
        return identity

    def replace(self, identity: Identity, *, made_here: bool) -> None:
        """Keep it instead of the one there is. `ssl.SSLError`, and no change: OpenSSL does not take it."""
        server_context(identity.chain_pem, identity.private_key)
        p12, password = to_store(identity)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._beside.unlink(missing_ok=True)
        descriptor = os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(p12)
            file.flush()
            os.fsync(descriptor)
        self._sync_folder()
        self._keep(_Note(password, made_here))
        self._put_in_place()

    def remove(self) -> None:
        """No certificate from now on, until one is made or uploaded."""
        self._keep(_Note("", made_here=False, removed=True))
        self._path.unlink(missing_ok=True)
        self._beside.unlink(missing_ok=True)

    def _note(self) -> _Note | None:
        noted = self._store.secret(SECRET)
        return None if noted is None else msgspec.json.decode(noted, type=_Note)

    def _keep(self, note: _Note) -> None:
        with self._store.transaction():
            self._store.put_secret(SECRET, msgspec.json.encode(note))

    def _put_in_place(self) -> None:
        self._beside.rename(self._path)
        self._sync_folder()

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
