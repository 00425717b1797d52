"""The least that clients and hosts need between them: takes everything, keeps nothing, hands it on at once.

Trusts both sides, so it is no relay; it costs little, and so shows what clients, network and hosts cost.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import NamedTuple

from tests.simulation.contents import fields_of
from tests.simulation.network import End, Listener, SimulatedNetwork

Loop = asyncio.AbstractEventLoop

_TOKEN = re.compile(rb"X-Token: (\d+)\r\n")
_DATE = b"Fri, 20 Nov 2026 08:00:00 +0000\r\n"
_HELLO = b"250-straight\r\n250-PIPELINING\r\n250-SIZE\r\n250-8BITMIME\r\n250 CHUNKING\r\n"


class Kept(NamedTuple):
    """A message that was answered 250."""

    id: str
    envelope: tuple[bytes, ...]
    """The commands MAIL and RCPT."""
    content: bytes


class StraightRelay:
    """Listens at `port`, and hands over to `upstream_port`, unless that is None."""

    def __init__(
        self, loop: Loop, network: SimulatedNetwork, port: int, upstream_port: int | None = None
    ) -> None:
        self.kept: list[Kept] = []
        self.answer: bytes | None = None
        """To every end of data, in place of taking it."""
        self.listener: Listener = network.listen(loop, port, lambda: Inlet(self), "straight")
        self.outlet: Outlet | None = None
        if upstream_port is not None:
            self.outlet = Outlet()
            network.dial(loop, upstream_port, lambda: self.outlet or Outlet(), name="straight")

    def take(self, envelope: list[bytes], content: bytes) -> bytes:
        if self.answer is not None:
            return self.answer
        kept = Kept(f"spl_{len(self.kept):032x}", tuple(envelope), content)
        self.kept.append(kept)
        if self.outlet is not None:
            self.outlet.hand_over(kept)
        return b"250 2.0.0 queued as %b\r\n" % kept.id.encode()


class Inlet(asyncio.Protocol):
    """A client's connection."""

    def __init__(self, relay: StraightRelay) -> None:
        self._relay = relay
        self._buffer = b""
        self._envelope: list[bytes] = []
        self._chunks = b""
        self._in_data = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, End)
        self._transport = transport
        transport.write(b"220 straight\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        replies: list[bytes] = []
        while (reply := self._next()) is not None:
            replies.append(reply)
        self._transport.write(b"".join(replies))

    def _next(self) -> bytes | None:
        """The answer to what comes next; None: it has not come whole."""
        if self._in_data:
            end = self._buffer.find(b"\r\n.\r\n")
            if end < 0:
                return None
            content, self._buffer = self._buffer[2 : end + 2], self._buffer[end + 5 :]
            self._in_data = False
            if content.startswith(b"."):
                content = content[1:]
            return self._whole(content.replace(b"\r\n.", b"\r\n"))
        line, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            return None
        verb = line[:4]
        if verb == b"BDAT":
            size = int(line.split()[1])
            if len(rest) < size:
                return None
            self._chunks += rest[:size]
            self._buffer = rest[size:]
            return self._whole(self._chunks) if line.endswith(b"LAST") else b"250 chunk\r\n"
        self._buffer = rest
        if verb == b"DATA":
            self._in_data = True
            self._buffer = b"\r\n" + rest
            return b"354 go ahead\r\n"
        if verb in (b"MAIL", b"RCPT"):
            self._envelope.append(line + found)
        elif verb == b"RSET":
            self._forget()
        return _HELLO if verb == b"EHLO" else b"250 fine\r\n"

    def _whole(self, content: bytes) -> bytes:
        envelope = self._envelope
        self._forget()
        return self._relay.take(envelope, content)

    def _forget(self) -> None:
        self._envelope, self._chunks = [], b""


class Outlet(asyncio.Protocol):
    """The connection to the upstream: envelope and content of everything that waits, one by one."""

    def __init__(self) -> None:
        self._waiting: deque[Kept] = deque()
        self._awaited = -1
        """How many replies are missing until more may be said; below 0 is before EHLO."""
        self._current: Kept | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, End)
        self._transport = transport

    def hand_over(self, kept: Kept) -> None:
        self._waiting.append(kept)
        if not self._awaited:
            self._go_on()

    def data_received(self, data: bytes) -> None:
        if self._awaited < 0:
            if not data.endswith(b"\n"):
                return
            self._awaited = 1
            self._transport.write(b"EHLO straight\r\n")
            return
        *lines, self._buffer = (self._buffer + data).split(b"\r\n")
        # Only the last line of a reply has a space behind its code.
        self._awaited -= sum(line[3:4] == b" " for line in lines)
        if lines and not self._awaited:
            self._go_on()

    def _go_on(self) -> None:
        if self._current is not None:
            kept, self._current = self._current, None
            self._awaited = 1
            content = b"\r\n" + _traced(kept)
            self._transport.write(content.replace(b"\r\n.", b"\r\n..")[2:])
            self._transport.write(b".\r\n" if content.endswith(b"\r\n") else b"\r\n.\r\n")
        elif self._waiting:
            self._current = self._waiting.popleft()
            self._awaited = len(self._current.envelope) + 1
            self._transport.write(b"".join(self._current.envelope) + b"DATA\r\n")


def _traced(kept: Kept) -> bytes:
    """With what a relay puts in front. (What it removes, only messages without that can be compared.)"""
    token = _TOKEN.search(kept.content)
    assert token is not None
    has_date, has_message_id = fields_of(int(token[1]))
    trace = f"Received: from c ([192.0.2.1])\r\n\tby straight (Dispatch) with ESMTP\r\n\tid {kept.id};\r\n\t"
    front = trace.encode() + _DATE
    if not has_date:
        front += b"Date: " + _DATE
    if not has_message_id:
        front += f"Message-ID: <{kept.id}@straight>\r\n".encode()
    return front + kept.content
