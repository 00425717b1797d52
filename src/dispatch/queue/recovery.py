"""What a restart must know: made from the last checkpoint, the ledger after it, the parked store and the log.

The three may disagree about a delivery, because a crash can come between any two writes. The
order of the writes (see the package) makes the answer simple: *ledger beats parked, parked beats log*.

- The ledger is replayed from the last checkpoint, or from where the parked store had followed it, if
  that is earlier. Changes that the parked store had not made yet are made now.
- A delivery of the log that the ledger has settled, or that the parked store holds, is not the log's.
- *Sending* without an outcome: uncertain. The uncertain policy decides; nothing fails over by itself.
- A record that cannot be read is passed over, loudly: a damaged ledger costs repeats, never the start. A mail
  record that an earlier version could not read stays in the log until one can.
- What the mail log holds beyond the last `accepted` record was never taken up. After a power cut it may have
  been, without a trace since the ledger's last sync: it is marked *uncertain (power)*.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.ids import MessageId
from dispatch.mail.message import Message
from dispatch.observe import Reporter
from dispatch.ports import Entry, LogReader, Lsn
from dispatch.queue.moves import after_move, after_result, needs_content
from dispatch.spool.faults import CorruptError
from dispatch.spool.records import (
    Accepted,
    Attempted,
    Checkpoint,
    LedgerRecord,
    Moved,
    Parked,
    Sending,
    UnreadableRecord,
    decode_ledger,
    decode_mail,
)
from dispatch.store.parked import Change, ParkedDelivery, ParkedStore, Settle, Update

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


class Recovered(NamedTuple):
    """Where the scheduler goes on."""

    cursor: Lsn
    """Everything below was taken up."""
    standing: list[Standing]
    sent: dict[MessageId, set[int]]
    """*Sending* without an outcome: uncertain, whoever owns them."""
    changes: list[Change]
    """What the parked store had not followed yet."""
    replayed: int
    """Ledger records read."""
    unreadable: list[Entry]
    """Mail records below the cursor that were not taken up, because no version so far could read them."""


class _Tracked:
    """What the ledger says of a message that is the log's."""

    __slots__ = ("gone", "history", "lsn", "recipients")

    def __init__(
        self,
        lsn: Lsn,
        gone: set[int],
        history: tuple[Attempted | Moved, ...] = (),
        recipients: int | None = None,
    ) -> None:
        self.lsn = lsn
        self.gone = gone
        self.history = list(history)
        self.recipients = recipients
        """How many it has, where its `accepted` record was among those read."""


class _Replay:
    """Follows the ledger record by record."""

    def __init__(self, parked_through: Lsn) -> None:
        self.cursor = Lsn(0)
        self.live: dict[MessageId, _Tracked] = {}
        self.sent: dict[MessageId, set[int]] = {}
        self.unreadable: list[Lsn] = []
        self.missed: list[Attempted | Moved] = []
        """Records that the parked store has not followed yet."""
        self._parked_through = parked_through

    def follow(self, lsn: Lsn, record: LedgerRecord) -> None:
        match record:
            case Checkpoint():
                self._begin(record)
            case Accepted():
                recipients = len(record.message.envelope.recipients)
                self.live[record.message.id] = _Tracked(record.mail_lsn, set(), recipients=recipients)
                self.cursor = max(self.cursor, record.mail_next)
            case Sending():
                self.sent.setdefault(record.id, set()).update(record.indexes)
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
            live.id: _Tracked(live.mail_lsn, set(live.gone), live.history)
            for live in checkpoint.live
            if live.id != NO_ID
        }
        self.unreadable = [live.mail_lsn for live in checkpoint.live if live.id == NO_ID]
        self.sent = {}
        for placed in checkpoint.sent:
            self.sent.setdefault(placed.id, set()).update(placed.indexes)

    def _heard(self, message_id: MessageId, indexes: tuple[int, ...], state: DeliveryState) -> None:
        sent = self.sent.get(message_id)
        if sent is not None and state is not DeliveryState.UNCERTAIN:
            sent.difference_update(indexes)
            if not sent:
                del self.sent[message_id]
        if not needs_content(state):
            self._gone(message_id, indexes)

    def _gone(self, message_id: MessageId, indexes: tuple[int, ...]) -> None:
        tracked = self.live.get(message_id)
        if tracked is not None:
            tracked.gone.update(indexes)
            if len(tracked.gone) == tracked.recipients:
                del self.live[message_id]

    def _note(self, lsn: Lsn, record: Attempted | Moved) -> None:
        if record.id in self.live:
            self.live[record.id].history.append(record)
        if lsn > self._parked_through:
            self.missed.append(record)


