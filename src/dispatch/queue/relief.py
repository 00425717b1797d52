"""What waits for a relay that rests, or is switched off, goes to another one that is well.

A relay rests while its breaker is open. Where mail may go meanwhile is `failover`'s to say; here it is moved:
from the line in front of the relay, and from the parked store, where what is due is claimed for no other
purpose.

What has no other relay is due again when the breaker lets a probe through, or in a minute: it would
be claimed again and again otherwise, and keep what has one from being seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from dispatch.mail.delivery import DeliveryState, Move, move
from dispatch.ports import Clock
from dispatch.queue.book import Book
from dispatch.queue.custody import Custody
from dispatch.queue.failover import Failover
from dispatch.queue.lane import Lane
from dispatch.queue.moves import after_move
from dispatch.queue.parking import Due, Parking
from dispatch.queue.work import Work, at_relay, parked_work
from dispatch.spool.records import Moved
from dispatch.store.parked import ParkedDelivery, Update

CLAIM_MAX = 1000
CLAIM_BYTES_MAX = 4 << 20
REST_S_MIN = 1.0
REST_S_MAX = 60.0


class Relief:
    """Turned by the scheduler and by housekeeping."""

    def __init__(
        self,
        clock: Clock,
        book: Book,
        parking: Parking,
        custody: Custody,
        failover: Failover,
        lanes: Mapping[str, Lane],
        *,
        still: Callable[[], bool],
        place: Callable[[Work], None],
        give_back: Callable[[Work], None],
        waiting: Callable[[tuple[ParkedDelivery, ...]], None],
    ) -> None:
        """`still`: nothing may be moved now. `place` puts into a line what the log owns, `give_back` returns
        what was claimed, and `waiting` is told what now waits in the parked store."""
        self._clock = clock
        self._book = book
        self._parking = parking
        self._custody = custody
        self._failover = failover
        self._lanes = lanes
        self._still = still
        self._place = place
        self._give_back = give_back
        self._waiting = waiting

    def possible(self, lane: Lane) -> bool:
        """It rests, and of what stands or waits there some may go to another relay."""
        return (
            not self._still()
            and self._lanes.get(lane.rules.name) is lane
            and lane.blocked(self._clock.monotonic())
            and self._failover.relieved(lane)
        )

    def empty(self, lane: Lane) -> None:
        """What stands in the line of a relay for which relief is possible goes."""
        parked: list[Work] = []
        for work in lane.ready.drain():
            if work.owner is None:
                parked.append(work)
                continue
            if work.owner.history:
                # It was tried: where it stands must be on record, so it takes the way through the store.
                self._place(work)
                continue
            for relay, rows in self._failover.elsewhere(work):
                there = rows if relay is None else tuple([at_relay(row, relay) for row in rows])
                self._place(Work(work.message, there, work.content, work.owner))
        self.pass_over(parked, lane)

    def switched_off(self) -> None:
        """Look for what waits for relays that have no lane, though a rule names them beside others."""
        if self._still():
            return
        named = {relay for lane in self._lanes.values() for relay in lane.deputies}
        now_ms = self._now_ms()
        for relay in sorted(named.difference(self._lanes)):
            self._parking.claim(relay, now_ms, CLAIM_MAX, CLAIM_BYTES_MAX, self._claimed)

    def _claimed(self, due: Due | None) -> None:
        works = [parked_work(parked) for parked in due[0]] if due is not None else []
        if self._still() or any(work.relay in self._lanes for work in works):
            for work in works:
                self._give_back(work)
        else:
            self.pass_over(works, None)

    def pass_over(self, works: list[Work], lane: Lane | None) -> None:
        """Move what was claimed of a relay for which relief is possible; `lane` None: it is switched off."""
        now_ms = self._now_ms()
        why, rests_s = "its relay is switched off", REST_S_MAX
        if lane is not None:
            why = "its relay failed too often and rests"
            rests_s = (lane.breaker.opens_until or 0.0) - self._clock.monotonic()
            if lane.paused:
                why, rests_s = "its relay is paused", REST_S_MAX
        later_ms = now_ms + round(min(max(rests_s, REST_S_MIN), REST_S_MAX) * 1000)
        for work in works:
            message_id = work.message.id
            for relay, rows in self._failover.elsewhere(work):
                if relay is None:
                    # No record: nothing happened to it, and a restart may look at it sooner.
                    after = tuple([msgspec.structs.replace(row, due_ms=later_ms) for row in rows])
                else:
                    indexes = tuple([row.index for row in rows])
                    state = move(DeliveryState.WAITING, Move.RETRY)
                    moved = Moved(
                        now_ms, message_id, indexes, Move.RETRY, state, "failover", why, now_ms, relay
                    )
                    self._book.write(moved)
                    after = tuple([after_move(row, moved) for row in rows])
                self._custody.change(Update(message_id, after), partial(self._waiting, after))

    def _now_ms(self) -> int:
        return int(self._clock.wall() * 1000)
