"""Sockets, connection counts, time limits: asyncio's side of the sessions.

A connection is a transport, a session and a moment at which it last got anywhere: a command was
answered, or a kibibyte came. A client that sends a byte now and then is as silent as one that sends none.
One sweep a second looks at all of them, not a timer for each; ten thousand silent clients cost one loop
over ten thousand numbers.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from typing import cast

from dispatch.intake.accepting import Accepting
from dispatch.intake.smtp_session import Desk, SmtpSession
from dispatch.observe import Reporter
from dispatch.policy.admission import refuse_connection
from dispatch.ports import Timer

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

    def __init__(self, desk: Desk, rules: ConnectionRules) -> None:
        self.desk = desk
        self.rules = rules
        self.connections: dict[SmtpConnection, None] = {}
        """In the order in which they came, so that a simulated run can be repeated."""
        self.per_address: Counter[str] = Counter()
        self._accepting: list[Accepting] = []
        self._empty = asyncio.Event()
        self._empty.set()
        self._timer: Timer = desk.clock.call_later(SWEEP_S, self._sweep)

    def listen(self, sockets: tuple[socket.socket, ...], report: Reporter) -> None:
        """Serve on sockets that are bound and listening already. A loop must be running."""
        for bound in sockets:
            accepting = Accepting(bound, self.accept, clock=self.desk.clock, report=report)
            self._accepting.append(accepting)

    def accept(self) -> SmtpConnection:
        """A protocol for the next connection."""
        return SmtpConnection(self)

    async def drain(self, grace_s: float) -> None:
        """No new connections; transactions under way finish within `grace_s`, the rest get 421."""
        self._stop_accepting()
        for connection in list(self.connections):
            connection.session.drain()
        try:
            async with asyncio.timeout(grace_s):
                await self._empty.wait()
        except TimeoutError:
            for connection in list(self.connections):
                connection.session.cut()

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
        self.per_address[connection.address] += 1
        self._empty.clear()
        refusal = refuse_connection(
            connections=len(self.connections),
            connections_max=self.rules.connections_max,
            connections_from_address=self.per_address[connection.address],
            connections_per_ip_max=self.rules.per_address_max,
        )
        connection.session.greet(refusal)

    def lost(self, connection: SmtpConnection) -> None:
        self.connections.pop(connection, None)
        self.per_address[connection.address] -= 1
        if not self.per_address[connection.address]:
            del self.per_address[connection.address]
        if not self.connections:
            self._empty.set()

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
        "_closing_s",
        "_listener",
        "_paused",
        "_transport",
        "_trickled_bytes",
        "address",
        "heard_s",
        "session",
    )

    def __init__(self, listener: SmtpListener) -> None:
        self._listener = listener
        self._paused = 0
        self._trickled_bytes = 0
        self._closing_s: float | None = None
        self.address = ""
        self.heard_s = listener.desk.clock.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        peer = transport.get_extra_info("peername")
        self.address = plain_address(peer[0]) if peer else "unknown"
        self.session = SmtpSession(self._listener.desk, self, self.address)
        self._listener.opened(self)

    def data_received(self, data: bytes) -> None:
        self._trickled_bytes += len(data)
        if self._trickled_bytes >= PROGRESS_BYTES:
            self._progressed()
        self.session.received(data)

    def eof_received(self) -> bool:
        self.session.eof()
        # Half-closed: what was offered whole still gets its answer, and then the session closes.
        return not self.session.closed

    def connection_lost(self, exc: Exception | None) -> None:
        self.session.lost()
        self._listener.lost(self)

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


def plain_address(host: str) -> str:
    """An IPv4-mapped IPv6 address as the IPv4 address that it is; scope ids removed."""
    host = host.partition("%")[0]
    return host[7:] if host.lower().startswith("::ffff:") and "." in host else host
