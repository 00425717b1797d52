"""The private socket: mail of the relay's own (notices to senders), handed in by its other processes.

The same acceptance as at every other door: our trace in front, one record in the mail log, and an answer only
when that is on stable storage. Who may speak is the bus's to know (root, and our own user), so no policy of
strangers is asked; only what the disk, the size and the loops say holds here as well.

A submission may carry an *idempotency key*. It stands in the record, so that the log itself remembers it: the
first submission that carries a key after a start has the log read for keys, as far as the log is kept and
`SCAN_BYTES_MAX` goes. A key that is known is answered with the first id, and nothing is accepted. Beyond that
window, whoever repeats must look into the ledger first, where the keys of what delivery took up stand.

Traps: a key is known when its record is durable, not before: a repeat meanwhile waits for the first one's
answer. And whoever asked may be gone when the record is durable; the key is remembered all the same.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import msgspec

from dispatch.intake.acceptance import Acceptance, Submission
from dispatch.intake.incoming import Incoming
from dispatch.mail.envelope import Envelope
from dispatch.mail.ids import MessageId
from dispatch.mail.message import Origin
from dispatch.mail.reply import Reply, reply
from dispatch.policy.admission import Refusal, refuse_undurable
from dispatch.policy.local_names import LocalNames
from dispatch.ports import DiskLevel, LogReader, Lsn, Worker
from dispatch.spool.faults import CorruptError, ReleasedError
from dispatch.spool.records import UnreadableRecord, decode_mail

SCAN_BYTES_MAX = 256 << 20
"""How much of the mail log is read for keys: a second or two of a thread beside the loop."""
KEYS_MAX = 50_000
"""The latest ones are known."""
KEY_CHARS_MAX = 128
_READ_BYTES = 1 << 20
_OWN_ADDRESS = "127.0.0.1"

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_MALFORMED_PATH = reply(553, "5.1.3", "No such path can be written")
_MALFORMED_KEY = reply(554, "5.5.4", f"A key has 1 to {KEY_CHARS_MAX} characters")
_NOBODY = reply(554, "5.5.1", "No recipients")
_BARE_NEWLINE = reply(554, "5.6.0", "Lines end with CRLF")


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """Take this mail. Answered with `Submitted` or `Refused`; without an answer, it may have been taken."""

    envelope: Envelope
    content: bytes
    """Header section and body, CRLF throughout."""
    idempotency_key: str | None = None


class Submitted(msgspec.Struct, frozen=True, tag="submitted"):
    """It is on stable storage."""

    id: MessageId
    duplicate: bool = False
    """It was there before under this key; the id is the first one's."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Nothing of it is kept; 4yz: for now."""

    reply: Reply


Request = Submit
Answer = Submitted | Refused


class KeptLog(LogReader, Protocol):
    """The mail log, as it is read for keys."""

    def last(self, size_bytes: int) -> Lsn:
        """Where to begin to read at least the last so many bytes, or all that is kept."""
        ...

    def close(self) -> None: ...


class KnownKeys:
    """Which keys were accepted lately, and as which messages."""

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        self._keys: dict[str, MessageId] = {}
        self._keys_max = keys_max

    def get(self, key: str) -> MessageId | None:
        return self._keys.get(key)

    def add(self, key: str, message_id: MessageId) -> None:
        self._keys.setdefault(key, message_id)
        if len(self._keys) > self._keys_max:
            del self._keys[next(iter(self._keys))]


