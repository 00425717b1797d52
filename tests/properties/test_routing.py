"""What holds for all rules and addresses: the fast way finds what the definition says."""

from __future__ import annotations

import re
from datetime import UTC
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import MessageId
from dispatch.mail.message import Message, Origin, Summary
from dispatch.policy.conditions import (
    Client,
    Condition,
    Facts,
    Header,
    Login,
    Size,
    Source,
    Tag,
    Time,
    facts_of,
    parse_field,
)
from dispatch.policy.patterns import UNCONDITIONAL, Pattern, Specificity, glob, parse_pattern, plain_address
from dispatch.policy.routing import DEFAULT_RULE, Action, Route, Router, Rule, default_route, route_of_rule
from dispatch.policy.windows import parse_window
from dispatch.security.networks import Networks

EXAMPLES = settings(max_examples=200, deadline=None)
USABLE = ("default", "a", "b")

labels = st.sampled_from(["a", "b", "ab", "Ü", "xn--tda", "A"])
domains = st.lists(labels, min_size=1, max_size=3).map(".".join)
local_parts = st.sampled_from(["u", "U", "v", "uv", '"u"', '"*"', "news-1"])
addresses = st.just("") | local_parts | st.builds("{}@{}".format, local_parts, domains)

wild_domains = st.sampled_from(["*", "*b", "a?", "*.a*"]) | domains | domains.map("*.{}".format)
wild_local_parts = st.sampled_from(["*", "u*", "?", "news-*"]) | local_parts
patterns = (
    st.sampled_from(["*", "<>"]) | wild_domains | st.builds("{}@{}".format, wild_local_parts, wild_domains)
).map(parse_pattern)
conditions = st.lists(patterns, max_size=3).map(tuple)


def some(*things: object) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(st.sampled_from(things), min_size=1, max_size=2, unique=True).map(tuple)


of_envelope: tuple[st.SearchStrategy[Condition], ...] = (
    st.builds(Source, some("smtp", "api")),
    st.builds(Login, some("l", "m")),
    st.sampled_from(["10.0.0.0/8", "10.1.0.0/16"]).map(lambda text: Client(Networks.parse([text]))),
    st.sampled_from(["Mon", "12:00-13:00"]).map(lambda text: Time((parse_window(text),), UTC)),
)
of_content: tuple[st.SearchStrategy[Condition], ...] = (
    st.builds(Tag, some("t", "u")),
    st.sampled_from(["X-A", "X-A: 1"]).map(lambda text: Header((parse_field(text),))),
    st.builds(Size, st.none() | st.integers(0, 3), st.none() | st.integers(2, 5)),
)


@st.composite
def other_conditions(draw: st.DrawFn, action: Action) -> tuple[Condition, ...]:
    kinds = of_envelope if action is Action.REFUSE else of_envelope + of_content
    chosen = draw(st.lists(st.integers(0, len(kinds) - 1), max_size=2, unique=True))
    return tuple(draw(kinds[number]) for number in chosen)


MONDAY_NOON_MS = 345_600_000 + 12 * 3_600_000
messages = st.builds(
    Facts,
    st.binary(min_size=16, max_size=16).map(MessageId),
    st.builds(
        Origin,
        st.sampled_from(["smtp", "api", "internal"]),
        st.sampled_from(["10.0.0.1", "10.1.0.1", "::1", ""]),
        login=st.sampled_from([None, "l", "m", "n"]),
    ),
    st.builds(
        Summary,
        tags=st.sampled_from([(), ("t",), ("u", "v")]),
        headers=st.sampled_from([(), (("x-a", "1"),), (("x-b", "1"), ("x-a", "2"))]),
    ),
    st.integers(0, 6),
    st.sampled_from([0, MONDAY_NOON_MS, MONDAY_NOON_MS + 86_400_000]),
)


def message_of(facts: Facts, sender: str, recipients: list[str]) -> Message:
    envelope = Envelope(sender, tuple(map(Recipient, recipients)))
    return Message(facts.id, 0, envelope, facts.origin, facts.summary, facts.size_bytes)


@st.composite
def one_rule(draw: st.DrawFn, name: str) -> Rule:
    action = draw(st.sampled_from([*[Action.RELAY] * 3, *Action]))
    relays = tuple(draw(st.permutations(["a", "b", "gone"])))[: draw(st.integers(1, 3))]
    weights = tuple(draw(st.integers(0, 2)) for _ in relays) if draw(st.booleans()) else ()
    return Rule(
        name,
        draw(st.integers(0, 2)),
        draw(conditions),
        draw(conditions),
        relays,
        action,
        enabled=draw(st.sampled_from([True, True, False])),
        conditions=draw(other_conditions(action)),
        weights=weights if action is Action.RELAY else (),
        copy_to="" if action is Action.REFUSE else draw(st.sampled_from(["", "archive"])),
    )


@st.composite
def rule_sets(draw: st.DrawFn) -> tuple[Rule, ...]:
    return tuple(draw(one_rule(f"r{place}")) for place in range(draw(st.integers(0, 6))))


