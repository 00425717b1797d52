"""The shared certificate on disk, through every interruption."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dispatch.app.certificate import FILE, CertificateUnusable, SharedCertificate
from dispatch.security.certificates import generate
from dispatch.security.vault import Vault
from dispatch.store.settings import SettingsStore

NOW = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "certificates"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SettingsStore]:
    one = SettingsStore.open(tmp_path / "settings.db", Vault(bytes(32)))
    yield one
    one.close()


@pytest.fixture
def certificate(folder: Path, store: SettingsStore) -> SharedCertificate:
    return SharedCertificate(folder, store)


def test_at_first_there_is_none(certificate: SharedCertificate) -> None:
    assert certificate.never_made
    assert certificate.load() is None


def test_it_is_kept_encrypted_for_its_owner_only(certificate: SharedCertificate, folder: Path) -> None:
    made = certificate.generate(["relay.example.org"], ["192.0.2.1"], NOW)
    kept = certificate.load()
    assert kept is not None
    assert kept.made_here
    assert kept.identity.fingerprint == made.fingerprint
    assert kept.identity.private_key == made.private_key
    assert {path.name for path in folder.iterdir()} == {FILE}
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE KEY" not in (folder / FILE).read_bytes()


def test_one_that_was_uploaded_is_not_ours_to_renew(certificate: SharedCertificate) -> None:
    certificate.generate(["a.example.org"], [], NOW)
    certificate.replace(generate(["b.example.org"], [], now=NOW), made_here=False)
    kept = certificate.load()
    assert kept is not None
    assert not kept.made_here
    assert kept.identity.names == ("b.example.org",)


def test_one_that_was_removed_is_not_made_again(certificate: SharedCertificate, folder: Path) -> None:
    certificate.generate(["a.example.org"], [], NOW)
    certificate.remove()
    assert certificate.load() is None
    assert not certificate.never_made
    assert list(folder.iterdir()) == []


def test_dying_before_the_password_is_kept_leaves_the_old_one(
    certificate: SharedCertificate, store: SettingsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = certificate.generate(["old.example.org"], [], NOW)

    def die(name: str, secret: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(store, "put_secret", die)
        certificate.generate(["new.example.org"], [], NOW)
    kept = certificate.load()
    assert kept is not None and kept.identity.fingerprint == old.fingerprint
    new = certificate.generate(["new.example.org"], [], NOW)
    kept = certificate.load()
    assert kept is not None and kept.identity.fingerprint == new.fingerprint, "what was left is no hindrance"


def test_dying_before_the_new_name_is_finished_by_the_next_look(
    certificate: SharedCertificate, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate.generate(["old.example.org"], [], NOW)
    rename = Path.rename

    def die(path: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "rename", die)
        certificate.generate(["new.example.org"], [], NOW)
    assert Path.rename is rename
    kept = certificate.load()
    assert kept is not None and kept.identity.names == ("new.example.org",)
    assert {path.name for path in folder.iterdir()} == {FILE}


@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_where_it_cannot_be_opened_that_is_said_and_nothing_replaced(
    certificate: SharedCertificate, folder: Path, damage: str
) -> None:
    certificate.generate(["a.example.org"], [], NOW)
    if damage == "gone":
        (folder / FILE).unlink()
    else:
        (folder / FILE).write_bytes(b"rot")
    for _ in range(2):
        with pytest.raises(CertificateUnusable, match="dispatch cert"):
            certificate.load()
    assert not certificate.never_made
