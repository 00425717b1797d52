"""Which relays a recipient's mail may take, and the rule that said so.

A rule has conditions and an action. Conditions are patterns of the sender and of the recipient; all that
are set must hold, each with one of its patterns. The action is an ordered list of relays, or *hold*.

Order: the smaller priority first; then the narrower rule, judged by the pattern of the recipient that
matches, then by that of the sender (`patterns.Specificity`); then the place in the settings. The first
match wins; what no rule matches takes the default relay. So a rule with two patterns is the same as
two rules with one each.

Mail never leaves through another relay by accident: a relay of a rule that is disabled or missing is passed
over, and where none is left, or the default relay is disabled, the mail is held and says why.

A route is derived from envelope and settings alone, so it can be derived again after a restart. It names all
usable relays in their order; whoever takes it up now takes the first and does not fail over to the next.

How it is fast: each combination of patterns of one width is a *case*, and cases are sorted by the order
above. A set of cases is an integer with one bit for each; what matches the sender and what matches the
recipient are two such sets, and the lowest bit they share is the answer. Conditions of other
kinds would be further sets. Which cases a domain is in is remembered for the domains met last, so that
sub-domains and globs are looked at once for a domain and not once for a recipient.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import msgspec

from dispatch.mail.address import split_address
from dispatch.mail.envelope import Envelope
from dispatch.policy.patterns import (
    UNCONDITIONAL,
    Aim,
    Pattern,
    Reach,
    Specificity,
    glob,
    plain_address,
    plain_domain,
    plain_local_part,
)

DEFAULT_RULE = "default relay"
"""No rule can be called so: names of rules have no spaces."""
DOMAINS_REMEMBERED = 4096


class Route(msgspec.Struct, frozen=True):
    """The way of one recipient's mail: relays in the order in which they are tried, or a hold."""

    relays: tuple[str, ...]
    """Names; empty exactly when the mail is held."""
    rule: str
    """The rule that decided, for history and for the operator's question why."""
    hold_reason: str | None = None

    @property
    def held(self) -> bool:
        return self.hold_reason is not None


Routes = tuple[tuple[Route, tuple[int, ...]], ...]
"""Routes of one message, each with the recipients that take it, in ascending order."""


class Rule(msgspec.Struct, frozen=True):
    name: str
    priority: int
    sender: tuple[Pattern, ...] = ()
    """Empty: any. The same for `recipient`."""
    recipient: tuple[Pattern, ...] = ()
    relays: tuple[str, ...] = ()
    """In the order in which they are to be tried; unused where it holds."""
    hold: bool = False
    enabled: bool = True


class Considered(NamedTuple):
    """What became of one rule for one recipient."""

    rule: Rule
    matched: bool
    why: str


def default_route(relay: str, usable: Collection[str]) -> Route:
    """The route of what no rule matches; `usable` names the relays that may be used."""
    if relay not in usable:
        return Route((), DEFAULT_RULE, f"the default relay {relay!r} is disabled or missing")
    return Route((relay,), DEFAULT_RULE)


def route_of_rule(rule: Rule, usable: Collection[str]) -> Route:
    """The route of what the rule matches."""
    if rule.hold:
        return Route((), rule.name, f"the rule {rule.name!r} holds it")
    relays = tuple(relay for relay in rule.relays if relay in usable)
    if not relays:
        missed = ", ".join(rule.relays)
        return Route((), rule.name, f"no relay of the rule {rule.name!r} can be used: {missed}")
    return Route(relays, rule.name)


