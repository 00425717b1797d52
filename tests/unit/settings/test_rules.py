"""Routing rules as they are written in each source, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dispatch.settings import Loaded, SettingsErrors, changes, load, router
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
        ('sender = "*"', '9: rules.r.relays: is missing; write relays = ["main"], or action = "hold"'),
        (
            'action = "hold"\nrelays = ["bulk"]\nsender = "*"',
            "11: rules.r.relays: is no use to a rule that holds",
        ),
        ('relays = ["bulk"]', "9: rules.r: has no condition; write a sender or a recipient"),
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


def test_delivery_is_told_the_rules_and_intake_is_not(tmp_path: Path) -> None:
    settings = loaded(tmp_path, RELAYS + RULE).settings
    publish(tmp_path, settings)
    told = {role: load_snapshot(tmp_path, role)[1] for role in ROLES}
    assert told["delivery"].rules == told["control"].rules == settings.rules
    assert b"list.example.org" not in (tmp_path / "intake.json").read_bytes()
    with pytest.raises(AssertionError, match="not told"):
        bool(told["intake"].rules)
