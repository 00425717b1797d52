"""A load that keeps books: clients that pipeline over kept connections, and upstreams that note mail.

Every message carries a token of its own. A client that lost its connection after its end of data does not
know whether the message was accepted (RFC 1047): the token is *unanswered*, and is offered again, as real
clients do. Both ends run on one event loop in a thread, so that a scenario may kill processes meanwhile.
Where there is a port for TLS, every second connection goes there.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections import deque

import uvloop
from tests.scenarios.books import Books
from tests.scenarios.noting_upstream import NotingUpstream
from tests.scenarios.recipe import END_OF_DATA, Manners, content_of, envelope_of, recipients_of
from tests.scenarios.secure_clients import unverified

_TICK_S = 0.005
_BURST_S = 0.1
"""So much of what the clients could not offer in time is made up for."""
_AGAIN_S = 0.05
"""Between two attempts to connect."""


class Load:
    """`start`, then at any time `stop_offering`, then `close`."""

    def __init__(
        self,
        port: int,
        *,
        rate: float,
        clients: int,
        seed: int = 0,
        manners: Manners | None = None,
        tls_port: int | None = None,
        upstreams: int = 1,
    ) -> None:
        """The ports are the relay's; `rate` is what is offered in a second, of all clients together."""
        self.books = Books()
        self._entrances = itertools.cycle([port] if tls_port is None else [port, tls_port])
        self._tls_port = tls_port
        self._tls = unverified()
        self._rate = rate
        self._clients_count = clients
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._upstreams = [
            NotingUpstream(
                self.books, manners or Manners(), random.Random(seed + place), place=place, places=upstreams
            )
            for place in range(upstreams)
        ]
        self._clients: set[_Client] = set()
        self._dialling: set[asyncio.Task[None]] = set()
        self._idle: deque[_Client] = deque()
        self._again: deque[int] = deque()
        self._permits = 0.0
        self._ticked_s = 0.0
        self._open = 0
        """Tokens that are on their way, or wait to be offered again."""
        self._stopping = False
        self._closing = False
        self._upstreams_ready = threading.Event()

    # ------------------------------------------------------------ from the scenario's thread

    def start_upstreams(self) -> list[int]:
        """Their ports."""
        self._thread.start()
        assert self._upstreams_ready.wait(10)
        return [upstream.port for upstream in self._upstreams]

    def start(self) -> None:
        self._loop.call_soon_threadsafe(self._begin)

    def stop_offering(self) -> None:
        """Nothing new; what is under way and what was not answered comes to its end."""
        self._stopping = True

    @property
    def tls_ports(self) -> list[int]:
        """Where the relay is to offer TLS."""
        return [] if self._tls_port is None else [self._tls_port]

    @property
    def all_answered(self) -> bool:
        return self._open == 0

    @property
    def in_flight(self) -> int:
        """Transactions of which an upstream has something, and which have no final reply."""
        return sum(len(upstream.under_way) for upstream in self._upstreams)

    @property
    def upstreams_are_alone(self) -> bool:
        """All that was sent to them has arrived: nobody is connected."""
        return not any(upstream.sessions for upstream in self._upstreams)

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end)
            self._thread.join(10)
            assert not self._thread.is_alive()

    # ------------------------------------------------------------ on the loop

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        for upstream in self._upstreams:
            self._loop.run_until_complete(upstream.start())
        self._upstreams_ready.set()
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def _begin(self) -> None:
        self._ticked_s = time.monotonic()
        self._tick()
        for _ in range(self._clients_count):
            self._connect()

    def _end(self) -> None:
        self._closing = True
        for client in list(self._clients):
            client.abort()
        for upstream in self._upstreams:
            upstream.close()
        self._stop_when_closed()

    def _stop_when_closed(self) -> None:
        if self._clients or self._dialling or not self.upstreams_are_alone:
            self._loop.call_later(_TICK_S, self._stop_when_closed)
        else:
            self._loop.stop()

    def _connect(self) -> None:
        if not self._closing:
            task = self._loop.create_task(self._try_to_connect())
            self._dialling.add(task)
            task.add_done_callback(self._dialling.discard)

    async def _try_to_connect(self) -> None:
        port = next(self._entrances)
        tls = self._tls if port == self._tls_port else None
        try:
            await self._loop.create_connection(lambda: _Client(self), "127.0.0.1", port, ssl=tls)
        except OSError:
            self._loop.call_later(_AGAIN_S, self._connect)

    def _tick(self) -> None:
        if self._closing:
            return
        self._loop.call_later(_TICK_S, self._tick)
        now_s = time.monotonic()
        self._permits = min(self._permits + (now_s - self._ticked_s) * self._rate, self._rate * _BURST_S)
        self._ticked_s = now_s
        while self._idle and (token := self.next_token()) is not None:
            self._idle.popleft().offer(token)

    def next_token(self) -> int | None:
        """What is to be offered next; None: nothing now."""
        if self._again:
            return self._again.popleft()
        if self._stopping or self._permits < 1:
            return None
        self._permits -= 1
        self._open += 1
        self.books.offered += 1
        return self.books.offered

    def opened(self, client: _Client) -> None:
        self._clients.add(client)
        if self._closing:
            client.abort()

    def idle(self, client: _Client) -> None:
        self._idle.append(client)

    def answered(self, token: int, code: int, text: str) -> None:
        self._open -= 1
        if code == 250:
            self.books.acknowledged[token] = text.split()[-1]
        else:
            self.books.refused[token] = f"{code} {text}"

    def put_back(self, token: int) -> None:
        """It was not offered whole."""
        self._again.append(token)

    def lost(self, client: _Client, unanswered: int | None) -> None:
        self._clients.discard(client)
        if client in self._idle:
            self._idle.remove(client)
        if self._closing:
            return
        if unanswered is not None:
            self.books.unanswered[unanswered] += 1
            self._again.append(unanswered)
        self._loop.call_later(_AGAIN_S, self._connect)


