"""The reactor that tells senders what became of their mail: delivery status notifications (RFC 3464).

Who is told what is `policy.notification`'s to decide, and the letter is `mime.dsn`'s. This module remembers
what is still to be told, and sees to it that it is told once:

1. *Collected*, in the transaction of the tail: what a ledger record gives to tell stands in `dsn_pending`
   when the cursor has passed the record, and not before. Of messages that may still give something, the
   envelope is kept (`notifiable`), because history does not hold what RFC 3461 asks for.
2. *Delays*: of who waits for long it is told as of the moment when the wait had been long enough, so that the
   same comes out again where these tables are made anew. A reopened delivery begins to wait anew.
3. *Sealed*, in one transaction: what was gathered about one message leaves `dsn_pending` as one notice in
   `dsn_outbox`. From there on it does not change: a repeat has the same id and the same date.
4. *Sent*, outside of any transaction, at the earliest when the whole ledger was read: intake is handed the
   notice with its id as idempotency key, so that a repeat is no second notice.
5. *Settled*: sent, or given up where intake refuses for good. What it refuses for now, or does not answer, is
   tried again, for ever: a notice is mail that was accepted.

Where we die between 4 and 5, the notice is found again in two ways: intake knows the key while its log holds
it, and when delivery has taken it out of there, the ledger's `accepted` tells us the key. Where history was
damaged and is made anew, the ledger tells which notices were sent, too; only a message whose recipients
failed at different times may then be told of once more, because what was gathered is no longer known.

Deliberately not here: suppression, alerts, and any look at the content. A notice has a null reverse-path, of
which nothing is ever told: so no loop can begin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from dispatch.mail.delivery import FAILED_STATES, FINAL_STATES, DeliveryState, Move
from dispatch.mail.envelope import BodyType, Envelope, Recipient
from dispatch.mail.ids import MessageId, accepted_ms, spool_form
from dispatch.mail.message import Message
from dispatch.mail.reply import Reply, reply
from dispatch.mime.dsn import Notice, compose, needs_smtputf8, wants_whole
from dispatch.observe import Reporter
from dispatch.outcomes.tail import Happened
from dispatch.policy.copies import copies_of
from dispatch.policy.notification import (
    DsnRules,
    NoticeKind,
    Standing,
    Told,
    asked_for,
    delay_due,
    gathered,
    notice_for,
    notice_id,
    notices_for,
)
from dispatch.spool.records import Accepted, Attempted, Moved, Result
from dispatch.store.history import HistoryStore
from dispatch.store.notices import Notifiable, Pending, Unsent

MESSAGES_AT_ONCE = 20
"""Looked at in one idle step."""
SUBMISSION_BYTES_MAX = 3_800_000
"""The largest notice: a request of the bus (4 MiB) less ample room for the envelope."""
RETRY_FIRST_S = 5.0
RETRY_LONGEST_S = 900.0
REMEMBERED_MS = 30 * 86_400_000
"""How long settled notices are known: longer than a ledger is kept."""

SENT = "dsn_sent"
GIVEN_UP = "dsn_given_up"
"""Log events, and what is counted."""

_DAY_MS = 86_400_000
_TOO_LARGE = reply(552, "5.3.4", "The notice is larger than intake takes")
_KEY = re.compile(r"[0-9a-f]{32}", re.ASCII)
_WAITING = DeliveryState.WAITING
_QUIET_STATES = FINAL_STATES - FAILED_STATES
"""Final for ever: the delivery gives nothing more to tell."""
_TOLD_STATES = FAILED_STATES | {DeliveryState.SUPPRESSED, DeliveryState.DELIVERED}


class Kept(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is remembered of a delivery that may still give something to tell."""

    state: DeliveryState
    since_ms: int
    """Its acceptance, or its last reopening."""
    at_ms: int
    relay: str = ""
    reply: Reply | None = None
    reason: str = ""
    peer: str = ""
    delay_told_ms: int | None = None


