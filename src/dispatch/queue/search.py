"""When the ledger is damaged: look in the mail log itself for what nobody accounts for.

The ledger was followed from its beginning then, and is read once more for one question: which recipients
need the log no more? Every message that still stands in the log below the cursor, and has others, is
standing. Where the readable part of the ledger does not follow it, the damaged part may have held its
outcome: it is *uncertain*, so that its uncertain policy decides and nothing is repeated without a word.

Of its copies only those are known that the readable part, or the parked store, tells of: the others are not
made again, since they may have arrived.

Slow and seldom: it costs the reading of both logs.
"""

from __future__ import annotations

from dispatch.mail.ids import MessageId
from dispatch.policy.copies import copies_of, joined_by
from dispatch.ports import LogReader, Lsn
from dispatch.queue.moves import needs_content
from dispatch.queue.replay import READ_BYTES, Records, Replay, Standing
from dispatch.spool.faults import CorruptError
from dispatch.spool.records import (
    Attempted,
    Checkpoint,
    LedgerRecord,
    Moved,
    Parked,
    UnreadableRecord,
    decode_mail,
)
from dispatch.store.parked import ParkedStore


def search_mail(ledger: LogReader, mail: LogReader, replay: Replay, store: ParkedStore) -> list[Standing]:
    """What stands in the mail log below `replay.cursor`; adds what is uncertain to `replay.sent`."""
    places = _mail_below(mail, replay.cursor)
    gone: dict[MessageId, set[int]] = {message_id: set() for message_id in places}
    for _, record in Records(ledger, ledger.oldest):
        for message_id, indexes in _gone_by(record):
            if message_id in gone:
                gone[message_id].update(indexes)
    standing: list[Standing] = []
    for message_id, lsn in places.items():
        parked = store.get(message_id, content=False)
        if parked is not None:
            gone[message_id].update(delivery.index for delivery in parked.deliveries)
        message, content = decode_mail(mail.read(lsn, 1)[0].payload)
        tracked = replay.live.get(message_id)
        if tracked is not None:
            message = joined_by(message, tracked.copies)
        elif parked is not None:
            message = joined_by(message, copies_of(parked.message))
        everybody = set(range(len(message.envelope.recipients)))
        # Of copies that nobody knows any more there may be a word all the same.
        gone[message_id] &= everybody
        left = everybody - gone[message_id]
        if not left:
            continue
        if tracked is None:
            sent = replay.sent.setdefault(message_id, {})
            sent.update({index: "" for index in left if index not in sent})
        history = () if tracked is None else tuple(tracked.history)
        standing.append(Standing(lsn, message, content, tuple(sorted(gone[message_id])), history))
    return standing


def _mail_below(mail: LogReader, cursor: Lsn) -> dict[MessageId, Lsn]:
    """Every message that the mail log still holds below a cursor, as far as it can be read."""
    places: dict[MessageId, Lsn] = {}
    at = mail.oldest
    while at < cursor:
        try:
            entries = mail.read(at, READ_BYTES)
        except CorruptError as error:
            # Intake's recovery has told of it.
            at = error.resume
            continue
        if not entries:
            break
        for entry in entries:
            at = entry.next
            if entry.lsn >= cursor:
                break
            try:
                message, _ = decode_mail(entry.payload)
            except UnreadableRecord:
                continue
            places[message.id] = entry.lsn
    return places


def _gone_by(record: LedgerRecord) -> list[tuple[MessageId, tuple[int, ...]]]:
    """Which recipients a record tells to need the log no more."""
    match record:
        case Attempted():
            return [
                (record.id, result.indexes) for result in record.results if not needs_content(result.state)
            ]
        case Moved():
            return [] if needs_content(record.state) else [(record.id, record.indexes)]
        case Parked():
            return [(placed.id, placed.indexes) for placed in record.placed]
        case Checkpoint():
            return [(live.id, live.gone) for live in record.live]
        case _:
            return []
