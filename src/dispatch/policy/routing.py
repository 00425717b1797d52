"""Which way a recipient's mail takes, and the rule that said so.

A rule has conditions and an action. Conditions are patterns of the sender and of the recipient, and
whatever else `dispatch.policy.conditions` knows; all that are set must hold, each with one of the things
that it names. The action is an ordered list of relays, or that mail is held, discarded or refused. Beside
it a rule may name a relay that gets a copy.

Order: the smaller priority first; then the narrower rule, judged by the pattern of the recipient that
matches, then by that of the sender (`patterns.Specificity`), then by the number of kinds of other conditions
that it has; then the place in the settings. The first match wins; what no rule matches takes the default
relay. So a rule with two patterns is the same as two rules with one each.

A message may have a *pin*, a relay that it must take: that of its login, or one that it names itself. It goes
before all rules, and there is no other relay beside it. (At RCPT nobody knows what a message will name: a
rule that refuses does so there, pin or none.)

Mail never leaves through another relay by accident: a relay of a rule that is disabled or missing is passed
over, and where none is left, or the default relay or that of a pin cannot be used, the mail is held and says
why. A copy whose relay is disabled is still asked for: it waits.

A route is derived from message, settings and, where a rule has windows of time, the time, so it can be
derived again after a restart. It names all usable relays in the order in which they are to be tried. Where
relays have weights, one of them is drawn as the first, by the message's id alone; the others follow in the
order of the rule.

*Refuse* is for intake, which asks at RCPT (`Router.refusal`), when the content is not yet known: there, rules
about content are passed over, and a rule that refuses has no such conditions. So what intake let in by these
rules is not refused by them later, unless a window of time began. Where that happens, or the rule is
newer than the message, nobody is there who could be told: it is held.

How it is fast: each combination of patterns of one width is a *case*, and cases are sorted by the order
above. A set of cases is an integer with one bit for each; what matches the sender, what matches the
recipient, and what matches by each other kind of condition are such sets, and the lowest bit that they share
is the answer (`dispatch.policy.route_index`). Which cases a domain is in is remembered for the domains
met last, so that sub-domains and globs are looked at once for a domain and not once for a recipient.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from enum import StrEnum
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate
from typing import NamedTuple

import msgspec

from dispatch.mail.envelope import Recipient
from dispatch.mail.ids import MessageId
from dispatch.mail.message import Message, Origin
from dispatch.policy.conditions import BLANK, KINDS, Condition, Facts, facts_of, field_names
from dispatch.policy.patterns import UNCONDITIONAL, Pattern, Specificity, plain_address
from dispatch.policy.route_index import AddressIndex, ConditionIndex

DEFAULT_RULE = "default relay"
PIN = "relay pin"
COPY = "copy to relay"
"""What stands for a rule where none decided. No rule can be called so: names of rules have no spaces."""


class Action(StrEnum):
    """What happens to mail."""

    RELAY = "relay"
    HOLD = "hold"
    DISCARD = "discard"
    """It is dropped, and a record says so."""
    REFUSE = "refuse"
    """It is not taken: an answer to RCPT."""
    SUPPRESS = "suppress"
    """It must not be tried. No rule's action, but the suppression list's (`policy.suppression`)."""


class Route(msgspec.Struct, frozen=True):
    """The way of one recipient's mail: relays in the order in which they are tried, or what else is done."""

    relays: tuple[str, ...]
    """Names; empty exactly where no relay takes it."""
    rule: str
    """The rule that decided, for history and for the operator's question why."""
    hold_reason: str | None = None
    """Why no relay takes it; None exactly where one does."""
    action: Action = Action.RELAY
    copies: tuple[str, ...] = ()
    """Names of relays that get a copy, usable or not."""
    reply: str = ""
    """The text of a refusal, without codes."""

    @property
    def held(self) -> bool:
        """Held, or to be held by those who can neither discard nor refuse it."""
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
    """In the order in which they are to be tried; unused where the action is another."""
    action: Action = Action.RELAY
    enabled: bool = True
    conditions: tuple[Condition, ...] = ()
    """The others, at most one of each kind; none of content where the rule refuses."""
    weights: tuple[int, ...] = ()
    """Of the relays, in their order: how often each is the first, compared with the others. None: no draw."""
    copy_to: str = ""
    """Empty: no copy."""
    reply: str = ""
    """Where it refuses."""


