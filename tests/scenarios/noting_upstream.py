"""An upstream that notes whatever it takes, and how much is under way in it.

It takes everything in the end: some at the second attempt, most after a moment, some without saying so. It
notes a message at its end of data, before it answers or fails to: what is noted has arrived. Now and then it
serves nobody for a while, so that mail goes to another one.
"""

from __future__ import annotations

import asyncio
import random
import re

from tests.scenarios.books import Books
from tests.scenarios.recipe import AWAY_EVERY_S, END_OF_DATA, Manners, content_of, deferred_first

_TOKEN = re.compile(rb"X-Token: (\d+)\r\n")
_ID = re.compile(rb"\bid (spl_[0-9a-f]{32})")
_OK = b"250 2.0.0 Ok\r\n"
_AWAY = b"421 4.3.2 Not now\r\n"


class NotingUpstream:
    """What its sessions share. Lives on the running loop."""

    def __init__(
        self, books: Books, manners: Manners, chance: random.Random, *, place: int = 0, places: int = 1
    ) -> None:
        """It is number `place` of so many."""
        self.books = books
        self.place = place
        self._away_from_s = place * AWAY_EVERY_S / places
        self.manners = manners
        self.chance = chance
        self.port = 0
        self.sessions: set[_Session] = set()
        self.under_way: set[_Session] = set()
        """Those with a recipient taken, or a content, and no final reply yet."""
        self._deferred: set[str] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Session(self), "127.0.0.1", 0, backlog=500)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Nobody new comes; who is here is cut off."""
        if self._server is not None:
            self._server.close()
        for session in list(self.sessions):
            session.abort()

    @property
    def away(self) -> bool:
        """It serves nobody now."""
        now_s = asyncio.get_running_loop().time()
        return (now_s - self._away_from_s) % AWAY_EVERY_S < self.manners.away_s

    def takes(self, address: str, first: bool) -> bool:
        """Whether it takes the recipient now. `first`: it has taken none of the transaction yet."""
        if deferred_first(address):
            known = address in self._deferred
            self._deferred.add(address)
            return known
        return not first or self.chance.random() >= self.manners.deferred_share


class _Session(asyncio.Protocol):
    def __init__(self, upstream: NotingUpstream) -> None:
        self._upstream = upstream
        self._buffer = bytearray()
        self._searched = 0
        """So much of the buffer holds no end of data."""
        self._recipients: list[str] = []
        self._in_content = False
        self._thinking: asyncio.TimerHandle | None = None
        self._gone = False
        """It has said 421."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._upstream.sessions.add(self)
        if self._upstream.away:
            self._leave()
        else:
            self._write(b"220 upstream.test\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._thinking is not None:
            self._thinking.cancel()
        self._upstream.sessions.discard(self)
        self._upstream.under_way.discard(self)

    def abort(self) -> None:
        self._transport.abort()  # type: ignore[attr-defined]  # uvloop's are no asyncio.Transport

    def _leave(self) -> None:
        self._gone = True
        self._write(_AWAY)
        self._transport.close()

    def _write(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]  # uvloop's are no asyncio.Transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._go_on()

    def _go_on(self) -> None:
        while self._thinking is None and not self._gone and (part := self._next_part()) is not None:
            if self._in_content:
                self._content(part)
            else:
                self._command(part)

    def _next_part(self) -> bytes | None:
        """A content or a command line; None while it is not here whole."""
        mark = END_OF_DATA if self._in_content else b"\r\n"
        end = self._buffer.find(mark, self._searched)
        if end < 0:
            self._searched = max(0, len(self._buffer) - len(mark) + 1)
            return None
        part = bytes(self._buffer[:end])
        del self._buffer[: end + len(mark)]
        self._searched = 0
        return part

    def _command(self, line: bytes) -> None:
        match line[:4].upper():
            case b"RCPT":
                self._write(self._recipient(line))
            case b"DATA":
                self._in_content = bool(self._recipients)
                self._write(b"354 Go ahead\r\n" if self._in_content else b"554 5.5.1 No valid recipients\r\n")
            case b"EHLO":
                self._write(b"250-upstream.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
            case b"QUIT":
                self._write(b"221 2.0.0 Bye\r\n")
            case b"MAIL" if self._upstream.away:
                self._leave()
            case _:
                # MAIL begins a transaction, RSET ends one.
                self._over()
                self._write(_OK)

    def _recipient(self, line: bytes) -> bytes:
        address = line[line.index(b"<") + 1 : line.index(b">")].decode()
        if not self._upstream.takes(address, first=not self._recipients):
            return b"451 4.2.1 Not now\r\n"
        self._recipients.append(address)
        self._upstream.under_way.add(self)
        return _OK

    def _content(self, content: bytes) -> None:
        chance, manners = self._upstream.chance, self._upstream.manners
        self._in_content = False
        dropped = chance.random() < manners.dropped_share
        if not dropped or chance.random() < 0.5:
            self._note(content)
        if dropped:
            self.abort()
        elif chance.random() < manners.thinking_share:
            delay_s = chance.uniform(*manners.thinking_s)
            self._thinking = asyncio.get_running_loop().call_later(delay_s, self._thought)
        else:
            self._answer()

    def _note(self, content: bytes) -> None:
        books = self._upstream.books
        token, message_id = _TOKEN.search(content), _ID.search(content)
        if token is None or message_id is None or not content.endswith(content_of(int(token[1]))):
            books.damaged.append(repr(content[:500]))
        else:
            books.take(int(token[1]), message_id[1].decode(), self._recipients, self._upstream.place)

    def _thought(self) -> None:
        self._thinking = None
        self._answer()
        self._go_on()

    def _answer(self) -> None:
        self._over()
        self._write(_OK)

    def _over(self) -> None:
        self._recipients = []
        self._upstream.under_way.discard(self)
