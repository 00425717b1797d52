"""Where the key is found and made, who may read it, and what a crash leaves of it."""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from dispatch.security import key_file
from dispatch.security.key_file import (
    DamagedKey,
    ExposedKey,
    KeyFault,
    NoKey,
    NoPlaceForKey,
    begin_rotation,
    commit_rotation,
    load_key,
    make_key,
)
from dispatch.security.vault import Vault, key_id_of

NOWHERE: dict[str, str] = {}


class PowerCut(BaseException):
    """Nothing that is written for errors may run when it comes."""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_first_start_makes_a_key_that_the_next_one_finds(tmp_path: Path) -> None:
    made = make_key(tmp_path, NOWHERE)
    assert made.path == tmp_path / ".dispatch-key"
    assert len(made.key) == 32
    assert mode(made.path) == 0o600
    assert names(tmp_path) == [".dispatch-key"]
    assert load_key(tmp_path, NOWHERE) == make_key(tmp_path, NOWHERE) == made
    assert not made.unfinished
    assert made.remarks == ()


def test_a_data_directory_that_is_not_there_is_made_for_its_owner_only(tmp_path: Path) -> None:
    made = make_key(tmp_path / "a" / "b", NOWHERE)
    assert mode(tmp_path / "a" / "b") == 0o700
    assert load_key(tmp_path / "a" / "b", NOWHERE).key == made.key


def test_loading_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(NoKey, match="no key at"):
        load_key(tmp_path, NOWHERE)
    assert names(tmp_path) == []


def test_the_file_is_one_line_that_survives_being_copied_by_hand(tmp_path: Path) -> None:
    made = make_key(tmp_path, NOWHERE, chance=lambda size: bytes(range(size)))
    line = made.path.read_text()
    assert line == f"dispatch-key-v1.{key_id_of(made.key)}.AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n"
    made.path.write_text(f"  {line.strip()}\r\n\n")
    assert load_key(tmp_path, NOWHERE).key == bytes(range(32))


def test_the_key_shows_nowhere(tmp_path: Path) -> None:
    rotating = begin_rotation(make_key(tmp_path, NOWHERE, chance=lambda size: b"K" * size))
    assert "KKKK" not in repr(rotating)
    assert "4b4b" not in repr(rotating)
    assert "new_key" not in repr(rotating)


def test_the_folder_of_the_environment_comes_before_the_data_directory(tmp_path: Path) -> None:
    data, keys = tmp_path / "data", tmp_path / "keys"
    keys.mkdir()
    environ = {"DISPATCH_KEY_DIR": str(keys)}
    of_data = make_key(data, {"DISPATCH_KEY_DIR": ""})
    made = make_key(data, environ)
    assert made.path == keys / ".dispatch-key"
    assert made.key != of_data.key
    assert load_key(data, environ).key == made.key


def test_a_folder_of_the_environment_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    environ = {"DISPATCH_KEY_DIR": str(tmp_path / "unmounted")}
    for ask in (load_key, make_key):
        with pytest.raises(NoPlaceForKey, match="mount the volume"):
            ask(tmp_path, environ)
    assert names(tmp_path) == []


def test_a_credential_comes_first_and_is_left_as_it_is(tmp_path: Path) -> None:
    data, credentials = tmp_path / "data", tmp_path / "credentials"
    credentials.mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    own = make_key(data, environ)
    assert own.path == data / ".dispatch-key", "other credentials, but no key among them"
    credential = credentials / "dispatch-key"
    credential.write_text(make_key(tmp_path / "elsewhere", NOWHERE).path.read_text())
    credential.chmod(0o440)
    found = make_key(data, environ)
    assert found.path == credential
    assert found.read_only
    assert found.key != own.key
    assert mode(credential) == 0o440
    with pytest.raises(NoPlaceForKey, match="credential"):
        begin_rotation(found)
    assert names(credentials) == ["dispatch-key"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"hunter2", b"\xff\xfe\0", b"dispatch-key-v2.00000000." + b"A" * 43, b"x" * 100_000],
)
def test_a_damaged_file_is_told_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ".dispatch-key"
    path.write_bytes(content)
    path.chmod(0o600)
    for ask in (load_key, make_key):
        with pytest.raises(DamagedKey, match="is damaged") as fault:
            ask(tmp_path, NOWHERE)
    assert "hunter2" not in str(fault.value)
    assert path.read_bytes() == content
    assert names(tmp_path) == [".dispatch-key"]


