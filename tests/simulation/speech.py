"""A conversation by SMTP as a generator: what is said, what is heard, and the byte at which it is cut off.

A *talk* says commands with `Speaker.say` and waits: `yield None` for the next reply, `yield seconds` for that
time. All that it says between two waits leaves in one write, so that it reads in the order of the protocol,
whatever is pipelined. When it returns, the connection is closed.

A *fuse* ends the speech behind one byte of it, in one of four `Way`s; `left` tells what has left.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Generator
from functools import lru_cache
from typing import Literal, NamedTuple

from tests.simulation.network import End

Loop = asyncio.AbstractEventLoop

PATIENCE_S = 900.0
"""So long anything is waited for."""

Way = Literal["abort", "close", "half", "stall"]
"""The last two say nothing more and go on listening."""


class Reply(NamedTuple):
    code: int
    text: str
    """Of a reply in many lines the lines, codes left out, with line breaks between them."""


Talk = Generator[float | None, Reply, None]

_SILENCE = Reply(0, "")


class Speaker(asyncio.Protocol):
    """One connection to a server."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.said_bytes = 0
        self.greeted = False
        """The server was glad to see us."""
        self.mute = False
        """Says nothing more."""
        self.over = False
        """Says and hears nothing more."""
        self._talk = self.converse()
        self._out: list[bytes] = []
        self._sent_bytes = 0
        self._fuse: tuple[int, Way] | None = None
        self._buffer = b""
        self._lines: list[bytes] = []
        self._replies: deque[Reply] = deque()
        self._listening = True
        """The talk waits for a reply."""
        self._heard = 0
        self._heard_before = -1

    # ------------------------------------------------------------ for the talk

    @abstractmethod
    def converse(self) -> Talk:
        """From the greeting, which it waits for first, to the end."""

    def say(self, data: bytes) -> None:
        self._out.append(data)
        self.said_bytes += len(data)

    def light(self, at: int, way: Way) -> None:
        """Let the speech end behind so many bytes, which are more than were said."""
        self._fuse = at, way

    def cut_off(self) -> None:
        """Now."""
        self.over = True
        self._transport.abort()

    # ------------------------------------------------------------ what happens

    @abstractmethod
    def left(self, sent_bytes: int) -> None:
        """So many bytes have left so far."""

    @abstractmethod
    def told_to_go(self, reply: Reply) -> None:
        """The server said 421: it executes nothing behind it (RFC 5321 section 3.8)."""

    @abstractmethod
    def gone(self) -> None:
        """The connection is gone."""

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, End)
        self._transport = transport
        self._patience = self.loop.call_later(PATIENCE_S, self._lose_patience)
        next(self._talk)

    def data_received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\r\n")
        for line in lines:
            if line[3:4] == b"-":
                self._lines.append(line)
            elif self._lines:
                whole = b"\r\n".join((*self._lines, line))
                self._lines.clear()
                self._hear(_reply_of(whole))
            else:
                self._hear(_reply_of(line))

    def connection_lost(self, exc: Exception | None) -> None:
        self.over = True
        self._patience.cancel()
        self._talk.close()
        self.gone()

    # ------------------------------------------------------------ between talk and wire

    def _hear(self, reply: Reply) -> None:
        if self.over:
            return
        self._heard += 1
        if reply.code == 421:
            self.over = True
            self.told_to_go(reply)
            self._transport.close()
        elif self._listening:
            self._listening = False
            self._go_on(reply)
        else:
            self._replies.append(reply)

    def _go_on(self, reply: Reply) -> None:
        while True:
            try:
                wait_s = self._talk.send(reply)
            except StopIteration:
                self._flush()
                if not self.mute and not self.over:
                    self.over = True
                    self._transport.close()
                return
            self._flush()
            if self.over:
                return
            if wait_s is not None:
                self.loop.call_later(wait_s, self._rested)
                return
            if not self._replies:
                self._listening = True
                return
            reply = self._replies.popleft()

    def _rested(self) -> None:
        if not self.over:
            self._go_on(_SILENCE)

    def _flush(self) -> None:
        """Write what the talk has said, up to the fuse."""
        if not self._out:
            return
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        if self.mute or self.over:
            return
        way: Way | None = None
        if self._fuse is not None and self._sent_bytes + len(data) >= self._fuse[0]:
            at, way = self._fuse
            data = data[: at - self._sent_bytes]
        self._transport.write(data)
        self._sent_bytes += len(data)
        self.left(self._sent_bytes)
        match way:
            case "abort":
                self.cut_off()
            case "close":
                self.over = True
                self._transport.close()
            case "half":
                self.mute = True
                self._transport.write_eof()
            case "stall":
                self.mute = True

    def _lose_patience(self) -> None:
        if self._heard == self._heard_before:
            self._transport.abort()
        else:
            self._heard_before = self._heard
            self._patience = self.loop.call_later(PATIENCE_S, self._lose_patience)


@lru_cache(maxsize=256)
def _reply_of(lines: bytes) -> Reply:
    texts = [line[4:].decode() for line in lines.split(b"\r\n")]
    return Reply(int(lines[:3]), "\r\n".join(texts))