class Considered(NamedTuple):
    """What became of one rule for one recipient."""

    rule: Rule
    matched: bool
    why: str


def default_route(relay: str, usable: Collection[str]) -> Route:
    """The route of what no rule matches; `usable` names the relays that may be used."""
    if relay not in usable:
        reason = f"the default relay {relay!r} is disabled or missing"
        return Route((), DEFAULT_RULE, reason, Action.HOLD)
    return Route((relay,), DEFAULT_RULE)


def pinned_route(relay: str, usable: Collection[str]) -> Route:
    """The route of what must take this relay; `usable` names the relays that may be used."""
    if relay not in usable:
        return Route((), PIN, f"the relay {relay!r} that it must take is disabled or missing", Action.HOLD)
    return Route((relay,), PIN)


def routes_of_copies(recipients: Sequence[Recipient]) -> Routes:
    """Of those among them that are copies; a relay that cannot be used is waited for."""
    together: dict[str, list[int]] = {}
    for index, recipient in enumerate(recipients):
        if recipient.copy_to:
            together.setdefault(recipient.copy_to, []).append(index)
    return tuple((Route((relay,), COPY), tuple(indexes)) for relay, indexes in together.items())


def route_of_rule(rule: Rule, usable: Collection[str]) -> Route:
    """The route of what the rule matches; weights are left aside."""
    copies = (rule.copy_to,) if rule.copy_to else ()
    match rule.action:
        case Action.RELAY:
            relays = tuple(relay for relay in rule.relays if relay in usable)
            if relays:
                return Route(relays, rule.name, copies=copies)
            missed = ", ".join(rule.relays)
            reason = f"no relay of the rule {rule.name!r} can be used: {missed}"
            return Route((), rule.name, reason, Action.HOLD, copies)
        case Action.REFUSE:
            return Route((), rule.name, f"the rule {rule.name!r} refuses it", rule.action, reply=rule.reply)
        case _:
            return Route((), rule.name, f"the rule {rule.name!r} {rule.action}s it", rule.action, copies)


