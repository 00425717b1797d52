"""The projection: what each ledger record means for the rows and counters of history.

Within a batch each message is worked on in memory and written once, at the end: one that was accepted
and delivered within the batch is three inserts, in whatever many records it was told.

What is counted, by day (UTC) and relay: messages *received* (relay empty); deliveries by how an
attempt or a move left them: *delivered*, *captured*, *failed*, *deferred*, *uncertain*, *quarantined*,
*cancelled*, *discarded*, *suppressed*; and *uncertain (power)*, what a power cut may have delivered without a
trace. Of each login: how many messages were kept of it, and when the last one came.

A record about a message that history does not know (purged, or lost with a gap in the ledger) is
counted and otherwise passed over. A second `accepted` of a message changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from dispatch.mail.delivery import FINAL_STATES, DeliveryState, Move, least_finished
from dispatch.mail.ids import MessageId
from dispatch.mail.reply import Reply
from dispatch.outcomes.tail import Happened
from dispatch.policy.copies import copies_of
from dispatch.spool.records import Accepted, Attempted, Moved, Sending
from dispatch.store.history import TEXT_MAX, HistoryStore, Row, Standing, scrub

INDEX_AT_ONCE = 200
"""Messages put into the search index in one idle step: a few milliseconds."""

RECEIVED = "received"
UNCERTAIN_POWER = "uncertain (power)"
COUNTED_STATES: dict[DeliveryState, str] = {
    DeliveryState.DELIVERED: "delivered",
    DeliveryState.CAPTURED: "captured",
    DeliveryState.BOUNCED: "failed",
    DeliveryState.EXPIRED: "failed",
    DeliveryState.GAVE_UP: "failed",
    DeliveryState.UNCERTAIN: "uncertain",
    DeliveryState.QUARANTINED: "quarantined",
    DeliveryState.CANCELLED: "cancelled",
    DeliveryState.DISCARDED: "discarded",
    DeliveryState.SUPPRESSED: "suppressed",
}
DEFERRED = "deferred"

_DAY_MS = 86_400_000
_WAITING = DeliveryState.WAITING


class _Draft:
    """A message as it will stand at the end of the batch."""

    __slots__ = ("accepted", "changed", "deliveries", "number", "recipients")

    def __init__(
        self, number: int, accepted: Accepted | None, deliveries: list[Standing], recipients: int
    ) -> None:
        self.number = number
        self.recipients = recipients
        """How many of the deliveries are no copies; none, where only copies came from another host."""
        self.accepted = accepted
        """Set where this batch is the first to speak of it."""
        self.deliveries = deliveries
        self.changed: set[int] = set()

    def knows(self, indexes: tuple[int, ...]) -> bool:
        """It has these deliveries: where a message is accepted twice, after a damaged ledger, it may have
        other copies than before."""
        return max(indexes, default=0) < len(self.deliveries)

    def stand(self, index: int, standing: Standing) -> None:
        self.deliveries[index] = standing
        if self.accepted is None:
            self.changed.add(index)


class History:
    """The reactor that writes history."""

    def __init__(self, store: HistoryStore) -> None:
        self._store = store
        self._drafts: dict[MessageId, _Draft | None] = {}
        self._attempts: list[Row] = []
        self._moved: list[Row] = []
        self._counts: dict[tuple[int, str, str], int] = {}
        self._logins: dict[str, tuple[int, int]] = {}

    def react(self, batch: Sequence[Happened]) -> None:
        self._drafts = {}
        self._attempts = []
        self._moved = []
        self._counts = {}
        self._logins = {}
        for lsn, record in batch:
            match record:
                case Attempted():
                    self._attempted(lsn, record)
                case Accepted():
                    self._accepted(record)
                case Sending():
                    self._sending(record)
                case Moved():
                    self._was_moved(lsn, record)
                case _:
                    # Parked and checkpoint: where a delivery waits is no matter of history.
                    pass
        self._write()

    def idle(self) -> bool:
        return self._store.index(INDEX_AT_ONCE) == INDEX_AT_ONCE

    # ------------------------------------------------------------ records

    def _accepted(self, record: Accepted) -> None:
        message = record.message
        if self._drafts.get(message.id) is not None:
            return
        number = self._store.new_number(message.id)
        if number is None:
            return
        deliveries = [Standing(_WAITING, "", 0, record.at_ms, None)] * len(message.envelope.recipients)
        recipients = len(deliveries) - len(copies_of(message))
        self._drafts[message.id] = _Draft(number, record, deliveries, recipients)
        self._count(record.at_ms, "", RECEIVED, 1)
        if (login := message.origin.login) is not None:
            messages, last_ms = self._logins.get(login, (0, 0))
            self._logins[login] = messages + 1, max(last_ms, message.accepted_ms)
        if record.power:
            self._count(record.at_ms, "", UNCERTAIN_POWER, len(deliveries))

    def _sending(self, record: Sending) -> None:
        draft = self._draft(record.id)
        if draft is not None and draft.knows(record.indexes):
            for index in record.indexes:
                before = draft.deliveries[index]
                standing = Standing(
                    DeliveryState.ATTEMPTING, record.relay, before.attempts, record.at_ms, None
                )
                draft.stand(index, standing)

    def _attempted(self, lsn: int, record: Attempted) -> None:
        at_ms, relay, attempt = record.at_ms, record.relay, record.attempt
        draft = self._draft(record.id)
        for place, result in enumerate(record.results):
            indexes, state = result.indexes, result.state
            kind = COUNTED_STATES.get(state) or (DEFERRED if state is _WAITING else None)
            if kind is not None:
                self._count(at_ms, relay, kind, len(indexes))
            if draft is None or not draft.knows(indexes):
                continue
            standing = Standing(state, relay, attempt, at_ms, result.due_ms)
            for index in indexes:
                draft.stand(index, standing)
            self._attempts.append(
                (
                    draft.number,
                    lsn,
                    place,
                    at_ms,
                    relay,
                    attempt,
                    _positions(indexes),
                    result.move,
                    state,
                    result.scope,
                    _words(result.reply),
                    scrub(result.reason),
                    result.due_ms,
                    record.took_ms,
                    record.peer,
                    record.tls,
                )
            )

    def _was_moved(self, lsn: int, record: Moved) -> None:
        draft = self._draft(record.id)
        kind = UNCERTAIN_POWER if record.power else COUNTED_STATES.get(record.state)
        if draft is None or not draft.knows(record.indexes):
            if kind is not None:
                self._count(record.at_ms, record.relay or "", kind, len(record.indexes))
            return
        for index in record.indexes:
            before = draft.deliveries[index]
            relay = record.relay or before.relay
            if kind is not None:
                self._count(record.at_ms, relay, kind, 1)
            attempts = 0 if record.move is Move.REOPEN else before.attempts
            draft.stand(index, Standing(record.state, relay, attempts, record.at_ms, record.due_ms))
        self._moved.append(
            (
                draft.number,
                lsn,
                record.at_ms,
                _positions(record.indexes),
                record.move,
                record.state,
                record.by,
                scrub(record.reason),
            )
        )

    # ------------------------------------------------------------ drafts

    def _draft(self, message_id: MessageId) -> _Draft | None:
        try:
            return self._drafts[message_id]
        except KeyError:
            number = self._store.number_of(message_id)
            draft = None if number is None else self._kept_draft(number)
            self._drafts[message_id] = draft
            return draft

    def _kept_draft(self, number: int) -> _Draft:
        deliveries = self._store.standing_of(number)
        # Nearly every message has one delivery, and no second question is asked of it.
        recipients = 1 if len(deliveries) == 1 else self._store.recipients_of(number)
        return _Draft(number, None, deliveries, recipients)

    def _count(self, at_ms: int, relay: str, kind: str, count: int) -> None:
        key = (at_ms // _DAY_MS, relay, kind)
        self._counts[key] = self._counts.get(key, 0) + count

    def _write(self) -> None:
        messages: list[Row] = []
        deliveries: list[Row] = []
        for draft in self._drafts.values():
            if draft is None:
                continue
            if draft.accepted is not None:
                messages.append(_message_row(draft, draft.accepted))
                deliveries += _delivery_rows(draft, draft.accepted)
            elif draft.changed:
                changed = [(index, draft.deliveries[index]) for index in sorted(draft.changed)]
                self._store.change_deliveries(draft.number, changed)
                self._store.change_message(draft.number, *_outcome(draft))
        self._store.add(messages, deliveries, self._attempts, self._moved)
        self._store.count(self._counts)
        if self._logins:
            self._store.count_logins(self._logins)


def _outcome(draft: _Draft) -> tuple[str, int | None]:
    """The state that the message is shown with, and when its last delivery came to its end; copies aside."""
    deliveries = draft.deliveries[: draft.recipients] or draft.deliveries
    if len(deliveries) == 1:
        only = deliveries[0]
        return only.state, only.since_ms if only.state in FINAL_STATES else None
    states = frozenset([standing.state for standing in deliveries])
    settled = states <= FINAL_STATES
    return least_finished(states), max(standing.since_ms for standing in deliveries) if settled else None


def _message_row(draft: _Draft, accepted: Accepted) -> Row:
    message = accepted.message
    envelope, origin, summary = message.envelope, message.origin, message.summary
    texts: Sequence[str] = (
        envelope.reverse_path,
        origin.client_name,
        summary.subject,
        summary.header_from,
        summary.message_id,
        summary.mailer,
        " ".join(summary.tags),
    )
    # Nearly all text is harmless, and one look at all of it is cheaper than one at each.
    together = "".join(texts)
    if not (together.isprintable() and len(together) <= TEXT_MAX):
        texts = [scrub(text) for text in texts]
    reverse_path, client_name, subject, header_from, message_id, mailer, tags = texts
    state, settled_ms = _outcome(draft)
    return (
        draft.number,
        message.id,
        state,
        settled_ms,
        reverse_path,
        draft.recipients,
        message.size_bytes,
        message.priority,
        origin.source,
        origin.client_address,
        client_name,
        origin.login,
        origin.tls,
        subject,
        header_from,
        message_id,
        mailer,
        tags,
        accepted.unanswered,
        accepted.power,
    )


def _delivery_rows(draft: _Draft, accepted: Accepted) -> list[Row]:
    number, recipients = draft.number, accepted.message.envelope.recipients
    return [
        (
            number,
            index,
            scrub(recipients[index].address),
            standing.state,
            standing.relay,
            standing.attempts,
            standing.since_ms,
            standing.due_ms,
        )
        for index, standing in enumerate(draft.deliveries)
    ]


def _positions(indexes: tuple[int, ...]) -> str:
    return str(indexes[0]) if len(indexes) == 1 else " ".join(map(str, indexes))


def _words(reply: Reply | None) -> str | None:
    if reply is None:
        return None
    if len(reply.lines) == 1 and reply.enhanced:
        return scrub(f"{reply.code} {reply.enhanced} {reply.lines[0]}")
    return scrub(str(reply))
