"""`dispatch route simulate`, called as a person calls it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dispatch.cli import run
from dispatch.policy.suppression import digest
from dispatch.security.passwords import hash_password
from dispatch.settings.suppressed import SUPPRESSED, publish_suppressed

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
        "  → relay bulk, by news; behind it main",
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
        "action": "relay",
        "copies": [],
        "reply": "",
    }
    assert told["recipients"][0]["weights"] == {}
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


MORE = """
[[rules]]
name = "shop"
login = ["shop"]
client = ["192.0.2.0/24"]
tag = ["bill"]
header = ["X-Kind: receipt"]
min_bytes = 100
time = ["Mon 08:00-18:00"]
relays = ["bulk", "main"]
weights = [3, 1]

[[rules]]
name = "no"
sender = "spam.example"
action = "refuse"
reply = "Go away"

[[rules]]
name = "drop"
sender = "noise.example"
action = "discard"
"""
SHOP = ["--login", "shop", "--client", "192.0.2.1", "--tag", "x", "--tag", "bill"]
SHOP += ["--header", "x-kind: receipt", "--size", "100", "--at", "2026-03-02T08:00"]


def test_every_fact_of_a_message_can_be_given(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(config).write_text(CONFIG + MORE)
    arguments = ["a@example.org", "b@example.net", "--config", config]
    assert run(["route", "simulate", *arguments, *SHOP]) == os.EX_OK
    told = capsys.readouterr().out.splitlines()
    assert (
        "  yes  shop (priority 100): login is shop; client 192.0.2.1 is in 192.0.2.0/24; has the tag bill;"
        " has the header field X-Kind: receipt; 100 bytes are at least 100;"
        " Mon 08:00 (UTC) is in Mon 08:00-18:00"
    ) in told
    assert told[-1] == "  → relay bulk (75%), main (25%) by weight, by shop; behind it the others"
    assert run(["route", "simulate", *arguments, *SHOP, "--json"]) == os.EX_OK
    told_as_json = json.loads(capsys.readouterr().out)
    assert told_as_json["recipients"][0]["weights"] == {"bulk": 3, "main": 1}
    assert run(["route", "simulate", *arguments, *SHOP, "--login", "crm", "--json"]) == os.EX_OK
    rules = json.loads(capsys.readouterr().out)["recipients"][0]["rules"]
    shop = next(rule for rule in rules if rule["name"] == "shop")
    assert (shop["matched"], shop["why"]) == (False, "login is crm, not shop")


@pytest.mark.parametrize(
    ("sender", "decision"),
    [
        (
            "a@spam.example",
            "refused at RCPT, by no: 550 5.7.1 Go away (rules about the content are not looked at there)",
        ),
        ("a@noise.example", "discarded, by drop"),
    ],
)
def test_what_is_refused_or_discarded_says_so(
    config: str, capsys: pytest.CaptureFixture[str], sender: str, decision: str
) -> None:
    Path(config).write_text(CONFIG + MORE)
    assert run(["route", "simulate", sender, "b@example.net", "--config", config, *SHOP[:4]]) == os.EX_OK
    assert capsys.readouterr().out.splitlines()[-1] == f"  → {decision}"


def test_what_is_refused_is_in_no_transaction(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(config).write_text(CONFIG + MORE)
    assert run(["route", "simulate", "a@spam.example", "b@example.net", "--config", config, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["transactions"] == []


@pytest.mark.parametrize(
    "option",
    [["--source", "fax"], ["--client", "host"], ["--header", "X-A"], ["--size", "-1"], ["--at", "noon"]],
)
def test_facts_that_cannot_be_are_refused(
    config: str, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    assert run(["route", "simulate", "a@b.c", "d@e.f", "--config", config, *option]) == os.EX_USAGE
    assert capsys.readouterr().out == ""


LOGINS = f"""
[[logins]]
name = "shop"
password = "{hash_password("secret", rounds=4)}"
relay = "off"

[[logins]]
name = "app"
password = "{hash_password("secret", rounds=4)}"
relay = "main"
may_name_relay = true
"""


@pytest.mark.parametrize(
    ("given", "last"),
    [
        (["--login", "app"], "  → relay main, by relay pin"),
        (["--login", "app", "--header", "X-Dispatch-Relay: bulk"], "  → relay bulk, by relay pin"),
        (["--login", "shop"], "  → held: the relay 'off' that it must take is disabled or missing"),
        (["--header", "X-Dispatch-Relay: main"], "  → relay bulk, by news; behind it main"),
        (
            ["--login", "app", "--header", "X-Dispatch-Relay: nowhere"],
            "The message is refused after its end of data: 554 5.4.4 X-Dispatch-Relay names a relay that does"
            " not exist here",
        ),
    ],
)
def test_relay_pins_go_before_the_rules(
    config: str, capsys: pytest.CaptureFixture[str], given: list[str], last: str
) -> None:
    Path(config).write_text(CONFIG + LOGINS)
    assert run(["route", "simulate", "news-1@example.org", "a@b.example", "--config", config, *given]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == last
    assert ("is ignored" in told[0]) is (given[0] == "--header")


def test_relay_pins_as_json(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(config).write_text(CONFIG + LOGINS)
    arguments = ["news-1@example.org", "a@b.example", "--config", config, "--json", "--login", "app"]
    assert run(["route", "simulate", *arguments]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["pin"], told["refused"]) == ("main", None)
    assert told["transactions"] == [{"relays": ["main"], "held": None, "to": ["a@b.example"]}]
    assert run(["route", "simulate", *arguments, "--header", "X-Dispatch-Relay: off"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["refused"].startswith("451 4.4.4") and told["transactions"] == []


def test_who_is_suppressed_is_not_tried_whatever_the_rules_say(
    config: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    publish_suppressed(tmp_path / "settings", 1, [digest("gone@b.example")])
    arguments = [
        "news-1@example.org",
        "Gone@b.example",
        "a@b.example",
        "--config",
        config,
        "--data",
        str(tmp_path),
    ]
    assert run(["route", "simulate", *arguments]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[3] == "  → never tried: the recipient is on the suppression list"
    assert told[7] == "  → relay bulk, by news; behind it main"
    assert run(["route", "simulate", *arguments, "--json"]) == 0
    assert [each["to"] for each in json.loads(capsys.readouterr().out)["transactions"]] == [["a@b.example"]]
    (tmp_path / "settings" / SUPPRESSED).write_bytes(b"nonsense")
    assert run(["route", "simulate", *arguments]) == 0
    assert "cannot be read, and was left out" in capsys.readouterr().err