class Frozen(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A notice as it stands in the outbox."""

    message: Message
    """Without its recipients and what rules asked of its header."""
    group: tuple[Told, ...]


class NoAnswer(Exception):
    """Whoever was asked is not there, or cannot say for now: to be tried again."""


class Accepting(NamedTuple):
    """Intake has it, and answers for it."""

    id: MessageId
    duplicate: bool
    """It had it before."""


class Post(Protocol):
    """The ways out of this process. Both methods block, and raise `NoAnswer`."""

    def original(self, message: Message, *, whole: bool) -> bytes | None:
        """The content of a message, at least its header section unless `whole`; None where it is gone."""
        ...

    def submit(self, envelope: Envelope, content: bytes, key: str) -> Accepting | Reply:
        """Hand a message in with a null reverse-path; the same key again is the same message."""
        ...


class _Case:
    """A message as it will stand at the end of the batch."""

    __slots__ = ("changed", "fresh", "kept", "message", "silent", "told")

    def __init__(self, message: Message, kept: dict[int, Kept], *, fresh: bool) -> None:
        self.message = message
        self.kept = kept
        """By the recipient's index."""
        self.fresh = fresh
        """Not in the table yet."""
        self.changed = fresh
        self.silent = _is_silent(message)
        self.told: list[Told] = []


_encode = msgspec.msgpack.Encoder().encode
_decode_message = msgspec.msgpack.Decoder(Message).decode
_decode_kept = msgspec.msgpack.Decoder(dict[int, Kept]).decode
_decode_told = msgspec.msgpack.Decoder(Told).decode
_decode_frozen = msgspec.msgpack.Decoder(Frozen).decode


class Bounces:
    """The reactor. It stands before `History`, whose rows of the batch must not be there yet.

    `rules` may be replaced at any time.
    """

    def __init__(
        self,
        store: HistoryStore,
        post: Post,
        rules: DsnRules,
        *,
        expires_after_ms: Callable[[str], int | None],
        wall: Callable[[], float],
        report: Reporter,
    ) -> None:
        """`expires_after_ms`: how long mail for a relay is tried, None for ever."""
        self._store = store
        self._tables = store.notices
        self._post = post
        self.rules = rules
        self._expires_after_ms = expires_after_ms
        self._wall = wall
        self._report = report
        self._cases: dict[MessageId, _Case | None] = {}
        """Of the batch, by message; None: nothing is to be told of it, or nothing is known."""
        self._fresh: dict[MessageId, Message] = {}
        """Accepted in this batch, and nothing happened to it yet."""
        self._rests_until_ms = 0
        self._unanswered = 0
        """How often in a row nobody answered."""

    # ------------------------------------------------------------ 1. collected

    def react(self, batch: Sequence[Happened]) -> None:
        self._cases = {}
        self._fresh = {}
        for _, record in batch:
            match record:
                case Attempted():
                    self._attempted(record)
                case Accepted():
                    self._accepted(record)
                case Moved():
                    self._was_moved(record)
                case _:
                    pass
        self._write()

    def _accepted(self, record: Accepted) -> None:
        message = record.message
        if not message.envelope.reverse_path:
            # RFC 5321 section 6.1: nothing is told of it, ever. It may be a notice of ours.
            self._cases[message.id] = None
            key = message.idempotency_key
            if key is not None and message.origin.source == "internal" and _KEY.fullmatch(key):
                self._settle(MessageId(bytes.fromhex(key)), SENT, record.at_ms)
        elif message.id not in self._cases and not self._store.holds(message.id):
            self._fresh[message.id] = message

    def _attempted(self, record: Attempted) -> None:
        if len(record.results) == 1 and self._is_done(record, record.results[0]):
            # Nearly all mail is: for it, nothing else was made.
            self._cases[record.id] = None
            del self._fresh[record.id]
            return
        case = self._case(record.id)
        if case is None:
            return
        case.changed = True
        for result in record.results:
            state = result.state
            if state in _QUIET_STATES and (state not in _TOLD_STATES or record.dsn or case.silent):
                for index in result.indexes:
                    self._end(case, index)
                continue
            relay = result.relay or record.relay
            for index in result.indexes:
                before = case.kept.get(index)
                if before is None:
                    continue
                now = msgspec.structs.replace(
                    before,
                    state=state,
                    at_ms=record.at_ms,
                    relay=relay,
                    reply=result.reply,
                    reason=result.reason,
                    peer=record.peer,
                )
                self._stand(case, index, now, dsn_passed_on=record.dsn)

    def _is_done(self, record: Attempted, result: Result) -> bool:
        """Whether a message is new, and at its end at once, and nothing is to be told of it."""
        message = self._fresh.get(record.id)
        if message is None or len(result.indexes) != len(message.envelope.recipients):
            return False
        if result.state is DeliveryState.DELIVERED:
            return record.dsn or _is_silent(message)
        return result.state is DeliveryState.CAPTURED

    def _was_moved(self, record: Moved) -> None:
        case = self._case(record.id)
        if case is None:
            return
        case.changed = True
        for index in record.indexes:
            before = case.kept.get(index)
            if before is None:
                continue
            now = msgspec.structs.replace(
                before,
                state=record.state,
                at_ms=record.at_ms,
                relay=record.relay or before.relay,
                reply=before.reply if record.state is _WAITING else None,
                reason=record.reason,
            )
            if record.move is Move.REOPEN:
                now = msgspec.structs.replace(now, since_ms=record.at_ms, delay_told_ms=None)
            self._stand(case, index, now, by=record.by)

    def _stand(
        self, case: _Case, index: int, now: Kept, *, by: str = "", dsn_passed_on: bool = False
    ) -> None:
        """A recipient stands so from here on; tell of it what is to be told."""
        case.kept[index] = now
        if now.state in _TOLD_STATES:
            standing = Standing(
                index, now.state, now.at_ms, now.relay, now.reply, now.reason, now.peer, by, dsn_passed_on
            )
            case.told += notices_for(case.message, (standing,), self.rules)
        if now.state in FINAL_STATES:
            self._end(case, index)

    def _end(self, case: _Case, index: int) -> None:
        """A delivery is at its end: that it is late is no news any more."""
        kept = case.kept.get(index)
        if kept is None:
            return
        if kept.delay_told_ms is not None:
            self._tables.withdraw(case.message.id, index, NoticeKind.DELAY)
        if kept.state not in FAILED_STATES:
            del case.kept[index]

    def _case(self, message_id: MessageId) -> _Case | None:
        try:
            return self._cases[message_id]
        except KeyError:
            case: _Case | None = None
            if (message := self._fresh.pop(message_id, None)) is not None:
                case = _fresh_case(message)
            elif (row := self._tables.load(message_id)) is not None:
                case = _Case(_decode_message(row[0]), _decode_kept(row[1]), fresh=False)
            self._cases[message_id] = case
            return case

    def _write(self) -> None:
        for message_id, message in self._fresh.items():
            self._cases[message_id] = _fresh_case(message)
        added: list[Notifiable] = []
        pending: list[Pending] = []
        for message_id, case in self._cases.items():
            if case is None or not case.changed:
                continue
            pending += _pending(case.told)
            if case.fresh:
                if case.kept or case.told:
                    row = (message_id, _encode(case.message), _encode(case.kept), _waits_since_ms(case))
                    added.append(Notifiable(*row))
            elif case.kept or case.told or self._tables.pending_of(message_id):
                self._tables.change(message_id, _encode(case.kept), _waits_since_ms(case))
            else:
                self._tables.drop(message_id)
        self._tables.add(added)
        self._tables.tell(pending)

    # ------------------------------------------------------------ when there is time

    def idle(self) -> bool:
        """The ledger is read to its end: go on with what was collected, a step at a time."""
        now_ms = int(self._wall() * 1000)
        late = self._collect_delays(now_ms)
        sealed = self._seal(now_ms)
        self._forget(now_ms)
        return self._send_next(now_ms) or late or sealed

    # ------------------------------------------------------------ 2. delays

    def _collect_delays(self, now_ms: int) -> bool:
        """Whether there may be more of them."""
        rules = self.rules
        after_s = rules.delay_notice_after_s
        if after_s is None:
            return False
        late = self._tables.waiting(now_ms - int(after_s * 1000), MESSAGES_AT_ONCE)
        if not late:
            return False
        with self._store.transaction():
            for row in late:
                case = _Case(_decode_message(row.message), _decode_kept(row.standings), fresh=False)
                for index in sorted(case.kept):
                    self._collect_delay(case, index, now_ms, after_s)
                self._tables.change(row.id, _encode(case.kept), _waits_since_ms(case))
                self._tables.tell(_pending(case.told))
        return len(late) == MESSAGES_AT_ONCE

    def _collect_delay(self, case: _Case, index: int, now_ms: int, after_s: float) -> None:
        kept = case.kept[index]
        if kept.state is not _WAITING or not delay_due(kept.since_ms, kept.delay_told_ms, now_ms, after_s):
            return
        due_ms = kept.since_ms + int(after_s * 1000)
        lasts_ms = self._expires_after_ms(kept.relay)
        standing = Standing(
            index,
            _WAITING,
            kept.at_ms,
            kept.relay,
            kept.reply,
            kept.reason,
            kept.peer,
            retry_until_ms=None if lasts_ms is None else kept.since_ms + lasts_ms,
        )
        for told in notices_for(case.message, (standing,), self.rules):
            case.told.append(msgspec.structs.replace(told, at_ms=due_ms))
        # Also where the rules let nothing be told: it is asked once.
        case.kept[index] = msgspec.structs.replace(kept, delay_told_ms=due_ms)

    # ------------------------------------------------------------ 3. sealed

    def _seal(self, now_ms: int) -> bool:
        """Whether there may be more of it."""
        gather_s = self.rules.gather_s
        ripe = self._tables.ripe(now_ms - int(gather_s * 1000), now_ms, MESSAGES_AT_ONCE)
        if not ripe:
            return False
        sealed = False
        with self._store.transaction():
            for message_id in ripe:
                row = self._tables.load(message_id)
                pending = [_decode_told(told) for told in self._tables.pending_of(message_id)]
                groups = gathered(pending, now_ms, gather_s)
                for group in groups:
                    sealed = True
                    self._take_out(pending, group)
                    if row is not None:
                        frozen = Frozen(_pruned(_decode_message(row[0])), group)
                        self._tables.seal(notice_id(group), message_id, now_ms, _encode(frozen))
                if row is not None and not _decode_kept(row[1]) and not self._tables.pending_of(message_id):
                    self._tables.drop(message_id)
        return sealed and len(ripe) == MESSAGES_AT_ONCE

    def _take_out(self, pending: Iterable[Told], group: Sequence[Told]) -> None:
        """With what was said earlier of the same recipients: the last word is what holds."""
        told = {(one.kind, one.index) for one in group}
        for one in pending:
            if (one.kind, one.index) in told:
                self._tables.withdraw(one.message_id, one.index, one.kind)

    # ------------------------------------------------------------ 4. sent

    def _send_next(self, now_ms: int) -> bool:
        """Whether one was settled, so that another one may follow."""
        if now_ms < self._rests_until_ms <= now_ms + int(RETRY_LONGEST_S * 1000):
            return False
        unsent = self._tables.next_unsent(now_ms, now_ms + int(2 * RETRY_LONGEST_S * 1000))
        if unsent is None:
            return False
        frozen = _decode_frozen(unsent.frozen)
        notice = notice_for(frozen.message, frozen.group, self.rules, unsent.at_ms)
        try:
            answer = self._hand_in(notice, frozen.message)
        except NoAnswer as fault:
            self._rest(now_ms, str(fault))
            return False
        except Exception as fault:
            # One that cannot be written must not keep history, and all others, waiting for ever.
            answer = reply(554, "5.6.0", f"The notice cannot be written: {fault!r}")
        self._unanswered = 0
        if isinstance(answer, Reply) and not answer.permanent:
            self._put_off(unsent, now_ms, str(answer))
            return False
        self._told(unsent, frozen, answer)
        return True

    def _hand_in(self, notice: Notice, message: Message) -> Accepting | Reply:
        """As much of the original goes back as intake takes."""
        whole = wants_whole(notice)
        original = self._post.original(message, whole=whole)
        answer: Accepting | Reply = _TOO_LARGE
        for returned, header_only in ((original, not whole), (original, True), (None, True)):
            content = compose(notice, returned, header_only=header_only)
            if len(content) <= SUBMISSION_BYTES_MAX:
                answer = self._post.submit(_envelope(notice, content), content, notice.id.hex())
            if not (isinstance(answer, Reply) and answer.code == _TOO_LARGE.code):
                break
        return answer

    def _rest(self, now_ms: int, why: str) -> None:
        """Somebody does not answer: ask nobody for a while, since waiting for it keeps history waiting."""
        wait_s = min(RETRY_LONGEST_S, RETRY_FIRST_S * 2 ** min(self._unanswered, 16))
        self._rests_until_ms = now_ms + int(wait_s * 1000)
        self._unanswered += 1
        self._report("dsn_put_off", why=why, wait_s=wait_s)

    def _put_off(self, unsent: Unsent, now_ms: int, why: str) -> None:
        wait_s = min(RETRY_LONGEST_S, RETRY_FIRST_S * 2 ** min(unsent.tries, 16))
        with self._store.transaction():
            self._tables.put_off(unsent.notice_id, now_ms + int(wait_s * 1000))
        self._report("dsn_put_off", notice=spool_form(unsent.notice_id), why=why, wait_s=wait_s)

    # ------------------------------------------------------------ 5. settled

    def _told(self, unsent: Unsent, frozen: Frozen, answer: Accepting | Reply) -> None:
        kind = GIVEN_UP if isinstance(answer, Reply) else SENT
        with self._store.transaction():
            self._settle(unsent.notice_id, kind, unsent.at_ms)
        about: dict[str, object] = {
            "id": spool_form(frozen.message.id),
            "kind": frozen.group[0].kind.lower(),
            "recipients": len(frozen.group),
        }
        if isinstance(answer, Reply):
            self._report("dsn_given_up", **about, why=str(answer))
        else:
            self._report("dsn_sent", **about, notice=spool_form(answer.id), again=answer.duplicate or None)

    def _settle(self, notice: MessageId, kind: str, at_ms: int) -> None:
        state = "sent" if kind == SENT else "given up"
        if self._tables.settle(notice, at_ms, state):
            self._store.count({(accepted_ms(notice) // _DAY_MS, "", kind): 1})

    def _forget(self, now_ms: int) -> None:
        before_ms = now_ms - REMEMBERED_MS
        if self._tables.has_settled(before_ms):
            with self._store.transaction():
                self._tables.forget(before_ms, MESSAGES_AT_ONCE)


def _fresh_case(message: Message) -> _Case:
    """Every recipient waits; of copies nothing is told."""
    waits = Kept(_WAITING, message.accepted_ms, message.accepted_ms)
    recipients = len(message.envelope.recipients) - len(copies_of(message))
    return _Case(message, dict.fromkeys(range(recipients), waits), fresh=True)


def _is_silent(message: Message) -> bool:
    """Nobody asked anything, and so nobody to be told of success."""
    for recipient in message.envelope.recipients:
        if recipient.notify is not None and not recipient.copy_to:
            return False
    return True


def _waits_since_ms(case: _Case) -> int | None:
    """Since when the first recipient waits of whose delay its sender wants to know and does not."""
    recipients = case.message.envelope.recipients
    return min(
        (
            kept.since_ms
            for index, kept in case.kept.items()
            if kept.state is _WAITING
            and kept.delay_told_ms is None
            and NoticeKind.DELAY in asked_for(recipients[index].notify)
        ),
        default=None,
    )


def _pending(told: Iterable[Told]) -> list[Pending]:
    return [Pending(one.message_id, one.index, one.kind, one.at_ms, _encode(one)) for one in told]


def _envelope(notice: Notice, content: bytes) -> Envelope:
    """A notice asks for none about itself (RFC 3461 section 6.1)."""
    body: BodyType = "7BIT" if content.isascii() else "8BITMIME"
    return Envelope("", (Recipient(notice.to, "NEVER"),), body, needs_smtputf8(notice))


def _pruned(message: Message) -> Message:
    """As much of it as a notice says."""
    envelope = msgspec.structs.replace(message.envelope, recipients=())
    summary = msgspec.structs.replace(message.summary, headers=())
    return msgspec.structs.replace(message, envelope=envelope, summary=summary)
