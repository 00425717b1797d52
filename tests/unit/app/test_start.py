"""A process that cannot start says why in a line, and what to do about it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from dispatch.app.__main__ import _start_of, main
from dispatch.app.folders import Folders
from dispatch.runtime.child import ChildContext, ChildFault
from dispatch.settings import Settings
from dispatch.settings.snapshot import publish

KEY = bytes(range(32))


def report(event: str, /, **fields: object) -> None:
    """Nobody listens."""


def refusal(role: str, data: Path) -> ChildFault:
    async def start() -> None:
        await _start_of(role, [], report)(ChildContext(role, data, secret=KEY))

    with pytest.raises(ChildFault) as fault:
        asyncio.run(start())
    return fault.value


@pytest.mark.parametrize("role", ["intake", "delivery", "control"])
def test_without_settings(role: str, tmp_path: Path) -> None:
    fault = refusal(role, tmp_path)
    assert fault.code == os.EX_CONFIG
    assert "dispatch serve" in str(fault)


@pytest.mark.parametrize("role", ["intake", "delivery", "control"])
def test_with_settings_that_cannot_be_read_just_now(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Folders(tmp_path).settings
    folder.mkdir()
    (folder / f"{role}.json").symlink_to("/proc/self/mem")  # its first page fails with EIO
    fault = refusal(role, tmp_path)
    assert fault.code == os.EX_IOERR, "not 78, with which nobody would try again"
    assert f"{role}.json cannot be read: Input/output error (EIO)" in str(fault)
    monkeypatch.setattr(sys, "argv", ["dispatch.app", role, str(tmp_path)])
    assert main() == os.EX_IOERR, "already where the settings of its log are read"
    (line,) = capsys.readouterr().err.splitlines()
    assert "child_fatal" in line and f"{role}.json" in line and "EIO" in line


def test_with_a_database_of_a_later_version(tmp_path: Path) -> None:
    publish(Folders(tmp_path).settings, Settings())
    with closing(sqlite3.connect(Folders(tmp_path).history_db)) as database:
        database.execute("PRAGMA user_version = 999")
    fault = refusal("control", tmp_path)
    assert fault.code == os.EX_CONFIG
    assert "history.db has schema 999" in str(fault)
    assert "Run that version" in str(fault)


def test_with_a_queue_that_is_no_database(tmp_path: Path) -> None:
    publish(Folders(tmp_path).settings, Settings())
    Folders(tmp_path).parked_db.write_bytes(b"no database" * 1000)
    fault = refusal("delivery", tmp_path)
    assert fault.code == os.EX_IOERR
    assert "parked.db" in str(fault)
