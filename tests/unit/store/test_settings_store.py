"""The settings store: what is kept, how secrets lie there, and what happens when a key is changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatch.security.vault import Vault, WrongKey
from dispatch.store.settings import SettingsStore, holds_sealed, read_settings

SECRET = "dispatch1$2b$12$0/lSF4ly/jA0.aA4DQKY1eQp6qdhjsUr8xIW7Wu/kVCFXfvw9e3Pm"
VAULT = Vault(bytes(range(32)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "settings.db"


@pytest.fixture
def store(path: Path) -> Iterator[SettingsStore]:
    one = SettingsStore.open(path, VAULT)
    with one.transaction():
        one.put("logins", "scanner", {"password": SECRET, "rate": "5/second", "enabled": False})
    yield one
    one.close()


def _said(store: SettingsStore) -> dict[str, object]:
    return {one.path: one.value for one in store.given()}


def test_what_is_put_is_given_with_its_secrets_and_its_origin(store: SettingsStore) -> None:
    assert _said(store) == {
        "logins.scanner.name": "scanner",
        "logins.scanner.password": SECRET,
        "logins.scanner.rate": "5/second",
        "logins.scanner.enabled": False,
    }
    assert {str(one.origin) for one in store.given()} == {"settings.db"}
    assert {one.path for one in store.given() if not one.text} == {"logins.scanner.enabled"}


def test_changing_some_keys_leaves_the_others_and_the_order(store: SettingsStore) -> None:
    with store.transaction():
        store.put("logins", "app", {"password": SECRET})
        store.put("logins", "scanner", {"rate": None, "enabled": True})
    assert _said(store)["logins.scanner.password"] == SECRET
    assert _said(store)["logins.scanner.enabled"] is True
    assert "logins.scanner.rate" not in _said(store)
    assert [one.value for one in store.given() if one.name == "name"] == ["scanner", "app"]


def test_what_fails_in_a_transaction_leaves_nothing(store: SettingsStore) -> None:
    before = _said(store)
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.put("relays", "smart", {"host": "a"})
        assert store.holds("relays", "smart")
        store.remove("logins", "scanner")
        _ = 1 // 0
    assert _said(store) == before


def test_no_file_of_it_holds_a_secret(store: SettingsStore, path: Path) -> None:
    with store.transaction():
        store.put_secret("certificate.shared", b"a password of a file")
    files = list(path.parent.iterdir())
    assert path in files and len(files) > 1
    for file in files:
        content = file.read_bytes()
        assert SECRET.encode() not in content
        assert b"a password of a file" not in content
    assert store.secret("certificate.shared") == b"a password of a file"
    assert store.secret("another") is None


def test_who_looks_without_the_vault_sees_that_there_is_one(store: SettingsStore, path: Path) -> None:
    given = {one.path: one for one in read_settings(path)}
    assert given["logins.scanner.password"].withheld
    assert given["logins.scanner.password"].value == ""
    assert given["logins.scanner.rate"].value == "5/second"
    assert holds_sealed(path)


def test_where_nothing_was_written_nothing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "settings.db"
    assert read_settings(path) == []
    assert not holds_sealed(path)
    assert not path.exists(), "looking makes nothing"
    (tmp_path / "settings.db").touch()
    assert read_settings(path) == []


def test_a_new_key_opens_everything_and_the_old_one_nothing(store: SettingsStore, path: Path) -> None:
    with store.transaction():
        store.put_secret("certificate.shared", b"password")
    new = Vault(bytes(32))
    other = SettingsStore.open(path, new)
    assert other.reseal(VAULT) == 2
    assert other.reseal(VAULT) == 2, "and again, where it was cut short after that"
    assert _said(other)["logins.scanner.password"] == SECRET
    assert other.secret("certificate.shared") == b"password"
    other.close()
    with pytest.raises(WrongKey, match=r"logins\.scanner\.password is sealed with key"):
        store.given()


def test_a_foreign_key_changes_nothing_when_it_rotates(store: SettingsStore, path: Path) -> None:
    other = SettingsStore.open(path, Vault(bytes(32)))
    with pytest.raises(WrongKey):
        other.reseal(Vault(b"x" * 32))
    other.close()
    assert _said(store)["logins.scanner.password"] == SECRET
