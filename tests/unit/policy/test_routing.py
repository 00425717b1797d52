"""Which rule decides, and what becomes of the recipients of one message."""

from __future__ import annotations

import pytest

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import MessageId
from dispatch.mail.message import Message, Origin, Summary
from dispatch.policy.conditions import BLANK, Condition, Facts, Header, Login, Size, Source, Tag, parse_field
from dispatch.policy.patterns import parse_pattern, split_patterns
from dispatch.policy.routing import DEFAULT_RULE, PIN, Action, Route, Router, Routes, Rule

USABLE = {"smarthost", "bulk", "backup"}


def rule(
    name: str,
    recipient: str = "",
    sender: str = "",
    *relays: str,
    priority: int = 100,
    action: Action = Action.RELAY,
    enabled: bool = True,
    conditions: tuple[Condition, ...] = (),
    weights: tuple[int, ...] = (),
    copy_to: str = "",
    reply: str = "",
) -> Rule:
    of, to = (tuple(map(parse_pattern, split_patterns(text))) for text in (sender, recipient))
    taking = relays or (("bulk",) if action is Action.RELAY else ())
    return Rule(name, priority, of, to, taking, action, enabled, conditions, weights, copy_to, reply)


def router(*rules: Rule, default: str = "smarthost") -> Router:
    return Router(rules, default, USABLE)


def routes(rules: Router, *recipients: str, sender: str = "me@example.org", facts: Facts = BLANK) -> Routes:
    envelope = Envelope(sender, tuple(map(Recipient, recipients)))
    message = Message(facts.id, 0, envelope, facts.origin, facts.summary, facts.size_bytes)
    return rules.routes(message, facts.now_ms)


def numbered(number: int) -> Facts:
    """Those of one of many messages."""
    return BLANK._replace(id=MessageId(number.to_bytes(16, "big")))


def by(login: str | None) -> Facts:
    return BLANK._replace(origin=Origin("smtp", "192.0.2.1", login=login))


def test_without_rules_mail_takes_the_default_relay() -> None:
    default = Route(("smarthost",), DEFAULT_RULE)
    assert router().route("me@example.org", "you@example.net") == default
    assert routes(router(), "a@x.org") == ((default, (0,)),)
    assert routes(router(), "a@x.org", "b@x.org") == ((default, (0, 1)),)


def test_a_disabled_default_relay_holds_mail_and_never_takes_another() -> None:
    chosen = router(default="gone").route("me@example.org", "you@example.net")
    assert chosen.held
    assert chosen.relays == ()
    assert chosen.hold_reason is not None
    assert "gone" in chosen.hold_reason