def test_a_letter_that_was_copied_wrongly_is_noticed(tmp_path: Path) -> None:
    path = make_key(tmp_path, NOWHERE).path
    line = path.read_text().strip()
    for place in range(len(line)):
        path.write_text(line[:place] + ("A" if line[place] != "A" else "B") + line[place + 1 :])
        with pytest.raises(DamagedKey):
            load_key(tmp_path, NOWHERE)


def test_what_is_no_file_does_not_stop_the_start_for_ever(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".dispatch-key", 0o600)
    with pytest.raises(DamagedKey, match="is no file"):
        load_key(tmp_path, NOWHERE)


def test_others_rights_are_taken_away_and_that_is_said(tmp_path: Path) -> None:
    made = make_key(tmp_path, NOWHERE)
    made.path.chmod(0o644)
    found = load_key(tmp_path, NOWHERE)
    assert found.key == made.key
    assert mode(made.path) == 0o600
    assert "0644" in found.remarks[0]
    assert load_key(tmp_path, NOWHERE).remarks == ()


@pytest.mark.parametrize("fault", [PermissionError(errno.EPERM, "not ours"), None])
def test_a_key_that_others_can_read_and_that_cannot_be_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: OSError | None
) -> None:
    def keep(fd: int, rights: int) -> None:
        if fault:
            raise fault

    make_key(tmp_path, NOWHERE).path.chmod(0o640)
    monkeypatch.setattr(os, "fchmod", keep)
    with pytest.raises(ExposedKey, match="0640") as refused:
        load_key(tmp_path, NOWHERE)
    assert ("not ours" if fault else "does not keep") in str(refused.value)


@pytest.mark.parametrize("rights", [0o440, 0o640, 0o660])
def test_a_volume_that_is_reached_by_its_group_is_remarked_upon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rights: int
) -> None:
    made = make_key(tmp_path, NOWHERE)
    made.path.chmod(rights)
    monkeypatch.setattr(os, "geteuid", lambda: made.path.stat().st_uid + 1)
    found = load_key(tmp_path, NOWHERE)
    assert found.key == made.key
    assert "read by group" in found.remarks[0]
    assert mode(made.path) == rights


def test_a_volume_does_not_excuse_what_everybody_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_key(tmp_path, NOWHERE)
    made.path.chmod(0o644)
    monkeypatch.setattr(os, "geteuid", lambda: made.path.stat().st_uid + 1)
    assert "is 0600 now" in load_key(tmp_path, NOWHERE).remarks[0]


def test_processes_that_start_at_once_get_one_key(tmp_path: Path) -> None:
    for number in range(10):
        start = Barrier(8)

        def make(folder: Path = tmp_path / str(number), start: Barrier = start) -> bytes:
            start.wait(30)
            return make_key(folder, NOWHERE).key

        with ThreadPoolExecutor(8) as pool:
            keys = {future.result() for future in [pool.submit(make) for _ in range(8)]}
        assert keys == {load_key(tmp_path / str(number), NOWHERE).key}
        assert names(tmp_path / str(number)) == [".dispatch-key"]


@pytest.mark.parametrize("call", ["fsync", "link", "unlink"])
def test_a_power_cut_leaves_a_whole_key_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def cut(*_: object, **__: object) -> None:
        raise PowerCut

    with monkeypatch.context() as patched:
        patched.setattr(os, call, cut)
        # pathlib takes away by the same call, and after a cut nobody takes anything away.
        patched.setattr(Path, "unlink", cut)
        with pytest.raises(PowerCut):
            make_key(tmp_path, NOWHERE)
    assert any(".made-" in name for name in names(tmp_path)), "something is left to be swept up"
    before = load_key(tmp_path, NOWHERE).key if (tmp_path / ".dispatch-key").exists() else None
    made = make_key(tmp_path, NOWHERE)
    assert before in (None, made.key)
    assert names(tmp_path) == [".dispatch-key"]


