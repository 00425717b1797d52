"""Sockets, connection counts, time limits: asyncio's side of the sessions.

A connection is a transport, a session and a moment at which it last got anywhere: a command was
answered, or a kibibyte came. A client that sends a byte now and then is as silent as one that sends none.
One sweep a second looks at all of them, not a timer for each; ten thousand silent clients cost one loop
over ten thousand numbers.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterable
from typing import cast

from dispatch.intake.accepting import Accepting, Beginning, NoBeginning, why_not
from dispatch.intake.smtp_session import Desk, SmtpSession
from dispatch.observe import Reporter
from dispatch.policy.admission import refuse_connection
from dispatch.policy.limits import address_key
from dispatch.ports import Network, Timer
from dispatch.security.tls import describe

SWEEP_S = 1.0
PROGRESS_BYTES = 1024
"""Within `listener.connection_timeout_seconds` a client says a whole command, or so many bytes of content."""
WRITE_BUFFER_BYTES_MAX = 64 << 10
"""Replies that a client does not read, before we stop reading it."""


class ConnectionRules:
    """Limits on connections; exchanged as a whole when the settings change."""

    __slots__ = ("connections_max", "per_address_max", "silence_s")

    def __init__(self, connections_max: int, per_address_max: int, silence_s: float) -> None:
        self.connections_max = connections_max
        self.per_address_max = per_address_max
        self.silence_s = silence_s


class SmtpListener:
    """Every SMTP connection of the process."""

    def __init__(self, desk: Desk, rules: ConnectionRules, network: Network, report: Reporter) -> None:
        self.desk = desk
        self.rules = rules
        self.network = network
        self.report = report
        self.tls: ssl.SSLContext | None = None
        """For handshakes that begin from now on."""
        self.proxied: Callable[[str], bool] = lambda _: False
        """Whether the peer at an address is a proxy that must say whom it speaks for."""
        self.connections: dict[SmtpConnection, None] = {}
        """In the order in which they came, so that a simulated run can be repeated."""
        self.per_address: Counter[str] = Counter()
        """By `address_key`: an IPv6 network is one subscriber."""
        self._beginnings: Counter[str] = Counter()
        """Handshakes on the way to a session, in the same way."""
        self._draining = False
        self.closed = False
        """An operator says that no mail is taken; see `put_doors`."""
        self._accepting: list[Accepting] = []
        self._empty = asyncio.Event()
        self._empty.set()
        self._timer: Timer = desk.clock.call_later(SWEEP_S, self._sweep)

    def listen(self, sockets: Iterable[tuple[str, socket.socket]]) -> None:
        """Serve on sockets that are bound and listening already, each with its purpose: `smtp`, or `smtps`,
        where TLS comes first. A loop must be running."""
        for purpose, bound in sockets:
            beginning = Beginning(
                lambda address: self.proxied(plain_address(address)),
                (lambda: self.tls) if purpose == "smtps" else None,
                lambda: self.rules.silence_s,
                self.begins,
                self.began,
            )
            self._accepting.append(
                Accepting(bound, self.accept, clock=self.desk.clock, report=self.report, beginning=beginning)
            )

    def accept(self, announced: str | None = None) -> SmtpConnection:
        """A protocol for the next connection; `announced`: the client's address, as its proxy says."""
        return SmtpConnection(self, announced)

    async def drain(self, grace_s: float) -> None:
        """No new connections; transactions under way finish within `grace_s`, the rest get 421."""
        self._draining = True
        self._stop_accepting()
        for connection in list(self.connections):
            connection.session.drain()
        try:
            async with asyncio.timeout(grace_s):
                await self._empty.wait()
        except TimeoutError:
            for connection in list(self.connections):
                connection.session.cut()

    @property
    def inside(self) -> int:
        """Conversations that have not ended."""
        return sum(not each.session.closed for each in self.connections)

    def put_doors(self, *, closed: bool) -> None:
        """Closed: who comes is turned away, and who is here goes when he has finished his message."""
        self.closed = closed
        if closed:
            for connection in list(self.connections):
                connection.session.drain()

    def close(self) -> None:
        """Cut what is left."""
        self._stop_accepting()
        self._timer.cancel()
        for connection in list(self.connections):
            connection.abort()

    def _stop_accepting(self) -> None:
        while self._accepting:
            self._accepting.pop().close()

    def opened(self, connection: SmtpConnection) -> None:
        self.connections[connection] = None
        self.per_address[connection.place] += 1
        self._empty.clear()
        refusal = refuse_connection(
            connections=len(self.connections),
            connections_max=self.rules.connections_max,
            connections_from_address=self.per_address[connection.place],
            connections_per_ip_max=self.rules.per_address_max,
            closed=self.closed,
        )
        connection.session.greet(refusal)
        if self._draining:
            # A handshake that ended behind the drain.
            connection.session.drain()

    def lost(self, connection: SmtpConnection) -> None:
        self.connections.pop(connection, None)
        _uncount(self.per_address, connection.place)
        if not self.connections:
            self._empty.set()

    def begins(self, address: str) -> bool:
        """A client there begins a handshake; False: there are too many, and it is cut."""
        place = address_key(address)
        here = self.per_address[place] + self._beginnings[place]
        everywhere = len(self.connections) + self._beginnings.total()
        if here >= self.rules.per_address_max or everywhere >= self.rules.connections_max:
            return False
        self._beginnings[place] += 1
        return True

    def began(self, address: str) -> None:
        """The handshake is over: there is a session, or there never will be."""
        _uncount(self._beginnings, address_key(address))

    def _sweep(self) -> None:
        self._timer = self.desk.clock.call_later(SWEEP_S, self._sweep)
        now_s = self.desk.clock.monotonic()
        oldest_s = now_s - self.rules.silence_s
        for connection in list(self.connections):
            if connection.session.unanswered(now_s):
                connection.session.cut()
            if connection.heard_s < oldest_s:
                connection.silent(now_s)