class Submitting:
    """Carries requests out, any number at a time."""

    def __init__(
        self,
        acceptance: Acceptance,
        incoming: Callable[[], Incoming],
        disk_level: Callable[[], DiskLevel],
        log: KeptLog,
        worker: Callable[[], Worker],
        local_names: Callable[[], LocalNames] = LocalNames,
    ) -> None:
        """`worker` makes the thread on which the log is read for keys, once; `log` is read there only."""
        self._acceptance = acceptance
        self._incoming = incoming
        self._disk_level = disk_level
        self._log = log
        self._worker = worker
        self._local_names = local_names
        self._known = KnownKeys()
        self._scan: asyncio.Future[None] | None = None
        self._under_way: dict[str, asyncio.Future[Answer]] = {}

    async def handle(self, request: Request) -> Answer:
        malformed = _malformed(request)
        if malformed is not None:
            return Refused(malformed)
        key = request.idempotency_key
        if key is None:
            return await self._accept(request)
        await self._keys_read()
        first = self._under_way.get(key)
        if first is not None:
            answer = await asyncio.shield(first)
            return Submitted(answer.id, duplicate=True) if isinstance(answer, Submitted) else answer
        known = self._known.get(key)
        if known is not None:
            return Submitted(known, duplicate=True)
        return await self._accept(request)

    def _accept(self, request: Submit) -> asyncio.Future[Answer]:
        """What becomes the answer; that nobody waits for it any more changes nothing."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if self._disk_level() is DiskLevel.SUSPENDED:
            answer.set_result(Refused(refuse_undurable(full=True).reply))
            return answer
        own_name = self._acceptance.rules.server_name
        # The sender who is told may be a name of this host: `root`, whose mail somebody reads elsewhere.
        envelope = self._local_names().envelope(request.envelope)
        submission = Submission(
            envelope,
            Origin("internal", _OWN_ADDRESS, own_name),
            "UTF8SMTP" if envelope.smtputf8 else "ESMTP",
            len(request.content),
            idempotency_key=request.idempotency_key,
        )
        if request.idempotency_key is not None:
            self._under_way[request.idempotency_key] = answer
        incoming = self._incoming()
        incoming.begin(submission, _Whole())
        incoming.add(request.content)
        incoming.end(submission, partial(self._answered, request.idempotency_key, answer))
        # Cancelling whoever waits would end the answer that another one waits for.
        return asyncio.shield(answer)

    def _answered(
        self,
        key: str | None,
        answer: asyncio.Future[Answer],
        said: Reply,
        message_id: MessageId | None,
        _: Refusal | None,
    ) -> None:
        if key is not None:
            del self._under_way[key]
            if message_id is not None:
                self._known.add(key, message_id)
        answer.set_result(Refused(said) if message_id is None else Submitted(message_id))

    # ------------------------------------------------------------ keys of before

    async def _keys_read(self) -> None:
        """Return when what stood in the log is known. Raises `OSError`; the next one begins anew."""
        if self._scan is None:
            self._scan = asyncio.get_running_loop().create_future()
            self._read_keys(self._scan)
        await asyncio.shield(self._scan)

    def _read_keys(self, scan: asyncio.Future[None]) -> None:
        worker = self._worker()
        pieces = _keys_in(self._log)
        found: list[tuple[str, MessageId]] = []

        def took(piece: list[tuple[str, MessageId]] | Exception | None) -> None:
            if isinstance(piece, list):
                found.extend(piece)
                del found[:-KEYS_MAX]
                worker.call(lambda: next(pieces, None), took)
                return
            worker.close()
            if piece is None:
                for key, message_id in found:
                    self._known.add(key, message_id)
                scan.set_result(None)
            else:
                self._scan = None
                scan.set_exception(piece)

        worker.call(lambda: next(pieces, None), took)


class _Whole:
    """`Flow` of a content that is here already."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


def _keys_in(log: KeptLog) -> Iterator[list[tuple[str, MessageId]]]:
    """The keys of each piece of the log, in their order. Damage is passed over: what it held nobody knows."""
    try:
        cursor, end = log.last(SCAN_BYTES_MAX), log.durable
        while cursor < end:
            try:
                entries = log.read(cursor, _READ_BYTES)
            except CorruptError as damage:
                cursor = damage.resume
                continue
            except ReleasedError as released:
                cursor = max(released.oldest, Lsn(cursor + 1))
                continue
            if not entries:
                return
            cursor = entries[-1].next
            yield [found for entry in entries if (found := _key_of(entry.payload)) is not None]
    finally:
        log.close()


def _key_of(payload: bytes) -> tuple[str, MessageId] | None:
    try:
        message, _ = decode_mail(payload)
    except UnreadableRecord:
        return None
    key = message.idempotency_key
    return None if key is None or message.origin.source != "internal" else (key, message.id)


def _malformed(request: Submit) -> Reply | None:
    """Our own processes write well; a bug in one of them must not become commands to an upstream."""
    envelope, key = request.envelope, request.idempotency_key
    if not envelope.recipients:
        return _NOBODY
    written = [envelope.reverse_path, envelope.envid]
    for recipient in envelope.recipients:
        written += [recipient.address, recipient.notify, recipient.original]
    if any(text is not None and _CONTROL.search(text) for text in written):
        return _MALFORMED_PATH
    if key is not None and not 1 <= len(key) <= KEY_CHARS_MAX:
        return _MALFORMED_KEY
    return _BARE_NEWLINE if _BARE.search(request.content) else None
