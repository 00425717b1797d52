"""Commands on data that another user owns, and on logs whose end is gone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dispatch import cli
from dispatch.app.folders import Folders
from dispatch.cli import run


def test_another_users_data_are_named_and_no_traceback_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(_: Path) -> bool:
        raise PermissionError(13, "Permission denied", "/srv/dispatch/history.db")

    (tmp_path / "history.db").touch()
    monkeypatch.setattr(Path, "is_file", denied)
    monkeypatch.setattr(Path, "exists", denied)
    assert run(["history", "--data", str(tmp_path)]) == os.EX_NOPERM
    said = capsys.readouterr().err
    assert "/srv/dispatch/history.db" in said
    assert "as root" in said
    assert cli.__doc__ is not None
    assert str(os.EX_NOPERM) in cli.__doc__


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Empty logs whose marks say that 4 KiB of each were on stable storage."""
    folders = Folders(tmp_path)
    for mark in (folders.mail_durable, folders.ledger_durable):
        mark.parent.mkdir(parents=True)
        mark.write_bytes((4096).to_bytes(8, sys.byteorder) + bytes(4088))
    return folders


def test_a_log_that_ends_before_what_was_on_stable_storage_is_damaged(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["spool", "verify", "--data", str(folders.data)]) == os.EX_DATAERR
    said = capsys.readouterr().out
    assert said.count("gone from its end: 0x0 to 0x1000") == 2
    assert "DAMAGED" in said


def test_logs_without_marks_say_nothing_of_an_end(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    folders.mail_durable.unlink()
    folders.ledger_durable.unlink()
    assert run(["spool", "verify", "--data", str(folders.data)]) == os.EX_OK
    assert not folders.mail_durable.exists(), "looking makes nothing"


def test_a_ledger_without_its_mark_is_not_called_sound(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    folders.ledger_durable.unlink()
    assert run(["ledger", "verify", "--data", str(folders.data)]) == os.EX_DATAERR
    assert "durable.mark is gone" in capsys.readouterr().err
    assert not folders.ledger_durable.exists()


def test_exported_mail_is_for_nobody_elses_eyes(folders: Folders, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        assert run(["spool", "export", str(tmp_path / "out"), "--data", str(folders.data)]) == os.EX_OK
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o077 == 0


def test_a_parked_store_that_is_gone_is_said_and_not_made(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    for mark in (folders.mail_durable, folders.ledger_durable):
        mark.write_bytes(bytes(4096))
    run(["ledger", "verify", "--data", str(folders.data)])
    assert "parked.db is gone" in capsys.readouterr().err
    assert not folders.parked_db.exists()
