"""What holds for all rules and addresses: the fast way finds what the definition says."""

from __future__ import annotations

import re
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.policy.patterns import UNCONDITIONAL, Pattern, Specificity, glob, parse_pattern, plain_address
from dispatch.policy.routing import DEFAULT_RULE, Router, Rule

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


@st.composite
def rule_sets(draw: st.DrawFn) -> tuple[Rule, ...]:
    return tuple(
        Rule(
            f"r{place}",
            draw(st.integers(0, 2)),
            draw(conditions),
            draw(conditions),
            tuple(draw(st.permutations(["a", "b", "gone"])))[: draw(st.integers(1, 3))],
            hold=draw(st.sampled_from([False, False, True])),
            enabled=draw(st.sampled_from([True, True, False])),
        )
        for place in range(draw(st.integers(0, 6)))
    )


def width(condition: tuple[Pattern, ...], address: str) -> Specificity | None:
    """Of the narrowest pattern that matches; None where the condition does not hold."""
    if not condition:
        return UNCONDITIONAL
    return max((p.specificity for p in condition if p.matches(*plain_address(address))), default=None)


def decided(rules: tuple[Rule, ...], sender: str, recipient: str) -> str:
    """The rule that decides, in the words of the manual."""
    matching = [
        (rule.priority, [-n for n in to], [-n for n in of], place, rule.name)
        for place, rule in enumerate(rules)
        if rule.enabled
        and (to := width(rule.recipient, recipient)) is not None
        and (of := width(rule.sender, sender)) is not None
    ]
    return min(matching)[-1] if matching else DEFAULT_RULE


@EXAMPLES
@given(rule_sets(), addresses, st.lists(addresses, min_size=1, max_size=4))
def test_one_rule_decides_and_it_is_the_first_in_order(
    rules: tuple[Rule, ...], sender: str, recipients: list[str]
) -> None:
    router = Router(rules, "default", USABLE)
    for recipient in recipients * 2:
        chosen = router.route(sender, recipient)
        assert chosen.rule == decided(rules, sender, recipient)
        assert chosen.held is (not chosen.relays)
        assert set(chosen.relays) <= set(USABLE), "never through a relay that cannot be used"
        considered = router.explain(sender, recipient)
        assert sorted(each.rule.name for each in considered) == sorted(rule.name for rule in rules)
        assert chosen.rule == next((each.rule.name for each in considered if each.matched), DEFAULT_RULE)


@EXAMPLES
@given(rule_sets(), addresses, st.lists(addresses, min_size=1, max_size=12))
def test_every_recipient_is_routed_once_and_order_is_kept(
    rules: tuple[Rule, ...], sender: str, recipients: list[str]
) -> None:
    router = Router(rules, "default", USABLE)
    found = router.routes(Envelope(sender, tuple(map(Recipient, recipients))))
    assert sorted(index for _, indexes in found for index in indexes) == list(range(len(recipients)))
    assert all(list(indexes) == sorted(indexes) for _, indexes in found)
    assert [indexes[0] for _, indexes in found] == sorted(indexes[0] for _, indexes in found)
    assert len({(route.relays, route.hold_reason) for route, _ in found}) == len(found)
    for route, indexes in found:
        for index in indexes:
            alone = router.route(sender, recipients[index])
            assert (alone.relays, alone.hold_reason) == (route.relays, route.hold_reason)


@EXAMPLES
@given(rule_sets(), st.randoms(use_true_random=False), addresses, addresses)
def test_the_order_is_total_so_only_equals_depend_on_their_place(
    rules: tuple[Rule, ...], random: Random, sender: str, recipient: str
) -> None:
    shuffled = list(rules)
    random.shuffle(shuffled)
    before = Router(rules, "default", USABLE).route(sender, recipient)
    after = Router(shuffled, "default", USABLE).route(sender, recipient)
    if before.rule != after.rule:
        one, other = (next(r for r in rules if r.name == route.rule) for route in (before, after))
        assert one.priority == other.priority
        assert width(one.recipient, recipient) == width(other.recipient, recipient)
        assert width(one.sender, sender) == width(other.sender, sender)


@EXAMPLES
@given(st.text("ab*?.", max_size=8), st.text("ab.\n", max_size=12))
def test_a_glob_without_backtracking_finds_what_one_with_it_finds(pattern: str, text: str) -> None:
    naive = "".join({"*": ".*", "?": "."}.get(character) or re.escape(character) for character in pattern)
    assert bool(glob(pattern).fullmatch(text)) is bool(re.fullmatch(naive, text, re.DOTALL))
