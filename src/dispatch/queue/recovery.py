"""What a restart must know: made from the last checkpoint, the ledger after it, the parked store and the log.

The three may disagree about a delivery, because a crash can come between any two writes. The
order of the writes (see the package) makes the answer simple: *ledger beats parked, parked beats log*.

- The ledger is replayed from the last checkpoint, or from where the parked store had followed it, if
  that is earlier. Changes that the parked store had not made yet are made now.
- A delivery of the log that the ledger has settled, or that the parked store holds, is not the log's.
- *Sending* without an outcome: uncertain. The uncertain policy decides; nothing fails over by itself, so what
  was tried stays with its relay, also where the settings have another route for it now.
- A record that cannot be read is passed over, loudly: a damaged ledger costs repeats, never the start. A mail
  record that an earlier version could not read stays in the log until one can.
- A power cut takes out what the ledger was told since its last sync, and with it who was tried. Whoever may
  have been is marked *uncertain (power)*: what stands in the log, beyond the last `accepted` record or taken
  up before it, and what was *claimed* from the parked store and has no word since (decision 0010).
"""

from __future__ import annotations

from typing import NamedTuple

from dispatch.mail.ids import MessageId
from dispatch.observe import Reporter
from dispatch.policy.copies import joined_by
from dispatch.ports import Entry, LogReader, Lsn
from dispatch.queue.moves import needs_content
from dispatch.queue.replay import Records, Replay, Standing, follow_record, silence
from dispatch.queue.search import search_mail
from dispatch.spool.faults import CorruptError, ReleasedError
from dispatch.spool.records import Attempted, Moved, decode_mail
from dispatch.store.parked import Change, ParkedDelivery, ParkedStore, Settle, Update


class Recovered(NamedTuple):
    """Where the scheduler goes on."""

    cursor: Lsn
    """Everything below was taken up."""
    standing: list[Standing]
    sent: dict[MessageId, dict[int, str]]
    """*Sending* without an outcome, and to which relay, empty where nobody knows: uncertain, whoever owns
    them."""
    claimed: dict[MessageId, set[int]]
    """Parked deliveries that stood in line: after a power cut they may have been tried without a trace."""
    changes: list[Change]
    """What the parked store had not followed yet."""
    replayed: int
    """Ledger records read."""
    unreadable: list[Entry]
    """Mail records below the cursor that were not taken up, because no version so far could read them."""
    damaged: bool = False
    """The ledger could not be followed from its checkpoint: what it does not account for was searched for in
    the mail log, and what stands beyond the cursor may have been tried without a trace."""


def recover(
    ledger: LogReader, checkpoint: Lsn, mail: LogReader, store: ParkedStore, alarm: Reporter = silence
) -> Recovered:
    """Read what the last run left. Nothing is written; blocks, so call it before the loop runs."""
    parked_through = Lsn(store.ledger_lsn)
    replay = Replay(parked_through)
    # The parked store is behind the checkpoint only where somebody put an older one back.
    begin = checkpoint if checkpoint <= parked_through else Lsn(0)
    damaged = replay.follow_all(Records(ledger, max(begin, ledger.oldest), alarm))
    if damaged or (checkpoint > 0 and checkpoint not in replay.checkpoints):
        damaged = True
        alarm("ledger_incomplete", checkpoint=checkpoint, records=replay.records)
        replay = Replay(parked_through)
        replay.follow_all(Records(ledger, ledger.oldest))
        mail.vouch(replay.cursor)
        standing = search_mail(ledger, mail, replay, store)
    else:
        # Intake, which starts beside us, may not have put its mark right yet after a power cut.
        mail.vouch(replay.cursor)
        standing = _standing(replay, mail, store, alarm)
    unreadable = [found for lsn in replay.unreadable if (found := _mail_at(mail, lsn, alarm)) is not None]
    cursor = _cursor(replay.cursor, mail, silence if damaged else alarm)
    changes = _missed_changes(replay.missed, store)
    return Recovered(
        cursor, standing, replay.sent, replay.claimed, changes, replay.records, unreadable, damaged
    )


def _cursor(cursor: Lsn, mail: LogReader, alarm: Reporter) -> Lsn:
    """Where to go on taking up. What lies below the oldest record kept was taken up before it was released,
    unless somebody removed files."""
    try:
        mail.read(cursor, 1)
    except ReleasedError as error:
        alarm("mail_missing", start=cursor, resume=error.oldest)
        return error.oldest
    except CorruptError:
        # Told of, and passed, when it is taken up.
        pass
    return cursor


def _standing(replay: Replay, mail: LogReader, store: ParkedStore, alarm: Reporter) -> list[Standing]:
    standing: list[Standing] = []
    for message_id, tracked in replay.live.items():
        parked = store.get(message_id, content=False)
        if parked is not None:
            tracked.gone.update(delivery.index for delivery in parked.deliveries)
        entry = _mail_at(mail, tracked.lsn, alarm)
        if entry is None:
            continue
        message, content = decode_mail(entry.payload)
        message = joined_by(message, tracked.copies)
        everybody = set(range(len(message.envelope.recipients)))
        # The parked store may have copies of it that this acceptance does not have.
        gone = tracked.gone & everybody
        if gone != everybody:
            standing.append(
                Standing(tracked.lsn, message, content, tuple(sorted(gone)), tuple(tracked.history))
            )
    return standing


def _mail_at(mail: LogReader, lsn: Lsn, alarm: Reporter) -> Entry | None:
    if lsn < mail.oldest:
        # Its segment was released, which happens only after its last delivery was let go.
        return None
    try:
        entries = mail.read(lsn, 1)
    except CorruptError as error:
        alarm("mail_corrupt", why=str(error), resume=error.resume)
        return None
    if not entries:
        alarm("mail_missing", start=lsn, resume=mail.durable)
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
