"""One relay and everything that decides when its mail goes.

A lane never waits for another: its own breaker, its own window, its own line of works that stand
ready. What has no room in that line is parked and claimed back when there is room.

Large works (their content is a file) hold a connection for long. They use at most half of what may be under
way, and at least one place; ordinary works may use all of it.

Rates and flushes (`pace`) are no trouble of the relay: what waits for them goes to no other one.

Direct delivery is one relay and many hosts. Its works are split by mail domain as they come into line
(`domain_line`), and what happens at one domain says nothing of the relay: its breaker stays closed, and its
window as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dispatch.mail.delivery import Move
from dispatch.mail.outcome import Outcome, Scope
from dispatch.mail.report import FaultKind, Report
from dispatch.mime.departure import Departure
from dispatch.policy.breaker import Breaker, BreakerState
from dispatch.policy.concurrency import Window
from dispatch.policy.limits import Rates
from dispatch.policy.schedule import RetryPlan
from dispatch.policy.uncertain import UncertainPolicy
from dispatch.policy.verdict import is_authentication_failure, is_throttle
from dispatch.ports import Relay, Timer
from dispatch.queue.domain_line import DomainLine
from dispatch.queue.line import Line
from dispatch.queue.pace import Pace
from dispatch.queue.work import Work, by_domain, due_later

READY_MAX = 2000
READY_BYTES_MIN = 4 << 20
"""The largest content that is no file (`INLINE_BYTES_MAX`) must fit even a line that is half full."""


class LaneRules(msgspec.Struct, frozen=True):
    """What the operator configured for a relay, as far as the queue is concerned."""

    name: str
    plan: RetryPlan
    uncertain: UncertainPolicy = "retry"
    captures: bool = False
    """It keeps mail in the local inbox instead of sending it."""
    departure: Departure = Departure()
    """What is done to a message before the relay gets it."""
    rates: Rates = ()
    """How many transactions it is given in a time."""
    flush_interval_s: float = 0.0
    """It is given mail once in so many seconds; 0: at once."""
    ready_max: int = READY_MAX
    ready_bytes_max: int = 16 << 20
    per_domain_max: int = 0
    """Works of one mail domain under way: it delivers to the recipients' own domains. 0: it is one host."""
    large_max: int = 1000
    """Large works under way, whatever the window says: the window of a relay may count more places than
    connections."""