def width(condition: tuple[Pattern, ...], address: str) -> Specificity | None:
    """Of the narrowest pattern that matches; None where the condition does not hold."""
    if not condition:
        return UNCONDITIONAL
    return max((p.specificity for p in condition if p.matches(*plain_address(address))), default=None)


def decided(rules: tuple[Rule, ...], sender: str, recipient: str, facts: Facts) -> Rule | None:
    """The rule that decides, in the words of the manual; None where the default relay takes it."""
    matching = [
        (rule.priority, [-n for n in to], [-n for n in of], -len(rule.conditions), place)
        for place, rule in enumerate(rules)
        if rule.enabled
        and (to := width(rule.recipient, recipient)) is not None
        and (of := width(rule.sender, sender)) is not None
        and all(condition.holds(facts) for condition in rule.conditions)
    ]
    return rules[min(matching)[-1]] if matching else None


def undrawn(route: Route) -> Route:
    """The order of its relays aside."""
    return structs.replace(route, relays=tuple(sorted(route.relays)))


@EXAMPLES
@given(rule_sets(), addresses, st.lists(addresses, min_size=1, max_size=4), st.lists(messages, max_size=3))
def test_one_rule_decides_and_it_is_the_first_in_order(
    rules: tuple[Rule, ...], sender: str, recipients: list[str], several: list[Facts]
) -> None:
    router = Router(rules, "default", USABLE)
    for facts in several * 2:
        for recipient in recipients:
            chosen = router.route(sender, recipient, facts)
            rule = decided(rules, sender, recipient, facts)
            expected = route_of_rule(rule, USABLE) if rule else default_route("default", USABLE)
            assert undrawn(chosen) == undrawn(expected)
            assert rule is None or rule.weights or chosen == expected
            assert chosen.held is (not chosen.relays)
            assert set(chosen.relays) <= set(USABLE), "never through a relay that cannot be used"
            considered = router.explain(sender, recipient, facts)
            assert sorted(each.rule.name for each in considered) == sorted(rule.name for rule in rules)
            assert chosen.rule == next((each.rule.name for each in considered if each.matched), DEFAULT_RULE)


@EXAMPLES
@given(rule_sets(), addresses, st.lists(addresses, min_size=1, max_size=12), messages)
def test_every_recipient_is_routed_once_and_order_is_kept(
    rules: tuple[Rule, ...], sender: str, recipients: list[str], facts: Facts
) -> None:
    router = Router(rules, "default", USABLE)
    message = message_of(facts, sender, recipients)
    assert facts_of(message, facts.now_ms) == facts
    found = router.routes(message, facts.now_ms)
    assert sorted(index for _, indexes in found for index in indexes) == list(range(len(recipients)))
    assert all(list(indexes) == sorted(indexes) for _, indexes in found)
    assert [indexes[0] for _, indexes in found] == sorted(indexes[0] for _, indexes in found)
    assert len({(route.relays, route.hold_reason, route.copies) for route, _ in found}) == len(found)
    for route, indexes in found:
        for index in indexes:
            alone = router.route(sender, recipients[index], facts)
            assert structs.replace(alone, rule=route.rule) == route


@EXAMPLES
@given(rule_sets(), addresses, addresses, messages)
def test_what_is_taken_at_rcpt_is_not_refused_afterwards(
    rules: tuple[Rule, ...], sender: str, recipient: str, facts: Facts
) -> None:
    router = Router(rules, "default", USABLE)
    route = router.route(sender, recipient, facts)
    refused = router.refusal(sender, recipient, facts.origin, facts.now_ms)
    if refused is None:
        assert route.action is not Action.REFUSE
    else:
        about_envelopes = tuple(rule for rule in rules if not any(c.of_content for c in rule.conditions))
        rule = decided(about_envelopes, sender, recipient, facts)
        assert rule is not None
        assert (rule.name, rule.action) == (refused.rule, Action.REFUSE)


@EXAMPLES
@given(rule_sets(), st.randoms(use_true_random=False), addresses, addresses, messages)
def test_the_order_is_total_so_only_equals_depend_on_their_place(
    rules: tuple[Rule, ...], random: Random, sender: str, recipient: str, facts: Facts
) -> None:
    shuffled = list(rules)
    random.shuffle(shuffled)
    before = Router(rules, "default", USABLE).route(sender, recipient, facts)
    after = Router(shuffled, "default", USABLE).route(sender, recipient, facts)
    if before.rule != after.rule:
        one, other = (next(r for r in rules if r.name == route.rule) for route in (before, after))
        assert one.priority == other.priority
        assert width(one.recipient, recipient) == width(other.recipient, recipient)
        assert width(one.sender, sender) == width(other.sender, sender)
        assert len(one.conditions) == len(other.conditions)


@EXAMPLES
@given(st.text("ab*?.", max_size=8), st.text("ab.\n", max_size=12))
def test_a_glob_without_backtracking_finds_what_one_with_it_finds(pattern: str, text: str) -> None:
    naive = "".join({"*": ".*", "?": "."}.get(character) or re.escape(character) for character in pattern)
    assert bool(glob(pattern).fullmatch(text)) is bool(re.fullmatch(naive, text, re.DOTALL))
