"""What the two logs hold, as bytes and back.

Both kinds begin with a format byte. Structs are written as msgpack arrays: fields may be appended
with a default, never reordered, removed or given another meaning, so that an older reader
skips what it does not know and a newer one reads what was written before.

Mail log, one record a message::

    format (1) | head length (4, little endian) | head: msgpack(Message) | content, unless in a file

Ledger, one frame for what happened in a turn of delivery's loop::

    format (1) | msgpack(array of `LedgerRecord`), its length always in four bytes

A record of the ledger has a *place*: its frame's LSN and its position in the frame, added. No two records
have the same, since none is shorter than a byte, and places grow in the order of the records. Only the place
of a frame's first record can be read from.

Nothing is ever unpickled, and nothing here trusts a length it did not check.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import msgspec

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mail.envelope import Recipient
from dispatch.mail.ids import MessageId
from dispatch.mail.message import Message
from dispatch.mail.outcome import Scope
from dispatch.mail.reply import Reply
from dispatch.ports import Buffer, Lsn

MAIL_FORMAT = 1
LEDGER_FORMAT = 2
NOT_IN_LOG = Lsn(-1)
"""No place in the mail log."""

_HEAD = struct.Struct("<BI")


class UnreadableRecord(ValueError):
    """A frame whose checksum holds but whose record is none: written by a newer version, or by a bug."""


# ---------------------------------------------------------------- the mail log

_encode_message = msgspec.msgpack.Encoder().encode
_decode_message = msgspec.msgpack.Decoder(Message).decode


def encode_mail(message: Message, content: tuple[Buffer, ...]) -> list[Buffer]:
    """Buffers of one mail record; `content` is empty when it stands in its own file."""
    head = _encode_message(message)
    return [_HEAD.pack(MAIL_FORMAT, len(head)) + head, *content]


def decode_mail(payload: bytes) -> tuple[Message, bytes]:
    """The message and its content (empty when it stands in its own file)."""
    if len(payload) < _HEAD.size:
        raise UnreadableRecord(f"a mail record of {len(payload)} bytes has no head")
    format_, head_length = _HEAD.unpack_from(payload)
    if format_ != MAIL_FORMAT:
        raise UnreadableRecord(f"mail record format {format_}: this version reads {MAIL_FORMAT}")
    body_at = _HEAD.size + head_length
    if body_at > len(payload):
        raise UnreadableRecord(f"a mail record claims a head of {head_length} bytes and is shorter")
    try:
        message = _decode_message(memoryview(payload)[_HEAD.size : body_at])
    except msgspec.MsgspecError as error:
        raise UnreadableRecord(f"mail record head: {error}") from error
    return message, payload[body_at:]


# ---------------------------------------------------------------- the ledger


class Accepted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="accepted"):
    """Delivery took the message up: from here on the ledger answers for it."""

    at_ms: int
    message: Message
    """With its copies behind the recipients of its envelope."""
    mail_lsn: Lsn
    """`NOT_IN_LOG`: it came from another host's queue, and is parked."""
    mail_next: Lsn = Lsn(0)
    """The cursor behind it in the mail log."""
    unanswered: bool = False
    """Its client may never have seen our 250 (RFC 1047): a repeat of it is the client's own."""
    power: bool = False
    """It stood in the mail log when the machine lost power, and may have been tried without a trace since
    the ledger's last sync: *uncertain (power)*."""
    rules: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Which rule decided for which recipients; for those named nowhere, none did: the default relay's."""


class Sending(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="sending"):
    """The end of data is about to leave: until an outcome follows, these recipients are uncertain."""

    at_ms: int
    id: MessageId
    indexes: tuple[int, ...]
    relay: str


