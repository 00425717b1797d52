"""Following the ledger at a start, record by record: what is still the log's, what was sent, what is missed.

Pure but for the reading itself. What the records *do* to a delivery is said in `moves`; what is made of the
result, in `recovery`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.envelope import Recipient
from dispatch.mail.ids import MessageId
from dispatch.mail.message import Message
from dispatch.observe import Reporter
from dispatch.policy.copies import copies_of
from dispatch.ports import LogReader, Lsn
from dispatch.queue.moves import after_move, after_result, needs_content
from dispatch.queue.work import at_relay
from dispatch.spool.faults import CorruptError
from dispatch.spool.records import (
    NOT_IN_LOG,
    Accepted,
    Attempted,
    Checkpoint,
    Claimed,
    LedgerRecord,
    Moved,
    Parked,
    Placed,
    Sending,
    UnreadableRecord,
    decode_ledger,
)
from dispatch.store.parked import ParkedDelivery

READ_BYTES = 1 << 20
NO_ID = MessageId(bytes(16))
"""In a checkpoint's `live`: a record that this version could not read, and that must stay in the log."""


class Standing(NamedTuple):
    """A message that is still the log's, and what of it is not settled."""

    lsn: Lsn
    message: Message
    content: bytes
    gone: tuple[int, ...]
    history: tuple[Attempted | Moved, ...]
    """What happened to its deliveries since it was taken up, as far as the ledger was replayed."""


def silence(event: str, /, **fields: object) -> None:
    """Nobody asked to be told."""


class Records:
    """The ledger from a cursor to its durable mark, as far as it can be read; of the rest, an alarm."""

    def __init__(self, ledger: LogReader, cursor: Lsn, alarm: Reporter = silence) -> None:
        self._ledger = ledger
        self._cursor = cursor
        self._alarm = alarm
        self.damaged = False
        """Something could not be read; complete when the records are."""

    def __iter__(self) -> Iterator[tuple[Lsn, LedgerRecord]]:
        while True:
            try:
                entries = self._ledger.read(self._cursor, READ_BYTES)
            except CorruptError as error:
                self._damage(error, error.resume)
                self._cursor = error.resume
                continue
            if not entries:
                return
            for entry in entries:
                self._cursor = entry.next
                for place, record in enumerate(decode_ledger(entry.payload), entry.lsn):
                    if isinstance(record, UnreadableRecord):
                        self._damage(record, entry.next)
                    else:
                        yield Lsn(place), record

    def _damage(self, error: Exception, resume: Lsn) -> None:
        self.damaged = True
        self._alarm("ledger_corrupt", why=str(error), resume=resume)


class Tracked:
    """What the ledger says of a message that is the log's."""

    __slots__ = ("copies", "gone", "history", "lsn", "recipients")

    def __init__(
        self,
        lsn: Lsn,
        gone: set[int],
        history: tuple[Attempted | Moved, ...] = (),
        recipients: int | None = None,
        copies: tuple[Recipient, ...] = (),
    ) -> None:
        self.lsn = lsn
        self.gone = gone
        self.history = list(history)
        self.recipients = recipients
        """How many it has, where its `accepted` record was among those read. There may be a word of more: of
        copies that an older record of it had."""
        self.copies = copies
        """Of its recipients, those of which the mail log knows nothing."""