def test_the_key_is_synced_before_it_has_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, link = os.fsync, os.link

    def noted_sync(fd: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        sync(fd)

    def noted_link(old: Path, new: Path) -> None:
        done.append("link")
        link(old, new)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "link", noted_link)
    make_key(tmp_path, NOWHERE)
    assert done == ["file", "link", "folder"]


def test_a_key_that_could_not_be_synced_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "the disk is unwell")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="unwell"):
            make_key(tmp_path, NOWHERE)
    assert names(tmp_path) == []


def test_a_file_system_without_links_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(old: Path, new: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(NoPlaceForKey, match="DISPATCH_KEY_DIR"):
        make_key(tmp_path, NOWHERE)
    assert names(tmp_path) == []


def test_a_rotation_ends_with_the_new_key_alone(tmp_path: Path) -> None:
    old = make_key(tmp_path, NOWHERE)
    rotating = begin_rotation(old)
    assert rotating.key == old.key
    assert rotating.new_key not in (None, old.key)
    assert mode(tmp_path / ".dispatch-key.new") == 0o600
    new = commit_rotation(rotating)
    assert new.key == rotating.new_key
    assert not new.unfinished
    assert load_key(tmp_path, NOWHERE) == new
    assert names(tmp_path) == [".dispatch-key"]


def test_a_rotation_that_was_cut_short_is_found_and_finished(tmp_path: Path) -> None:
    old = make_key(tmp_path, NOWHERE)
    begun = begin_rotation(old)
    assert begun.new_key is not None
    store = {name: Vault(old.key).seal(name, name.encode()) for name in ("a", "b", "c")}
    store["a"] = Vault(begun.new_key).reseal("a", store["a"], Vault(old.key))

    found = make_key(tmp_path, NOWHERE)
    assert found.unfinished
    assert found == begun == begin_rotation(found), "it is gone on with, and not begun anew"
    assert found.new_key is not None
    new_vault = Vault(found.new_key)
    store = {name: new_vault.reseal(name, sealed, Vault(found.key)) for name, sealed in store.items()}
    commit_rotation(found)
    vault = Vault(load_key(tmp_path, NOWHERE).key)
    assert {name: vault.unseal(name, sealed) for name, sealed in store.items()} == {
        "a": b"a",
        "b": b"b",
        "c": b"c",
    }


@pytest.mark.parametrize("changed", [".dispatch-key", ".dispatch-key.new"])
def test_a_rotation_that_somebody_else_changed_is_not_committed(tmp_path: Path, changed: str) -> None:
    rotating = begin_rotation(make_key(tmp_path, NOWHERE))
    other = make_key(tmp_path / "other", NOWHERE).path
    (tmp_path / changed).write_text(other.read_text())
    before = (tmp_path / ".dispatch-key").read_text()
    with pytest.raises(DamagedKey, match="somebody else"):
        commit_rotation(rotating)
    assert (tmp_path / ".dispatch-key").read_text() == before
    assert (tmp_path / ".dispatch-key.new").exists()


def test_a_key_that_is_gone_in_the_middle_of_a_rotation_is_not_made_anew(tmp_path: Path) -> None:
    begin_rotation(make_key(tmp_path, NOWHERE)).path.unlink()
    for ask in (load_key, make_key):
        with pytest.raises(DamagedKey, match="put the old key back"):
            ask(tmp_path, NOWHERE)


def test_every_fault_is_one_that_a_start_can_tell() -> None:
    assert {NoKey, DamagedKey, ExposedKey, NoPlaceForKey} == set(KeyFault.__subclasses__())
    assert key_file.KEY_NAME == ".dispatch-key"
