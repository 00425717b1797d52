"""`dispatch config` and the command line around it, called as a person calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dispatch import __version__
from dispatch.cli import VERBS, run


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.startswith("DISPATCH_"):
            monkeypatch.delenv(variable)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "dispatch.toml"
    path.write_text('[listener]\nports = [2525]\n\n[[relays]]\nname = "smarthost"\nhost = "192.0.2.1"\n')
    return path


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.toml"
    path.write_text("[listener]\nport = [2525]\nmax_received = 0\n")
    return path


def test_good_settings_pass(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check", "--config", str(config)]) == os.EX_OK
    assert capsys.readouterr() == ("The settings are good.\n", "")


def test_every_mistake_is_printed_and_the_exit_code_says_configuration(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["config", "check", "--config", str(broken), "--set", "x"]) == os.EX_CONFIG
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"dispatch: {broken}:2: listener.port: there is no such key; did you mean listener.ports?",
        f"dispatch: {broken}:3: listener.max_received: 0 is below 1; write a whole number, 1 to 1000",
        "dispatch: --set: x: names no key and value; write --set section.key=value",
    ]


def test_mistakes_as_json(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check", "--json", "--config", str(broken)]) == os.EX_CONFIG
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert answer["mistakes"][0] == {
        "origin": {"source": "file", "place": f"{broken}:2"},
        "path": "listener.port",
        "what": "there is no such key",
        "remedy": "did you mean listener.ports?",
    }


@pytest.mark.parametrize(
    "verb", [["config", "check"], ["config", "explain", "listener.ports"], ["queue", "list"]]
)
def test_a_file_that_cannot_be_read_just_now_is_no_mistake(
    verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*verb, "--config", "/proc/self/mem"]) == os.EX_IOERR  # its first page fails with EIO
    assert capsys.readouterr().err == "dispatch: /proc/self/mem cannot be read: Input/output error (EIO)\n"


def test_warnings_are_told_and_are_no_mistakes(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPATCH_PORT", "tcp://10.0.0.1:25")
    assert run(["config", "check", "--config", str(config)]) == os.EX_OK
    assert "DISPATCH_PORT" in capsys.readouterr().err
    assert run(["config", "check", "--config", str(config), "--json"]) == os.EX_OK
    assert len(json.loads(capsys.readouterr().out)["warnings"]) == 1


def test_the_list_has_every_key_with_value_and_origin(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPATCH_RELAYS__SMARTHOST__PORT", "26")
    arguments = ["config", "list", "--config", str(config), "--data", "some/where"]
    assert run(arguments) == os.EX_OK
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()}
    assert rows["listener.ports"].split() == ["[2525]", f"{config}:2"]
    assert rows["relays.smarthost.port"].split() == ["26", "DISPATCH_RELAYS__SMARTHOST__PORT"]
    assert rows["relays.smarthost.max_retries"].split() == ['"none"', "as", "spool.max_retries"]
    assert rows["spool.directory"].split() == [f'"{Path.cwd()}/some/where"', "--set"]
    assert run([*arguments, "--json"]) == os.EX_OK
    listed = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed.keys() == rows.keys()
    assert listed["listener.ports"]["value"] == [2525]
    assert listed["listener.ports"]["origin"] == {"source": "file", "place": f"{config}:2"}


def test_a_list_of_broken_settings_is_refused(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "list", "--config", str(broken)]) == os.EX_CONFIG
    out, err = capsys.readouterr()
    assert out == ""
    assert "listener.max_received" in err


def test_a_key_is_explained(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "explain", "listener.ports", "--config", str(config)]) == os.EX_OK
    text = capsys.readouterr().out
    for part in (
        "Ports for SMTP.",
        "whole number",
        "1 to 65535",
        "[25, 587]",
        "DISPATCH_LISTENER__PORTS",
        "with the next start",
        f"[2525]  ({config}:2)",
    ):
        assert part in text


@pytest.mark.parametrize("key", ["relays.smarthost.idle_seconds", "relays.NAME.idle_seconds", "idle_seconds"])
def test_a_key_of_a_relay_is_explained_by_any_of_its_names(
    config: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    assert run(["config", "explain", key, "--config", str(config), "--json"]) == os.EX_OK
    answer = json.loads(capsys.readouterr().out)
    assert answer["key"] == "relays.NAME.idle_seconds"
    assert answer["effect"] == "live"
    assert answer["current"] == {"relays.smarthost.idle_seconds": {"value": 30.0, "origin": "default"}}


def test_a_key_is_explained_while_the_settings_are_broken(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["config", "explain", "listener.max_received", "--config", str(broken)]) == os.EX_OK
    text = capsys.readouterr().out
    assert "1 to 1000" in text
    assert "see `dispatch config check`" in text


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("listener.port", "did you mean listener.ports"),
        ("max_retries", "did you mean spool.max_retries or relays.NAME.max_retries?"),
        ("nonsense", "`dispatch config list` shows every key"),
    ],
)
def test_an_unknown_key_cannot_be_explained(capsys: pytest.CaptureFixture[str], key: str, said: str) -> None:
    assert run(["config", "explain", key]) == os.EX_USAGE
    assert said in capsys.readouterr().err


def test_the_reference_as_json_has_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "reference", "--json"]) == os.EX_OK
    keys = {entry["key"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert keys["spool.max_retries"]["default"] is None
    assert keys["relays.NAME.helo_name"]["default"] == "the value of listener.server_name"


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["--nonsense"], ["config", "nonsense"], ["config", "explain"]]
)
def test_a_wrong_call_is_answered_with_usage(
    arguments: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == os.EX_USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dispatch: ")
    assert "--help" in err


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"]):
        assert run(arguments) == os.EX_OK
        text = capsys.readouterr().out
        assert all(f"  {verb.name} " in text for verb in VERBS)
    assert run(["--version"]) == os.EX_OK
    assert capsys.readouterr().out == f"dispatch {__version__}\n"


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_of_the_registry_is_there(
    verb: tuple[str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([verb[0], "--help"]) == os.EX_OK
    assert "Usage: dispatch" in capsys.readouterr().out


def test_help_imports_no_part_of_the_relay() -> None:
    program = (
        "import sys; from dispatch.cli import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = set(done.stderr.split())
    assert "Commands:" in done.stdout
    slow = {"asyncio", "uvloop", "apsw", "rich", "pydantic", "structlog", "msgspec"}
    assert not imported & slow
    assert {name for name in imported if name.startswith("dispatch.")} == {
        *("dispatch.cli", "dispatch.cli.verbs")
    }
