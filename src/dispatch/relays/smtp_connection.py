"""One connection to a smart host: `ClientCore` between an asyncio transport and the pool.

Duty: hand bytes to the core and its output to the transport, fetch content, call `sending`, keep the
time, and have the TLS handshake made. But for that one no task and no future lives here; all is callbacks,
because a task a message costs more than the message.

Rules:

- `end_content` is the only call that puts an end of data into the output, and it is made in `_leave` alone:
  when the queue has on record that this one is sending. Until then the content waits here, and with it all
  that would come behind it; what ends the session meanwhile ends the wait.
- One timer a connection. A step writes down a deadline; the timer is set anew only when the deadline
  comes before its turn, or when it fires early. Only a complete reply, or output of ours, moves the
  deadline: a peer that trickles bytes does not.
- Small content leaves in one write with its end of data and, if a transaction waits, the next envelope.

- During a handshake only its own end counts: what the transport says meanwhile says less of why it failed.

Trap: the envelope behind a content shares the fate of the transaction before it. So it goes there only if
the host answered the last end of data promptly, and taken back if it does not answer this one within
`BEHIND_S`: a stall consumes its own slot and no other.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol, cast

from dispatch.mail.message import ContentFile
from dispatch.mail.report import Fault, FaultKind, Report, Stage
from dispatch.ports import Clock, Timer, Transaction, Worker
from dispatch.relays.smart_host import SmartHost, Timeouts
from dispatch.relays.smtp_content import ContentStream, ContentTooShort, OpenContent
from dispatch.relays.smtp_tls import SessionTls, TlsFailed
from dispatch.smtp.body import BareNewline
from dispatch.smtp.client import ClientCore, Heard
from dispatch.smtp.client_auth import Credentials
from dispatch.smtp.client_content import frame
from dispatch.smtp.client_exchange import Closed, ContentWanted, Done, Exchange, Ready, TlsWanted, Untried
from dispatch.smtp.client_opening import Security
from dispatch.smtp.client_states import Awaited, Phase

PROMPT_S = 0.25
"""A host that answers an end of data within this time may get the next envelope behind the content."""
BEHIND_S = 5.0
"""How long an envelope waits behind a content before its transaction is taken back."""

_KEEPALIVE_IDLE_S = 60
_KEEPALIVE_INTERVAL_S = 15
_KEEPALIVE_PROBES = 4
_UNACKNOWLEDGED_MS = 120_000
"""How long what we sent may stay without a sign from the peer's kernel (TCP_USER_TIMEOUT): as long as the
keepalive probes take to give up."""
_HANDSHAKE_GRACE_S = 5.0
_NEVER = float("inf")


class Job:
    """A transaction in the relay's hands, from `start` until `done`."""

    __slots__ = ("done", "retried", "transaction")

    def __init__(self, transaction: Transaction, done: Callable[[Transaction, Report], None]) -> None:
        self.transaction = transaction
        self.done = done
        self.retried = False
        """A connection died under it before the peer had answered to any of it."""


class Terms(NamedTuple):
    """On which a session is opened."""

    tls: SessionTls
    server_name: str
    """Whom the certificate must name."""
    implicit: bool
    """TLS from the first byte."""
    security: Security
    had_tls: bool
    credentials: Credentials | None
    demanded: str = ""
    """Why it must be encrypted, where that is no wish of the operator's: words to put before what failed."""


class ConnectionOwner(Protocol):
    """What a connection asks of its pool."""

    def ready(self, connection: SmtpConnection) -> None:
        """The session is open, and the connection idle."""
        ...

    def behind(self) -> Job | None:
        """A waiting transaction whose envelope may go behind a content, or None."""
        ...

    def finished(self, connection: SmtpConnection, job: Job, report: Report) -> None:
        """The job is over. The connection may be idle now; it may be given another job at once."""
        ...

    def untried(self, connection: SmtpConnection, job: Job, report: Report) -> None:
        """The session ended before the job; it may be tried again without risk."""
        ...

    def prompt_changed(self, prompt: bool) -> None:
        """The connection takes envelopes behind content from now on, or no longer."""
        ...

    def withdrawn(self, job: Job) -> None:
        """The job was taken back from behind a transaction that stalls."""
        ...

    def retired(self, connection: SmtpConnection) -> None:
        """An idle connection takes no more jobs."""
        ...

    def closed(self, connection: SmtpConnection, closed: Closed) -> None:
        """The connection is gone; comes once."""
        ...


