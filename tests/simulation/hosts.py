"""Upstream SMTP servers, from the perfect to the impossible: what a relay meets, without its own code.

A `Host` with a trouble of 0 takes everything at once. With more, up to 1, it refuses connections, greets
with 421 or 554, lacks extensions, answers 4yz and 5yz at every step and to single recipients, asks to be
left alone for a while, is slow, answers in pieces, closes kept connections, and ends conversations at any
step: by a close, a reset, a 421, or by never answering again. The worst steps are those around the end of
data: before it took the mail over, after it did (the final reply is lost), and after the relay gave up.

It also sees to the relay's own manners: nothing is sent in groups unless PIPELINING is offered, nothing
behind DATA before 354, no parameter of an extension that it lacks. What is wrong there is a fault in `Taken`.

It never lies: what it refused it has not taken, and what it took it did not refuse.
"""

from __future__ import annotations

import asyncio
import re
from random import Random

from tests.simulation.network import End, SimulatedNetwork
from tests.simulation.taken import Offered, Taken, Taking

__all__ = ["Host", "Taken", "Taking"]

# At a trouble of 1.
DOOM_SHARE = 0.4
"""Of the connections, how many end at a step of their own."""
DOOM_STEPS_MAX = 14
REFUSAL_SHARE = 0.06
"""Of the commands, how many are refused."""
DELAY_SHARE = 0.05
"""Of the answers, how many come late or in pieces."""
LATE_TAKING_SHARE = 0.04
"""Of the ends of data, how many are thought about for long before the mail is taken over."""
IDLE_CLOSE_SHARE = 0.15

_DELAYS_S = (0.01, 0.2, 1.0, 8.0, 70.0, 400.0)
_IDLE_S = (0.0, 0.1, 2.0, 29.0, 30.0, 31.0)

_GREETINGS = (b"421 4.3.2 host.example is going down\r\n", b"554 5.7.1 no service for you\r\n")
_HELLO_REFUSALS = (b"502 5.5.1 what is EHLO\r\n", b"451 4.3.0 not now\r\n", b"550 5.7.1 not you\r\n")
_REFUSALS = {
    b"MAIL": (
        b"451 4.3.0 not now\r\n",
        b"450 4.7.1 slow down, try again in 2 minutes\r\n",
        b"452 4.3.1 disk is full\r\n",
        b"550 5.7.1 this sender is not welcome\r\n",
        b"552 5.3.4 too large\r\n",
    ),
    b"RCPT": (
        b"550 5.1.1 no such user\r\n",
        b"550 5.1.1 no such user\r\n",
        b"450-4.2.1 mailbox is busy,\r\n450 4.2.1 later perhaps\r\n",
        b"451 4.7.1 greylisted, come back in 60 seconds\r\n",
        b"452 4.5.3 too many recipients\r\n",
        b"452 4.2.2 mailbox full\r\n",
    ),
    b"DATA": (b"451 4.3.0 not now\r\n", b"554 5.5.1 no, after all\r\n"),
    b".": (
        b"451 4.3.0 not now\r\n",
        b"451 4.7.0 too many messages, slow down\r\n",
        b"452 4.3.1 disk is full\r\n",
        b"554 5.7.1 looks like spam\r\n",
        b"550-5.7.1 looks\r\n550 5.7.1 like a list\r\n",
    ),
}
_GOODBYES = (b"421 4.3.2 closing\r\n", b"421 4.7.0 too many messages from you\r\n")
_PATH = re.compile(rb"(?:MAIL FROM|RCPT TO):<([^>]*)>(.*)\Z", re.IGNORECASE)
_END_OF_DATA = b"\r\n.\r\n"


