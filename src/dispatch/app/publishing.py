"""Reads the settings from all of their sources, and publishes them, sealed, for every process.

The sources are those of `dispatch serve` (file, environment, `--set`), the database, and the certificate. The
supervisor publishes once, before there are other processes; after that only control does, and where nothing
runs the command line, under the supervisor's lock.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import msgspec

from dispatch.app.certificate import CertificateUnusable, Kept, SharedCertificate
from dispatch.app.folders import Folders
from dispatch.observe import Reporter
from dispatch.runtime.addresses import own_addresses
from dispatch.security.certificates import days_left, renewal_due
from dispatch.security.role_keys import role_key
from dispatch.security.vault import Damaged, Vault
from dispatch.settings import Loaded, Settings, SettingsErrors, SettingsUnreadable, changes, load
from dispatch.settings.keys import ROLES
from dispatch.settings.model import Certificate
from dispatch.settings.renewed_tokens import (
    RenewedToken,
    RenewedTokens,
    packed,
    publish_tokens,
    still_good,
    unpacked,
)
from dispatch.settings.snapshot import publish
from dispatch.settings.suppressed import SuppressedDamaged, load_suppressed, publish_suppressed
from dispatch.store.settings import SettingsStore

EXPIRES_SOON_DAYS = 14
_TOKENS = "relays.renewed_tokens"
"""Where the store has the refresh tokens that servers gave in place of the configured ones."""


def utc_now() -> datetime:
    return datetime.now(UTC)


class MistakenSettings(Exception):
    """New settings were not published; each of their mistakes was reported."""


class Publisher:
    """Holds `settings.db` open for writing, until it is closed."""

    def __init__(
        self,
        folders: Folders,
        sources: Sequence[str],
        key: bytes,
        report: Reporter,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """`sources`: the arguments that name them; `key`: the vault's. Raises `StoreFault`."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--config", type=Path)
        parser.add_argument("--data", type=Path)
        parser.add_argument("--set", action="append", default=[])
        self._given = parser.parse_args(list(sources))
        self._folders = folders
        self._report = report
        self.now = now
        self._seals = {role: Vault(role_key(key, role)) for role in ROLES}
        self.store = SettingsStore.open(folders.settings_db, Vault(key))
        self.certificate = SharedCertificate(folders.certificates, self.store)
        self.number = 0
        """Of the last publication; 0 before the first."""
        self._in_force: Settings | None = None
        self._said_days: int | None = None

    def close(self) -> None:
        self.store.close()

    def remember_in_force(self) -> None:
        """The processes were started with what the sources say now: tell of what then needs a restart."""
        try:
            self._in_force = self.load().settings
        except (SettingsErrors, SettingsUnreadable):
            # The relay was started with good settings, and control again after somebody broke the file,
            # or while it cannot be read.
            self._in_force = None

    def load(self, besides: Sequence[str] = ()) -> Loaded:
        """All sources, the certificate aside; `besides`: further overrides, as `--set` takes them.

        Raises `SettingsErrors`, `SettingsUnreadable`, `StoreFault` and `VaultFault`.
        """
        overrides = [*self._given.set, *besides, f"spool.directory={self._folders.data}"]
        return load(self._given.config, os.environ, overrides, stored=self.store.given())

    def publish(self) -> Settings:
        """Raises as `load`, and `OSError`; then nothing was published, or not to everybody."""
        settings = self.load().settings
        kept = self._kept(settings)
        shown = kept and Certificate(kept.identity.chain_pem, kept.identity.private_key)
        settings = msgspec.structs.replace(settings, certificate=shown)
        tokens = self.tokens()
        self._put_tokens(still_good(tokens, settings.relays), before=tokens)
        self._publish_suppressed()
        self.number = publish(self._folders.settings, settings, self._seals)
        self._report("settings_published", number=self.number)
        if self._in_force is not None:
            # Compared with what the processes were started with: what waits for a restart goes on waiting.
            _, restart = changes(self._in_force, settings)
            if restart:
                self._report("settings_need_restart", keys=", ".join(restart))
        return settings

    def _publish_suppressed(self) -> None:
        """Where what is published is another list than the database's, or cannot be read."""
        suppressions, folder = self.store.suppressions, self._folders.settings
        number = suppressions.number
        try:
            published, _ = load_suppressed(folder)
        except SuppressedDamaged:
            published = -1
        if published != number:
            publish_suppressed(folder, number, suppressions.digests())

    def reload(self) -> Settings:
        """`publish` where nobody waits for the answer: `MistakenSettings` after each mistake was reported."""
        try:
            return self.publish()
        except SettingsErrors as errors:
            for mistake in errors.mistakes:
                self._report("reload_failed", why=str(mistake))
            raise MistakenSettings("the settings have mistakes; those in force stay") from None

    # ------------------------------------------------------------ refresh tokens

    def keep_token(self, relay: str, renewed: RenewedToken) -> None:
        """Seal it, and have the next start of delivery use it; nothing else is published.

        Raises `StoreFault`, `VaultFault` and `OSError`.
        """
        tokens = self.tokens()
        self._put_tokens({**tokens, relay: renewed}, before=tokens)

    def forget_token(self, relay: str) -> None:
        """The relay was removed, and its secrets with it. Raises as `keep_token`."""
        tokens = self.tokens()
        self._put_tokens({name: one for name, one in tokens.items() if name != relay}, before=tokens)

    def tokens(self) -> dict[str, RenewedToken]:
        """What servers gave in place of configured refresh tokens. Raises `StoreFault` and `VaultFault`."""
        try:
            kept = self.store.secret(_TOKENS)
        except Damaged as error:
            # No reason not to start: the next one that comes takes its place.
            self._report("token_not_kept", why=str(error))
            return {}
        return {} if kept is None else unpacked(kept)

    def _put_tokens(self, tokens: RenewedTokens, *, before: RenewedTokens) -> None:
        if tokens != before:
            with self.store.transaction():
                if tokens:
                    self.store.put_secret(_TOKENS, packed(tokens))
                else:
                    self.store.remove_secret(_TOKENS)
        publish_tokens(self._folders.settings, tokens, self._seals["delivery"])

    # ------------------------------------------------------------ the certificate

    def generate_certificate(self, settings: Settings, more: Sequence[str] = ()) -> Kept:
        """Make a self-signed one for all names and addresses of the machine.

        Raises `ValueError` for a name in `more` that is none.
        """
        names = [settings.listener.server_name, socket.gethostname(), "localhost"]
        addresses = own_addresses()
        try:
            identity = self.certificate.generate([*more, *names], addresses, self.now())
        except ValueError:
            if more:
                raise
            # The machine's own name may be one that no certificate can have.
            identity = self.certificate.generate(["localhost"], addresses, self.now())
        self._report("certificate_made", names=", ".join(identity.names), until=identity.not_after.date())
        return Kept(identity, made_here=True)

    def look_after_certificate(self) -> bool:
        """Renew it where it is ours and due; say where it expires soon. True: there is one to publish."""
        try:
            kept = self.certificate.load()
        except CertificateUnusable:
            # Said at each publication.
            return False
        if kept is None:
            return False
        if kept.made_here and renewal_due(kept.identity, self.now()):
            # Names that were asked for stay; addresses are those that the machine has now.
            names = [name for name in kept.identity.names if not _is_address(name)]
            self.generate_certificate(self.load().settings, names)
            return True
        left = days_left(kept.identity, self.now())
        if left < EXPIRES_SOON_DAYS and left != self._said_days:
            # Once a day, however often somebody looks.
            self._said_days = left
            self._report("certificate_expires", days=left, names=", ".join(kept.identity.names))
        return False

    def _kept(self, settings: Settings) -> Kept | None:
        """The certificate to be shown; made where there never was one."""
        if self.certificate.never_made:
            return self.generate_certificate(settings)
        try:
            return self.certificate.load()
        except CertificateUnusable as error:
            self._report("certificate_fault", why=str(error), meanwhile="TLS is not offered")
            return None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
