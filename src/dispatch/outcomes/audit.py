"""The audit (`ledger verify`): nothing that was accepted is lost, and nothing ended twice.

Reads the whole ledger that is kept, in order, and compares what it says with who is in the queue.
Every recipient of every `accepted` message must have exactly one final outcome, or a place in the
queue. A *reopened* delivery is open again, and may end once more.

What was accepted before the oldest record kept is known by its later records only; it is counted
apart, and cannot be found lost. Exact while the relay is stopped; while it runs, a message that moves
between the reading of the queue and that of the ledger can look lost: then look again.
"""

from __future__ import annotations

from collections.abc import Container

import msgspec

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mail.ids import MessageId, spool_form
from dispatch.ports import LogReader, Lsn
from dispatch.spool.faults import CorruptError
from dispatch.spool.records import Accepted, Attempted, Moved, Sending, UnreadableRecord, decode_ledger

READ_BYTES = 1 << 20
EXAMPLES_MAX = 20
"""How many of the messages at fault are named."""


class Audit(msgspec.Struct, frozen=True):
    """Counts of recipients, but for `messages`. Only `lost` and `doubly_settled` are faults."""

    messages: int
    """Accepted in the part of the ledger that is kept."""
    accepted: int
    settled: int
    in_queue: int
    uncertain: int
    """Of those in the queue or lost: the end of data left us and no reply came back."""
    lost: int
    """No final outcome, and not in the queue."""
    doubly_settled: int
    """A second final outcome without a reopening in between."""
    earlier_settled: int
    """Final outcomes of messages that were accepted before the oldest record kept."""
    unreadable: int
    """Records or damaged ranges that were passed over: what they said is missing above."""
    lost_ids: tuple[str, ...]
    doubly_settled_ids: tuple[str, ...]

    @property
    def sound(self) -> bool:
        return self.lost == 0 and self.doubly_settled == 0


def verify(ledger: LogReader, queue_ids: Container[MessageId]) -> Audit:
    """Read the ledger from its oldest record to its durable mark. Raises `OSError`.

    `queue_ids`: every message that has a delivery parked, in hand, or still in the mail log only.
    """
    books = _Books()
    cursor, end = ledger.oldest, ledger.durable
    while cursor < end:
        try:
            entries = ledger.read(cursor, READ_BYTES)
        except CorruptError as damage:
            books.unreadable += 1
            cursor = damage.resume
            continue
        if not entries:
            break
        for entry in entries:
            if entry.lsn < end:
                books.enter(entry.payload)
        cursor = Lsn(entries[-1].next)
    return books.close(queue_ids)


class _Books:
    """For each message, a bit for each recipient: still open, uncertain, ended."""

    def __init__(self) -> None:
        self.unreadable = 0
        self._messages = 0
        self._accepted = 0
        self._earlier_settled = 0
        self._open: dict[MessageId, int] = {}
        self._ended: dict[MessageId, int] = {}
        self._uncertain: dict[MessageId, int] = {}
        self._twice: dict[MessageId, int] = {}

    def enter(self, payload: bytes) -> None:
        try:
            record = decode_ledger(payload)
        except UnreadableRecord:
            self.unreadable += 1
            return
        match record:
            case Accepted():
                self._accept(record)
            case Sending():
                self._uncertain[record.id] = self._uncertain.get(record.id, 0) | _bits(record.indexes)
            case Attempted():
                for result in record.results:
                    self._stand(record.id, _bits(result.indexes), result.state, reopened=False)
            case Moved():
                reopened = record.move is Move.REOPEN
                self._stand(record.id, _bits(record.indexes), record.state, reopened=reopened)
            case _:
                # Parked and checkpoint say where a delivery waits, not what became of it.
                pass

    def _accept(self, record: Accepted) -> None:
        message_id = record.message.id
        if message_id in self._open or message_id in self._ended:
            return
        recipients = len(record.message.envelope.recipients)
        self._messages += 1
        self._accepted += recipients
        self._open[message_id] = (1 << recipients) - 1

    def _stand(self, message_id: MessageId, bits: int, state: DeliveryState, *, reopened: bool) -> None:
        was_uncertain = self._uncertain.pop(message_id, 0)
        uncertain = was_uncertain | bits if state is DeliveryState.UNCERTAIN else was_uncertain & ~bits
        if uncertain:
            self._uncertain[message_id] = uncertain
        still_open = self._open.get(message_id, 0)
        ended = self._ended.get(message_id, 0)
        if state.final:
            if not (still_open | ended) & bits:
                self._earlier_settled += bits.bit_count()
            elif ended & bits:
                self._twice[message_id] = self._twice.get(message_id, 0) | ended & bits
            self._put(message_id, still_open & ~bits, ended | still_open & bits)
        elif reopened:
            self._put(message_id, still_open | ended & bits, ended & ~bits)

    def _put(self, message_id: MessageId, still_open: int, ended: int) -> None:
        for book, bits in ((self._open, still_open), (self._ended, ended)):
            if bits:
                book[message_id] = bits
            else:
                book.pop(message_id, None)

    def close(self, queue_ids: Container[MessageId]) -> Audit:
        lost = {message_id: bits for message_id, bits in self._open.items() if message_id not in queue_ids}
        still_open = _count(self._open)
        uncertain = {
            message_id: bits & self._open.get(message_id, 0) for message_id, bits in self._uncertain.items()
        }
        return Audit(
            messages=self._messages,
            accepted=self._accepted,
            settled=_count(self._ended),
            in_queue=still_open - _count(lost),
            uncertain=_count(uncertain),
            lost=_count(lost),
            doubly_settled=_count(self._twice),
            earlier_settled=self._earlier_settled,
            unreadable=self.unreadable,
            lost_ids=_examples(lost),
            doubly_settled_ids=_examples(self._twice),
        )


def _bits(indexes: tuple[int, ...]) -> int:
    bits = 0
    for index in indexes:
        bits |= 1 << index
    return bits


def _count(book: dict[MessageId, int]) -> int:
    return sum(bits.bit_count() for bits in book.values())


def _examples(book: dict[MessageId, int]) -> tuple[str, ...]:
    return tuple(spool_form(message_id) for message_id in sorted(book)[:EXAMPLES_MAX])