class Host:
    """One upstream."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        network: SimulatedNetwork,
        port: int,
        random: Random,
        taken: Taken,
        trouble: float,
    ) -> None:
        self.loop = loop
        self.port = port
        self.random = random
        self.taken = taken
        self.chunking = random.random() < 0.5
        self.sessions: dict[Session, None] = {}
        self._network = network
        self._connections = 0
        self.trouble = trouble
        self.come_back()

    @property
    def trouble(self) -> float:
        """How bad it is, from 0 to 1, from the next step on."""
        return self._trouble

    @trouble.setter
    def trouble(self, trouble: float) -> None:
        self._trouble = trouble
        self._network.trouble_at[self.port] = trouble

    def go_away(self) -> None:
        """Nobody listens any more, and whoever talked is cut off."""
        self._network.listeners.pop(self.port, None)
        for session in list(self.sessions):
            session.cut()

    def come_back(self) -> None:
        if self.port not in self._network.listeners:
            self._network.listen(self.loop, self.port, self._accept, f"host {self.port}")

    @property
    def away(self) -> bool:
        return self.port not in self._network.listeners

    def calm(self) -> None:
        """No more trouble: conversations that were to hang or to end badly end here."""
        self.come_back()
        self.trouble = 0.0
        for session in list(self.sessions):
            session.calm()

    def _accept(self) -> Session:
        self._connections += 1
        return Session(self, self._connections)


class Session(asyncio.Protocol):
    """One connection of a relay."""

    def __init__(self, host: Host, number: int) -> None:
        random, trouble = host.random, host.trouble
        self._host = host
        self._random = random
        self._number = number
        self._steps_left: int | None = None
        """How many more steps it takes until it ends badly."""
        self._extensions = {b"PIPELINING": True, b"8BITMIME": True, b"CHUNKING": host.chunking, b"SIZE": True}
        if trouble:
            if random.random() < trouble * DOOM_SHARE:
                self._steps_left = random.randrange(DOOM_STEPS_MAX)
            for extension, share in ((b"PIPELINING", 0.2), (b"8BITMIME", 0.03), (b"SIZE", 0.2)):
                self._extensions[extension] = random.random() >= trouble * share
            self._extensions[b"CHUNKING"] = random.random() < 0.5
        self._offered: frozenset[bytes] = frozenset()
        """What was offered in the answer to EHLO."""
        self._buffer = bytearray()
        self._searched = 0
        """So much of the buffer holds no end of data."""
        self._out: list[bytes] = []
        self._waiting = False
        """It thinks; nothing is read or said meanwhile."""
        self._gone = False
        self._stalled = False
        self._messages = 0
        self._in_data = False
        self._chunk_left = 0
        self._chunk_last = False
        self._chunks: bytearray | None = None
        self._chunk_refusal = b""
        self._forget()

    def _forget(self) -> None:
        """No transaction is under way."""
        self._reverse_path: str | None = None
        self._recipients: list[str] = []
        self._chunks = None

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, End)
        self._transport = transport
        self._host.sessions[self] = None
        if self._ends_here():
            return
        if self._host.trouble and self._random.random() < self._host.trouble * REFUSAL_SHARE:
            self._say_last(self._random.choice(_GREETINGS))
        else:
            self._say(b"220 host.example\r\n")
            self._flush()

    def data_received(self, data: bytes) -> None:
        if not self._gone:
            self._buffer += data
            if not self._waiting:
                self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._host.sessions.pop(self, None)

    def cut(self) -> None:
        self._gone = True
        self._transport.abort()

    def calm(self) -> None:
        self._steps_left = None
        if self._stalled:
            self._transport.abort()

    # ------------------------------------------------------------ reading and writing

    def _go_on(self) -> None:
        """Deal with what was said, until there is no more of it."""
        while not self._waiting and not self._gone:
            if self._in_data:
                more = self._read_data()
            elif self._chunk_left:
                more = self._read_chunk()
            else:
                more = self._read_line()
            if not more:
                break
        self._flush()

    def _flush(self) -> None:
        if self._out and not self._waiting and not self._gone:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def _say(self, reply: bytes) -> None:
        self._out.append(reply)
        trouble = self._host.trouble
        if trouble and self._random.random() < trouble * DELAY_SHARE:
            self._dawdle()

    def _dawdle(self) -> None:
        """Answer later, or in pieces."""
        if self._random.random() < 0.5:
            said = b"".join(self._out)
            at = self._random.randrange(1, len(said))
            self._transport.write(said[:at])
            self._out = [said[at:]]
        self._wait(self._random.choice(_DELAYS_S))

    def _wait(self, delay_s: float) -> None:
        self._waiting = True
        self._host.loop.call_later(delay_s, self._waited)

    def _waited(self) -> None:
        self._waiting = False
        self._go_on()

    def _say_last(self, reply: bytes) -> None:
        self._out.append(reply)
        self._waiting = False
        self._flush()
        self._gone = True
        self._transport.close()

    # ------------------------------------------------------------ bad ends

    def _ends_here(self, *, silently: bool = False) -> bool:
        """Whether the conversation was to end at this step; then it has. `silently`: nothing may be said."""
        if self._steps_left is None:
            return False
        self._steps_left -= 1
        if self._steps_left >= 0:
            return False
        ways = ("close", "abort", "stall", "stall") if silently else ("close", "abort", "stall", "farewell")
        match self._random.choice(ways):
            case "close":
                self._gone = True
                self._transport.close()
            case "abort":
                self._gone = True
                self._transport.abort()
            case "stall":
                self._gone = self._stalled = True
                if self._random.random() < 0.5:
                    self._transport.pause_reading()
            case "farewell":
                self._say_last(self._random.choice(_GOODBYES))
        return True

    def _refusal(self, step: bytes) -> bytes | None:
        trouble = self._host.trouble
        if trouble and self._random.random() < trouble * REFUSAL_SHARE:
            return self._random.choice(_REFUSALS[step])
        return None

    # ------------------------------------------------------------ commands

    def _read_line(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        if self._ends_here():
            return False
        verb = line[:4].upper()
        if self._buffer and verb != b"BDAT" and (b"PIPELINING" not in self._offered or verb == b"DATA"):
            self._host.taken.fault(f"said more behind {line!r}: {bytes(self._buffer[:80])!r}")
        match verb:
            case b"MAIL":
                self._mail(line)
            case b"RCPT":
                self._rcpt(line)
            case b"DATA":
                self._data()
            case b"BDAT":
                self._bdat(line)
            case b"EHLO" | b"HELO":
                self._hello(verb)
            case b"RSET":
                self._forget()
                self._say(b"250 2.0.0 forgotten\r\n")
            case b"QUIT":
                self._say_last(b"221 2.0.0 bye\r\n")
            case _:
                self._host.taken.fault(f"said {line!r}")
                self._say(b"500 5.5.1 what\r\n")
        return True

    def _hello(self, verb: bytes) -> None:
        self._forget()
        if verb == b"HELO":
            self._say(b"250 host.example\r\n")
            return
        trouble = self._host.trouble
        if trouble and self._random.random() < trouble * REFUSAL_SHARE:
            self._say(self._random.choice(_HELLO_REFUSALS))
            return
        self._offered = frozenset(word for word, offered in self._extensions.items() if offered)
        words = [b"host.example at your service", *(w for w, offered in self._extensions.items() if offered)]
        words.append(b"ENHANCEDSTATUSCODES")
        self._say(b"".join(b"250-%b\r\n" % word for word in words[:-1]) + b"250 %b\r\n" % words[-1])

    def _mail(self, line: bytes) -> None:
        path = _PATH.match(line)
        if path is None or self._reverse_path is not None:
            self._host.taken.fault(f"said {line!r}, a transaction being under way: {self._reverse_path!r}")
            self._say(b"503 5.5.1 what\r\n")
            return
        for parameter in path[2].split():
            keyword = {b"BODY": b"8BITMIME"}.get(parameter[:4].upper(), parameter.partition(b"=")[0])
            if keyword not in self._offered:
                self._host.taken.fault(f"said {line!r}, and {keyword!r} is not offered")
        refusal = self._refusal(b"MAIL")
        if refusal is None:
            self._reverse_path = path[1].decode()
        self._say(refusal or b"250 2.1.0 sender ok\r\n")

    def _rcpt(self, line: bytes) -> None:
        path = _PATH.match(line)
        if path is None or path[2]:
            self._host.taken.fault(f"said {line!r}")
        if self._reverse_path is None or path is None:
            self._say(b"503 5.5.1 MAIL first\r\n")
            return
        refusal = self._refusal(b"RCPT")
        if refusal is None:
            self._recipients.append(path[1].decode())
        self._say(refusal or b"250 2.1.5 recipient ok\r\n")

    def _data(self) -> None:
        refusal = self._refusal(b"DATA")
        if not self._recipients and (self._reverse_path is None or not self._is_lax()):
            refusal = b"554 5.5.1 no valid recipients\r\n"
        if refusal is None:
            self._in_data = True
            # The end of this line may be the beginning of the end of data.
            self._buffer[:0] = b"\r\n"
        self._say(refusal or b"354 go ahead\r\n")

    def _is_lax(self) -> bool:
        """Some hosts want to see the content of a message that nobody gets (RFC 2920 section 3.1)."""
        return self._host.trouble > 0 and self._random.random() < 0.5

    # ------------------------------------------------------------ content

    def _read_data(self) -> bool:
        if len(self._buffer) > 2 and not self._searched and self._ends_here():
            return False
        end = self._buffer.find(_END_OF_DATA, self._searched)
        if end < 0:
            self._searched = max(0, len(self._buffer) - len(_END_OF_DATA) + 1)
            return False
        text = bytes(self._buffer[: end + 2])
        del self._buffer[: end + len(_END_OF_DATA)]
        self._in_data = False
        self._searched = 0
        if b"\r\n." in text:
            text = text.replace(b"\r\n.", b"\r\n")
        self._whole(text[2:], chunked=False)
        return True

    def _bdat(self, line: bytes) -> None:
        words = line.split()
        self._chunk_left = int(words[1])
        self._chunk_last = len(words) == 3 and words[2].upper() == b"LAST"
        if b"CHUNKING" not in self._offered:
            self._host.taken.fault(f"said {line!r}, and CHUNKING is not offered")
        if self._chunks is None:
            self._chunks = bytearray()
            refusal = self._refusal(b"DATA")
            if not self._recipients:
                refusal = b"503 5.5.1 RCPT first\r\n"
            self._chunk_refusal = refusal or b""
        if not self._chunk_left:
            self._chunk_read()

    def _read_chunk(self) -> bool:
        assert self._chunks is not None
        if not self._buffer:
            return False
        if self._ends_here():
            return False
        piece = self._buffer[: self._chunk_left]
        del self._buffer[: len(piece)]
        self._chunks += piece
        self._chunk_left -= len(piece)
        if not self._chunk_left:
            self._chunk_read()
        return True

    def _chunk_read(self) -> None:
        if self._chunk_refusal:
            self._say(self._chunk_refusal)
            if self._chunk_last:
                self._chunks = None
        elif self._chunk_last:
            assert self._chunks is not None
            self._whole(bytes(self._chunks), chunked=True)
        else:
            self._say(b"250 2.0.0 chunk taken\r\n")

    def _whole(self, content: bytes, *, chunked: bool) -> None:
        """The end of data has come."""
        recipients, reverse_path = self._recipients, self._reverse_path
        self._forget()
        if not recipients:
            if content:
                self._host.taken.fault(f"content for nobody: {content[:200]!r}")
            self._say(b"554 5.5.1 for nobody\r\n")
            return
        assert reverse_path is not None
        refusal = self._refusal(b".")
        if refusal is not None:
            self._say(refusal)
            return
        if self._ends_here():
            return
        offered = Offered(reverse_path, recipients, content, chunked)
        trouble = self._host.trouble
        if trouble and self._random.random() < trouble * LATE_TAKING_SHARE:
            self._waiting = True
            self._host.loop.call_later(self._random.choice(_DELAYS_S), self._take_late, offered)
        else:
            self._take(offered)

    def _take_late(self, offered: Offered) -> None:
        """It took its time; the relay may have given up."""
        self._waiting = False
        self._take(offered)
        self._go_on()

    def _take(self, offered: Offered) -> None:
        host = self._host
        host.taken.take(offered, host.port, self._number, host.loop.time())
        self._messages += 1
        if self._ends_here(silently=True):
            return
        self._say(b"250 2.0.0 taken\r\n")
        if host.trouble and self._random.random() < host.trouble * IDLE_CLOSE_SHARE:
            host.loop.call_later(self._random.choice(_IDLE_S), self._close_idle, self._messages)

    def _close_idle(self, messages: int) -> None:
        """It kept the connection long enough."""
        idle = self._reverse_path is None and not self._in_data and not self._buffer and not self._waiting
        if self._gone or not idle or self._messages != messages or not self._host.trouble:
            return
        if self._random.random() < 0.5:
            self._say_last(b"421 4.4.2 idle for too long\r\n")
        else:
            self._gone = True
            self._transport.close()