class Lane:
    """The line in front of one relay."""

    def __init__(self, rules: LaneRules, relay: Relay, breaker: Breaker, window: Window) -> None:
        self.rules = rules
        self.ready_bytes_max = max(rules.ready_bytes_max, READY_BYTES_MIN)
        self.relay = relay
        self.breaker = breaker
        self.window = window
        self.ready = Line(rules.ready_max, self.ready_bytes_max)
        self.domains: DomainLine | None = None
        """The line, where it is one that tells domains apart."""
        if rules.per_domain_max:
            self.domains = DomainLine(rules.ready_max, self.ready_bytes_max, rules.per_domain_max)
            self.ready = self.domains
        self.in_flight = 0
        self.large_in_flight = 0
        self.claiming = False
        self.backlog = True
        """Parked deliveries may be due: true until a claim came back short."""
        self.next_due_ms: int | None = None
        """When the parked store has something again; meaningful while there is no backlog."""
        self.pace = (
            Pace(rules.rates, rules.flush_interval_s) if rules.rates or rules.flush_interval_s else None
        )
        self.timer: Timer | None = None
        """By which the scheduler comes back when `pace` lets something start."""
        self.deputies: frozenset[str] = frozenset()
        """The other relays of those rules that name this one; of others, nothing goes there."""
        self.paused = False
        """An operator said that nothing of it starts (`pauses`)."""

    def slots(self, now_s: float) -> int:
        """How many transactions may start now."""
        if self.paused:
            return 0
        slots = min(self.relay.free(), self.window.limit - self.in_flight)
        if self.breaker.state is BreakerState.CLOSED:
            return slots
        # A probe goes alone.
        return min(slots, 1) if self.breaker.allows(now_s) else 0

    def blocked(self, now_s: float) -> bool:
        """It rests, or is paused: mail that has a choice goes elsewhere."""
        return self.paused or (self.in_flight == 0 and not self.breaker.allows(now_s))

    def shut(self, now_s: float) -> bool:
        """Nothing of it will start for a while, for whatever reason: what stands ready should be parked."""
        return (self.pace is not None and self.pace.rests(now_s)) or self.blocked(now_s)

    def well(self, now_s: float) -> bool:
        """Mail that has a choice may come here: nothing is wrong, or one work is needed as a probe."""
        breaker = self.breaker
        if self.paused:
            return False
        if breaker.state is BreakerState.CLOSED:
            return True
        return breaker.allows(now_s) and not self.in_flight and not self.ready

    def offer(self, work: Work, now_s: float, now_ms: int) -> Sequence[Work]:
        """Stand in line. What comes back has no room there and must be parked, with the due times it has."""
        line = self.domains
        if line is None:
            return () if self.ready.push(work) else (work,)
        refused: list[Work] = []
        for part in by_domain(work):
            if wait_s := line.crowded_out_s(part, now_s):
                refused.append(due_later(part, now_ms + round(wait_s * 1000)))
            elif not line.push(part):
                refused.append(part)
        return refused

    def apart(self, work: Work) -> Sequence[Work]:
        """The works that it is for this relay."""
        return (work,) if self.domains is None else by_domain(work)

    def take(self, now_s: float) -> Work | None:
        """The next one that may start where there is a slot; None where none stands ready that may."""
        ready = self.ready
        if self.pace is not None and self.pace.wait_s(now_s):
            return None
        if ready.large and self.large_in_flight < min(self.rules.large_max, max(1, self.window.limit // 2)):
            return ready.pop()
        return ready.pop_ordinary()

    def began(self, work: Work, now_s: float) -> None:
        """It is under way, until `ended`."""
        self.in_flight += 1
        if self.domains is not None:
            self.domains.began(work)
        if self.pace is not None:
            self.pace.started(now_s)
        if work.large:
            self.large_in_flight += 1

    def ended(self, work: Work) -> None:
        self.in_flight -= 1
        if self.domains is not None:
            self.domains.ended(work)
        if work.large:
            self.large_in_flight -= 1

    def wants_more(self, now_s: float, now_ms: int) -> bool:
        """There is room in the line, and the parked store may have something due for it."""
        if self.claiming or self.shut(now_s):
            return False
        return self._has_due(now_ms) and self.ready.low

    def emptied(self, now_s: float, now_ms: int) -> bool:
        """All that may go has gone: a flush ends here."""
        if self.in_flight or self.ready or self.claiming:
            return False
        return self.blocked(now_s) or not self._has_due(now_ms)

    def wants_relief(self, now_s: float, now_ms: int) -> bool:
        """It rests, and the parked store may have something due for it that another relay could take."""
        if not self.deputies or self.claiming or not self.blocked(now_s):
            return False
        return self._has_due(now_ms)

    def _has_due(self, now_ms: int) -> bool:
        return self.backlog or (self.next_due_ms is not None and self.next_due_ms <= now_ms)

    def learn(
        self, outcomes: tuple[Outcome, ...], report: Report, now_s: float, chance: float, *, large: bool
    ) -> bool:
        """What an attempt that has just ended says about the relay: for its breaker and its window. Whether
        the relay as such has failed, or the domain that it delivers to."""
        if self.domains is not None:
            self.breaker.succeeded(now_s)
            return any(outcome.move is Move.DEFER and outcome.scope is Scope.DOMAIN for outcome in outcomes)
        fault = report.fault
        if fault is not None or any(outcome.move is not Move.DELIVER for outcome in outcomes):
            timed_out = fault is not None and fault.kind is FaultKind.TIMEOUT
            if timed_out or any(map(is_throttle, outcomes)):
                self.window.throttled(now_s)
            if any(outcome.scope is Scope.RELAY for outcome in outcomes if outcome.move is Move.DEFER):
                hopeless = any(map(is_authentication_failure, outcomes))
                self.breaker.failed(now_s, chance, at_once=hopeless)
                return True
        if self.breaker.state is BreakerState.HALF_OPEN:
            self.window.recovered()
        self.breaker.succeeded(now_s)
        # Large works may have half of the window: counted once, they alone would never make it wider.
        self.window.succeeded(now_s, self.in_flight + 1 + self.large_in_flight + large)
        return False