class SmtpConnection(asyncio.Protocol):
    """One client's transport; also the `Wire` of its session."""

    __slots__ = (
        "_announced",
        "_closing_s",
        "_early",
        "_handshake",
        "_listener",
        "_lost",
        "_paused",
        "_transport",
        "_trickled_bytes",
        "address",
        "heard_s",
        "place",
        "session",
    )

    def __init__(self, listener: SmtpListener, announced: str | None = None) -> None:
        self._listener = listener
        self._announced = announced
        self._handshake: asyncio.Task[None] | None = None
        self._early: list[bytes] = []
        """What came under TLS before we were told that the handshake is done."""
        self._lost = False
        self._paused = 0
        self._trickled_bytes = 0
        self._closing_s: float | None = None
        self.address = self.place = ""
        self.heard_s = listener.desk.clock.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        peer = transport.get_extra_info("peername")
        self.address = self._announced or (plain_address(peer[0]) if peer else "unknown")
        self.place = address_key(self.address)
        secured = transport.get_extra_info("ssl_object")
        tls = None if secured is None else describe(secured)
        self.session = SmtpSession(self._listener.desk, self, self.address, tls)
        self._listener.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._handshake is not None:
            self._early.append(data)
            return
        self._trickled_bytes += len(data)
        if self._trickled_bytes >= PROGRESS_BYTES:
            self._progressed()
        self.session.received(data)

    def eof_received(self) -> bool:
        self.session.eof()
        # Half-closed: what was offered whole still gets its answer, and then the session closes.
        return not self.session.closed

    def connection_lost(self, exc: Exception | None) -> None:
        # A handshake that fails may tell of the end, or leave it to us.
        if not self._lost:
            self._lost = True
            self.session.lost()
            self._listener.lost(self)

    def secure(self) -> None:
        # Before a byte of the handshake can come: it is not the session's.
        self.pause()
        self._handshake = asyncio.get_running_loop().create_task(self._secure())

    async def _secure(self) -> None:
        listener = self._listener
        try:
            if listener.tls is None:
                raise NoBeginning("the certificate was removed meanwhile")
            transport = await listener.network.secure(
                self._transport, self, listener.tls, server_side=True, timeout_s=listener.rules.silence_s
            )
        except OSError as error:
            listener.report("no_beginning", client=self.address, what="TLS", why=why_not(error))
            self._transport.abort()
            self.connection_lost(error)
            return
        self._handshake = None
        if self.session.closed:
            # It was cut in the turn in which the handshake ended.
            transport.abort()
            self.connection_lost(None)
            return
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        secured = transport.get_extra_info("ssl_object")
        self._progressed()
        self.session.secured("TLS" if secured is None else describe(secured))
        # Whatever else had paused the connection in clear was forgotten with it.
        self._paused = 1
        self.resume()
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)

    def silent(self, now_s: float) -> None:
        """It was not heard for too long; once told so, it has that time again to read it."""
        self.heard_s = now_s
        if self._closing_s is not None:
            self.abort()
        elif self.session.expire():
            self._closing_s = now_s

    def abort(self) -> None:
        self._transport.abort()

    def _progressed(self) -> None:
        self._trickled_bytes = 0
        self.heard_s = self._listener.desk.clock.monotonic()

    def write(self, data: bytes) -> None:
        self._progressed()
        self._transport.write(data)

    def close(self) -> None:
        self._closing_s = self._closing_s or self._listener.desk.clock.monotonic()
        self._transport.close()

    def pause(self) -> None:
        self._paused += 1
        if self._paused == 1 and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        self._paused -= 1
        if self._paused == 0 and not self._transport.is_closing():
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self.pause()

    def resume_writing(self) -> None:
        self.resume()


def _uncount(counts: Counter[str], place: str) -> None:
    counts[place] -= 1
    if not counts[place]:
        del counts[place]


def plain_address(host: str) -> str:
    """An IPv4-mapped IPv6 address as the IPv4 address that it is; scope ids removed."""
    host = host.partition("%")[0]
    return host[7:] if host.lower().startswith("::ffff:") and "." in host else host
