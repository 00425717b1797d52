"""The vault's key at a start: made once, missed where it is lost, changed without losing a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from dispatch.app.folders import Folders
from dispatch.app.vault_key import open_key, rotate_key
from dispatch.security.key_file import NoKey, begin_rotation, load_key
from dispatch.security.vault import Vault, WrongKey
from dispatch.store.settings import SettingsStore


class Reports(list[str]):
    def __call__(self, event: str, /, **fields: object) -> None:
        self.append(event)


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def _keep(folders: Folders, key: bytes) -> None:
    store = SettingsStore.open(folders.settings_db, Vault(key))
    with store.transaction():
        store.put_secret("a", b"secret")
    store.close()


def _kept(folders: Folders, key: bytes) -> bytes | None:
    store = SettingsStore.open(folders.settings_db, Vault(key))
    try:
        return store.secret("a")
    finally:
        store.close()


def test_the_first_start_makes_it_and_the_next_has_the_same(folders: Folders, reports: Reports) -> None:
    first = open_key(folders, {}, reports)
    assert reports == ["key_made"]
    assert open_key(folders, {}, reports).key == first.key
    assert reports == ["key_made"], "said once"


def test_where_it_is_lost_none_is_made_in_its_place(folders: Folders, reports: Reports) -> None:
    key = open_key(folders, {}, reports)
    _keep(folders, key.key)
    aside = key.path.rename(folders.data / "aside")
    before = folders.settings_db.read_bytes()
    with pytest.raises(NoKey, match="put the key file back"):
        open_key(folders, {}, reports)
    assert not key.path.exists()
    assert folders.settings_db.read_bytes() == before
    aside.rename(key.path)
    assert _kept(folders, open_key(folders, {}, reports).key) == b"secret"


def test_rotation_keeps_the_secrets_and_ends_the_old_key(folders: Folders, reports: Reports) -> None:
    old = open_key(folders, {}, reports)
    _keep(folders, old.key)
    new = rotate_key(folders, {}, reports)
    assert new.key != old.key
    assert load_key(folders.data, {}).key == new.key
    assert _kept(folders, new.key) == b"secret"
    with pytest.raises(WrongKey):
        _kept(folders, old.key)


@pytest.mark.parametrize("sealed_anew", [False, True])
def test_a_rotation_that_was_cut_short_is_finished(
    folders: Folders, reports: Reports, sealed_anew: bool
) -> None:
    old = open_key(folders, {}, reports)
    _keep(folders, old.key)
    begun = begin_rotation(old)
    if sealed_anew:
        assert begun.new_key is not None
        store = SettingsStore.open(folders.settings_db, Vault(begun.new_key))
        store.reseal(Vault(old.key))
        store.close()
    found = open_key(folders, {}, reports)
    assert found.key == begun.new_key
    assert not found.unfinished
    assert _kept(folders, found.key) == b"secret"
    assert reports == ["key_made", "key_rotated"]


def test_others_rights_are_taken_away_and_said(folders: Folders, reports: Reports) -> None:
    path = open_key(folders, {}, reports).path
    path.chmod(0o644)
    open_key(folders, {}, reports)
    assert path.stat().st_mode & 0o777 == 0o600
    assert reports == ["key_made", "key_remark"]