class Router:
    """The rules of one settings snapshot, compiled; made anew when rules or relays change."""

    def __init__(self, rules: Sequence[Rule], default_relay: str, usable: Collection[str]) -> None:
        """`rules` in the order of the settings; `usable` names the relays that may be used."""
        self._rules = tuple(rules)
        self._default_relay = default_relay
        self._usable = usable
        self._default = default_route(default_relay, usable)
        self._default_alone: Routes = ((self._default, (0,)),)
        enabled = [(place, rule) for place, rule in enumerate(rules) if rule.enabled]
        cases = sorted(case for place, rule in enabled for case in _cases(place, rule))
        routes = [route_of_rule(rule, usable) for rule in rules]
        draws = [_draw(rule, route) for rule, route in zip(rules, routes, strict=True)]
        self._routes: list[Route] = [self._default, *(routes[place] for *_, place in cases)]
        """The one that no case decides, then those of the cases: by the length in bits of the first one."""
        self._draws: dict[int, _Draw] = {
            number: draw for number, (*_, place) in enumerate(cases, 1) if (draw := draws[place]) is not None
        }
        self._senders = AddressIndex()
        self._recipients = AddressIndex()
        asked = {type(condition) for _, rule in enabled for condition in rule.conditions}
        kinds = {kind: ConditionIndex(kind) for kind in KINDS if kind in asked}
        self._kinds = tuple(kinds.values())
        self._known_at_rcpt = 0
        """Cases that do not depend on the content."""
        for number, (_, recipient, sender, _, place) in enumerate(cases):
            rule, bit = rules[place], 1 << number
            self._recipients.add(_of_width(rule.recipient, recipient), bit)
            self._senders.add(_of_width(rule.sender, sender), bit)
            of_kind = {type(condition): condition for condition in rule.conditions}
            assert len(of_kind) == len(rule.conditions), f"{rule.name}: two conditions of a kind"
            for kind, index in kinds.items():
                index.add(of_kind.get(kind), bit)
            of_content = any(condition.of_content for condition in rule.conditions)
            assert not (of_content and rule.action is Action.REFUSE), f"{rule.name}: refuses by content"
            self._known_at_rcpt |= 0 if of_content else bit
        self._conditions = bool(cases)
        self._refuses = any(route.action is Action.REFUSE for route in self._routes)

    @property
    def default(self) -> Route:
        return self._default

    @cached_property
    def released(self) -> Router:
        """Where mail goes that a person has released: the same rules without those that keep it from relays.

        It still holds what no relay can be used for.
        """
        letting_go = [rule for rule in self._rules if rule.action is Action.RELAY]
        return Router(letting_go, self._default_relay, self._usable)

    @cached_property
    def header_names(self) -> frozenset[str]:
        """The header fields, in small letters, that rules ask for: `Summary.headers` must have them."""
        return frozenset(
            name for rule in self._rules if rule.enabled for name in field_names(rule.conditions)
        )

    def unusable(self) -> list[Route]:
        """Routes of rules that hold because none of their relays can be used."""
        held = {route.rule: route for route in self._routes[1:] if route.held}
        return [held[rule.name] for rule in self._rules if rule.name in held and rule.action is Action.RELAY]

    def route(self, sender: str, recipient: str, facts: Facts = BLANK, pin: str = "") -> Route:
        """Addresses as they stand in the envelope; the null reverse-path is empty."""
        if pin:
            return pinned_route(pin, self._usable)
        cases = self._senders.cases(sender) & self._recipients.cases(recipient)
        return self._first(self._satisfied(cases, facts), facts.id)

    def routes(self, message: Message, now_ms: int) -> Routes:
        """Every recipient once. Those with whom the same is done go together, whichever rules said so;
        the route then names the rule of the first of them. `now_ms` by the wall clock."""
        recipients = message.envelope.recipients
        if recipients[-1].copy_to:
            return self._beside_copies(message, now_ms)
        if message.pin:
            return ((pinned_route(message.pin, self._usable), tuple(range(len(recipients)))),)
        open_cases = 0
        if self._conditions:
            open_cases = self._senders.cases(message.envelope.reverse_path)
            if open_cases and self._kinds:
                open_cases = self._satisfied(open_cases, facts_of(message, now_ms))
        if not open_cases:
            if len(recipients) == 1:
                return self._default_alone
            return ((self._default, tuple(range(len(recipients)))),)
        cases, message_id = self._recipients.cases, message.id
        if len(recipients) == 1:
            return ((self._first(open_cases & cases(recipients[0].address), message_id), (0,)),)
        routes, draws = self._routes, self._draws
        together: dict[tuple[object, ...], tuple[Route, list[int]]] = {}
        by_case: dict[int, list[int]] = {}
        for index, recipient in enumerate(recipients):
            matching = open_cases & cases(recipient.address)
            number = (matching & -matching).bit_length()
            indexes = by_case.get(number)
            if indexes is None:
                route = draws[number].route(message_id) if number in draws else routes[number]
                # A hold's reason says what is done, too.
                doing = route.relays, route.hold_reason, route.copies
                by_case[number] = indexes = together.setdefault(doing, (route, []))[1]
            indexes.append(index)
        return tuple((route, tuple(found)) for route, found in together.values())

    def _beside_copies(self, message: Message, now_ms: int) -> Routes:
        """Of a message that has its copies: these go where they go, whatever the rules say by now."""
        envelope = message.envelope
        others = tuple([recipient for recipient in envelope.recipients if not recipient.copy_to])
        copies = routes_of_copies(envelope.recipients)
        if not others:
            return copies
        without = msgspec.structs.replace(envelope, recipients=others)
        return self.routes(msgspec.structs.replace(message, envelope=without), now_ms) + copies

    def refusal(self, sender: str, recipient: str, origin: Origin, now_ms: int) -> Route | None:
        """At RCPT: the route of the rule that refuses this recipient, None where it may be taken."""
        if not self._refuses:
            return None
        cases = self._senders.cases(sender) & self._recipients.cases(recipient) & self._known_at_rcpt
        if cases and self._kinds:
            cases = self._satisfied(cases, BLANK._replace(origin=origin, now_ms=now_ms))
        route = self._first(cases, BLANK.id)
        return route if route.action is Action.REFUSE else None

    def relays_at_rcpt(self, sender: str, recipient: str, origin: Origin, now_ms: int) -> tuple[str, ...]:
        """At RCPT: the relays that may take this recipient's mail; none where no relay does, or where only
        the content says."""
        cases = self._senders.cases(sender) & self._recipients.cases(recipient)
        if cases & ~self._known_at_rcpt:
            return ()
        if cases and self._kinds:
            cases = self._satisfied(cases, BLANK._replace(origin=origin, now_ms=now_ms))
        return self._first(cases, BLANK.id).relays

    def explain(self, sender: str, recipient: str, facts: Facts = BLANK) -> tuple[Considered, ...]:
        """Every rule in the order in which it counts for this message; the first that matched decides."""
        considered = []
        for place, rule in enumerate(self._rules):
            widths, why = _judge(rule, sender, recipient, facts)
            matched = rule.enabled and widths is not None
            order = _case(place, rule, *widths) if widths is not None else min(_cases(place, rule))
            considered.append((order, Considered(rule, matched, why if rule.enabled else f"disabled; {why}")))
        return tuple(each for _, each in sorted(considered, key=lambda pair: pair[0]))

    def _satisfied(self, cases: int, facts: Facts) -> int:
        """Of a set of cases, those whose other conditions hold."""
        for kind in self._kinds:
            cases &= kind.cases(facts)
        return cases

    def _first(self, cases: int, message_id: MessageId) -> Route:
        """The route of the first case of a set."""
        number = (cases & -cases).bit_length()
        draw = self._draws.get(number)
        return self._routes[number] if draw is None else draw.route(message_id)


