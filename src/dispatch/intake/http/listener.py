"""HTTP connections of the intake process: uvicorn's protocol on our own sockets.

What uvicorn's parser leaves open is bounded here: the octets of a request's head, the time until it is whole,
and the number of connections. (Bodies are bounded where they are read, `requests`.) Sockets are accepted from
and TLS begins as for SMTP (`intake.accepting`).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterable
from email.utils import formatdate
from typing import Any, cast

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from dispatch.intake.accepting import Accepting, Beginning
from dispatch.intake.http.application import Application
from dispatch.intake.http.problems import MEDIA_TYPE, Problem
from dispatch.intake.listener import plain_address
from dispatch.observe import Reporter
from dispatch.ports import Clock, Timer
from dispatch.security.tls import describe

HEAD_BYTES_MAX = 65_536
"""Of a request: its first line and its fields."""
SWEEP_S = 1.0
KEEP_ALIVE_S = 15.0
"""How long a connection may be idle between two requests."""

_TOO_MANY = Problem(503, "busy", "too many connections", headers={"Retry-After": "5"})
_HEAD_TOO_LARGE = Problem(
    431, "head_too_large", f"the fields of the request are larger than {HEAD_BYTES_MAX} bytes"
)
_HEAD_TOO_SLOW = Problem(408, "request_timeout", "the request did not arrive in time")
_NOT_HTTP = Problem(400, "invalid_request", "this is no HTTP request")

# Of its own it would write to standard error: what clients do wrong is told to them.
logging.getLogger("uvicorn").setLevel(logging.CRITICAL + 1)


class HttpConnectionRules(msgspec.Struct, frozen=True):
    connections_max: int
    head_timeout_s: float


class HttpListener:
    """All HTTP connections of the process; `rules` and `tls` may be exchanged while it runs."""

    def __init__(
        self, clock: Clock, application: Application, rules: HttpConnectionRules, report: Reporter
    ) -> None:
        self.clock = clock
        self.rules = rules
        self.tls: ssl.SSLContext | None = None
        self.state = ServerState()
        self._application = application
        self._report = report
        self._accepting: list[Accepting] = []
        self.config = uvicorn.Config(
            cast("Any", application),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=int(KEEP_ALIVE_S),
        )
        self.config.load()
        self._timer: Timer | None = None

    def listen(self, sockets: Iterable[tuple[str, socket.socket]]) -> None:
        """Serve on sockets that are bound and listening already, each with its purpose: `http`, or `https`. A
        loop must be running."""
        for purpose, bound in sockets:
            beginning = Beginning(
                tls=(lambda: self.tls) if purpose == "https" else None,
                timeout_s=lambda: self.rules.head_timeout_s,
            )
            self._accepting.append(
                Accepting(bound, self._connection, clock=self.clock, report=self._report, beginning=beginning)
            )
        if self._accepting:
            self._sweep()

    def _connection(self, _: str | None) -> HttpConnection:
        return HttpConnection(self)

    @property
    def inside(self) -> int:
        """Requests that have no answer yet."""
        return len(self.state.tasks)

    def put_doors(self, *, closed: bool) -> None:
        """Closed: requests are answered, and no mail is taken."""
        self._application.closed = closed

    async def drain(self, grace_s: float) -> None:
        """No new connections; requests under way are answered within `grace_s`."""
        self._stop_accepting()
        for connection in list(self.state.connections):
            connection.shutdown()
        if self.state.tasks:
            await asyncio.wait(set(self.state.tasks), timeout=grace_s)

    def close(self) -> None:
        """Cut what is left."""
        self._stop_accepting()
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self.state.connections):
            cast("HttpConnection", connection).transport.abort()

    def _stop_accepting(self) -> None:
        while self._accepting:
            self._accepting.pop().close()

    def _sweep(self) -> None:
        self._timer = self.clock.call_later(SWEEP_S, self._sweep)
        date = formatdate(self.clock.wall(), usegmt=True).encode()
        # The list is shared with answers that are being written: exchanged whole.
        self.state.default_headers = [(b"date", date)]
        too_old_s = self.clock.monotonic() - self.rules.head_timeout_s
        for connection in list(self.state.connections):
            cast("HttpConnection", connection).expire(too_old_s)


class HttpConnection(HttpToolsProtocol):
    """One connection: requests one after the other."""

    def __init__(self, listener: HttpListener) -> None:
        super().__init__(listener.config, listener.state, {})
        self._listener = listener
        self._head_bytes = 0
        self._head_began_s: float | None = listener.clock.monotonic()
        """None while no head is on its way."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        super().connection_made(cast("asyncio.Transport", transport))
        peer = transport.get_extra_info("peername")
        secured = transport.get_extra_info("ssl_object")
        self.app_state = {
            "peer": plain_address(peer[0]) if peer else "unknown",
            "tls": None if secured is None else describe(secured),
        }
        if len(self.connections) > self._listener.rules.connections_max:
            self._refuse(_TOO_MANY)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._head_began_s is None and self.cycle.response_complete:
            self._head_began_s = self._listener.clock.monotonic()
        if self._head_began_s is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_began_s is not None and self._head_bytes > HEAD_BYTES_MAX:
            self._refuse(_HEAD_TOO_LARGE)

    def on_headers_complete(self) -> None:
        self._head_began_s = None
        self._head_bytes = 0
        super().on_headers_complete()

    def expire(self, too_old_s: float) -> None:
        """Close it where a head has been on its way since before that."""
        if self._head_began_s is not None and self._head_began_s < too_old_s:
            if self._head_bytes:
                self._refuse(_HEAD_TOO_SLOW)
            else:
                self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's word for what its parser does not understand."""
        self._refuse(_NOT_HTTP)

    def _refuse(self, problem: Problem) -> None:
        """Outside a request: answered here, and the connection ends."""
        if self.transport.is_closing():
            return
        body = problem.body("")
        fields = {
            "Content-Type": MEDIA_TYPE.decode(),
            "Content-Length": str(len(body)),
            "Connection": "close",
            **problem.headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.transport.write(f"HTTP/1.1 {problem.status} {problem.title}\r\n{head}\r\n".encode() + body)
        self.transport.close()