class SmtpConnection(asyncio.Protocol):
    """One session with the smart host."""

    def __init__(
        self,
        owner: ConnectionOwner,
        host: SmartHost,
        clock: Clock,
        worker: Worker,
        open_content: OpenContent,
        terms: Terms,
        *,
        pipelining: bool,
        heard: Heard | None = None,
    ) -> None:
        """`heard` is told of each reply."""
        self._owner = owner
        self._terms = terms
        self._host = host
        self._clock = clock
        self._worker = worker
        self._open_content = open_content
        self._core: ClientCore[Job] = ClientCore(
            host.helo_name,
            pipelining=pipelining,
            chunking=host.chunking,
            security=terms.security,
            credentials=terms.credentials,
            had_tls=terms.had_tls,
        )
        self._core.heard = heard
        self._transport: asyncio.Transport | None = None
        self._securing: asyncio.Task[tuple[asyncio.Transport, str]] | None = None
        self._early: list[bytes] = []
        self._early_end = ""
        """What came, and why nothing more will, before we were told that the handshake is done."""
        self._stream: ContentStream | None = None
        self._stream_exchange: Exchange[Job] | None = None
        self._paused = False
        self._pumping = False
        self._limits = _limits(host.timeouts)
        self._timer: Timer | None = None
        self._wake = _NEVER
        self._deadline = _NEVER
        self._take_back_at = _NEVER
        self._progress_at = 0.0
        self._replies_seen = 0
        self._settled_one = False
        self._begun = 0
        self.offered_tls = False
        """The host was ready for a handshake."""
        self.kept = False
        """The pool's note: it is among the idle ones."""
        self.prompt = False
        """The last end of data was answered within `PROMPT_S`, and commands may be grouped."""

    # What the pool asks and tells

    @property
    def idle(self) -> bool:
        return self._core.idle

    @property
    def peer(self) -> str:
        """Address and port of the host, once connected."""
        return self._core.peer

    @property
    def tls(self) -> str | None:
        """Protocol and cipher; None in clear text."""
        return self._core.tls

    @property
    def spent(self) -> bool:
        """It has carried as many messages as one connection may."""
        return self._begun >= self._host.messages_per_connection_max

    def start(self, job: Job) -> None:
        """Try a transaction; only when `idle`. Calls nothing back before it returns."""
        self._begin(job)
        if self._pumping:
            return
        if self._core.has_events:
            self._clock.call_later(0, self._pump)
        else:
            self._flush()

    def quit(self) -> None:
        """Say QUIT and close; only when `idle`."""
        self._core.quit()
        if not self._pumping:
            self._flush()

    def abort(self, why: str) -> None:
        """Cut the connection; what was under way is reported as lost."""
        self._core.lost(Fault(FaultKind.DROPPED, why))
        self._pump()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        if self._core.phase is Phase.CLOSED:
            transport.abort()
            return
        _tune(transport)
        self._core.peer = peer_name(transport.get_extra_info("peername"))
        if self._terms.implicit:
            self._handshake()
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self._securing is not None:
            # Decrypted already, in the turn in which the handshake ended.
            self._early.append(data)
            return
        self._core.receive(data)
        self._pump()

    def eof_received(self) -> None:
        self._end("closed by the peer")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"connection lost: {exc}" if exc else "closed by the peer")

    def _end(self, why: str) -> None:
        if self._securing is None:
            self.abort(why)
        else:
            # The handshake fails of it, and knows more; or it was done already.
            self._early_end = why

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._stream is not None and not self._stream.busy:
            self._stream.ask()

    # Between core, pool and transport

    def _pump(self) -> None:
        """Deal with what the core says, until it says nothing more; then write."""
        if self._pumping:
            return
        self._pumping = True
        core, owner = self._core, self._owner
        try:
            while (event := core.next_event()) is not None:
                if isinstance(event, Done):
                    self._settled_one = True
                    self._stop_stream(event.exchange)
                    owner.finished(self, event.exchange.key, event.report)
                elif isinstance(event, ContentWanted):
                    self._supply(event.exchange)
                elif isinstance(event, Untried):
                    owner.untried(self, event.exchange.key, event.report)
                elif isinstance(event, Ready):
                    owner.ready(self)
                elif isinstance(event, TlsWanted):
                    self.offered_tls = True
                    self._handshake()
                else:
                    self._close(event)
        finally:
            self._pumping = False
        self._flush()

    def _flush(self) -> None:
        output = self._core.take_output()
        transport = self._transport
        if output and transport is not None:
            transport.writelines(output)
        if output or self._core.replies_taken != self._replies_seen or self._wake == _NEVER:
            self._watch()

    def _begin(self, job: Job) -> None:
        self._begun += 1
        transaction = job.transaction
        envelope = transaction.message.envelope
        content = transaction.content
        whole = not isinstance(content, ContentFile)
        size_bytes = len(content) if isinstance(content, bytes) else content.size_bytes
        # Only these two can be spared by content that is ASCII after all.
        ascii_only = (
            (envelope.body == "8BITMIME" or envelope.smtputf8)
            and isinstance(content, bytes)
            and content.isascii()
        )
        self._core.begin(
            Exchange(job, envelope, transaction.indexes, size_bytes, ascii_only=ascii_only, whole=whole)
        )

    # TLS

    def _handshake(self) -> None:
        transport, terms = self._transport, self._terms
        assert transport is not None, "there is nothing to encrypt yet"
        # What comes now is TLS's.
        transport.pause_reading()
        self._securing = asyncio.ensure_future(terms.tls.secure(transport, self, terms.server_name))
        self._securing.add_done_callback(self._secured)

    def _secured(self, ended: asyncio.Task[tuple[asyncio.Transport, str]]) -> None:
        self._securing = None
        if ended.cancelled():
            return
        error = ended.exception()
        if error is None and self._core.phase is Phase.CLOSED:
            # It was given up in the turn in which the handshake ended.
            ended.result()[0].abort()
            return
        if error is None:
            self._transport, words = ended.result()
            if self._terms.implicit:
                self._core.tls = words
            else:
                self._core.secured(words)
            if not self._transport.is_reading():
                self._transport.resume_reading()
            early, self._early = self._early, []
            for data in early:
                self._core.receive(data)
            if self._early_end:
                self._core.lost(Fault(FaultKind.DROPPED, self._early_end))
        else:
            fault = error.fault if isinstance(error, TlsFailed) else Fault(FaultKind.TLS, repr(error))
            self._core.lost(fault)
        self._pump()

    # Content

    def _supply(self, exchange: Exchange[Job]) -> None:
        if not self._core.wants_content(exchange):
            return
        content = exchange.key.transaction.content
        if isinstance(content, ContentFile):
            self._stream_exchange = exchange
            self._stream = ContentStream(
                content, exchange.framing, self._worker, self._open_content, self._send, self._fail
            )
            self._stream.ask()
            return
        try:
            framed = frame(content, exchange.framing)
        except BareNewline as error:
            self._core.fail_content(exchange, Fault(FaultKind.UNSUITED, str(error)))
            return
        self._end_content(exchange, framed)

    def _send(self, block: bytes, last: bool) -> None:
        stream, exchange = self._stream, self._stream_exchange
        assert stream is not None and exchange is not None
        if last:
            self._stop_stream(exchange)
            self._end_content(exchange, block)
            return
        self._core.send_block(exchange, block)
        self._flush()
        if not self._paused:
            stream.ask()

    def _fail(self, error: Exception) -> None:
        exchange = self._stream_exchange
        assert exchange is not None
        match error:
            case BareNewline():
                kind = FaultKind.UNSUITED
            case FileNotFoundError() | ContentTooShort():
                kind = FaultKind.CONTENT_LOST
            case _:
                kind = FaultKind.CONTENT_UNREADABLE
        self._core.fail_content(exchange, Fault(kind, str(error) or repr(error)))
        self._pump()

    def _end_content(self, exchange: Exchange[Job], framed: bytes) -> None:
        transaction = exchange.key.transaction
        transaction.sending(transaction, partial(self._leave, exchange, framed))

    def _leave(self, exchange: Exchange[Job], framed: bytes, error: Exception | None) -> None:
        core = self._core
        if not core.wants_content(exchange):
            return  # the session ended, or it was taken back
        if error is not None:
            fault = Fault(FaultKind.CONTENT_UNREADABLE, f"not noted as sending: {error!r}")
            core.fail_content(exchange, fault)
        else:
            if self.prompt and core.room and not self.spent and (job := self._owner.behind()) is not None:
                self._begin(job)
            core.end_content(exchange, framed)
        self._pump()

    def _stop_stream(self, exchange: Exchange[Job]) -> None:
        if self._stream is not None and exchange is self._stream_exchange:
            self._stream.stop()
            self._stream = self._stream_exchange = None

    # Time

    def _watch(self) -> None:
        """Something moved: write down until when the next thing must."""
        core = self._core
        if core.phase is Phase.CLOSED:
            return
        now = self._clock.monotonic()
        if self._settled_one:
            self._settled_one = False
            self._be_prompt(core.grouped and now - self._progress_at < PROMPT_S)
        self._progress_at = now
        self._replies_seen = core.replies_taken
        awaited = core.awaited
        if self._securing is not None:
            # The network keeps the time of a handshake, and knows more of why it failed.
            limit = self._host.timeouts.handshake_s + _HANDSHAKE_GRACE_S
        elif awaited is not None:
            limit = self._limits[awaited]
        else:
            limit = self._host.idle_s if core.idle else self._host.timeouts.block_s
        self._deadline = due = now + limit
        if core.behind:
            self._take_back_at = now + BEHIND_S
            due = min(due, self._take_back_at)
        if due < self._wake:
            self._wake_at(due, now)

    def _wake_at(self, due: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wake = due
        self._timer = self._clock.call_later(max(0.0, due - now), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._wake = _NEVER
        core = self._core
        now = self._clock.monotonic()
        if now >= self._deadline:
            self._time_out()
            return
        due = self._deadline
        if core.behind:
            if now >= self._take_back_at:
                self._take_back()
            else:
                due = min(due, self._take_back_at)
        self._wake_at(due, now)

    def _time_out(self) -> None:
        core = self._core
        if core.idle:
            self._owner.retired(self)
            self.quit()
            return
        awaited = core.awaited
        waited_s = self._clock.monotonic() - self._progress_at
        what = f"answer to {awaited.name}" if awaited is not None else "room for content"
        core.lost(Fault(FaultKind.TIMEOUT, f"no {what} within {waited_s:.0f} s"))
        self._pump()

    def _be_prompt(self, prompt: bool) -> None:
        if prompt != self.prompt:
            self.prompt = prompt
            self._owner.prompt_changed(prompt)

    def _take_back(self) -> None:
        self._be_prompt(False)
        exchange = self._core.withdraw()
        if exchange is not None:
            self._owner.withdrawn(exchange.key)

    def _close(self, closed: Closed) -> None:
        if self._securing is not None:
            self._securing.cancel()
        if self._terms.implicit and self._core.tls is None:
            # The connection did not come about: no greeting was asked for.
            closed = closed._replace(stage=Stage.CONNECT)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stream is not None:
            self._stream.stop()
            self._stream = self._stream_exchange = None
        if self._transport is not None:
            # Nothing in its buffer may reach the peer any more; and a stalled peer would never let it drain.
            self._transport.abort()
        self._be_prompt(False)
        self._owner.closed(self, closed)


def _limits(timeouts: Timeouts) -> dict[Awaited, float]:
    return {
        Awaited.GREETING: timeouts.greeting_s,
        Awaited.EHLO: timeouts.ehlo_s,
        Awaited.HELO: timeouts.ehlo_s,
        Awaited.STARTTLS: timeouts.ehlo_s,
        Awaited.AUTH: timeouts.ehlo_s,
        Awaited.MAIL: timeouts.mail_s,
        Awaited.RCPT: timeouts.rcpt_s,
        Awaited.DATA: timeouts.data_s,
        Awaited.END_OF_DATA: timeouts.end_of_data_s,
        Awaited.EMPTY_END_OF_DATA: timeouts.end_of_data_s,
        Awaited.CHUNK: timeouts.block_s,
        Awaited.LAST_CHUNK: timeouts.end_of_data_s,
        Awaited.RSET: timeouts.mail_s,
        Awaited.QUIT: timeouts.quit_s,
    }


def _tune(transport: asyncio.BaseTransport) -> None:
    """No delay for small writes; notice a peer that is gone without a word (a NAT that forgot us)."""
    endpoint = transport.get_extra_info("socket")
    if endpoint is None:
        return
    options = [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        # asyncio sets it only where the socket was made with its protocol number.
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    ]
    for name, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", _UNACKNOWLEDGED_MS),
    ):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    for level, option, setting in options:
        try:
            endpoint.setsockopt(level, option, setting)
        except OSError:
            # Not a TCP socket, or a kernel without the option: our own deadlines still hold.
            continue


def peer_name(address: object) -> str:
    """`192.0.2.1:25`, `[2001:db8::1]:25`; empty where the transport does not know."""
    if not isinstance(address, tuple) or len(address) < 2:
        return ""
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