def test_released_mail_takes_the_route_that_it_would_have_without_rules_that_hold() -> None:
    holding = rule("review", "example.net, example.com", priority=1, action=Action.HOLD)
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
        (rule("one", "*"), rule("two", "*", conditions=(Source(("smtp",)),)), "two"),
        (rule("one", "example.net"), rule("two", "*", conditions=(Source(("smtp",)),)), "one"),
        (
            rule("one", "*", conditions=(Source(("smtp",)),)),
            rule("two", "*", conditions=(Source(("smtp", "api")), Size(None, 10))),
            "two",
        ),
        (rule("one", "*"), rule("two", "*", conditions=(Source(("api",)),)), "one"),
    ],
)
def test_priority_then_the_narrower_pattern_then_more_kinds_of_conditions_then_the_place(
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
    rules = router(rule("review", "example.net", action=Action.HOLD))
    chosen = rules.route("", "a@example.net")
    assert chosen == Route((), "review", "the rule 'review' holds it", Action.HOLD)
    assert rules.unusable() == [], "it is meant to"


def test_recipients_are_split_by_relay_and_those_that_share_one_stay_together() -> None:
    rules = router(
        rule("net", "*.net"), rule("info", "info@example.net"), rule("no", "bad.org", action=Action.HOLD)
    )
    found = routes(rules, "a@example.org", "b@example.net", "x@bad.org", "info@example.net", "c@example.org")
    assert [(route.rule, route.relays, indexes) for route, indexes in found] == [
        (DEFAULT_RULE, ("smarthost",), (0, 4)),
        ("net", ("bulk",), (1, 3)),
        ("no", (), (2,)),
    ]


def test_a_rule_that_names_the_default_relay_splits_nothing() -> None:
    rules = router(rule("net", "*.net", "", "smarthost"))
    ((_, indexes),) = routes(rules, "a@example.org", "b@example.net")
    assert indexes == (0, 1)


def test_a_sender_that_no_rule_is_about_takes_the_default_relay_whoever_it_is_for() -> None:
    rules = router(rule("r", "*", "boss@example.org"))
    assert routes(rules, "a@x.net", "b@x.net")[0][0].rule == DEFAULT_RULE
    assert routes(rules, "a@x.net", sender="boss@example.org")[0][0].rule == "r"


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


def test_other_conditions_hold_beside_sender_and_recipient() -> None:
    rules = router(rule("r", "example.net", conditions=(Login(("crm", "shop")), Tag(("bill",)))))
    tagged = Summary(tags=("new", "bill"))
    for facts, recipient, matched in (
        (by("shop")._replace(summary=tagged), "a@example.net", True),
        (by("shop")._replace(summary=tagged), "a@example.com", False),
        (by("shop"), "a@example.net", False),
        (by(None)._replace(summary=tagged), "a@example.net", False),
    ):
        assert (rules.route("", recipient, facts).rule == "r") is matched, facts
        ((route, _),) = routes(rules, recipient, facts=facts)
        assert (route.rule == "r") is matched, facts


def test_a_rule_that_discards_names_itself_and_whoever_cannot_discard_holds() -> None:
    chosen = router(rule("drop", "example.net", action=Action.DISCARD)).route("", "a@example.net")
    assert chosen == Route((), "drop", "the rule 'drop' discards it", Action.DISCARD)
    assert chosen.held
    assert router(rule("drop", "example.net", action=Action.DISCARD)).unusable() == []


def test_weights_draw_the_first_relay_by_the_message_and_the_others_follow_in_order() -> None:
    rules = router(rule("r", "*", "", "bulk", "backup", "smarthost", weights=(3, 1, 0)))
    drawn = [rules.route("", "a@example.net", numbered(number)).relays for number in range(4000)]
    assert set(drawn) == {("bulk", "backup", "smarthost"), ("backup", "bulk", "smarthost")}
    assert 0.72 < sum(relays[0] == "bulk" for relays in drawn) / len(drawn) < 0.78


def test_the_same_message_draws_the_same_relay_again_for_all_its_recipients() -> None:
    rules = [rule("r", "*", "", "bulk", "backup", weights=(1, 1))]
    for number in range(20):
        ((route, indexes),) = routes(router(*rules), "a@x.org", "b@y.org", facts=numbered(number))
        assert indexes == (0, 1)
        assert route == router(*rules).route("", "c@z.org", numbered(number))


def test_a_relay_that_cannot_be_used_is_not_drawn_and_one_with_weight_0_takes_over() -> None:
    rules = router(rule("r", "*", "", "gone", "bulk", "backup", weights=(5, 0, 0)))
    assert {rules.route("", "a@b.c", numbered(n)).relays for n in range(50)} == {("bulk", "backup")}


def test_a_copy_is_asked_for_beside_each_action_also_where_its_relay_is_off() -> None:
    for action in (Action.RELAY, Action.HOLD, Action.DISCARD):
        rules = router(rule("r", "example.net", action=action, copy_to="archive-that-is-off"))
        assert rules.route("", "a@example.net").copies == ("archive-that-is-off",)
        assert rules.route("", "a@example.com").copies == ()


def test_recipients_with_and_without_a_copy_do_not_go_together() -> None:
    rules = router(rule("kept", "example.net", copy_to="backup"), rule("not", "example.com"))
    found = routes(rules, "a@example.net", "b@example.com")
    assert [(route.relays, route.copies) for route, _ in found] == [(("bulk",), ("backup",)), (("bulk",), ())]


def test_a_recipient_is_refused_at_rcpt_and_told_why() -> None:
    rules = router(
        rule("no", "example.net", conditions=(Login(("shop",)),), action=Action.REFUSE, reply="No.")
    )
    shop = by("shop").origin
    refused = rules.refusal("", "a@example.net", shop, 0)
    assert refused == Route((), "no", "the rule 'no' refuses it", Action.REFUSE, reply="No.")
    assert rules.refusal("", "a@example.com", shop, 0) is None
    assert rules.refusal("", "a@example.net", by("crm").origin, 0) is None
    assert router(rule("yes", "*")).refusal("", "a@example.net", shop, 0) is None


def test_a_rule_about_the_sender_that_comes_first_saves_from_a_refusal_and_one_about_content_does_not() -> (
    None
):
    no = rule("no", "example.net", action=Action.REFUSE, priority=2)
    origin = by(None).origin
    assert (
        router(no, rule("boss", "", "boss@x.org", priority=1)).refusal(
            "boss@x.org", "a@example.net", origin, 0
        )
        is None
    )
    small = rule("small", "*", priority=1, conditions=(Size(None, 100),))
    assert router(no, small).refusal("boss@x.org", "a@example.net", origin, 0)


def test_what_was_accepted_before_a_rule_refuses_it_is_held() -> None:
    rules = router(rule("no", "example.net", action=Action.REFUSE))
    ((route, _),) = routes(rules, "a@example.net")
    assert route.held
    assert route.action is Action.REFUSE
    assert rules.released.route("", "a@example.net").relays == ("smarthost",)


def test_rules_name_the_header_fields_that_they_ask_for() -> None:
    fields = Header((parse_field("X-One"), parse_field("X-Two: 2"))), Header((parse_field("X-Off"),))
    rules = router(rule("a", conditions=fields[:1]), rule("b", conditions=fields[1:], enabled=False))
    assert rules.header_names == {"x-one", "x-two"}


def pinned(rules: Router, relay: str, *recipients: str) -> Routes:
    envelope = Envelope("me@example.org", tuple(map(Recipient, recipients)))
    return rules.routes(
        Message(BLANK.id, 0, envelope, BLANK.origin, BLANK.summary, 0, pin=relay), BLANK.now_ms
    )


def test_a_pin_goes_before_every_rule_and_knows_one_relay() -> None:
    rules = router(
        rule("two", "example.net", "", "smarthost", "backup"),
        rule("review", "example.com", action=Action.HOLD),
        rule("drop", "example.org", action=Action.DISCARD),
    )
    to = ("a@example.net", "b@example.com", "c@example.org", "d@x.org")
    assert pinned(rules, "bulk", *to) == ((Route(("bulk",), PIN), (0, 1, 2, 3)),)
    assert rules.route("me@example.org", "b@example.com", pin="bulk") == Route(("bulk",), PIN)
    assert pinned(rules.released, "bulk", *to) == pinned(rules, "bulk", *to)


def test_a_pin_whose_relay_cannot_be_used_holds_mail_and_says_so() -> None:
    ((route, indexes),) = pinned(router(rule("r", "example.net")), "gone", "a@example.net", "b@x.org")
    assert (route.relays, route.action, indexes) == ((), Action.HOLD, (0, 1))
    assert route.hold_reason == "the relay 'gone' that it must take is disabled or missing"
    assert pinned(router().released, "gone", "a@example.net")[0][0].held, "also once it is released"
