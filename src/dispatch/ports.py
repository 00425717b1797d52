"""Every seam on one page: what the parts may ask of each other and of the machine.

The parts are written against these protocols and never against each other; `app` is the only
module that puts an adapter behind one. That is what lets the same code run as three processes,
on one event loop in a test, and on a simulated machine with a seeded clock, disk and network.

Rules of this page: at most six methods a port; each docstring states the guarantee and what is
raised; time is in seconds as `float` (`_s`), sizes in bytes (`_bytes`), stored times are
milliseconds since 1970 (`_ms`). Callbacks are called on the event loop, never from within the call
that took them, and must not raise.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Literal, NamedTuple, NewType, Protocol, TypeVar

from dispatch.mail.message import ContentFile, Message
from dispatch.mail.report import Report
from dispatch.policy.dane import Tlsa

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview

# ---------------------------------------------------------------- the machine


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """Two clocks, never mixed: one to wait by, one to write down."""

    def monotonic(self) -> float:
        """Seconds that never jump; for intervals and deadlines."""
        ...

    def wall(self) -> float:
        """Seconds since 1970; may jump either way; for dates and stored due-times only."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer: ...


class Chance(Protocol):
    """The only source of randomness: one seed reproduces a run."""

    def uniform(self) -> float:
        """At least 0, below 1."""
        ...

    def token(self, size_bytes: int) -> bytes:
        """Unguessable bytes."""
        ...