class Router:
    """The rules of one settings snapshot, compiled; made anew when rules or relays change."""

    def __init__(self, rules: Sequence[Rule], default_relay: str, usable: Collection[str]) -> None:
        """`rules` in the order of the settings; `usable` names the relays that may be used."""
        self._rules = tuple(rules)
        self._default_relay = default_relay
        self._usable = usable
        self._default = default_route(default_relay, usable)
        self._default_alone: Routes = ((self._default, (0,)),)
        cases = sorted(
            case for place, rule in enumerate(rules) if rule.enabled for case in _cases(place, rule)
        )
        routes = [route_of_rule(rule, usable) for rule in rules]
        self._routes = [routes[place] for *_, place in cases]
        self._senders = _Index()
        self._recipients = _Index()
        for number, (_, recipient, sender, place) in enumerate(cases):
            self._recipients.add(_of_width(rules[place].recipient, recipient), 1 << number)
            self._senders.add(_of_width(rules[place].sender, sender), 1 << number)

    @property
    def default(self) -> Route:
        return self._default

    @cached_property
    def released(self) -> Router:
        """The same rules without those that hold: where mail goes that a person has released.

        It still holds what no relay can be used for.
        """
        letting_go = [rule for rule in self._rules if not rule.hold]
        return Router(letting_go, self._default_relay, self._usable)

    def unusable(self) -> list[Route]:
        """Routes of rules that hold because none of their relays can be used."""
        held = {route.rule: route for route in self._routes if route.held}
        return [held[rule.name] for rule in self._rules if rule.name in held and not rule.hold]

    def route(self, sender: str, recipient: str) -> Route:
        """Addresses as they stand in the envelope; the null reverse-path is empty."""
        return self._first(self._senders.cases(sender) & self._recipients.cases(recipient))

    def routes(self, envelope: Envelope) -> Routes:
        """Every recipient once. Those whose relays are the same go together, whichever rules said so;
        the route then names the rule of the first of them."""
        recipients = envelope.recipients
        open_cases = self._senders.cases(envelope.reverse_path) if self._routes else 0
        if not open_cases:
            if len(recipients) == 1:
                return self._default_alone
            return ((self._default, tuple(range(len(recipients)))),)
        together: dict[tuple[tuple[str, ...], str | None], tuple[Route, list[int]]] = {}
        cases = self._recipients.cases
        for index, recipient in enumerate(recipients):
            route = self._first(open_cases & cases(recipient.address))
            group = together.setdefault((route.relays, route.hold_reason), (route, []))
            group[1].append(index)
        return tuple((route, tuple(indexes)) for route, indexes in together.values())

    def explain(self, sender: str, recipient: str) -> tuple[Considered, ...]:
        """Every rule in the order in which it counts for this pair; the first that matched decides."""
        considered = []
        for place, rule in enumerate(self._rules):
            widths, why = _judge(rule, sender, recipient)
            matched = rule.enabled and widths is not None
            cases = sorted(_cases(place, rule))
            order = _case(place, rule, *widths) if widths is not None else cases[0]
            considered.append((order, Considered(rule, matched, why if rule.enabled else f"disabled; {why}")))
        return tuple(each for _, each in sorted(considered, key=lambda pair: pair[0]))

    def _first(self, cases: int) -> Route:
        """The route of the first case of a set."""
        return self._routes[(cases & -cases).bit_length() - 1] if cases else self._default


# ---------------------------------------------------------------- cases

_Case = tuple[int, Specificity, Specificity, int]
"""Priority, negated widths of recipient and sender, place of the rule: sorted, they are in order."""


def _case(place: int, rule: Rule, recipient: Specificity, sender: Specificity) -> _Case:
    return rule.priority, _negated(recipient), _negated(sender), place


def _cases(place: int, rule: Rule) -> set[_Case]:
    return {
        _case(place, rule, recipient, sender)
        for recipient in _widths(rule.recipient)
        for sender in _widths(rule.sender)
    }


def _widths(patterns: Sequence[Pattern]) -> set[Specificity]:
    return {pattern.specificity for pattern in patterns} or {UNCONDITIONAL}


def _of_width(patterns: Sequence[Pattern], negated: Specificity) -> list[Pattern] | None:
    """Those of one width; None where every address will do."""
    return [p for p in patterns if p.specificity == _negated(negated)] if patterns else None


def _negated(width: Specificity) -> Specificity:
    return -width[0], -width[1], -width[2]


