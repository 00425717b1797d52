"""`dispatch route simulate`, called as a person calls it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dispatch.cli import run

CONFIG = """\
[[relays]]
name = "main"
host = "192.0.2.1"
default = true

[[relays]]
name = "bulk"
host = "192.0.2.2"

[[relays]]
name = "off"
host = "192.0.2.3"
enabled = false

[[rules]]
name = "news"
sender = "news-*@example.org"
relays = ["off", "bulk", "main"]

[[rules]]
name = "review"
priority = 1
recipient = "review.example"
action = "hold"
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for variable in [name for name in os.environ if name.startswith("DISPATCH_")]:
        monkeypatch.delenv(variable)
    path = tmp_path / "dispatch.toml"
    path.write_text(CONFIG)
    return str(path)


def test_every_rule_is_explained_for_every_recipient(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["news-1@example.org", "a@example.net", "b@review.example", "--config", config]
    assert run(["route", "simulate", *arguments]) == os.EX_OK
    assert capsys.readouterr().out.splitlines() == [
        "from news-1@example.org to a@example.net",
        "  no   review (priority 1): recipient matches none of review.example",
        "  yes  news (priority 100): sender matches news-*@example.org",
        "  → relay bulk, by news; behind it main, to which nothing fails over yet",
        "from news-1@example.org to b@review.example",
        "  yes  review (priority 1): recipient matches review.example",
        "  yes  news (priority 100): sender matches news-*@example.org",
        "  → held: the rule 'review' holds it",
        "One message to all of them is split into 2.",
    ]


def test_what_no_rule_matches_takes_the_default_relay(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["route", "simulate", "<>", "postmaster", "--config", config]) == os.EX_OK
    assert capsys.readouterr().out.splitlines()[-1] == "  → relay main, by default relay"


def test_the_same_as_json(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["", "a@example.net", "b@review.example", "c@example.net", "--json", "--config", config]
    assert run(["route", "simulate", *arguments]) == os.EX_OK
    told = json.loads(capsys.readouterr().out)
    assert told["from"] == ""
    assert [each["to"] for each in told["recipients"]] == arguments[1:4]
    assert told["recipients"][0]["rules"][0] == {
        "name": "review",
        "priority": 1,
        "matched": False,
        "why": "recipient matches none of review.example",
    }
    assert told["recipients"][0]["route"] == {
        "relays": ["main"],
        "rule": "default relay",
        "hold_reason": None,
    }
    assert told["transactions"] == [
        {"relays": ["main"], "held": None, "to": ["a@example.net", "c@example.net"]},
        {"relays": [], "held": "the rule 'review' holds it", "to": ["b@review.example"]},
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["no address", "a@b.c"],
        ["a@b.c", ""],
        ["a@b.c", "<>"],
        ["a@b.c", "<a@b.c> X=1"],
        ["a@b.c", "a@b.c", "a b"],
        ["a@b.c"],
    ],
)
def test_what_is_no_address_is_refused(
    config: str, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(["route", "simulate", *arguments, "--config", config]) == os.EX_USAGE
    assert capsys.readouterr().out == ""


def test_settings_with_mistakes_are_refused(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["a@b.c", "d@e.f", "--config", config, "--set", "rules.news.relays=x"]
    assert run(["route", "simulate", *arguments]) == os.EX_CONFIG
    assert "no relay called" in capsys.readouterr().err


def test_a_key_of_a_rule_is_explained(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "explain", "rules.priority", "--config", config, "--json"]) == os.EX_OK
    answer = json.loads(capsys.readouterr().out)
    assert answer["key"] == "rules.NAME.priority"
    assert {path: each["value"] for path, each in answer["current"].items()} == {
        "rules.news.priority": 100,
        "rules.review.priority": 1,
    }