class File(Protocol):
    """An open file. What was written survives a power cut only after `sync` returned."""

    def write_at(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write all buffers, one behind the other. Raises `OSError`; then any part may be written."""
        ...

    def read_at(self, offset: int, size_bytes: int) -> bytes:
        """Shorter than asked for only at the end of the file."""
        ...

    def sync(self) -> None:
        """fdatasync. After an `OSError` the file's state is unknown for ever: never sync it again."""
        ...

    def size(self) -> int: ...

    def truncate(self, size_bytes: int) -> None: ...

    def close(self) -> None: ...


class Disk(Protocol):
    """One folder tree. Paths are relative, with `/`. All calls may raise `OSError`."""

    def open(self, path: str, *, create: bool = False) -> File:
        """Read and write; with `create` the file must not exist (`FileExistsError`)."""
        ...

    def names(self, folder: str) -> list[str]:
        """Sorted; an absent folder is made."""
        ...

    def rename(self, old: str, new: str) -> None: ...

    def remove(self, path: str) -> None: ...

    def sync_folder(self, folder: str) -> None:
        """Make creations, renames and removals in the folder survive a power cut."""
        ...

    def free_bytes(self) -> int: ...


class Worker(Protocol):
    """One thread beside the loop; does one thing at a time, in the order it was asked."""

    def call(self, work: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """Run `work` on the thread, then `done` on the loop with what it returned or raised."""
        ...

    def close(self) -> None:
        """Finish what was asked, then end the thread."""
        ...


class Threads(Protocol):
    def worker(self, name: str) -> Worker: ...


class Network(Protocol):
    """Connections, as asyncio's transports and protocols."""

    async def connect(
        self,
        host: str,
        port: int,
        protocol: Callable[[], asyncio.Protocol],
        timeout_s: float,
        source_address: str | None = None,
    ) -> None:
        """`source_address` is one of this machine's, of the host's family; None: the kernel chooses.

        Raises `OSError` (`TimeoutError` and `socket.gaierror` are among them).
        """
        ...

    async def secure(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.Protocol,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str | None = None,
        timeout_s: float,
    ) -> asyncio.Transport:
        """Begin TLS on a connection: what comes decrypted goes to `protocol`, which writes to what it gets.

        Nothing may have been read that belongs to the handshake: who waits for it has paused reading.
        `server_name` is what a client verifies. Raises `OSError` (`ssl.SSLError` and `TimeoutError` are among
        them); then the transport is of no more use.
        """
        ...


class NameFault(OSError):
    """A name could not be looked up; the text says why."""

    def __init__(self, what: str, *, confirmed: bool) -> None:
        super().__init__(what)
        self.confirmed = confirmed
        """DNS says that there is no such name, or nothing of the kind there. Otherwise nobody could say."""


class Resolved(NamedTuple):
    """What DNS says."""

    values: tuple[str, ...]
    ttl_s: float
    """For how long."""
    secure: bool = False
    """A name server whose word is taken for it says that DNSSEC vouches for the answer."""


class MailExchangers(NamedTuple):
    """The MX records of a domain (RFC 5321 section 5.1)."""

    hosts: tuple[tuple[int, str], ...]
    """Preference and name. The name of a null MX, by which a domain takes no mail, is empty (RFC 7505)."""
    ttl_s: float
    secure: bool = False


class TlsaRecords(NamedTuple):
    """What a service's certificates must be (RFC 6698)."""

    records: tuple[Tlsa, ...]
    ttl_s: float
    secure: bool = False


DnssecFrom = Literal["loopback", "all", "none"]
"""Name servers whose word is taken that an answer is authentic: those of this machine, all, or none."""


class Resolver(Protocol):
    """What DNS says. Nothing is kept from one question to the next."""

    async def addresses(self, host: str) -> Resolved:
        """Of both families, at least one. An address stands for itself. Raises `NameFault`."""
        ...

    async def mx(self, domain: str) -> MailExchangers:
        """At least one. Raises `NameFault`; a domain without MX records is confirmed to have none."""
        ...

    async def txt(self, name: str) -> Resolved:
        """The texts of its TXT records, each in one piece; at least one. Raises `NameFault`."""
        ...

    async def tlsa(self, name: str) -> TlsaRecords:
        """At least one. `name` is that of the service: `_25._tcp.mx.example.`. Raises `NameFault`."""
        ...


class HttpAnswer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    """Their names in small letters; of those that came twice, the last one."""
    body: bytes


class HttpClient(Protocol):
    """Requests to servers of others. Nothing is kept between two of them: no cookies, no answers."""

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        timeout_s: float,
        answer_bytes_max: int,
    ) -> HttpAnswer:
        """The answer, whatever its status; a redirect is one. The body is as it came, never decompressed.

        `timeout_s` is for all of it. Raises `OSError`: not reached, not trusted, not in time, cut, too long.
        """
        ...

    async def get(
        self, url: str, addresses: Sequence[str], *, timeout_s: float, answer_bytes_max: int
    ) -> HttpAnswer:
        """The same for a page, from one of these addresses, whatever DNS says of the host in the URL."""
        ...


class Mark(Protocol):
    """One number in memory that another process sees at once, and that outlives this one."""

    def load(self) -> int: ...

    def store(self, value: int) -> None: ...


# ---------------------------------------------------------------- the spool

Lsn = NewType("Lsn", int)
"""Log sequence number: a record's place in its log, in bytes from the log's first day. There are gaps."""


class AppendFault(NamedTuple):
    """The record is not, and will never be, in the log."""

    full: bool
    """No space (ENOSPC, EDQUOT): `452 4.3.1`. Otherwise an unwell disk: `451 4.3.0`."""
    detail: str


class DiskLevel(IntEnum):
    """How much room is left (`spool.disk_*_mb`)."""

    AMPLE = 0
    LOW = 1
    """Say so."""
    THROTTLED = 2
    """Each MAIL waits two seconds."""
    SUSPENDED = 3
    """Nothing more is accepted; what is here is delivered."""


class Entry(NamedTuple):
    lsn: Lsn
    next: Lsn
    """The cursor behind this record."""
    payload: bytes


Soon = Callable[[Callable[[], None]], object]
"""Have something called at the end of this turn of the loop."""


class Log(Protocol):
    """The writing end of a log. One per folder: its opener holds the folder's lock (`runtime.locks`)."""

    def append(self, record: Sequence[Buffer], done: Callable[[Lsn | AppendFault], None]) -> None:
        """Add a record. `done` is called when it is on stable storage, or with why it never will be.

        Records are in the log in the order of their appends, and become durable in that order.
        """
        ...

    def flush(self) -> None:
        """Return when every record appended so far has left the process: it survives `kill -9`.

        Raises `LogUnwell` where no file takes them; they are kept, and written when one does.
        """
        ...

    @property
    def durable(self) -> Lsn:
        """All that lies below is on stable storage."""
        ...

    def release(self, below: Lsn) -> None:
        """Nothing below is needed any more; whole segments below it are recycled in the background."""
        ...

    def close(self) -> None:
        """Sync what is pending and let go of the folder."""
        ...


class LogReader(Protocol):
    """A reading end. Any number, in any process; never sees a record above the durable mark."""

    def read(self, cursor: Lsn, size_bytes_max: int) -> list[Entry]:
        """Records from `cursor` on, at least one if there is any, about `size_bytes_max` of them.

        Raises `ReleasedError` where the cursor lies below the oldest segment kept, and
        `CorruptError` naming the damaged range, behind which reading can go on at its `resume` cursor.
        """
        ...

    @property
    def durable(self) -> Lsn: ...

    @property
    def oldest(self) -> Lsn:
        """The first record still kept."""
        ...

    def vouch(self, below: Lsn) -> None:
        """All below was durable once: a power cut may have taken that out of the mark, not out of the log."""
        ...


# ---------------------------------------------------------------- the relays


Leave = Callable[[Exception | None], None]
"""Called by the queue: it is on record as *sending*, or why it cannot be."""


class Transaction:
    """One message, and those of its recipients that share a relay: what is tried in one go.

    The queue makes it; the relay reads it, and calls `sending(transaction, leave)` when the end of the
    content waits for nothing else any more. It leaves the process within `leave`, and nowhere else.

    `leave` comes once, a turn of the loop later at most, and one write of the ledger serves all transactions
    that became ready in the turn. With None, the end of the content leaves, and from then on no reply means
    *uncertain*. With the reason why *sending* is not on record, it never does. Where the session ended
    meanwhile nothing leaves either, and the relay may ask once more, for another session.
    """

    __slots__ = ("content", "indexes", "message", "sending", "tag")

    def __init__(
        self,
        message: Message,
        indexes: tuple[int, ...],
        content: bytes | ContentFile,
        sending: Callable[[Transaction, Leave], None],
        tag: object = None,
    ) -> None:
        self.message = message
        self.indexes = indexes
        """Which of the envelope's recipients, in ascending order."""
        self.content = content
        self.sending = sending
        self.tag = tag
        """The queue's own; no business of a relay."""


class Relay(Protocol):
    """A configured next hop: a smart host, a provider, the capture inbox."""

    def free(self) -> int:
        """How many transactions would start at once if they came now."""
        ...

    def start(self, transaction: Transaction, done: Callable[[Transaction, Report], None]) -> None:
        """Try it. `done` is called exactly once, whatever happens, within the relay's time limits."""
        ...

    def try_again(self) -> None:
        """A person says that what failed lately is to be tried at once, and not when it has rested."""
        ...

    async def close(self, grace_s: float) -> None:
        """Start nothing more; let what is under way finish within `grace_s`, then cut it."""
        ...