class Result(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What became of some recipients of a transaction: those who were answered alike."""

    indexes: tuple[int, ...]
    move: Move
    state: DeliveryState
    scope: Scope
    reply: Reply | None
    reason: str
    due_ms: int | None = None
    """Deferred: when it is tried again."""
    attempts: int = 0
    """Attempts of its family so far that count against the retry limit."""
    relay: str | None = None
    """Deferred: at which relay it is tried then, where that is another one."""


class Attempted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="attempted"):
    """One transaction came to its end; every recipient of it has a result."""

    at_ms: int
    id: MessageId
    relay: str
    attempt: int
    """Counted from 1 within the delivery's family of attempts."""
    results: tuple[Result, ...]
    took_ms: int
    peer: str = ""
    tls: str | None = None
    dsn: bool = False
    """The host offered DSN: notices about who was delivered are its duty now (`Report.dsn`)."""


class Placed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Some deliveries of one message."""

    id: MessageId
    indexes: tuple[int, ...]
    relay: str = ""
    """Of what was sent: to which relay. Empty elsewhere, and where an earlier version wrote it."""


class Parked(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="parked"):
    """The parked store has these on stable storage: for them the mail segment may go."""

    at_ms: int
    placed: tuple[Placed, ...]


class Claimed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="claimed"):
    """Parked deliveries stand in line now, and may be tried: durable before the first of them is.

    Over with their next record. That one goes back untried is not told: the next checkpoint says so.
    """

    at_ms: int
    placed: tuple[Placed, ...]


class Moved(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="moved"):
    """A person or a policy moved deliveries: hold, release, cancel, reopen, quarantine, uncertain policy; a
    rule discarded, refused or held them; or they wait for another relay, because theirs rests."""

    at_ms: int
    id: MessageId
    indexes: tuple[int, ...]
    move: Move
    state: DeliveryState
    by: str
    """`operator`, `uncertain policy`, `recovery`, `failover`, `rule NAME`, `routing`, …"""
    reason: str = ""
    due_ms: int | None = None
    """Waiting again: from when on."""
    relay: str | None = None
    """For which relay they wait, where it is another one, or where the records before may not say it: of a
    delivery that stands in the log, only its attempts do."""
    power: bool = False
    """Waiting as before: they may have been tried without a trace when the machine lost power, *uncertain
    (power)*."""


class Live(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message that still stands in the mail log only."""

    id: MessageId
    mail_lsn: Lsn
    gone: tuple[int, ...]
    """Recipients that have their final outcome, or that the parked store took over."""
    history: tuple[Attempted | Moved, ...] = ()
    """What was decided about the others and is still on its way into the parked store."""
    copies: tuple[Recipient, ...] = ()
    """Its copies, of which the mail log knows nothing: recipients behind those that stand there."""


class Checkpoint(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="checkpoint"):
    """Where a restart may begin: what lies before needs no replay."""

    at_ms: int
    mail_cursor: Lsn
    """Everything below was taken up."""
    live: tuple[Live, ...]
    """Of what lies below the cursor, that which is neither parked nor settled."""
    sent: tuple[Placed, ...] = ()
    """What is between *sending* and its outcome, whoever owns it."""
    claimed: tuple[Placed, ...] = ()
    """Parked deliveries that stand in line or are under way."""


LedgerRecord = Accepted | Sending | Attempted | Parked | Claimed | Moved | Checkpoint

LEDGER_FRAME_BYTES_MAX = 1 << 16
"""A frame takes no further record once it is as large. One record alone may be larger."""

_FRAME_HEAD = struct.Struct(">BBI")
_ARRAY_32 = 0xDD
_encode_into = msgspec.msgpack.Encoder().encode_into
_decode_frame: Callable[[Buffer], list[LedgerRecord]] = msgspec.msgpack.Decoder(list[LedgerRecord]).decode
_decode_apart: Callable[[Buffer], list[msgspec.Raw]] = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_record: Callable[[Buffer], LedgerRecord] = msgspec.msgpack.Decoder(LedgerRecord).decode


class LedgerFrame:
    """Records on their way into the ledger, together."""

    __slots__ = ("_bytes", "records")

    def __init__(self) -> None:
        self._bytes = bytearray(_FRAME_HEAD.size)
        self.records = 0

    def add(self, record: LedgerRecord) -> None:
        _encode_into(record, self._bytes, -1)
        self.records += 1

    @property
    def full(self) -> bool:
        return len(self._bytes) >= LEDGER_FRAME_BYTES_MAX

    def payload(self) -> Buffer:
        """What `decode_ledger` reads; nothing may be added any more."""
        _FRAME_HEAD.pack_into(self._bytes, 0, LEDGER_FORMAT, _ARRAY_32, self.records)
        return self._bytes


def decode_ledger(payload: bytes) -> Sequence[LedgerRecord | UnreadableRecord]:
    """The records of a frame in order; what is none stands there as why it is none."""
    if not payload or payload[0] != LEDGER_FORMAT:
        return [UnreadableRecord(f"ledger format {payload[:1].hex()!r}: this version reads '02'")]
    frame = memoryview(payload)[1:]
    try:
        return _decode_frame(frame)
    except msgspec.MsgspecError:
        return _decode_what_can_be(frame)


def _decode_what_can_be(frame: memoryview) -> list[LedgerRecord | UnreadableRecord]:
    try:
        apart = _decode_apart(frame)
    except msgspec.MsgspecError as error:
        return [UnreadableRecord(f"ledger frame: {error}")]
    records: list[LedgerRecord | UnreadableRecord] = []
    for raw in apart:
        try:
            records.append(_decode_record(raw))
        except msgspec.MsgspecError as error:
            records.append(UnreadableRecord(f"ledger record: {error}"))
    return records
