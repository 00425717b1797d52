"""The audit (`ledger verify`): nothing that was accepted is lost, and nothing ended twice.

Reads the whole ledger that is kept, in order, and compares what it says with who is in the queue.
Every recipient of every `accepted` message must have exactly one final outcome, or a place in the
queue. A *reopened* delivery is open again, and may end once more.

Over a period, it is the time of the acceptance that counts: what was accepted within it is matched with its
outcomes, whenever they came. The id of a message tells that time as well, so a record alone says whether
it belongs to the period.

What was accepted before the oldest record kept is known by its later records only; it is counted
apart, and cannot be found lost. Exact while the relay is stopped; while it runs, a message that moves
between the reading of the queue and that of the ledger can look lost: then look again.

An audit of nothing finds no fault: a ledger that lost its records is betrayed by others who had read them
(`contradictions`). Whether what is read is what was written is the chain's business (`spool.chain`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import NamedTuple

import msgspec

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mail.ids import MessageId, accepted_ms, spool_form
from dispatch.mail.message import Message
from dispatch.policy.copies import copies_of
from dispatch.ports import LogReader, Lsn
from dispatch.spool.faults import CorruptError
from dispatch.spool.records import (
    Accepted,
    Attempted,
    LedgerRecord,
    Moved,
    Sending,
    UnreadableRecord,
    decode_ledger,
)

READ_BYTES = 1 << 20
EXAMPLES_MAX = 20
"""How many of the messages at fault are named."""


class Period(NamedTuple):
    """Which acceptances count. Milliseconds since 1970; None is without a bound."""

    since_ms: int | None = None
    before_ms: int | None = None

    def holds(self, at_ms: int) -> bool:
        since_ms, before_ms = self
        return (since_ms is None or since_ms <= at_ms) and (before_ms is None or at_ms < before_ms)


ALWAYS = Period()


class Audit(msgspec.Struct, frozen=True):
    """Counts of recipients, but for `messages` and `records`, of the messages that were accepted within the
    period. Only `lost` and `doubly_settled` are faults."""

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
    records: int
    """Read, of any time."""
    kept_from_ms: int | None
    """When the oldest record that could be read was written."""
    lost_ids: tuple[str, ...]
    doubly_settled_ids: tuple[str, ...]

    @property
    def sound(self) -> bool:
        return self.lost == 0 and self.doubly_settled == 0


class Witness(NamedTuple):
    """Somebody who followed the ledger, and noted how far."""

    name: str
    lsn: Lsn


def contradictions(
    audit: Audit, end: Lsn, witnesses: Iterable[Witness], *, parked: int, mail_released: bool
) -> tuple[str, ...]:
    """What shows that the ledger, which ends at `end`, has lost records: in words, for the operator.

    `parked`: messages in the parked store. `mail_released`: the mail log gave up something of what it held,
    which it does only for a ledger that answers for it.
    """
    found = [
        f"{witness.name} speaks of records up to {witness.lsn:#x}, and the ledger ends at {end:#x}"
        for witness in witnesses
        if witness.lsn > end
    ]
    if audit.records == 0:
        if parked:
            found.append(f"{parked} messages are parked, and the ledger is empty")
        if mail_released:
            found.append("the mail log was taken up and released in part, and the ledger is empty")
    return tuple(found)


def unsettled(records: Iterable[bytes], messages: Iterable[Message]) -> set[MessageId]:
    """Those of the messages that have a recipient without a final outcome among a ledger's records."""
    books = _Books(ALWAYS)
    ids = [message.id for message in messages if books.expect(message)]
    for payload in records:
        books.enter(payload)
    return {message_id for message_id in ids if books.is_open(message_id)}


def verify(ledger: LogReader, queue_ids: Container[MessageId], period: Period = ALWAYS) -> Audit:
    """Read the ledger from its oldest record to its durable mark. Raises `OSError`.

    `queue_ids`: every message that has a delivery parked, in hand, or still in the mail log only.
    """
    books = _Books(period)
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

    def __init__(self, period: Period) -> None:
        self._period = period
        self.unreadable = 0
        self._records = 0
        self._kept_from_ms: int | None = None
        self._messages = 0
        self._accepted = 0
        self._earlier_settled = 0
        self._open: dict[MessageId, int] = {}
        self._ended: dict[MessageId, int] = {}
        self._uncertain: dict[MessageId, int] = {}
        self._twice: dict[MessageId, int] = {}

    def enter(self, payload: bytes) -> None:
        for record in decode_ledger(payload):
            if isinstance(record, UnreadableRecord):
                self.unreadable += 1
            else:
                self._enter(record)

    def _enter(self, record: LedgerRecord) -> None:
        self._records += 1
        if self._kept_from_ms is None:
            self._kept_from_ms = record.at_ms
        match record:
            case Accepted():
                if self._period.holds(record.message.accepted_ms) and not self.expect(record.message):
                    self._expect_copies(record.message)
            case Sending():
                self._uncertain[record.id] = self._uncertain.get(record.id, 0) | _bits(record.indexes)
            case Attempted():
                for result in record.results:
                    self._stand(record.id, _bits(result.indexes), result.state, reopened=False)
            case Moved():
                reopened = record.move is Move.REOPEN
                self._stand(record.id, _bits(record.indexes), record.state, reopened=reopened)
            case _:
                # The others say where a delivery waits, not what became of it.
                pass

    def expect(self, message: Message) -> bool:
        """Every recipient of it must end; False if that is known already."""
        if message.id in self._open or message.id in self._ended:
            return False
        recipients = len(message.envelope.recipients)
        self._messages += 1
        self._accepted += recipients
        self._open[message.id] = (1 << recipients) - 1
        return True

    def _expect_copies(self, message: Message) -> None:
        """Of a message that is expected as it stands in the mail log, which knows nothing of them."""
        copies = len(copies_of(message))
        if not copies:
            return
        known = self._open.get(message.id, 0) | self._ended.get(message.id, 0)
        recipients = len(message.envelope.recipients)
        fresh = ((1 << recipients) - (1 << recipients - copies)) & ~known
        self._accepted += fresh.bit_count()
        self._put(message.id, self._open.get(message.id, 0) | fresh, self._ended.get(message.id, 0))

    def is_open(self, message_id: MessageId) -> bool:
        return message_id in self._open

    def _stand(self, message_id: MessageId, bits: int, state: DeliveryState, *, reopened: bool) -> None:
        was_uncertain = self._uncertain.pop(message_id, 0)
        uncertain = was_uncertain | bits if state is DeliveryState.UNCERTAIN else was_uncertain & ~bits
        if uncertain:
            self._uncertain[message_id] = uncertain
        still_open = self._open.get(message_id, 0)
        ended = self._ended.get(message_id, 0)
        if state.final:
            if not (still_open | ended) & bits:
                if self._period.holds(accepted_ms(message_id)):
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
            records=self._records,
            kept_from_ms=self._kept_from_ms,
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
