"""Commands that change settings where no relay runs, and what they refuse to take as an argument."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dispatch.cli import run
from dispatch.security.certificates import generate
from dispatch.security.passwords import verify_password


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """The options that name a data directory, and no file of settings."""
    (tmp_path / "dispatch.toml").touch()
    (tmp_path / "data").mkdir()
    return ["--config", str(tmp_path / "dispatch.toml"), "--data", str(tmp_path / "data")]


def _type(monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line)))


Out = pytest.CaptureFixture[str]


def test_a_secret_as_an_argument_is_refused_and_not_repeated(data: list[str], capsys: Out) -> None:
    for arguments in (
        ["relay", "add", "smart", "password=hunter2"],
        ["login", "set", "a", "password=hunter2"],
    ):
        assert run([*arguments, *data]) == os.EX_USAGE
        said = capsys.readouterr()
        assert "--password" in said.err
        assert "hunter2" not in said.err + said.out


def test_without_a_terminal_the_password_must_be_piped_in(
    data: list[str], capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    _type(monkeypatch, b"")
    assert run(["login", "add", "scanner", *data]) == os.EX_USAGE
    assert "--password-stdin" in capsys.readouterr().err
    _type(monkeypatch, b"\n")
    assert run(["login", "add", "scanner", "--password-stdin", *data]) == os.EX_USAGE
    assert "empty password" in capsys.readouterr().err


def test_a_hash_fits_its_password(capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    _type(monkeypatch, "pässword \r\n".encode())
    assert run(["login", "hash", "--password-stdin", "--json"]) == os.EX_OK
    hashed = json.loads(capsys.readouterr().out)["hash"]
    assert verify_password("pässword ".encode(), hashed)


def test_a_relays_password_is_kept_and_never_shown(
    data: list[str], capsys: Out, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _type(monkeypatch, b"hunter2-hunter2\n")
    add = ["relay", "add", "smart", "host=mail.example.org", "username=me", "--password-stdin"]
    assert run([*add, *data]) == os.EX_OK
    assert run(["relay", "list", "--json", *data]) == os.EX_OK
    assert run(["config", "list", *data]) == os.EX_OK
    said = capsys.readouterr().out
    assert '"password": "***"' in said
    assert "hunter2" not in said
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


def test_every_mistake_of_a_command_is_told(data: list[str], capsys: Out) -> None:
    assert run(["relay", "add", "smart", "port=0", "max_concurency=3", *data]) == os.EX_DATAERR
    told = capsys.readouterr().err
    for key in ("relays.smart.port", "relays.smart.max_concurrency", "relays.smart.host"):
        assert key in told
    assert run(["relay", "add", "smart", "nonsense", *data]) == os.EX_USAGE
    assert run(["relay", "set", "smart", *data]) == os.EX_USAGE
    assert run(["rule", "add", "r", "sender=a.org", "relays=capture", "--password", *data]) == os.EX_USAGE


def test_the_key_is_shown_only_when_it_is_asked_for(data: list[str], capsys: Out, tmp_path: Path) -> None:
    assert run(["key", "show", *data]) == os.EX_CONFIG, "there is none yet"
    assert run(["relay", "list", *data]) == os.EX_OK
    capsys.readouterr()
    line = (tmp_path / "data/.dispatch-key").read_text().strip()
    secret = line.rpartition(".")[2]
    assert run(["key", "show", *data]) == os.EX_OK
    assert run(["key", "show", "--json", *data]) == os.EX_OK
    assert secret not in capsys.readouterr().out
    assert run(["key", "show", "--reveal", *data]) == os.EX_OK
    assert capsys.readouterr().out.strip() == line


def test_a_certificate_is_uploaded_shown_and_removed(data: list[str], capsys: Out, tmp_path: Path) -> None:
    own = generate(["mail.example.org"], [], now=datetime.now(UTC))
    (tmp_path / "chain.pem").write_bytes(own.chain_pem)
    (tmp_path / "key.pem").write_bytes(own.private_key)
    upload = ["cert", "upload", str(tmp_path / "chain.pem")]
    assert run([*upload, str(tmp_path / "chain.pem"), *data]) == os.EX_DATAERR
    assert "no private key" in capsys.readouterr().err
    assert run([*upload, str(tmp_path / "absent.pem"), *data]) == os.EX_NOINPUT
    assert run([*upload, str(tmp_path / "key.pem"), *data]) == os.EX_OK
    capsys.readouterr()
    assert run(["cert", "show", "--json", *data]) == os.EX_OK
    shown = json.loads(capsys.readouterr().out)
    assert (shown["fingerprint"], shown["made_here"]) == (own.fingerprint, False)
    assert run(["cert", "remove", *data]) == os.EX_OK
    capsys.readouterr()
    assert run(["cert", "show", *data]) == os.EX_OK
    assert "no certificate" in capsys.readouterr().out


def test_where_there_is_no_data_directory_it_is_said(tmp_path: Path, capsys: Out) -> None:
    assert run(["login", "list", "--data", str(tmp_path / "none")]) == os.EX_NOINPUT
    assert "does not exist" in capsys.readouterr().err


def test_a_database_of_a_later_version_is_left_alone(data: list[str], capsys: Out, tmp_path: Path) -> None:
    assert run(["relay", "add", "a", "host=a.example.org", *data]) == os.EX_OK
    with sqlite3.connect(tmp_path / "data/settings.db") as database:
        database.execute("PRAGMA user_version = 999")
    assert run(["relay", "add", "b", "host=b.example.org", *data]) == os.EX_CONFIG
    assert "settings.db has schema 999" in capsys.readouterr().err


def test_what_is_no_utf_8_is_refused_in_words(data: list[str], capsys: Out) -> None:
    assert run(["relay", "add", "smart", "host=caf\udce9", *data]) == os.EX_USAGE
    assert "UTF-8" in capsys.readouterr().err


def test_a_relay_is_tried_out_where_no_relay_runs(data: list[str], capsys: Out) -> None:
    assert run(["relay", "test", "smart", "host=127.0.0.1", "port=1", *data]) == os.EX_UNAVAILABLE
    assert "connection refused" in capsys.readouterr().out
    assert run(["relay", "test", "smart", *data]) == os.EX_DATAERR
    assert "there is no relay smart" in capsys.readouterr().err
    assert run(["relay", "list", *data]) == os.EX_OK
    assert capsys.readouterr().out == "There is no relay.\n", "nothing was stored"
