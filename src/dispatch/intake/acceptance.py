"""A whole submission becomes a record of the mail log, and only then an answer.

Used by every door. The header section is looked at once (loops, what is missing, what history shows), our
trace is put in front, and the record is appended; the answer follows from the log's callback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from dispatch.mail.envelope import Envelope
from dispatch.mail.ids import MessageId, new_message_id, spool_form
from dispatch.mail.message import ContentFile, Message, Origin, Priority
from dispatch.mail.reply import Reply, reply
from dispatch.mime.inspect import Inspection, inspect
from dispatch.mime.trace import WithType, front_fields, received_field
from dispatch.policy.admission import Refusal, refuse_content, refuse_named_relay, refuse_undurable
from dispatch.policy.conditions import BLANK
from dispatch.policy.logins import pin_of
from dispatch.policy.size_limits import NO_LIMITS, NONE, SizeLimits
from dispatch.ports import AppendFault, Buffer, Chance, Clock, Log, Lsn
from dispatch.spool.records import encode_mail


class AcceptanceRules(msgspec.Struct, frozen=True):
    """The settings that decide at the end of data."""

    server_name: str
    size_bytes_max: int | None
    received_max: int
    own_received_max: int
    sizes: SizeLimits = NO_LIMITS
    """What the relays take to which routing leads."""
    header_names: frozenset[str] = frozenset()
    """The header fields, in small letters, that routing rules ask for."""
    relays: Mapping[str, bool] = {}
    """Those that a message may name, and whether they are switched on."""


class Submission(msgspec.Struct, frozen=True):
    """What a client offered whole, and has no answer to yet."""

    envelope: Envelope
    origin: Origin
    with_type: WithType
    size_bytes: int
    """As RFC 1870 counts: what the client sent, before our trace."""
    tags: tuple[str, ...] = ()
    """Of the login; those of the message come behind them."""
    priority: Priority = "normal"
    """Where the message does not say another one."""
    idempotency_key: str | None = None
    pin: str = ""
    """The relay that all mail of its login takes; empty: the rules say."""
    may_name_relay: bool = False
    """The message may name another one."""


class Marked(msgspec.Struct, frozen=True):
    """A submission that may be kept: its id, and what goes in front of its content."""

    id: MessageId
    accepted_ms: int
    inspection: Inspection
    trace: bytes


Answered = Callable[[Reply, MessageId | None, Refusal | None], None]
"""The answer; the id when it was accepted; the refusal when it was not."""


class Acceptance:
    """Takes responsibility for submissions. One for the process; `rules` may be exchanged while it runs."""

    def __init__(self, clock: Clock, chance: Chance, log: Log, rules: AcceptanceRules) -> None:
        self._clock = clock
        self._chance = chance
        self._log = log
        self.rules = rules

    def mark(self, submission: Submission, head: bytes) -> Marked | Refusal:
        """Look at the header section, `head` being the content or its first block, and make our trace."""
        rules = self.rules
        inspection = inspect(head, rules.server_name, rules.header_names)
        refusal = self.refuse(submission, inspection)
        if refusal is not None:
            return refusal
        wall_s = self._clock.wall()
        accepted_ms = int(wall_s * 1000)
        message_id = new_message_id(accepted_ms, self._chance.token(10))
        id_text = spool_form(message_id)
        recipients = submission.envelope.recipients
        received = received_field(
            client_name=submission.origin.client_name,
            client_address=submission.origin.client_address,
            own_name=rules.server_name,
            with_type=submission.with_type,
            id_text=id_text,
            recipient=recipients[0].address if len(recipients) == 1 else None,
            epoch_s=int(wall_s),
            tls=submission.origin.tls,
        )
        trace = front_fields(
            received,
            has_date=inspection.has_date,
            has_message_id=inspection.has_message_id,
            starts_with_body=inspection.starts_with_body,
            own_name=rules.server_name,
            id_text=id_text,
            epoch_s=int(wall_s),
        )
        return Marked(message_id, accepted_ms, inspection, trace)

    def refuse(self, submission: Submission, inspection: Inspection) -> Refusal | None:
        """Why this content is not kept; of a size that is not known yet (0) nothing is said."""
        rules = self.rules
        if submission.may_name_relay:
            refusal = refuse_named_relay(inspection.relays, rules.relays)
            if refusal is not None:
                return refusal
        relay, relay_size_bytes_max = self._size_limit(submission, inspection)
        return refuse_content(
            size_bytes=submission.size_bytes,
            size_bytes_max=rules.size_bytes_max,
            received_count=inspection.received_count,
            received_max=rules.received_max,
            own_received_count=inspection.own_received_count,
            own_received_max=rules.own_received_max,
            relay=relay,
            relay_size_bytes_max=relay_size_bytes_max,
        )

    def _size_limit(self, submission: Submission, inspection: Inspection) -> tuple[str, int | None]:
        """The relay whose limit is reached, and the limit."""
        sizes, size_bytes = self.rules.sizes, submission.size_bytes
        if sizes.fits_everywhere(size_bytes):
            return NONE
        now_ms = int(self._clock.wall() * 1000)
        message = _message(BLANK.id, now_ms, submission, inspection, size_bytes)
        return sizes.of_message(message, size_bytes, now_ms)

    def accept(self, submission: Submission, content: bytes, answered: Answered) -> None:
        """Keep a submission whose content is in memory; `answered` follows when it is durable, or refused."""
        marked = self.mark(submission, content)
        if isinstance(marked, Refusal):
            answered(marked.reply, None, marked)
            return
        start = marked.inspection.header_start
        body: Buffer = memoryview(content)[start:] if start else content
        self._append(submission, marked, (marked.trace, body), None, len(marked.trace) + len(body), answered)

    def accept_file(
        self, submission: Submission, marked: Marked, file: ContentFile, answered: Answered
    ) -> None:
        """Keep a submission whose content, trace included, is on stable storage in a file of its own."""
        self._append(submission, marked, (), file, file.size_bytes, answered)

    def _append(
        self,
        submission: Submission,
        marked: Marked,
        content: tuple[Buffer, ...],
        file: ContentFile | None,
        size_bytes: int,
        answered: Answered,
    ) -> None:
        message = _message(marked.id, marked.accepted_ms, submission, marked.inspection, size_bytes, file)
        self._log.append(encode_mail(message, content), partial(_appended, marked.id, answered))


def _message(
    message_id: MessageId,
    accepted_ms: int,
    submission: Submission,
    inspection: Inspection,
    size_bytes: int,
    file: ContentFile | None = None,
) -> Message:
    summary = inspection.summary
    if submission.tags:
        tags = tuple(dict.fromkeys(submission.tags + summary.tags))
        summary = msgspec.structs.replace(summary, tags=tags)
    return Message(
        message_id,
        accepted_ms,
        submission.envelope,
        submission.origin,
        summary,
        size_bytes,
        file,
        inspection.priority or submission.priority,
        submission.idempotency_key,
        pin_of(submission.pin, submission.may_name_relay, inspection.relays),
    )


def _appended(message_id: MessageId, answered: Answered, result: Lsn | AppendFault) -> None:
    """The log has spoken: on stable storage, or never."""
    if isinstance(result, AppendFault):
        refusal = refuse_undurable(full=result.full)
        answered(refusal.reply, None, refusal)
    else:
        answered(reply(250, "2.0.0", f"queued as {spool_form(message_id)}"), message_id, None)
