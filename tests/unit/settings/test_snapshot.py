"""What each process is told of the settings, and that it survives what happens to disks."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import msgspec
import pytest

from dispatch.security.vault import Vault
from dispatch.settings import Settings, SettingsUnreadable, changes, load, values_of
from dispatch.settings.keys import ROLES, Role
from dispatch.settings.model import find_key
from dispatch.settings.snapshot import NoSnapshot, publish
from dispatch.settings.snapshot import load as load_snapshot

NOWHERE = Path("/nonexistent/dispatch.toml")
SEALS = {role: Vault(bytes([number] * 32)) for number, role in enumerate(ROLES)}


def settings(*overrides: str) -> Settings:
    return load(None, {}, overrides, default_file=NOWHERE, host_name="relay.example.org").settings


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_told_what_it_may_know_and_nothing_else(tmp_path: Path, role: Role) -> None:
    published = settings("relays.a.host=mail", "spool.max_age_hours=none", "listener.ports=2525")
    publish(tmp_path, published, SEALS)
    _, told = load_snapshot(tmp_path, role, SEALS[role])
    expected = {}
    for path, value in values_of(published).items():
        entry = find_key(path)
        assert entry is not None
        if role in entry.key.roles:
            expected[path] = value
    assert values_of(told) == expected
    assert changes(told, told) == ([], [])


def test_control_is_told_everything(tmp_path: Path) -> None:
    published = settings("relays.a.host=mail", "relays.a.username=me", "relays.a.password=secret")
    publish(tmp_path, published, SEALS)
    _, told = load_snapshot(tmp_path, "control", SEALS["control"])
    assert values_of(told) == values_of(published)


def test_intake_is_not_told_where_relays_are(tmp_path: Path) -> None:
    publish(tmp_path, settings("relays.a.host=secret.example.org"))
    _, told = load_snapshot(tmp_path, "intake")
    assert told.relays[0].name == "a"
    assert b"secret.example.org" not in (tmp_path / "intake.json").read_bytes()
    with pytest.raises(AssertionError, match="not told"):
        bool(told.relays[0].host)


def test_using_what_was_withheld_fails_at_once(tmp_path: Path) -> None:
    publish(tmp_path, settings("relays.a.host=mail"))
    _, told = load_snapshot(tmp_path, "supervisor")
    with pytest.raises(AssertionError):
        told.effective_relays()
    with pytest.raises(AssertionError):
        assert told.listener.bare_newline == "reject"
    with pytest.raises(AssertionError):
        tuple(told.spool.retry_delays_seconds)
    assert Settings().listener.bare_newline == "reject", "defaults are nobody's to spoil"
    assert Settings().queue.uncertain_policy == "retry"


def test_numbers_grow_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    assert [publish(folder, settings()) for _ in range(3)] == [1, 2, 3]
    assert {load_snapshot(folder, role)[0] for role in ROLES} == {3}


def test_only_the_owner_may_read_them(tmp_path: Path) -> None:
    folder = tmp_path / "snapshots"
    publish(folder, settings())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert sorted(path.stem for path in folder.iterdir()) == sorted(ROLES)


def test_a_publication_that_died_halfway_leaves_old_or_new_and_is_overtaken(tmp_path: Path) -> None:
    publish(tmp_path, settings())
    newer = tmp_path / "newer"
    for _ in range(5):
        publish(newer, settings("logging.level=debug"))
    (newer / "intake.json").rename(tmp_path / "intake.json")
    (tmp_path / "delivery.new").write_bytes(b'{"half')
    (tmp_path / "delivery.new").chmod(0o444)
    assert load_snapshot(tmp_path, "intake")[0] == 5
    assert load_snapshot(tmp_path, "delivery")[0] == 1
    assert publish(tmp_path, settings("logging.level=error")) == 6
    for role in ROLES:
        number, told = load_snapshot(tmp_path, role)
        assert number == 6
        assert told.logging.level == "error"


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"null", b'{"format":1,"number":1}', b'{"format":9,"number":4,"settings":{}}']
)
def test_a_damaged_snapshot_is_said_and_replaced_by_the_next(tmp_path: Path, damage: bytes) -> None:
    publish(tmp_path, settings())
    (tmp_path / "intake.json").write_bytes(damage)
    with pytest.raises(NoSnapshot, match=r"intake\.json"):
        load_snapshot(tmp_path, "intake")
    publish(tmp_path, settings())
    assert load_snapshot(tmp_path, "intake")[0] >= 2


def test_nothing_published_is_no_snapshot(tmp_path: Path) -> None:
    with pytest.raises(NoSnapshot):
        load_snapshot(tmp_path, "delivery")


def test_a_snapshot_of_another_version_is_understood(tmp_path: Path) -> None:
    publish(tmp_path, settings("listener.max_recipients=7"))
    path = tmp_path / "intake.json"
    file = msgspec.json.decode(path.read_bytes())
    file["settings"]["listener"]["of_the_future"] = [1, 2]
    file["settings"]["future"] = {"a": 1}
    del file["settings"]["listener"]["max_received"]
    path.write_bytes(msgspec.json.encode(file))
    _, told = load_snapshot(tmp_path, "intake")
    assert told.listener.max_recipients == 7
    assert told.listener.max_received == Settings().listener.max_received


def test_a_disk_that_fails_leaves_the_old_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, settings("listener.max_recipients=7"))

    def failing(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("dispatch.settings.snapshot.os.fsync", failing)
    with pytest.raises(OSError, match=r"Input/output.*\.json"):
        publish(tmp_path, settings("listener.max_recipients=8"))
    for role in ("intake", "control"):
        number, told = load_snapshot(tmp_path, role)  # type: ignore[arg-type]  # two of the roles
        assert (number, told.listener.max_recipients) == (1, 7)


def test_one_that_cannot_be_read_now_is_not_called_absent(tmp_path: Path) -> None:
    (tmp_path / "intake.json").symlink_to("/proc/self/mem")  # its first page fails with EIO
    with pytest.raises(SettingsUnreadable, match=r"intake\.json cannot be read: .* \(EIO\)") as fault:
        load_snapshot(tmp_path, "intake")
    assert fault.value.errno == errno.EIO
    assert publish(tmp_path, settings()) == 1, "the next publication replaces what is damaged"
    assert load_snapshot(tmp_path, "intake")[0] == 1


def test_numbers_do_not_begin_anew_for_want_of_a_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, settings())
    real = Path.read_bytes

    def short(path: Path) -> bytes:
        if path.name == "control.json":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", short)
    with pytest.raises(OSError, match=r"control\.json"):
        publish(tmp_path, settings())
    monkeypatch.undo()
    assert publish(tmp_path, settings()) == 2
