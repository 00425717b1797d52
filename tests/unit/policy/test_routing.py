"""Which rule decides, and what becomes of the recipients of one message."""

from __future__ import annotations

import pytest

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.policy.patterns import parse_pattern, split_patterns
from dispatch.policy.routing import DEFAULT_RULE, Route, Router, Rule

USABLE = {"smarthost", "bulk", "backup"}


def rule(
    name: str, recipient: str = "", sender: str = "", *relays: str, priority: int = 100, **more: bool
) -> Rule:
    patterns = [tuple(map(parse_pattern, split_patterns(text))) for text in (sender, recipient)]
    return Rule(name, priority, *patterns, relays or ("bulk",), **more)


def router(*rules: Rule, default: str = "smarthost") -> Router:
    return Router(rules, default, USABLE)


def envelope(*recipients: str, sender: str = "me@example.org") -> Envelope:
    return Envelope(sender, tuple(map(Recipient, recipients)))


def test_without_rules_mail_takes_the_default_relay() -> None:
    default = Route(("smarthost",), DEFAULT_RULE)
    assert router().route("me@example.org", "you@example.net") == default
    assert router().routes(envelope("a@x.org")) == ((default, (0,)),)
    assert router().routes(envelope("a@x.org", "b@x.org")) == ((default, (0, 1)),)


def test_a_disabled_default_relay_holds_mail_and_never_takes_another() -> None:
    chosen = router(default="gone").route("me@example.org", "you@example.net")
    assert chosen.held
    assert chosen.relays == ()
    assert chosen.hold_reason is not None
    assert "gone" in chosen.hold_reason


def test_released_mail_takes_the_route_that_it_would_have_without_rules_that_hold() -> None:
    holding = rule("review", "example.net, example.com", priority=1, hold=True)
    rules = router(holding, rule("ours", "example.net"), rule("gone", "example.com", "", "gone"))
    assert rules.route("", "a@example.net").held
    assert rules.released.route("", "a@example.net").relays == ("bulk",)
    assert rules.released.route("", "a@example.org").relays == ("smarthost",)
    assert rules.released.route("", "a@example.com").held, "no relay can take it"


def test_a_disabled_default_relay_leaves_the_rules_alone() -> None:
    rules = router(rule("ours", "example.net"), default="gone")
    assert rules.route("", "a@example.net").relays == ("bulk",)
    assert rules.route("", "a@example.com").held


def test_all_conditions_must_hold_each_with_one_of_its_patterns() -> None:
    rules = router(rule("r", "example.net, x@example.com", "example.org, boss@example.com"))
    for sender, recipient, matched in (
        ("a@example.org", "b@example.net", True),
        ("boss@example.com", "x@example.com", True),
        ("a@example.com", "b@example.net", False),
        ("a@example.org", "b@example.com", False),
        ("", "b@example.net", False),
    ):
        assert (rules.route(sender, recipient).rule == "r") is matched, (sender, recipient)


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [
        (rule("one", "example.net", priority=2), rule("two", "a@example.net", priority=3), "one"),
        (rule("one", "example.net", priority=3), rule("two", "*", priority=2), "two"),
        (rule("one", "example.net"), rule("two", "a@example.net"), "two"),
        (rule("one", "*.net"), rule("two", "example.net"), "two"),
        (rule("one", "*"), rule("two", "*.net"), "two"),
        (rule("one", "", "me@example.org"), rule("two", "*"), "two"),
        (rule("one", "example.net"), rule("two", "example.net", "*"), "two"),
        (rule("one", "example.net"), rule("two", "example.net"), "one"),
        (rule("one", "a@example.net, example.com"), rule("two", "example.net"), "one"),
        (rule("one", "a@example.net", enabled=False), rule("two", "*"), "two"),
    ],
)
def test_priority_then_the_narrower_pattern_that_matches_then_the_place(
    first: Rule, second: Rule, winner: str
) -> None:
    rules = router(first, second)
    assert rules.route("me@example.org", "a@example.net").rule == winner
    considered = rules.explain("me@example.org", "a@example.net")
    assert next(each.rule.name for each in considered if each.matched) == winner


def test_a_rule_with_two_patterns_is_two_rules() -> None:
    rules = router(rule("both", "a@example.net, example.com"), rule("com", "b@example.com"))
    assert rules.route("", "b@example.com").rule == "com"
    assert rules.route("", "c@example.com").rule == "both"


def test_a_relay_that_cannot_be_used_is_passed_over() -> None:
    rules = router(rule("r", "example.net", "", "gone", "backup", "bulk"))
    assert rules.route("", "a@example.net").relays == ("backup", "bulk")


def test_where_no_relay_of_a_rule_is_left_its_mail_is_held_and_says_why() -> None:
    rules = router(rule("r", "example.net", "", "gone", "lost"), rule("later", "*"))
    chosen = rules.route("", "a@example.net")
    assert chosen.relays == ()
    assert chosen.hold_reason == "no relay of the rule 'r' can be used: gone, lost"
    assert rules.unusable() == [chosen]


def test_a_rule_may_hold() -> None:
    rules = router(rule("review", "example.net", hold=True))
    chosen = rules.route("", "a@example.net")
    assert chosen == Route((), "review", "the rule 'review' holds it")
    assert rules.unusable() == [], "it is meant to"


def test_recipients_are_split_by_relay_and_those_that_share_one_stay_together() -> None:
    rules = router(rule("net", "*.net"), rule("info", "info@example.net"), rule("no", "bad.org", hold=True))
    found = rules.routes(
        envelope("a@example.org", "b@example.net", "x@bad.org", "info@example.net", "c@example.org")
    )
    assert [(route.rule, route.relays, indexes) for route, indexes in found] == [
        (DEFAULT_RULE, ("smarthost",), (0, 4)),
        ("net", ("bulk",), (1, 3)),
        ("no", (), (2,)),
    ]


def test_a_rule_that_names_the_default_relay_splits_nothing() -> None:
    rules = router(rule("net", "*.net", "", "smarthost"))
    ((_, indexes),) = rules.routes(envelope("a@example.org", "b@example.net"))
    assert indexes == (0, 1)


def test_a_sender_that_no_rule_is_about_takes_the_default_relay_whoever_it_is_for() -> None:
    rules = router(rule("r", "*", "boss@example.org"))
    assert rules.routes(envelope("a@x.net", "b@x.net"))[0][0].rule == DEFAULT_RULE
    assert rules.routes(envelope("a@x.net", sender="boss@example.org"))[0][0].rule == "r"


def test_every_rule_is_explained() -> None:
    rules = router(
        rule("off", "a@example.net", enabled=False),
        rule("other", "example.com", "example.net"),
        rule("ours", "*.com, *.net", "example.org"),
    )
    told = {each.rule.name: (each.matched, each.why) for each in rules.explain("me@example.org", "a@b.net")}
    assert told == {
        "off": (False, "disabled; recipient matches none of a@example.net"),
        "other": (False, "recipient matches none of example.com; sender matches none of example.net"),
        "ours": (True, "recipient matches *.net; sender matches example.org"),
    }
