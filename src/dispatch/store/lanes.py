"""Whose turn it is: priorities, fair shares and due times of one relay's parked deliveries.

A *lane* holds the waiting deliveries of one relay, one priority and one fair share (a login, or a
client's address), in the order of their due times. This module knows of each lane only where it
goes on and when its next delivery is due; the deliveries themselves stay in the database, and are
walked along with the `walk` that the caller passes in. No SQL, no clock here.

Rules:

- Between priorities: *high*, then *normal*, then *bulk*, strictly, but a lower one that has mail
  due gets at least every sixteenth message (`LEAST_SHARE`), so that an endless stream of more
  urgent mail slows it down and never stops it.
- Within one priority: round-robin over the lanes, one message a turn. A lane that was served goes
  to the end; so one sender's million does not delay another's one.
- What was picked is behind the lane's `resume` and is not walked over again. Whatever comes to lie
  before that place afterwards must be announced with `notice`.

Memory: at most `LANES_MAX` lanes for each relay and priority have a name of their own. Later ones
share `LANES_MAX` more by a hash of their name, as in stochastic fair queueing: still fair, but to
crowds instead of to each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import zip_longest
from typing import NamedTuple
from zlib import crc32

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.message import PRIORITIES

LEAST_SHARE = 16
LANES_MAX = 1024

_LEVELS = range(len(PRIORITIES))


class Place(NamedTuple):
    """Where a delivery stands in its lane."""

    due_ms: int
    message: int
    position: int


START = Place(-1, -1, -1)


class Lane:
    __slots__ = (
        "doubtful",
        "next_due_ms",
        "number",
        "priority",
        "ready",
        "relay",
        "resume",
        "share",
        "tally",
    )

    def __init__(self, number: int, relay: str, priority: int, share: str) -> None:
        self.number = number
        self.relay = relay
        self.priority = priority
        self.share = share
        self.tally: dict[DeliveryState, int] = {}
        """How many deliveries are here in each state."""
        self.resume = START
        """Every waiting delivery up to here is in hand."""
        self.next_due_ms: int | None = None
        """Of those that are not in hand: never later than the truth."""
        self.doubtful = False
        """The delivery that was due next may be gone: `next_due_ms` may be earlier than the truth."""
        self.ready = False
        """Its turn comes up; otherwise it sleeps until `next_due_ms`, or is empty."""

    @property
    def empty(self) -> bool:
        return not any(self.tally.values())


class Picked(NamedTuple):
    """A message whose turn it is, by the first of its deliveries that stands in the lane."""

    lane: Lane
    place: Place


Walk = Callable[[Lane, int], list[Picked]]
"""Up to so many messages of the lane that are due; sets the lane's `resume` behind them and its
`next_due_ms` to what follows."""


class _Level:
    """The lanes of one priority at one relay."""

    __slots__ = ("asleep", "lanes", "ready")

    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}
        self.ready: deque[Lane] = deque()
        self.asleep: list[tuple[int, int, Lane]] = []
        """A heap; entries whose time is no longer their lane's are left behind and passed over."""

    def sleep(self, lane: Lane) -> None:
        if lane.next_due_ms is None:
            return
        if len(self.asleep) > 2 * len(self.lanes) + 16:
            self.asleep = list({entry[1]: entry for entry in self.asleep if self._true(entry)}.values())
            heapify(self.asleep)
        heappush(self.asleep, (lane.next_due_ms, lane.number, lane))

    def wake(self, now_ms: int) -> None:
        while self.asleep and self.asleep[0][0] <= now_ms:
            entry = heappop(self.asleep)
            if self._true(entry):
                entry[2].ready = True
                self.ready.append(entry[2])

    def pick(self, limit: int, walk: Walk) -> list[Picked]:
        """Up to `limit` messages of the lanes that are awake, in turns."""
        picked: list[Picked] = []
        while self.ready and len(picked) < limit:
            missing = limit - len(picked)
            served = [self.ready.popleft() for _ in range(min(missing, len(self.ready)))]
            each = max(1, missing // len(served))
            rows = []
            for lane in served:
                found = walk(lane, each)
                rows.append(found)
                if len(found) == each and lane.next_due_ms is not None:
                    self.ready.append(lane)
                else:
                    lane.ready = False
                    self.sleep(lane)
            picked += [message for turn in zip_longest(*rows) for message in turn if message is not None]
        return picked

    def first(self) -> Lane | None:
        """The lane whose next delivery is due first."""
        while self.asleep and not self._true(self.asleep[0]):
            heappop(self.asleep)
        candidates = [lane for lane in self.ready if lane.next_due_ms is not None]
        if self.asleep:
            candidates.append(self.asleep[0][2])
        return min(candidates, key=lambda lane: lane.next_due_ms or 0, default=None)

    def _true(self, entry: tuple[int, int, Lane]) -> bool:
        due_ms, _, lane = entry
        return not lane.ready and lane.next_due_ms == due_ms and self.lanes.get(lane.share) is lane


class _RelayLanes:
    __slots__ = ("levels", "owed")

    def __init__(self) -> None:
        self.levels = tuple(_Level() for _ in _LEVELS)
        self.owed = [0 for _ in _LEVELS]
        """Of each priority: messages of higher ones that went since it last had its least share."""


class Lanes:
    """All lanes of the parked store."""

    def __init__(self) -> None:
        self._by_number: dict[int, Lane] = {}
        self._relays: dict[str, _RelayLanes] = {}
        self._highest = 0

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._by_number.values())

    def numbered(self, number: int) -> Lane:
        return self._by_number[number]

    def find(self, relay: str, priority: int, share: str) -> Lane | None:
        """The lane of a fair share, if there is one."""
        at_relay = self._relays.get(relay)
        if at_relay is None:
            return None
        lanes = at_relay.levels[priority].lanes
        return lanes.get(share) or (lanes.get(_crowd(share)) if len(lanes) >= LANES_MAX else None)

    def crowded(self, relay: str, priority: int) -> bool:
        """No more lanes get a name of their own."""
        at_relay = self._relays.get(relay)
        return at_relay is not None and len(at_relay.levels[priority].lanes) >= LANES_MAX

    def name(self, relay: str, priority: int, share: str) -> str:
        """Under which name a new lane for a fair share is made: its own, or that of a crowd."""
        return _crowd(share) if self.crowded(relay, priority) else share

    @property
    def next_number(self) -> int:
        return self._highest + 1

    def add(self, lane: Lane) -> None:
        """Take a new lane in; one with a `next_due_ms` falls asleep until then."""
        self._by_number[lane.number] = lane
        self._highest = max(self._highest, lane.number)
        level = self._level(lane)
        level.lanes[lane.share] = lane
        level.sleep(lane)

    def drop(self, lane: Lane) -> None:
        """Forget an empty lane."""
        level = self._level(lane)
        del self._by_number[lane.number], level.lanes[lane.share]
        if lane.ready:
            level.ready.remove(lane)

    def notice(self, lane: Lane, place: Place) -> None:
        """A waiting delivery that is not in hand now stands at this place."""
        if place <= lane.resume:
            lane.resume = Place(place.due_ms, place.message, place.position - 1)
        if lane.next_due_ms is None or place.due_ms < lane.next_due_ms:
            lane.next_due_ms = place.due_ms
            if not lane.ready:
                self._level(lane).sleep(lane)

    def refresh(self, lane: Lane, next_due_ms: int | None) -> None:
        """The true due time of a doubtful lane has been looked up."""
        lane.doubtful = False
        lane.next_due_ms = next_due_ms
        if not lane.ready:
            self._level(lane).sleep(lane)

    def first(self, relay: str) -> Lane | None:
        """The relay's lane whose next delivery is due first."""
        at_relay = self._relays.get(relay)
        if at_relay is None:
            return None
        firsts = [lane for level in at_relay.levels if (lane := level.first()) is not None]
        return min(firsts, key=lambda lane: lane.next_due_ms or 0, default=None)

    def pick(self, relay: str, now_ms: int, limit: int, walk: Walk) -> list[Picked]:
        """Up to `limit` due messages of a relay, in the order in which they should go."""
        at_relay = self._relays.get(relay)
        if at_relay is None:
            return []
        levels, owed = at_relay.levels, at_relay.owed
        for level in levels:
            level.wake(now_ms)
        picked: list[list[Picked]] = [[] for _ in levels]
        left = limit
        for priority in reversed(_LEVELS[1:]):
            if levels[priority].ready:
                least = min((owed[priority] + limit) // LEAST_SHARE, left)
                picked[priority] = levels[priority].pick(least, walk)
                left -= len(picked[priority])
        for priority in _LEVELS:
            more = levels[priority].pick(left, walk)
            picked[priority] += more
            left -= len(more)
        above = 0
        for priority in _LEVELS:
            went = len(picked[priority])
            if not levels[priority].ready:
                owed[priority] = 0
            else:
                owed[priority] = max(0, owed[priority] + above + went - LEAST_SHARE * went)
            above += went
        return [message for level in picked for message in level]

    def _level(self, lane: Lane) -> _Level:
        at_relay = self._relays.get(lane.relay)
        if at_relay is None:
            at_relay = self._relays[lane.relay] = _RelayLanes()
        return at_relay.levels[lane.priority]


def _crowd(share: str) -> str:
    # A control character keeps crowds apart from every login and address.
    return f"\x00{crc32(share.encode()) % LANES_MAX}"