class Replay:
    """Follows the ledger record by record."""

    def __init__(self, parked_through: Lsn) -> None:
        self.cursor = Lsn(0)
        self.live: dict[MessageId, Tracked] = {}
        self.sent: dict[MessageId, dict[int, str]] = {}
        """*Sending* without an outcome: to which relay, empty where nobody knows."""
        self.claimed: dict[MessageId, set[int]] = {}
        """Parked deliveries that stood in line, or were tried: no record has followed."""
        self.unreadable: list[Lsn] = []
        self.missed: list[Attempted | Moved] = []
        """Records that the parked store has not followed yet."""
        self.checkpoints: set[Lsn] = set()
        """Where the checkpoints among the records stood."""
        self.records = 0
        self._parked_through = parked_through

    def follow_all(self, records: Records) -> bool:
        """Follow them to the end; whether something of them could not be read."""
        for lsn, record in records:
            self.follow(lsn, record)
            self.records += 1
        return records.damaged

    def follow(self, lsn: Lsn, record: LedgerRecord) -> None:
        match record:
            case Checkpoint():
                self.checkpoints.add(lsn)
                self._begin(record)
            case Accepted() if record.mail_lsn == NOT_IN_LOG:
                # It was parked before this was written.
                pass
            case Accepted():
                recipients = len(record.message.envelope.recipients)
                copies = copies_of(record.message)
                self.live[record.message.id] = Tracked(record.mail_lsn, set(), (), recipients, copies)
                self.cursor = max(self.cursor, record.mail_next)
            case Sending():
                self._send(record)
            case Claimed():
                for placed in record.placed:
                    _add(self.claimed, placed)
            case Attempted():
                for result in record.results:
                    self._heard(record.id, result.indexes, result.state)
                self._note(lsn, record)
            case Moved():
                self._heard(record.id, record.indexes, record.state)
                self._note(lsn, record)
            case Parked():
                for placed in record.placed:
                    self._gone(placed.id, placed.indexes)

    def _begin(self, checkpoint: Checkpoint) -> None:
        self.cursor = checkpoint.mail_cursor
        self.live = {
            live.id: Tracked(live.mail_lsn, set(live.gone), live.history, copies=live.copies)
            for live in checkpoint.live
            if live.id != NO_ID
        }
        self.unreadable = [live.mail_lsn for live in checkpoint.live if live.id == NO_ID]
        self.sent, self.claimed = {}, {}
        for placed in checkpoint.sent:
            self._send(placed)
        for placed in checkpoint.claimed:
            _add(self.claimed, placed)

    def _send(self, some: Sending | Placed) -> None:
        self.sent.setdefault(some.id, {}).update(dict.fromkeys(some.indexes, some.relay))

    def _heard(self, message_id: MessageId, indexes: tuple[int, ...], state: DeliveryState) -> None:
        _take_out(self.claimed, message_id, indexes)
        if state is not DeliveryState.UNCERTAIN and (sent := self.sent.get(message_id)) is not None:
            for index in indexes:
                sent.pop(index, None)
            if not sent:
                del self.sent[message_id]
        if not needs_content(state):
            self._gone(message_id, indexes)

    def _gone(self, message_id: MessageId, indexes: tuple[int, ...]) -> None:
        tracked = self.live.get(message_id)
        if tracked is not None:
            tracked.gone.update(indexes)
            if tracked.recipients is not None and tracked.gone.issuperset(range(tracked.recipients)):
                del self.live[message_id]

    def _note(self, lsn: Lsn, record: Attempted | Moved) -> None:
        if record.id in self.live:
            self.live[record.id].history.append(record)
        if lsn > self._parked_through:
            self.missed.append(record)


def _add(to: dict[MessageId, set[int]], some: Placed) -> None:
    to.setdefault(some.id, set()).update(some.indexes)


def _take_out(of: dict[MessageId, set[int]], message_id: MessageId, indexes: tuple[int, ...]) -> None:
    left = of.get(message_id)
    if left is not None:
        left.difference_update(indexes)
        if not left:
            del of[message_id]


def follow_record(rows: dict[int, ParkedDelivery], record: Attempted | Moved) -> dict[int, ParkedDelivery]:
    """The rows that the record is about, as it leaves them; rows that are not there stay away.

    What was tried stays with the relay that tried it, whatever route it was given again after a restart.
    """
    match record:
        case Attempted():
            return {
                index: after_result(at_relay(rows[index], record.relay), result, record.at_ms)
                for result in record.results
                for index in result.indexes
                if index in rows
            }
        case Moved():
            return {index: after_move(rows[index], record) for index in record.indexes if index in rows}