# ---------------------------------------------------------------- weights


class _Draw:
    """The routes of a rule with weights: one for each relay that may be the first."""

    def __init__(self, routes: Sequence[Route], weights: Sequence[int]) -> None:
        self._routes = routes
        self._ends = list(accumulate(weights))

    def route(self, message_id: MessageId) -> Route:
        """The same for the same id, and for many ids in proportion to the weights."""
        point = int.from_bytes(blake2b(message_id, digest_size=8).digest(), "big") % self._ends[-1]
        return self._routes[bisect_right(self._ends, point)]


def _draw(rule: Rule, route: Route) -> _Draw | None:
    """None where there is nothing to be drawn: the order of the rule stands."""
    weight_of = dict(zip(rule.relays, rule.weights, strict=True)) if rule.weights else {}
    weights = [weight_of.get(relay, 0) for relay in route.relays]
    if not any(weights):
        return None
    routes = [
        msgspec.structs.replace(route, relays=(first, *(relay for relay in route.relays if relay != first)))
        for first in route.relays
    ]
    return _Draw(routes, weights)


# ---------------------------------------------------------------- cases

_Case = tuple[int, Specificity, Specificity, int, int]
"""Priority, negated widths of recipient and sender, negated number of other conditions, place of the rule:
sorted, they are in order."""


def _case(place: int, rule: Rule, recipient: Specificity, sender: Specificity) -> _Case:
    return rule.priority, _negated(recipient), _negated(sender), -len(rule.conditions), place


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


def _judge(
    rule: Rule, sender: str, recipient: str, facts: Facts
) -> tuple[tuple[Specificity, Specificity] | None, str]:
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
    for condition in rule.conditions:
        (words if condition.holds(facts) else failed).append(condition.why(facts))
    if failed:
        return None, "; ".join(failed)
    return (widths[0], widths[1]), "; ".join(words) or "has no conditions"
