"""Claims: parked deliveries that are in hand, and the walk along the lanes that takes them there.

Claims live in memory only: after a restart nothing is in hand, and everything that was may be
claimed again. What became of it meanwhile, the ledger knows; recovery comes before any claim.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import apsw
import msgspec

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.ids import MessageId
from dispatch.mail.message import Message
from dispatch.store.changes import DELIVERY_BYTES, Change, ParkedDelivery, ParkedMessage, Settle
from dispatch.store.lanes import Lane, Lanes, Picked, Place
from dispatch.store.sqlite import statements

_SQL = statements("parked")
_decode_message = msgspec.msgpack.Decoder(Message).decode


class Claims:
    def __init__(self, connection: apsw.Connection, lanes: Lanes) -> None:
        self.lanes = lanes
        self._execute = connection.execute
        self._executemany = connection.executemany
        self._numbers: dict[MessageId, int] = {}
        """Row numbers of the messages that have a delivery in hand."""
        self._in_hand: dict[int, int] = {}
        """For each of those numbers, a bit for each delivery in hand."""

    def holds(self, number: int, position: int) -> bool:
        return bool(self._in_hand.get(number, 0) >> position & 1)

    def number_of(self, message_id: MessageId) -> int | None:
        """The row number of a message that has a delivery in hand."""
        return self._numbers.get(message_id)

    def take(self, relay: str, now_ms: int, limit: int, size_bytes_max: int) -> list[ParkedMessage]:
        """See `ParkedStore.claim`."""

        seen: set[int] = set()

        def walk(lane: Lane, count: int) -> list[Picked]:
            return self._walk(lane, now_ms, count, seen)

        picked = self.lanes.pick(relay, now_ms, limit, walk)
        heads = self._heads(picked, size_bytes_max)
        for lane, place in picked[len(heads) :]:
            self.lanes.notice(lane, place)
        taken = []
        for (lane, place), (message, content) in zip(picked, heads, strict=False):
            taken.append(ParkedMessage(message, self._take_due(lane, place.message, now_ms), content))
            self._numbers[message.id] = place.message
        return taken

    def _walk(self, lane: Lane, now_ms: int, count: int, seen: set[int]) -> list[Picked]:
        """The `Walk` of `lanes`; `seen` are the messages picked so far, whose other deliveries come along."""
        picked: list[Picked] = []
        lane.next_due_ms = None
        lane.doubtful = False
        cursor = self._execute(_SQL["walk_lane"], (lane.number, *lane.resume))
        for row in cursor:
            due_ms, number, position = row
            if not self.holds(number, position):
                if due_ms > now_ms or (len(picked) == count and number not in seen):
                    lane.next_due_ms = due_ms
                    break
                if number not in seen:
                    seen.add(number)
                    picked.append(Picked(lane, Place(*row)))
            lane.resume = Place(*row)
        cursor.close(True)
        return picked

    def _heads(self, picked: list[Picked], size_bytes_max: int) -> list[tuple[Message, bytes | None]]:
        """Messages with their content, in order, until the next one would be too much."""
        heads: list[tuple[Message, bytes | None]] = []
        size_bytes = 0
        keys = [(place.message,) for _, place in picked]
        cursor = self._executemany(_SQL["load_with_content"], keys)
        for head, content in cursor:
            message = _decode_message(head)
            size_bytes += DELIVERY_BYTES * len(message.envelope.recipients)
            if content is not None:
                size_bytes += len(content)
            if size_bytes > size_bytes_max and heads:
                break
            heads.append((message, content))
        cursor.close(True)
        return heads

    def take_message(self, message_id: MessageId, number: int) -> set[int]:
        """Take in hand what waits of one message, due or not, for the relay of its first such delivery.

        Returns the indexes that were taken.
        """
        mask = self._in_hand.get(number, 0)
        taken: set[int] = set()
        taken_for: str | None = None
        for lane, relay, position in self._execute(_SQL["waiting_at_a_relay"], (number,)):
            if not mask >> position & 1 and taken_for in (None, relay):
                taken_for = relay
                taken.add(position)
                mask |= 1 << position
                self.lanes.numbered(lane).doubtful = True
        if taken:
            self._numbers[message_id] = number
            self._in_hand[number] = mask
        return taken

    def _take_due(self, lane: Lane, number: int, now_ms: int) -> tuple[ParkedDelivery, ...]:
        """Take in hand everything of a message that is due in a lane."""
        mask = self._in_hand.get(number, 0)
        deliveries = []
        for row in self._execute(_SQL["due_of"], (number, lane.number, now_ms)):
            position, due_ms, attempts, family, since_ms, reason, uncertain = row
            if mask >> position & 1:
                continue
            mask |= 1 << position
            deliveries.append(
                ParkedDelivery(
                    position,
                    DeliveryState.WAITING,
                    lane.relay,
                    due_ms,
                    attempts,
                    family,
                    since_ms,
                    reason,
                    bool(uncertain),
                )
            )
        self._in_hand[number] = mask
        return tuple(deliveries)

    def put_back(self, message_id: MessageId, indexes: Iterable[int]) -> None:
        """See `ParkedStore.put_back`."""
        number = self._numbers.get(message_id)
        if number is None:
            return
        # Read before anything is changed: after a fault it is asked again.
        rows = cast("list[tuple[int, int, int]]", self._execute(_SQL["waiting_of"], (number,)).fetchall())
        mask = self._in_hand[number]
        back = mask & sum({1 << index for index in indexes})
        if back == mask:
            del self._in_hand[number], self._numbers[message_id]
        else:
            self._in_hand[number] = mask & ~back
        for lane, due_ms, position in rows:
            if back >> position & 1:
                self.lanes.notice(self.lanes.numbered(lane), Place(due_ms, number, position))

    def let_go(self, changes: Sequence[Change]) -> None:
        """The deliveries that these changes name are in hand no more: they stand where they were put."""
        if not self._numbers:
            return
        for change in changes:
            number = self._numbers.get(change.id)
            if number is None:
                continue
            mask = self._in_hand[number]
            if isinstance(change, Settle):
                for index in change.indexes:
                    mask &= ~(1 << index)
            else:
                for delivery in change.deliveries:
                    mask &= ~(1 << delivery.index)
            if mask:
                self._in_hand[number] = mask
            else:
                del self._in_hand[number], self._numbers[change.id]

    def next_due_ms(self, relay: str) -> int | None:
        """See `ParkedStore.next_due_ms`."""
        while (lane := self.lanes.first(relay)) is not None:
            if not lane.doubtful:
                return lane.next_due_ms
            self.lanes.refresh(lane, self._true_due_ms(lane))
        return None

    def _true_due_ms(self, lane: Lane) -> int | None:
        cursor = self._execute(_SQL["walk_lane"], (lane.number, *lane.resume))
        found = next(
            (due_ms for due_ms, number, position in cursor if not self.holds(number, position)), None
        )
        cursor.close(True)
        return found
