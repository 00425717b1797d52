"""A load that keeps books: clients that pipeline over kept connections, and an upstream that notes mail.

Every message carries a token of its own. A client that lost its connection after its end of data does not
know whether the message was accepted (RFC 1047): the token is *unanswered*, and is offered again, as real
clients do. Both ends run on one event loop in a thread, so that a scenario may kill processes meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field

import uvloop

_TOKEN = re.compile(rb"X-Token: (\d+)\r\n")
_ID = re.compile(rb"\bid (spl_[0-9a-f]{32})")
_TICK_S = 0.005
_BURST_S = 0.1
"""So much of what the clients could not offer in time is made up for."""
_AGAIN_S = 0.05
"""Between two attempts to connect."""
_BODY = (b"x" * 76 + b"\r\n") * 12
_LARGE_BODY = (b"x" * 76 + b"\r\n") * 15_000
"""More than a mebibyte: it has a file of its own in the spool."""
_LARGE_EVERY = 250
_LATER_SHARE = 0.03
"""Of the recipients that are offered to the upstream, so many are deferred, so that deliveries are parked."""
_SLOW_SHARE = 0.05
_SLOW_S = (0.005, 0.1)
"""The upstream thinks about so many contents, so long."""


@dataclass
class Books:
    """What the two ends saw. Tokens are the clients' names of messages, ids the relay's."""

    offered: int = 0
    """Tokens so far."""
    acknowledged: dict[int, str] = field(default_factory=dict)
    """Token to the id in the 250."""
    refused: dict[int, str] = field(default_factory=dict)
    """Token to the reply after the end of data."""
    unanswered: Counter[int] = field(default_factory=Counter)
    """How often the connection broke between the token's end of data and the reply."""
    delivered: Counter[tuple[int, str]] = field(default_factory=Counter)
    """Token and id to how often it came to the upstream and was answered 250."""
    offered_whole: int = 0
    """Ends of data that were written."""


class Load:
    """`start`, then at any time `drain`, then `close`."""

    def __init__(self, port: int, *, rate: float, clients: int, seed: int = 0) -> None:
        """`port` is the relay's; `rate` what is offered in a second, of all clients together."""
        self.books = Books()
        self.upstream_port = 0
        self._relay_port = port
        self._rate = rate
        self._clients_count = clients
        self._random = random.Random(seed)
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._clients: set[_Client] = set()
        self._sessions: set[_Upstream] = set()
        self._dialling: set[asyncio.Task[None]] = set()
        self._idle: deque[_Client] = deque()
        self._again: deque[int] = deque()
        self._permits = 0.0
        self._ticked_s = 0.0
        self._open = 0
        """Tokens that are on their way, or wait to be offered again."""
        self._stopping = False
        self._closing = False
        self._upstream_ready = threading.Event()

    # ------------------------------------------------------------ from the scenario's thread

    def start_upstream(self) -> int:
        """Its port."""
        self._thread.start()
        assert self._upstream_ready.wait(10)
        return self.upstream_port

    def start(self) -> None:
        self._loop.call_soon_threadsafe(self._begin)

    def stop_offering(self) -> None:
        """Nothing new; what is under way and what was not answered comes to its end."""
        self._stopping = True

    @property
    def all_answered(self) -> bool:
        return self._open == 0

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end)
            self._thread.join(10)
            assert not self._thread.is_alive()

    # ------------------------------------------------------------ on the loop

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            self._loop.create_server(
                lambda: _Upstream(self.books, self._random, self._sessions), "127.0.0.1", 0, backlog=500
            )
        )
        self.upstream_port = server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # both loops' servers have them
        self._upstream_ready.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
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
        for session in list(self._sessions):
            session.abort()
        self._stop_when_closed()

    def _stop_when_closed(self) -> None:
        if self._clients or self._sessions or self._dialling:
            self._loop.call_later(_TICK_S, self._stop_when_closed)
        else:
            self._loop.stop()

    def _connect(self) -> None:
        if not self._closing:
            task = self._loop.create_task(self._try_to_connect())
            self._dialling.add(task)
            task.add_done_callback(self._dialling.discard)

    async def _try_to_connect(self) -> None:
        try:
            await self._loop.create_connection(lambda: _Client(self), "127.0.0.1", self._relay_port)
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
        self._awaited += ("MAIL", "RCPT", "DATA")
        return b"MAIL FROM:<load@example.org>\r\nRCPT TO:<you@example.net>\r\nDATA\r\n"

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
        body = _BODY if token % _LARGE_EVERY else _LARGE_BODY
        content = b"Subject: Load\r\nX-Token: %d\r\n\r\n%s.\r\n" % (token, body)
        following = self._load.next_token()
        self._write(content if following is None else content + self._envelope_of(following))


class _Upstream(asyncio.Protocol):
    """Takes all: some at the second attempt, some after a moment, so that kills meet mail everywhere."""

    def __init__(self, books: Books, chance: random.Random, sessions: set[_Upstream]) -> None:
        self._books = books
        self._chance = chance
        self._sessions = sessions
        self._buffer = bytearray()
        self._searched = 0
        """So much of the buffer holds no end of data."""
        self._recipient_taken = False
        self._in_content = False
        self._pausing = False
        self._gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._sessions.add(self)
        self._write(b"220 upstream.test\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._sessions.discard(self)

    def abort(self) -> None:
        self._transport.abort()  # type: ignore[attr-defined]  # uvloop's are no asyncio.Transport

    def _write(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]  # uvloop's are no asyncio.Transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._go_on()

    def _go_on(self) -> None:
        while not self._pausing:
            if self._in_content:
                end = self._buffer.find(b"\r\n.\r\n", self._searched)
                if end < 0:
                    self._searched = max(0, len(self._buffer) - 4)
                    return
                self._content(self._take(end, 5))
            else:
                end = self._buffer.find(b"\r\n")
                if end < 0:
                    return
                self._command(self._take(end, 2)[:4].upper())

    def _take(self, end: int, mark_bytes: int) -> bytes:
        part = bytes(self._buffer[:end])
        del self._buffer[: end + mark_bytes]
        self._searched = 0
        return part

    def _command(self, verb: bytes) -> None:
        answer = {
            b"EHLO": b"250-upstream.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
            b"QUIT": b"221 2.0.0 Bye\r\n",
        }.get(verb, b"250 2.0.0 Ok\r\n")
        if verb == b"RCPT":
            self._recipient_taken = self._chance.random() >= _LATER_SHARE
            answer = answer if self._recipient_taken else b"451 4.2.1 Not now\r\n"
        elif verb == b"DATA":
            self._in_content = self._recipient_taken
            answer = b"354 Go ahead\r\n" if self._in_content else b"554 5.5.1 No valid recipients\r\n"
        self._write(answer)

    def _content(self, content: bytes) -> None:
        self._in_content = False
        self._recipient_taken = False
        self._note(content)
        if self._chance.random() < _SLOW_SHARE:
            self._pausing = True
            asyncio.get_running_loop().call_later(self._chance.uniform(*_SLOW_S), self._resume)
        else:
            self._write(b"250 2.0.0 Ok\r\n")

    def _resume(self) -> None:
        self._pausing = False
        if not self._gone:
            self._write(b"250 2.0.0 Ok\r\n")
            self._go_on()

    def _note(self, content: bytes) -> None:
        token, message_id = _TOKEN.search(content), _ID.search(content)
        assert token is not None and message_id is not None, content[:500]
        self._books.delivered[int(token[1]), message_id[1].decode()] += 1
