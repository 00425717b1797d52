"""What looks at a data directory says when it is given the wrong one, and makes none of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dispatch.cli import run

LOOKING = [
    ["inbox", "list"],
    ["inbox", "delete", "--all"],
    ["history"],
    ["stats"],
    ["ledger", "verify"],
    ["spool", "verify"],
    ["queue", "list"],
]


@pytest.mark.parametrize("command", LOOKING, ids=" ".join)
def test_a_directory_that_is_not_there_is_said_and_not_made(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = tmp_path / "typo"
    assert run([*command, "--data", str(absent)]) == os.EX_NOINPUT
    assert not absent.exists()
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{absent} does not exist" in said.err
    assert "--data" in said.err


@pytest.mark.parametrize("command", LOOKING[2:6], ids=" ".join)
def test_a_directory_of_something_else_is_said(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--data", str(tmp_path)]) == os.EX_NOINPUT
    assert f"{tmp_path} holds no " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_deleted_unless_it_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inbox", "delete", "--data", str(tmp_path)]) == os.EX_USAGE
    assert "--all" in capsys.readouterr().err


def test_a_relay_that_never_captured_has_an_empty_inbox(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inbox", "list", "--data", str(tmp_path)]) == os.EX_OK
    assert "empty" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
