"""Routing rules as they are written in each source, and what is wrong with them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dispatch.mail.message import Origin, Summary
from dispatch.policy.conditions import BLANK, Facts
from dispatch.policy.routing import DEFAULT_RULE, Action
from dispatch.settings import Loaded, SettingsErrors, changes, intake_router, load, router
from dispatch.settings.keys import ROLES
from dispatch.settings.snapshot import load as load_snapshot
from dispatch.settings.snapshot import publish

RELAYS = '[[relays]]\nname = "main"\nhost = "192.0.2.1"\ndefault = true\n'
RELAYS += '[[relays]]\nname = "bulk"\nhost = "192.0.2.2"\n'
"""Seven lines, so a rule begins at the eighth."""
RULE = (
    '[[rules]]\nname = "news"\nsender = "news-*@example.org, list.example.org"\nrelays = ["bulk", "main"]\n'
)


def loaded(folder: Path, text: str, *overrides: str, environ: dict[str, str] | None = None) -> Loaded:
    config = folder / "dispatch.toml"
    config.write_text(text)
    return load(config, environ or {}, overrides, host_name="relay.example.org")


def said(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(SettingsErrors) as refused:
        loaded(folder, text, *overrides)
    return [str(mistake).removeprefix(f"{folder}/dispatch.toml:") for mistake in refused.value.mistakes]


def test_a_rule_of_the_file_routes(tmp_path: Path) -> None:
    settings = loaded(tmp_path, RELAYS + RULE).settings
    (rule,) = settings.rules
    assert (rule.priority, rule.enabled, rule.action) == (100, True, "relay")
    assert rule.sender == ("news-*@example.org", "list.example.org")
    routes = router(settings)
    assert routes.route("news-1@example.org", "you@example.net").relays == ("bulk", "main")
    assert routes.route("me@example.org", "you@example.net").relays == ("main",)


@pytest.mark.parametrize("written", ['"a@b.c,d.e"', '["a@b.c", "d.e"]', '" a@b.c , d.e, "'])
def test_patterns_are_a_list_or_one_text_with_commas(tmp_path: Path, written: str) -> None:
    text = f'{RELAYS}[[rules]]\nname = "r"\nrecipient = {written}\nrelays = ["bulk"]\n'
    assert loaded(tmp_path, text).settings.rules[0].recipient == ("a@b.c", "d.e")


@pytest.mark.parametrize("written", ["a@b.c,d.e", '["a@b.c", "d.e"]'])
def test_other_sources_make_rules_too(tmp_path: Path, written: str) -> None:
    environ = {"DISPATCH_RULES__MY_RULE__RECIPIENT": written}
    (rule,) = loaded(tmp_path, RELAYS, "rules.my-rule.relays=bulk", environ=environ).settings.rules
    assert (rule.name, rule.recipient, rule.relays) == ("my-rule", ("a@b.c", "d.e"), ("bulk",))


def test_a_disabled_relay_is_missing_to_the_rules_and_that_is_warned_of(tmp_path: Path) -> None:
    result = loaded(tmp_path, RELAYS + RULE, "relays.bulk.enabled=no")
    assert router(result.settings).route("x@list.example.org", "a@b.c").relays == ("main",)
    assert result.warnings == ()
    result = loaded(tmp_path, RELAYS + RULE, "relays.bulk.enabled=no", "rules.news.relays=bulk")
    assert router(result.settings).route("x@list.example.org", "a@b.c").held
    (warning,) = result.warnings
    assert warning.startswith("rules.news: none of its relays is enabled")


@pytest.mark.parametrize(
    ("rule", "mistake"),
    [
        (
            'relays = ["bukl"]\nsender = "*"',
            '10: rules.r.relays[0]: there is no relay called "bukl"; did you mean bulk?',
        ),
        (
            'relays = ["x"]\nsender = "*"',
            '10: rules.r.relays[0]: there is no relay called "x"; write one of main, bulk',
        ),
        ('relays = ["bulk", "bulk"]\nsender = "*"', '10: rules[0].relays[1]: "bulk" stands there twice'),
        ('relays = []\nsender = "*"', "10: rules[0].relays: the list is empty"),
        ('tag = "x"\nrelays = ["bulk"]', '10: rules[0].tag: "x" is no list'),
        ('header = ["X Y"]\nrelays = ["bulk"]', '10: rules[0].header[0]: "X Y" is no header field'),
        ('client = ["10.0.0.1/8"]\nrelays = ["bulk"]', "10: rules[0].client[0]"),
        ('source = ["fax"]\nrelays = ["bulk"]', '10: rules[0].source[0]: "fax" is not possible here'),
        ('time = ["8-18"]\nrelays = ["bulk"]', '10: rules[0].time[0]: "8-18" is no window of time'),
        (
            'time = ["Mon"]\ntime_zone = "Mars"\nrelays = ["bulk"]',
            '11: rules[0].time_zone: "Mars" is no time zone of this machine; write UTC, or a name like',
        ),
        (
            'sender = "*"\ntime_zone = "UTC"\nrelays = ["bulk"]',
            "11: rules.r.time_zone: is no use to a rule without time",
        ),
        (
            'min_bytes = 10\nmax_bytes = 9\nrelays = ["bulk"]',
            "11: rules.r.max_bytes: 9 is below min_bytes (10)",
        ),
        (
            'sender = "*"\nrelays = ["bulk"]\nweights = [1, 2]',
            "12: rules.r.weights: 2 weights do not go with 1 relays",
        ),
        (
            'sender = "*"\nrelays = ["bulk"]\nweights = [0]',
            "12: rules.r.weights: says that no relay is tried",
        ),
        (
            'sender = "*"\naction = "hold"\ncopy_to = "mian"',
            '12: rules.r.copy_to: there is no relay called "mian"; did you mean main?',
        ),
        (
            'sender = "*"\nrelays = ["main", "bulk"]\ncopy_to = "bulk"',
            "12: rules.r.copy_to: bulk may take the mail itself",
        ),
        (
            'sender = "*"\nrelays = ["bulk"]\nreply = "No"',
            "12: rules.r.reply: is no use to a rule that does not",
        ),
        ('sender = "*"\naction = "refuse"\nmax_bytes = 9', "12: rules.r.max_bytes: is not known at RCPT"),
        ('sender = "*"\naction = "refuse"\ncopy_to = "bulk"', "12: rules.r.copy_to: cannot be"),
        ('sender = "*"\naction = "refuse"\nreply = "a\\r\\nb"', "12: rules[0].reply:"),
        (
            'sender = "*"\naction = "discard"\nrelays = ["bulk"]',
            "12: rules.r.relays: is no use to a rule that discards",
        ),
        ('sender = "*"', '9: rules.r.relays: is missing; write relays = ["main"], or action = "hold"'),
        (
            'action = "hold"\nrelays = ["bulk"]\nsender = "*"',
            "11: rules.r.relays: is no use to a rule that holds",
        ),
        ('relays = ["bulk"]', "9: rules.r: has no condition; write a sender or a recipient"),
        ('relays = ["bulk"]\nmax_bytes = "none"', "9: rules.r: has no condition"),
        ('relays = ["bulk"]\nsender = ""', "11: rules[0].sender: the list is empty"),
        ('relays = ["bulk"]\nsender = ["*", 5]', "11: rules[0].sender[1]: 5 is no address pattern"),
        ('relays = ["bulk"]\nsender = 5', "11: rules[0].sender: 5 is no list of address patterns"),
        ('relays = ["bulk"]\nsender = "a@b, a@b"', '11: rules[0].sender[1]: "a@b" stands there twice'),
        (
            'relays = ["bulk"]\nsender = "x, @b"',
            '11: rules[0].sender[1]: "@b" is no address pattern; write b for',
        ),
        ('relays = ["bulk"]\nsender = "*"\npriority = -1', "12: rules[0].priority: -1 is below 0"),
        (
            'relays = ["bulk"]\nsender = "*"\naction = "bounce"',
            '12: rules[0].action: "bounce" is not possible',
        ),
        ('relays = ["bulk"]\nsender = "*"\nreciepient = "*"', "did you mean rules[0].recipient?"),
        (
            'relays = ["bulk"]\nsender = "*"\n[[rules]]\nname = "r"',
            '13: rules[1].name: another rule is called "r"',
        ),
    ],
)
def test_a_mistake_names_its_place_and_what_to_do(tmp_path: Path, rule: str, mistake: str) -> None:
    text = f'{RELAYS}[[rules]]\nname = "r"\n{rule}\n'
    found = said(tmp_path, text)
    assert len(found) == 1, found
    assert mistake in found[0], found


def test_a_rule_without_a_name_is_still_checked(tmp_path: Path) -> None:
    found = said(tmp_path, f"{RELAYS}[[rules]]\npriority = 1\n")
    assert [mistake.partition(";")[0] for mistake in found] == [
        "8: rules[0].name: is missing",
        "9: rules[0]: has no condition",
        "9: rules[0].relays: is missing",
    ]


def test_rules_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    (mistake,) = said(tmp_path, f"rules = 5\n{RELAYS}")
    assert mistake.startswith("1: rules: is no list of tables; begin each rule with a line [[rules]]")


def test_a_changed_rule_is_live(tmp_path: Path) -> None:
    before = loaded(tmp_path, RELAYS + RULE).settings
    after = loaded(tmp_path, RELAYS + RULE, "rules.news.priority=5").settings
    assert changes(before, after) == (["rules.news.priority"], [])


EVERYTHING = """\
[[rules]]
name = "all"
sender = "*"
source = ["api"]
login = ["shop"]
client = ["192.0.2.0/24"]
tag = ["bill"]
header = ["X-Kind: receipt"]
min_bytes = 10
max_bytes = 20
time = ["Mon-Fri 08:00-18:00"]
time_zone = "Europe/Vienna"
relays = ["bulk", "main"]
weights = [1, 0]

