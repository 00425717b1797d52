"""Carries out what operators ask of the settings (`dispatch.settings.requests`).

Each change is checked with everything else before it counts: it is written within a transaction, all sources
are read as they would be then, and where they have a mistake nothing has happened. Of what is durable and
could not be published, because the disk failed in between, just that is said; it is in force with the next
publication.

All of it blocks, for some milliseconds and two or three syncs: control does it on its loop, where nothing
is in a hurry. Confirmations are waited for elsewhere (`dispatch.app.control`).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TypeVar, assert_never

import msgspec

from dispatch.app.certificate import CertificateUnusable
from dispatch.app.publishing import Publisher
from dispatch.observe import Reporter
from dispatch.security.certificates import CertificateRefused, check_upload, days_left
from dispatch.security.vault import VaultFault
from dispatch.settings import Loaded, Settings, SettingsErrors, SettingsUnreadable
from dispatch.settings.changes import values_of
from dispatch.settings.model import KEYS, RELAYS, REPEATED
from dispatch.settings.renewed_tokens import RenewedTokens
from dispatch.settings.requests import (
    AddSuppressions,
    Answer,
    CertificateFacts,
    CertificateShown,
    Changed,
    DkimRecord,
    DkimShown,
    Entries,
    Entry,
    GenerateCertificate,
    KeepToken,
    ListEntries,
    ListSuppressions,
    Publish,
    PutEntry,
    Refused,
    RemoveCertificate,
    RemoveEntry,
    RemoveSuppressions,
    Request,
    ShowCertificate,
    ShowDkim,
    Suppressions,
    TestRelay,
    TokenKept,
    UploadCertificate,
)
from dispatch.smtp.grammar import is_address
from dispatch.store.sqlite import StoreFault

MASK = "***"
OPERATOR = "operator"
SUPPRESSIONS_MAX = 1_000_000
"""Bounds what every process holds of the list (8 MB), and how long a change takes (a second or two)."""
LISTED_MAX = 1000
"""Suppressions in one answer."""

Done = TypeVar("Done")


class _CannotBe(Exception):
    """What was asked makes no sense here. The message is for who asked."""


class Configuring:
    def __init__(self, publisher: Publisher, report: Reporter) -> None:
        self._publisher = publisher
        self._report = report
        self.published: Callable[[Settings], None] = lambda settings: None
        """Called with the settings of each publication that an order made."""

    def close(self) -> None:
        self._publisher.close()

    def handle(self, request: Request) -> Answer:
        """The answer; raises nothing that a person, a disk or a wrong key could cause."""
        return self._or_refused(lambda: self._answer(request))

    def settings_for(self, test: TestRelay) -> Settings | Refused:
        """With the relay as it is to be tried, and all that was wrong with it as an answer."""
        return self._or_refused(lambda: self._settings_for(test))

    def renewed_tokens(self) -> RenewedTokens:
        """What servers gave in place of configured refresh tokens. Raises `StoreFault` and `VaultFault`."""
        return self._publisher.tokens()

    def _or_refused(self, do: Callable[[], Done]) -> Done | Refused:
        try:
            return do()
        except SettingsErrors as errors:
            return Refused(tuple(map(str, errors.mistakes)))
        except CertificateRefused as refused:
            return Refused(refused.mistakes)
        except (_CannotBe, CertificateUnusable, SettingsUnreadable, VaultFault, StoreFault) as error:
            return Refused((str(error),))
        except OSError as error:
            # `ssl.SSLError` is one, of an upload that OpenSSL does not take.
            return Refused((f"{error}; nothing is lost, try it again",))

    def look_after_certificate(self) -> None:
        """Renew it, or say that it expires; hourly, and where it fails again an hour later."""
        try:
            if self._publisher.look_after_certificate():
                self._publish()
        except (SettingsErrors, VaultFault, StoreFault, OSError) as error:
            self._report("certificate_fault", why=str(error), meanwhile="the certificate in use stays")

    def _answer(self, request: Request) -> Answer:
        match request:
            case PutEntry():
                return self._put(request)
            case RemoveEntry():
                return self._remove(request)
            case ListEntries(section):
                _noun(section)
                return Entries(tuple(_entries(self._publisher.load(), section)))
            case Publish():
                return self._publish()
            case TestRelay():
                raise AssertionError("a test has many answers: `app.checkups`")
            case ShowCertificate():
                return self._show()
            case GenerateCertificate(names):
                return self._generate(names)
            case UploadCertificate(chain_pem, key_pem):
                return self._upload(chain_pem, key_pem)
            case RemoveCertificate():
                self._publisher.certificate.remove()
                return self._certificate_changed("removed", ("TLS is not offered from now on.",))
            case ShowDkim():
                return _dkim_shown(self._publisher.load().settings)
            case KeepToken(relay, renewed):
                self._publisher.keep_token(relay, renewed)
                return TokenKept()
            case AddSuppressions():
                return self._suppress(request)
            case RemoveSuppressions(addresses):
                return self._unsuppress(addresses)
            case ListSuppressions(part, after):
                found = self._publisher.store.suppressions.listed(part, after, LISTED_MAX + 1)
                return Suppressions(tuple(found[:LISTED_MAX]), more=len(found) > LISTED_MAX)
            case _:
                assert_never(request)

    # ------------------------------------------------------------ relays, rules, logins

    def _put(self, request: PutEntry) -> Changed:
        section, name = request.section, request.name
        noun, store = _noun(section), self._publisher.store
        before = self._find(section, name)
        if request.wanted == "new" and (before is not None or store.holds(section, name)):
            origin = f" ({before.origin})" if before else ""
            raise _CannotBe(f"there is a {noun} {name} already{origin}; `dispatch {noun} set` changes one")
        if request.wanted == "existing":
            self._must_be_ours(section, name, before)
        with store.transaction():
            store.put(section, name, request.keys)
            loaded = self._publisher.load()
        self._report("settings_changed", what=f"{section}.{name}", keys=", ".join(request.keys))
        return self._publish(loaded.warnings)

    def _remove(self, request: RemoveEntry) -> Changed:
        section, name = request.section, request.name
        _noun(section)
        self._must_be_ours(section, name, self._find(section, name))
        with self._publisher.store.transaction():
            self._publisher.store.remove(section, name)
            loaded = self._publisher.load()
        if section == RELAYS:
            self._publisher.forget_token(name)
        self._report("settings_changed", what=f"{section}.{name}", removed=True)
        return self._publish(loaded.warnings)

    def _find(self, section: str, name: str) -> Entry | None:
        try:
            loaded = self._publisher.load()
        except SettingsErrors:
            # What is to be changed may be what is wrong.
            return None
        return next((entry for entry in _entries(loaded, section) if entry.name == name), None)

    def _must_be_ours(self, section: str, name: str, found: Entry | None) -> None:
        if self._publisher.store.holds(section, name):
            return
        if found is None:
            raise _CannotBe(f"there is no {REPEATED[section]} {name}")
        raise _CannotBe(f"{section}.{name} was not made here but in {found.origin}: change it there")

    def _settings_for(self, test: TestRelay) -> Settings:
        keys = [f"{RELAYS}.{test.name}.{key}={value}" for key, value in test.keys.items()]
        settings = self._publisher.load(keys).settings
        if all(relay.name != test.name for relay in settings.effective_relays()):
            raise _CannotBe(f"there is no relay {test.name}; `dispatch relay list` shows what there is")
        return settings

    def _publish(self, remarks: tuple[str, ...] = ()) -> Changed:
        try:
            settings = self._publisher.publish()
        except OSError as error:
            raise _CannotBe(
                f"it is stored, and could not be published: {error}. `kill -HUP` of the relay tries it again"
            ) from error
        self.published(settings)
        return Changed(self._publisher.number, remarks)

    # ------------------------------------------------------------ the suppression list

    def _suppress(self, request: AddSuppressions) -> Answer:
        mistakes = tuple(
            f"{address!r} is no address; write it like alice@example.org"
            for address in request.addresses
            if not is_address(address)
        )
        if mistakes:
            return Refused(mistakes)
        store, now_ms = self._publisher.store, int(self._publisher.now().timestamp() * 1000)
        with store.transaction():
            count = store.suppressions.add(request.addresses, request.reason, OPERATOR, now_ms)
            if store.suppressions.count() > SUPPRESSIONS_MAX:
                raise _CannotBe(f"the suppression list takes {SUPPRESSIONS_MAX} addresses: remove some")
        return self._suppressions_changed(count, 0)

    def _unsuppress(self, addresses: tuple[str, ...]) -> Changed:
        store = self._publisher.store
        with store.transaction():
            count = store.suppressions.remove(addresses)
        return self._suppressions_changed(0, count)

    def _suppressions_changed(self, added: int, removed: int) -> Changed:
        if not added and not removed:
            return Changed(self._publisher.number, count=0)
        self._report("suppressions_changed", added=added, removed=removed)
        return msgspec.structs.replace(self._publish(), count=added + removed)

    # ------------------------------------------------------------ the certificate

    def _show(self) -> CertificateShown:
        kept = self._publisher.certificate.load()
        if kept is None:
            return CertificateShown(None)
        own = kept.identity
        facts = CertificateFacts(
            subject=own.subject,
            issuer=own.issuer,
            names=own.names,
            not_before=own.not_before,
            not_after=own.not_after,
            days_left=days_left(own, self._publisher.now()),
            fingerprint=own.fingerprint,
            key_type=own.key_type,
            self_signed=own.self_signed,
            made_here=kept.made_here,
        )
        return CertificateShown(facts)

    def _generate(self, names: tuple[str, ...]) -> Changed:
        try:
            self._publisher.generate_certificate(self._publisher.load().settings, names)
        except ValueError as error:
            raise _CannotBe(str(error)) from error
        return self._certificate_changed("generated")

    def _upload(self, chain_pem: bytes, key_pem: bytes) -> Changed:
        wanted = [self._publisher.load().settings.listener.server_name]
        checked = check_upload(chain_pem, key_pem, names_wanted=wanted, now=self._publisher.now())
        try:
            self._publisher.certificate.replace(checked.identity, made_here=False)
        except ssl.SSLError as error:
            raise _CannotBe(f"OpenSSL does not take this certificate: {error.reason or error}") from error
        return self._certificate_changed("uploaded", checked.remarks)

    def _certificate_changed(self, how: str, remarks: tuple[str, ...] = ()) -> Changed:
        self._report("settings_changed", what="certificate", how=how)
        return self._publish(remarks)


def _dkim_shown(settings: Settings) -> DkimShown:
    # Who signs nothing need not load all that signing takes.
    from dispatch.security.dkim_keys import dns_record, load

    records = []
    for relay in settings.relays:
        for selector, pem in relay.private_keys():
            key = load(pem)
            name = f"{selector}._domainkey.{relay.dkim_domain}"
            records.append(DkimRecord(relay.name, name, dns_record(key), key.remark))
    return DkimShown(tuple(records))


def _noun(section: str) -> str:
    if section not in REPEATED:
        raise _CannotBe(f"{section} is none of {', '.join(REPEATED)}")
    return REPEATED[section]


def _entries(loaded: Loaded, section: str) -> list[Entry]:
    values = values_of(loaded.settings)
    found = []
    for table in getattr(loaded.settings, section):
        path = f"{section}.{table.name}"
        keys: dict[str, object] = {}
        for key, entry in KEYS[section].items():
            origin = loaded.origins[f"{path}.{key}"]
            if key != "name" and origin.source not in ("default", "inherited"):
                keys[key] = MASK if entry.key.secret else msgspec.to_builtins(values[f"{path}.{key}"])
        found.append(Entry(table.name, str(loaded.origins[f"{path}.name"]), keys))
    return found