def _judge(rule: Rule, sender: str, recipient: str) -> tuple[tuple[Specificity, Specificity] | None, str]:
    """The widths of recipient and sender by which it matches, None where it does not; and why, in words."""
    widths: list[Specificity] = []
    words: list[str] = []
    failed: list[str] = []
    for what, patterns, address in (
        ("recipient", rule.recipient, recipient),
        ("sender", rule.sender, sender),
    ):
        plain = plain_address(address)
        best = max((p for p in patterns if p.matches(*plain)), key=lambda p: p.specificity, default=None)
        if best is not None:
            words.append(f"{what} matches {best.written}")
        elif patterns:
            failed.append(f"{what} matches none of {', '.join(p.written for p in patterns)}")
        widths.append(best.specificity if best is not None else UNCONDITIONAL)
    if failed:
        return None, "; ".join(failed)
    return (widths[0], widths[1]), "; ".join(words) or "has no conditions"


# ---------------------------------------------------------------- the index


class _Found:
    """What is said of the addresses of a domain: sets of cases."""

    __slots__ = ("any", "globs", "ones")

    def __init__(self) -> None:
        self.any = 0
        self.ones: dict[str, int] = {}
        """By local part."""
        self.globs: dict[str, tuple[re.Pattern[str], int]] = {}
        """By the glob of the local part."""

    def add(self, pattern: Pattern, cases: int) -> None:
        match pattern.aim:
            case Aim.ANY:
                self.any |= cases
            case Aim.ONE:
                self.ones[pattern.local_part] = self.ones.get(pattern.local_part, 0) | cases
            case Aim.GLOB:
                compiled, others = self.globs.get(pattern.local_part) or (glob(pattern.local_part), 0)
                self.globs[pattern.local_part] = compiled, others | cases


class _Domain(NamedTuple):
    """All of it together, for one domain that was met."""

    any: int
    ones: tuple[dict[str, int], ...]
    globs: tuple[tuple[re.Pattern[str], int], ...]


class _Index:
    """From an address to the set of cases whose patterns, all of one side, match it."""

    def __init__(self) -> None:
        self._everybody = 0
        self._conditions = False
        self._by_reach: dict[Reach, dict[str, _Found]] = {reach: {} for reach in Reach}
        self._globs: list[tuple[re.Pattern[str], _Found]] = []
        self._domain = lru_cache(DOMAINS_REMEMBERED)(self._look_up)

    def add(self, patterns: Sequence[Pattern] | None, cases: int) -> None:
        """None: every address matches. Before the first question."""
        if patterns is None:
            self._everybody |= cases
            return
        self._conditions = True
        for pattern in patterns:
            by_domain = self._by_reach[pattern.reach]
            found = by_domain.get(pattern.domain)
            if found is None:
                found = by_domain[pattern.domain] = _Found()
                if pattern.reach is Reach.GLOB:
                    self._globs.append((glob(pattern.domain), found))
            found.add(pattern, cases)

    def cases(self, address: str) -> int:
        if not self._conditions:
            return self._everybody
        local_part, domain = split_address(address)
        matching, ones, globs = self._domain(domain)
        if ones or globs:
            local_part = plain_local_part(local_part)
            for by_local_part in ones:
                matching |= by_local_part.get(local_part, 0)
            for pattern, cases in globs:
                if pattern.fullmatch(local_part):
                    matching |= cases
        return matching

    def _look_up(self, domain: str) -> _Domain:
        found = list(self._at(plain_domain(domain)))
        matching = self._everybody
        for each in found:
            matching |= each.any
        return _Domain(
            matching,
            tuple(each.ones for each in found if each.ones),
            tuple(each_glob for each in found for each_glob in each.globs.values()),
        )

    def _at(self, domain: str) -> Iterator[_Found]:
        yield from self._by_reach[Reach.ANY].values()
        if one := self._by_reach[Reach.ONE].get(domain):
            yield one
        dot = domain.find(".", 1)
        while dot >= 0:
            if below := self._by_reach[Reach.BELOW].get(domain[dot + 1 :]):
                yield below
            dot = domain.find(".", dot + 1)
        yield from (found for pattern, found in self._globs if pattern.fullmatch(domain))
