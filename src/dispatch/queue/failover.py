"""Which relay of its route a delivery goes to: at first, after a failure, and past a relay that rests.

A route names its relays in order, the same at any time (`policy.routing`); where a delivery stands is its
`relay`. That is all that is remembered: those before it in the route have been tried in this *round*, or
passed over. So a round is the same after any restart, and comes to its end:

- A failure of relay scope, or of domain scope in direct delivery, sends a delivery on, at once, to the next
  relay behind it that is well. Nothing counts yet, and nothing expires: the round is one attempt.
- Where there is none behind it, the round is over. Its last failure says whether it counts and how long to
  wait; the next round begins at the head of the route.
- Any other outcome says something about the message or a recipient: the same relay is asked again.
- What is due at a relay that rests, its breaker being open, goes to another one that is well: behind it if
  there is one, before it otherwise. Without any it waits where it is. A relay that is paused rests, too.

A relay is *well* while its breaker is closed and nobody has paused it. Where the time of an open one is over
it gets its probe from what comes in, or has just failed elsewhere; what waits for another relay would come
in crowds.

What may have been delivered already, *uncertain* by a lost reply or by a power cut, never goes to another
relay, however often its own one fails: only a person can send it there. Nor does what stands at a relay that
its route names no more. One that is switched off, and that its rule still names, is passed over.

Traps: what goes on does so through the parked store, so that where it stands is durable before it is tried
there. Only what was never tried and is still the log's changes its line in memory: after a restart it is
routed anew, and if it was sent, *sending* says where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from dispatch.mail.delivery import Move
from dispatch.mail.message import Message
from dispatch.mail.outcome import Outcome, Scope
from dispatch.policy.breaker import BreakerState
from dispatch.policy.routing import Routes
from dispatch.ports import Clock
from dispatch.queue.lane import Lane
from dispatch.queue.work import Work
from dispatch.store.parked import ParkedDelivery

_FAILED = (Scope.RELAY, Scope.DOMAIN)


class Onward(NamedTuple):
    """Where a delivery goes after a failure of relay scope."""

    relay: str
    at_once: bool
    """False: the round is over, and the next one begins there, when the plan says."""


class Failover:
    """Asked by the scheduler; changes nothing."""

    def __init__(self, clock: Clock, route: Callable[[Message], Routes], lanes: Mapping[str, Lane]) -> None:
        self._clock = clock
        self._route = route
        self._lanes = lanes

    def first(self, relays: tuple[str, ...]) -> str:
        """At which relay mail begins; where all of its route rest, at the one that will be tried first."""
        if len(relays) == 1:
            return relays[0]
        return self._well(relays) or min(relays, key=self._rests_until_s)

    def after_failure(self, work: Work, outcomes: tuple[Outcome, ...]) -> dict[int, Onward]:
        """Where those deliveries go whose relay failed, by index; the others stay with it."""
        failed = {
            delivery.index
            for delivery, outcome in zip(work.deliveries, outcomes, strict=True)
            if outcome.move is Move.DEFER and outcome.scope in _FAILED and not delivery.uncertain
        }
        onward: dict[int, Onward] = {}
        if not failed:
            return onward
        for route, indexes in self._route(work.message):
            relays = route.relays
            if work.relay in relays and len(relays) > 1:
                following = self._well(relays[relays.index(work.relay) + 1 :])
                there = Onward(following, True) if following is not None else Onward(relays[0], False)
                onward.update(dict.fromkeys(failed.intersection(indexes), there))
        return onward

    def relieved(self, lane: Lane) -> bool:
        """Another relay, of a rule that names this one, is well."""
        return any(map(self._closed, lane.deputies))

    def elsewhere(self, work: Work) -> list[tuple[str | None, tuple[ParkedDelivery, ...]]]:
        """Its relay rests, or is switched off: to which other one each delivery goes, None where it stays."""
        certain = {delivery.index for delivery in work.deliveries if not delivery.uncertain}
        goes: dict[int, str] = {}
        for route, indexes in self._route(work.message) if certain else ():
            others = self._others(work.relay, route.relays)
            relay = next(filter(self._closed, others), None)
            if relay is not None:
                goes.update(dict.fromkeys(certain.intersection(indexes), relay))
        groups: dict[str | None, list[ParkedDelivery]] = {}
        for delivery in work.deliveries:
            groups.setdefault(goes.get(delivery.index), []).append(delivery)
        return [(relay, tuple(group)) for relay, group in groups.items()]

    def _others(self, relay: str, relays: tuple[str, ...]) -> tuple[str, ...]:
        """The other relays of a route, those behind first; none where no rule names them together."""
        if relay in relays:
            place = relays.index(relay)
            return relays[place + 1 :] + relays[:place]
        together = any(relay in self._lanes[other].deputies for other in relays if other in self._lanes)
        return relays if together and relay not in self._lanes else ()

    def _well(self, relays: Iterable[str]) -> str | None:
        now_s = self._clock.monotonic()
        for name in relays:
            lane = self._lanes.get(name)
            if lane is not None and lane.well(now_s):
                return name
        return None

    def _closed(self, relay: str) -> bool:
        lane = self._lanes.get(relay)
        return lane is not None and not lane.paused and lane.breaker.state is BreakerState.CLOSED

    def _rests_until_s(self, relay: str) -> float:
        lane = self._lanes.get(relay)
        if lane is None or lane.paused:
            return float("inf")
        # None while a probe is under way: nobody will know sooner.
        return lane.breaker.opens_until or 0.0