class _Client(asyncio.Protocol):
    """Sends the next envelope with the content before it, as RFC 2920 allows."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = b""
        self._awaited: deque[str] = deque(["greeting"])
        self._envelope: int | None = None
        """Its MAIL, RCPT and DATA were sent."""
        self._whole: int | None = None
        """Its end of data was sent."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._secured = transport.get_extra_info("ssl_object") is not None
        self._load.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._envelope is not None:
            self._load.put_back(self._envelope)
        self._load.lost(self, self._whole)

    def abort(self) -> None:
        self._transport.abort()  # type: ignore[attr-defined]  # uvloop's are no asyncio.Transport

    def _write(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]  # uvloop's are no asyncio.Transport

    def offer(self, token: int) -> None:
        self._write(self._envelope_of(token))

    def _envelope_of(self, token: int) -> bytes:
        self._envelope = token
        self._awaited += ("MAIL", *["RCPT"] * len(recipients_of(token)), "DATA")
        return envelope_of(token)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n")) >= 0:
            line, self._buffer = self._buffer[:end].decode(), self._buffer[end + 2 :]
            if line[3:4] != "-":
                self._reply(int(line[:3]), line[4:])

    def _reply(self, code: int, text: str) -> None:
        step = self._awaited.popleft() if self._awaited else "farewell"
        if step == "content" and code != 421:
            assert self._whole is not None
            self._load.answered(self._whole, code, text)
            self._load.books.acknowledged_by_tls += self._secured and code == 250
            self._whole = None
            if self._envelope is None:
                self._load.idle(self)
        elif step == "greeting" and code == 220:
            self._awaited.append("EHLO")
            self._write(b"EHLO load.test\r\n")
        elif step == "EHLO" and code == 250:
            self._load.idle(self)
        elif step == "DATA" and code == 354:
            self._send_content()
        elif step not in ("MAIL", "RCPT") or code != 250:
            # Whatever it is, this conversation is over; `connection_lost` keeps the books.
            self.abort()

    def _send_content(self) -> None:
        token, self._envelope = self._envelope, None
        assert token is not None and self._whole is None
        self._whole = token
        self._awaited.append("content")
        self._load.books.offered_whole += 1
        content = content_of(token) + END_OF_DATA
        following = self._load.next_token()
        self._write(content if following is None else content + self._envelope_of(following))