[[relays]]
name = "archive"
host = "192.0.2.3"
"""
NOON_MS = int(datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp() * 1000)
"""A Monday."""


def facts(**changed: Any) -> Facts:
    """Of a message that the rule above is about, but for what is changed."""
    origin = Origin("api", "192.0.2.9", login="shop")
    summary = Summary(tags=("bill",), headers=(("x-kind", "receipt"),))
    return Facts(BLANK.id, origin, summary, 20, NOON_MS)._replace(**changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"origin": Origin("smtp", "192.0.2.9", login="shop")},
        {"origin": Origin("api", "192.0.2.9")},
        {"origin": Origin("api", "198.51.100.9", login="shop")},
        {"summary": Summary(headers=(("x-kind", "receipt"),))},
        {"summary": Summary(tags=("bill",))},
        {"size_bytes": 9},
        {"size_bytes": 21},
        {"now_ms": NOON_MS + 5 * 3_600_000},
    ],
)
def test_every_condition_must_hold(tmp_path: Path, changed: dict[str, object]) -> None:
    rules = router(loaded(tmp_path, RELAYS + EVERYTHING).settings)
    assert rules.header_names == {"x-kind"}
    chosen = rules.route("", "a@b.c", facts())
    assert (chosen.relays, chosen.copies) == (("bulk", "main"), ())
    assert rules.route("", "a@b.c", facts(**changed)).rule == DEFAULT_RULE


@pytest.mark.parametrize(
    "condition",
    [
        'login = ["x"]',
        'source = ["api"]',
        "min_bytes = 1",
        'time = ["Mon"]',
        'client = ["::1"]',
        'tag = ["x"]',
    ],
)
def test_one_condition_of_any_kind_is_enough(tmp_path: Path, condition: str) -> None:
    text = f'{RELAYS}[[rules]]\nname = "r"\n{condition}\nrelays = ["bulk"]\n'
    assert loaded(tmp_path, text).settings.rules[0].relays == ("bulk",)


def test_intake_is_told_what_it_refuses_by_and_which_relays_there_are_and_no_more(tmp_path: Path) -> None:
    refuse = 'name = "no"\nrecipient = "example.net"\naction = "refuse"\nreply = "Not from here"\n'
    settings = loaded(tmp_path, f"{RELAYS}{EVERYTHING}[[rules]]\n{refuse}").settings
    publish(tmp_path, settings)
    told = {role: load_snapshot(tmp_path, role)[1] for role in ROLES}
    assert told["control"].rules == settings.rules
    intake = intake_router(told["intake"])
    assert intake.header_names == {"x-kind"}
    refused = intake.refusal("", "a@example.net", BLANK.origin, NOON_MS)
    assert refused is not None
    assert (refused.rule, refused.reply) == ("no", "Not from here")
    assert told["intake"].rules[0].relays == settings.rules[0].relays
    assert intake.refusal("", "a@example.com", BLANK.origin, NOON_MS) is None
    assert b"archive" not in (tmp_path / "intake.json").read_bytes().partition(b'"rules"')[2]
    with pytest.raises(AssertionError, match="not told"):
        bool(told["intake"].rules[0].weights)
    assert router(told["delivery"]).route("", "a@example.net").action is Action.REFUSE