def _silence(event: str, /, **fields: object) -> None:
    """Nobody asked to be told."""


def recover(
    ledger: LogReader, checkpoint: Lsn, mail: LogReader, store: ParkedStore, alarm: Reporter = _silence
) -> Recovered:
    """Read what the last run left. Nothing is written; blocks, so call it before the loop runs."""
    parked_through = Lsn(store.ledger_lsn)
    replay = _Replay(parked_through)
    start = max(min(checkpoint, parked_through), ledger.oldest)
    replayed = 0
    for entry in read_all(ledger, start, alarm):
        try:
            record = decode_ledger(entry.payload)
        except UnreadableRecord as error:
            alarm("ledger_corrupt", detail=str(error), resume=entry.next)
            continue
        replay.follow(entry.lsn, record)
        replayed += 1
    standing = _standing(replay, mail, store, alarm)
    unreadable = [found for lsn in replay.unreadable if (found := _mail_at(mail, lsn, alarm)) is not None]
    cursor = max(replay.cursor, mail.oldest)
    changes = _missed_changes(replay.missed, store)
    return Recovered(cursor, standing, replay.sent, changes, replayed, unreadable)


def read_all(log: LogReader, cursor: Lsn, alarm: Reporter = _silence) -> Iterator[Entry]:
    """Every record from `cursor` to the durable mark that can be read; of the others, an alarm."""
    while True:
        try:
            entries = log.read(cursor, READ_BYTES)
        except CorruptError as error:
            alarm("ledger_corrupt", detail=str(error), resume=error.resume)
            cursor = error.resume
            continue
        if not entries:
            return
        yield from entries
        cursor = entries[-1].next


def _standing(replay: _Replay, mail: LogReader, store: ParkedStore, alarm: Reporter) -> list[Standing]:
    standing: list[Standing] = []
    for message_id, tracked in replay.live.items():
        parked = store.get(message_id, content=False)
        if parked is not None:
            tracked.gone.update(delivery.index for delivery in parked.deliveries)
        entry = _mail_at(mail, tracked.lsn, alarm)
        if entry is None:
            continue
        message, content = decode_mail(entry.payload)
        if len(tracked.gone) < len(message.envelope.recipients):
            standing.append(
                Standing(tracked.lsn, message, content, tuple(sorted(tracked.gone)), tuple(tracked.history))
            )
    return standing


def _mail_at(mail: LogReader, lsn: Lsn, alarm: Reporter) -> Entry | None:
    if lsn < mail.oldest:
        # Its segment was released, which happens only after its last delivery was let go.
        return None
    try:
        entries = mail.read(lsn, 1)
    except CorruptError as error:
        alarm("mail_corrupt", detail=str(error), resume=error.resume)
        return None
    return entries[0]


def _missed_changes(missed: list[Attempted | Moved], store: ParkedStore) -> list[Change]:
    rows: dict[MessageId, dict[int, ParkedDelivery]] = {}
    for record in missed:
        if record.id not in rows:
            parked = store.get(record.id, content=False)
            rows[record.id] = {} if parked is None else {row.index: row for row in parked.deliveries}
        rows[record.id].update(follow_record(rows[record.id], record))
    changes: list[Change] = []
    for message_id, deliveries in rows.items():
        staying = tuple(row for row in deliveries.values() if needs_content(row.state))
        gone = tuple(index for index, row in deliveries.items() if not needs_content(row.state))
        if staying:
            changes.append(Update(message_id, staying))
        if gone:
            changes.append(Settle(message_id, gone))
    return changes


def follow_record(rows: dict[int, ParkedDelivery], record: Attempted | Moved) -> dict[int, ParkedDelivery]:
    """The rows that the record is about, as it leaves them; rows that are not there stay away."""
    match record:
        case Attempted():
            return {
                index: after_result(rows[index], result, record.at_ms)
                for result in record.results
                for index in result.indexes
                if index in rows
            }
        case Moved():
            return {index: after_move(rows[index], record) for index in record.indexes if index in rows}
