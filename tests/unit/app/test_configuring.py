"""Orders of operators: checked with everything else, kept, published; or refused whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dispatch.app.configuring import Configuring
from dispatch.app.folders import Folders
from dispatch.app.publishing import MistakenSettings, Publisher
from dispatch.security.certificates import generate
from dispatch.security.role_keys import role_key
from dispatch.security.vault import Vault
from dispatch.settings import Role, Settings
from dispatch.settings.requests import (
    CertificateShown,
    Changed,
    Entries,
    GenerateCertificate,
    ListEntries,
    Publish,
    PutEntry,
    Refused,
    RemoveCertificate,
    RemoveEntry,
    ShowCertificate,
    UploadCertificate,
)
from dispatch.settings.snapshot import load

KEY = bytes(range(32))
HASH = "dispatch1$2b$12$0/lSF4ly/jA0.aA4DQKY1eQp6qdhjsUr8xIW7Wu/kVCFXfvw9e3Pm"
LOGIN = PutEntry("logins", "scanner", {"password": HASH, "allowed_cidrs": ["192.0.2.0/24"]}, "new")


class Reports(list[tuple[str, dict[str, object]]]):
    def __call__(self, event: str, /, **fields: object) -> None:
        self.append((event, fields))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self]


class Place:
    """A data directory with its file, and whoever configures it."""

    def __init__(self, folder: Path) -> None:
        self.now = datetime.now(UTC)
        self.folders = Folders(folder / "data")
        self.folders.data.mkdir()
        self.config = folder / "dispatch.toml"
        self.config.write_text('[listener]\nserver_name = "relay.example.org"\n')
        self.reports = Reports()
        self.publisher = Publisher(
            self.folders, ["--config", str(self.config)], KEY, self.reports, lambda: self.now
        )
        self.configuring = Configuring(self.publisher, self.reports)

    def told(self, role: Role) -> Settings:
        key = role_key(KEY, role)
        return load(self.folders.settings, role, Vault(key))[1]

    def changed(self, request: object) -> Changed:
        answer = self.configuring.handle(request)  # type: ignore[arg-type]  # each caller passes a request
        assert isinstance(answer, Changed), answer
        return answer

    def refused(self, request: object) -> str:
        answer = self.configuring.handle(request)  # type: ignore[arg-type]  # each caller passes a request
        assert isinstance(answer, Refused), answer
        return "\n".join(answer.mistakes)

    def fingerprint(self) -> str | None:
        answer = self.configuring.handle(ShowCertificate())
        assert isinstance(answer, CertificateShown)
        return answer.certificate and answer.certificate.fingerprint


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place(tmp_path)
    yield one
    one.configuring.close()


def test_a_login_reaches_intake_and_no_file_shows_its_hash(place: Place) -> None:
    before = place.publisher.publish()
    assert before.logins == ()
    changed = place.changed(LOGIN)
    assert changed.number == 2
    [login] = place.told("intake").logins
    assert (login.password, login.allowed_cidrs) == (HASH, ("192.0.2.0/24",))
    for file in place.folders.data.rglob("*"):
        assert not file.is_file() or HASH.encode() not in file.read_bytes(), file


def test_lists_mask_it_and_say_where_it_was_made(place: Place) -> None:
    place.changed(LOGIN)
    answer = place.configuring.handle(ListEntries("logins"))
    assert isinstance(answer, Entries)
    [entry] = answer.entries
    assert (entry.name, entry.origin) == ("scanner", "settings.db")
    assert entry.keys == {"password": "***", "allowed_cidrs": ("192.0.2.0/24",)}


def test_every_mistake_is_told_and_nothing_has_happened(place: Place) -> None:
    place.changed(LOGIN)
    number = place.publisher.number
    wrong = PutEntry("logins", "app", {"rate": "lots", "allowed_cidrs": "nowhere", "colour": "red"}, "new")
    told = place.refused(wrong)
    for key in ("logins.app.rate", "logins.app.allowed_cidrs", "logins.app.colour", "logins.app.password"):
        assert f"settings.db: {key}" in told
    assert [login.name for login in place.told("intake").logins] == ["scanner"]
    assert place.publisher.number == number


def test_a_wrong_secret_is_not_repeated(place: Place) -> None:
    told = place.refused(PutEntry("logins", "app", {"password": "in the clear"}, "new"))
    assert "logins.app.password" in told
    assert "in the clear" not in told


def test_what_is_there_is_not_added_and_what_is_not_there_not_changed(place: Place) -> None:
    place.changed(LOGIN)
    assert "`dispatch login set`" in place.refused(LOGIN)
    assert place.refused(PutEntry("logins", "app", {"enabled": False}, "existing")) == "there is no login app"
    assert place.refused(RemoveEntry("logins", "app")) == "there is no login app"
    assert "none of" in place.refused(RemoveEntry("spool", "app"))


def test_a_key_is_changed_and_given_its_default_again(place: Place) -> None:
    place.changed(LOGIN)
    place.changed(PutEntry("logins", "scanner", {"enabled": False, "allowed_cidrs": None}, "existing"))
    [login] = place.told("intake").logins
    assert (login.enabled, login.allowed_cidrs, login.password) == (False, (), HASH)
    place.changed(RemoveEntry("logins", "scanner"))
    assert place.told("intake").logins == ()


def test_what_stands_in_the_file_is_changed_there(place: Place) -> None:
    place.config.write_text('[[logins]]\nname = "scanner"\npassword = "' + HASH + '"\n')
    for request in (PutEntry("logins", "scanner", {"enabled": False}, "existing"), LOGIN):
        assert f"{place.config}:2" in place.refused(request)
    assert f"{place.config}:2: change it there" in place.refused(RemoveEntry("logins", "scanner"))


def test_a_rule_keeps_its_relay_from_being_removed(place: Place) -> None:
    place.changed(PutEntry("relays", "smart", {"host": "mail.example.org", "port": "587"}, "new"))
    place.changed(PutEntry("rules", "news", {"sender": "example.org", "relays": "smart"}, "new"))
    assert "rules.news.relays" in place.refused(RemoveEntry("relays", "smart"))
    [relay] = place.told("delivery").relays
    assert relay.port == 587


def test_a_broken_file_stops_every_change_and_is_named(place: Place) -> None:
    place.config.write_text("this is no TOML")
    assert "is no TOML" in place.refused(LOGIN)
    assert "is no TOML" in place.refused(Publish())
    with pytest.raises(MistakenSettings):
        place.publisher.reload()
    assert place.reports.events.count("reload_failed") == 1
    assert not place.publisher.store.holds("logins", "scanner")


def test_another_key_opens_nothing_and_says_so(place: Place) -> None:
    place.changed(LOGIN)
    place.publisher.close()
    place.publisher = Publisher(place.folders, [], bytes(32), place.reports)
    place.configuring = Configuring(place.publisher, place.reports)
    assert "is sealed with key" in place.refused(Publish())


# ---------------------------------------------------------------- the certificate


def test_the_first_publication_makes_one_and_tells_intake_alone(place: Place) -> None:
    place.publisher.publish()
    certificate = place.told("intake").certificate
    assert certificate is not None
    assert b"PRIVATE KEY" in certificate.key_pem
    with pytest.raises(AssertionError):
        bool(place.told("delivery").certificate)
    answer = place.configuring.handle(ShowCertificate())
    assert isinstance(answer, CertificateShown) and answer.certificate is not None
    assert {"relay.example.org", "localhost", "127.0.0.1", "::1"} <= set(answer.certificate.names)
    assert answer.certificate.made_here
    place.publisher.publish()
    assert place.reports.events.count("certificate_made") == 1


def test_an_upload_replaces_it_and_one_with_mistakes_does_not(place: Place) -> None:
    place.publisher.publish()
    before = place.fingerprint()
    assert "There is no certificate" in place.refused(UploadCertificate(b"", b""))
    assert place.fingerprint() == before
    own = generate(["other.example.org"], [], now=place.now)
    changed = place.changed(UploadCertificate(own.chain_pem, own.private_key))
    assert any("relay.example.org" in remark for remark in changed.remarks), "it is for another name"
    assert place.fingerprint() == own.fingerprint
    certificate = place.told("intake").certificate
    assert certificate is not None and certificate.chain_pem == own.chain_pem


def test_removed_it_stays_away_until_one_is_made(place: Place) -> None:
    place.publisher.publish()
    place.changed(RemoveCertificate())
    place.publisher.publish()
    assert place.told("intake").certificate is None
    assert place.fingerprint() is None
    place.changed(GenerateCertificate(("mail.example.org",)))
    assert place.told("intake").certificate is not None
    assert "no host name" in place.refused(GenerateCertificate(("not a name",)))


def test_ours_is_renewed_in_time_with_the_names_it_had(place: Place) -> None:
    place.changed(GenerateCertificate(("mail.example.org",)))
    before, number = place.fingerprint(), place.publisher.number
    place.configuring.look_after_certificate()
    assert place.fingerprint() == before, "not yet"
    place.now += timedelta(days=600)
    place.configuring.look_after_certificate()
    assert place.fingerprint() != before
    assert place.publisher.number == number + 1, "and published"
    answer = place.configuring.handle(ShowCertificate())
    assert isinstance(answer, CertificateShown) and answer.certificate is not None
    assert "mail.example.org" in answer.certificate.names


def test_an_uploaded_one_is_never_renewed_but_its_end_is_said_once_a_day(place: Place) -> None:
    own = generate(["relay.example.org"], [], now=place.now, days=30)
    place.changed(UploadCertificate(own.chain_pem, own.private_key))
    for hours in (24 * 10, 24 * 10, 1, 24):
        place.now += timedelta(hours=hours)
        place.configuring.look_after_certificate()
    assert place.fingerprint() == own.fingerprint
    assert [fields["days"] for event, fields in place.reports if event == "certificate_expires"] == [9, 8]


def test_one_that_cannot_be_opened_is_said_and_mail_goes_on_without(place: Place) -> None:
    place.publisher.publish()
    (place.folders.certificates / "shared.p12").write_bytes(b"rot")
    place.publisher.publish()
    assert place.told("intake").certificate is None
    assert "certificate_fault" in place.reports.events
    assert "dispatch cert" in place.refused(ShowCertificate())
