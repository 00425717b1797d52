"""A simulated network: connections between event loops that share one virtual clock, all from one seed.

What the product gets are asyncio transports; below them is as much of a kernel as can be noticed from above:

- Bytes arrive in order and later: mostly at once, sometimes after 50 ms, rarely after seconds. What was
  written in pieces may arrive in one and the other way round; now and then a few bytes come one by one.
- A connection holds `capacity` bytes that were written and not read; what is beyond waits in the writer's
  transport, which asks its protocol to pause as asyncio's does, and is lost when that process aborts or dies.
- A closed end is an end of file for its peer. Whoever closes without having read all, aborts or dies may
  also cause a reset, which can destroy what is on its way. Nothing else resets a connection.
- `process_died` is what a kernel does behind a process: its listeners and connections are gone, and no
  callback of theirs runs any more, though some may be on their way already.

Only `call_soon`, `call_at` and `time` of the loops are used, and no tasks; `connect` sleeps in its caller's.

Traps: a callback of one end may close, pause or kill the other one, so state is settled before any is called.
And what is iterated over must be ordered by itself: a set's order differs between runs.

Not simulated: names, addresses beyond what is shown, half-open connections that nobody ends, a full backlog.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable, Iterable
from enum import Enum
from random import Random
from typing import NamedTuple

from dispatch.ports import MailExchangers, NameFault, Resolved, TlsaRecords

Buffer = bytes | bytearray | memoryview
Tell = Callable[[str, str], None]

READ_BYTES_MAX = 256 << 10
"""The most that one `data_received` gets, as in asyncio."""
CAPACITIES_BYTES = (256 << 10, 256 << 10, 256 << 10, 64 << 10, 16 << 10)
HIGH_WATER_BYTES = 64 << 10
"""asyncio's default."""

AT_ONCE_SHARE = 0.7
SOON_SHARE = 0.97
LATER_SHARE = 0.9995
SOON_S_MAX = 0.001
LATER_S = 0.05
MUCH_LATER_S_MAX = 5.0

CUT_SHARE = 0.05
"""Of the arrivals, how many are cut at a random place."""
DRIP_SHARE = 0.002
"""How many are followed by bytes that come one by one."""
DRIP_BYTES_MAX = 40
CONNECT_TROUBLE_SHARE = 0.4
"""Of the attempts to connect, how many fail or are slow at a trouble of 1."""


class _Ending(Enum):
    """What comes behind the last byte."""

    NONE = "none"
    END_OF_FILE = "end of file"
    RESET = "reset"


class Listener(NamedTuple):
    """Who takes connections at a port."""

    network: SimulatedNetwork
    loop: asyncio.AbstractEventLoop
    port: int
    accept: Callable[[], asyncio.Protocol]
    name: str

    def close(self) -> None:
        """Take no more; those that were made stay."""
        if self.network.listeners.get(self.port) is self:
            del self.network.listeners[self.port]


class SimulatedNetwork:
    """The wire between all processes and the world."""

    def __init__(self, random: Random, tell: Tell | None = None) -> None:
        """`tell` gets who speaks to whom, and what, shortened."""
        self.random = random
        self.chance = random.random
        self.tell = tell
        self.trouble = 0.0
        """How many connections of `of` fail to come about, are slow, or time out: 0 is none."""
        self.trouble_at: dict[int, float] = {}
        """The same for single ports, in place of `trouble`."""
        self.listeners: dict[int, Listener] = {}
        self._ends: dict[asyncio.AbstractEventLoop, dict[End, None]] = {}
        self._connections = 0

    def listen(
        self,
        loop: asyncio.AbstractEventLoop,
        port: int,
        accept: Callable[[], asyncio.Protocol],
        name: str = "",
    ) -> Listener:
        """Raises `OSError` where somebody listens already."""
        if port in self.listeners:
            raise OSError(errno.EADDRINUSE, f"port {port} is in use (simulated)")
        listener = Listener(self, loop, port, accept, name or f"port {port}")
        self.listeners[port] = listener
        return listener

    def dial(
        self,
        loop: asyncio.AbstractEventLoop,
        port: int,
        protocol_factory: Callable[[], asyncio.Protocol],
        client_address: str = "192.0.2.1",
        name: str = "",
    ) -> End:
        """Both ends of a new connection: this one, and one at whoever listens.

        `connection_made` is called on each end's loop, in a later turn; the other's as soon as it accepts.
        Raises `ConnectionRefusedError` where nobody listens.
        """
        listener = self.listeners.get(port)
        if listener is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody listens at port {port} (simulated)")
        self._connections += 1
        here = (client_address, 1024 + self._connections % 60_000)
        there = ("127.0.0.1", port)
        name = name or f"{here[0]}:{here[1]}"
        capacity = self.random.choice(CAPACITIES_BYTES)
        near = End(self, loop, name, here, there, capacity)
        far = End(self, listener.loop, listener.name, there, here, capacity)
        near.peer, far.peer = far, near
        self._ends.setdefault(loop, {})[near] = None
        self._ends.setdefault(listener.loop, {})[far] = None
        near.protocol = protocol_factory()
        if self.tell is not None:
            self.tell(f"{name} -> {listener.name}", "connects")
        loop.call_soon(near.made)
        self.later(listener.loop, far.accepted, listener)
        return near

    def of(
        self, loop: asyncio.AbstractEventLoop, client_address: str = "192.0.2.254", name: str = "relay"
    ) -> LoopNetwork:
        """`ports.Network` for a process."""
        return LoopNetwork(self, loop, client_address, name)

    def process_died(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close everything that the process of this loop has open, as its kernel does."""
        for listener in list(self.listeners.values()):
            if listener.loop is loop:
                listener.close()
        for end in self._ends.pop(loop, {}):
            end.die()

    # ------------------------------------------------------------ for the ends

    def later(self, loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> None:
        """Call it on that loop after as long as something takes on this network."""
        chance = self.chance()
        if chance < AT_ONCE_SHARE:
            loop.call_soon(callback, *args)
        else:
            loop.call_at(loop.time() + _delay_s(chance), callback, *args)

    def forget(self, end: End) -> None:
        ends = self._ends.get(end.loop)
        if ends is not None:
            ends.pop(end, None)


def _delay_s(chance: float) -> float:
    """Spends what is left of the chance on the length."""
    if chance < SOON_SHARE:
        return (chance - AT_ONCE_SHARE) / (SOON_SHARE - AT_ONCE_SHARE) * SOON_S_MAX
    if chance < LATER_SHARE:
        return LATER_S
    return (chance - LATER_SHARE) / (1 - LATER_SHARE) * MUCH_LATER_S_MAX


class LoopNetwork:
    """`ports.Network` of one process."""

    def __init__(
        self, network: SimulatedNetwork, loop: asyncio.AbstractEventLoop, client_address: str, name: str
    ) -> None:
        self._network = network
        self._loop = loop
        self._client_address = client_address
        self._name = name

    async def connect(
        self,
        host: str,
        port: int,
        protocol: Callable[[], asyncio.Protocol],
        timeout_s: float,
        source_address: str | None = None,
    ) -> None:
        network = self._network
        trouble = network.trouble_at.get(port, network.trouble)
        if trouble and network.chance() < trouble * CONNECT_TROUBLE_SHARE:
            await self._trouble(port, timeout_s)
        end = network.dial(self._loop, port, protocol, self._client_address, self._name)
        try:
            # Long enough for `connection_made`, behind which asyncio returns.
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            end.abort()
            raise

    async def secure(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.Protocol,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str | None = None,
        timeout_s: float,
    ) -> asyncio.Transport:
        """Both ends believe it at once: what TLS adds is OpenSSL's, and needs no simulation."""
        return transport

    async def _trouble(self, port: int, timeout_s: float) -> None:
        network = self._network
        kind = network.random.choice(("refused", "silent", "slow", "slow"))
        if network.tell is not None:
            network.tell(f"{self._name} -> port {port}", f"does not get through: {kind}")
        if kind == "refused":
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused (simulated)")
        wait_s = timeout_s if kind == "silent" else network.random.choice((0.2, 2.0, 25.0))
        await asyncio.sleep(min(wait_s, timeout_s))
        if wait_s >= timeout_s:
            raise TimeoutError(errno.ETIMEDOUT, "timed out (simulated)")


class Names:
    """`ports.Resolver`: every host is where everything listens; no domain has another one for its mail."""

    async def addresses(self, host: str) -> Resolved:
        return Resolved(("127.0.0.1",), 60.0)

    async def mx(self, domain: str) -> MailExchangers:
        raise NameFault(f"{domain} has no MX record (simulated)", confirmed=True)

    async def tlsa(self, name: str) -> TlsaRecords:
        raise NameFault(f"{name} has no TLSA record (simulated)", confirmed=True)

    async def txt(self, name: str) -> Resolved:
        raise NameFault(f"{name} has no TXT record (simulated)", confirmed=True)


class End(asyncio.Transport):
    """One end of a connection: the transport of the protocol there, and what is on its way to it."""

    __slots__ = (
        "_arriving",
        "_at",
        "_bounced",
        "_capacity",
        "_chance",
        "_closing",
        "_dead",
        "_dripping",
        "_ending",
        "_eof_written",
        "_held_back",
        "_high_water",
        "_inbox",
        "_inbox_bytes",
        "_low_water",
        "_made",
        "_network",
        "_reading",
        "_shut",
        "loop",
        "name",
        "peer",
        "protocol",
    )

    peer: End
    protocol: asyncio.Protocol

    def __init__(
        self,
        network: SimulatedNetwork,
        loop: asyncio.AbstractEventLoop,
        name: str,
        address: tuple[str, int],
        peer_address: tuple[str, int],
        capacity: int,
    ) -> None:
        super().__init__({"sockname": address, "peername": peer_address})
        self._network = network
        self._chance = network.chance
        self._capacity = capacity
        self.loop = loop
        self.name = name
        # What is on its way to us.
        self._inbox: list[bytes] = []
        self._inbox_bytes = 0
        self._at = 0
        """So much of the first piece has arrived."""
        self._ending = _Ending.NONE
        self._arriving = False
        """A call of `_arrive` is under way."""
        self._reading = False
        """The protocol may be given bytes."""
        self._dripping = 0
        # What we do.
        self._high_water, self._low_water = HIGH_WATER_BYTES, HIGH_WATER_BYTES // 4
        self._held_back = False
        """The protocol was asked to pause writing."""
        self._eof_written = False
        self._closing = False
        """Closed by our protocol: it is told nothing more but the end."""
        self._shut = False
        """The socket is closed: what is written to it goes nowhere."""
        self._bounced = False
        self._made = False
        """The protocol was told that it is connected."""
        self._dead = False

    # ------------------------------------------------------------ from dial to the first byte

    def accepted(self, listener: Listener) -> None:
        """The listening process takes the connection, if it still listens."""
        if self._dead:
            return
        if self._network.listeners.get(listener.port) is not listener:
            self.die()
            return
        self.protocol = listener.accept()
        self.made()

    def made(self) -> None:
        if self._shut:
            return
        self._made = self._reading = True
        self.protocol.connection_made(self)
        self._arrive_if_due()

    # ------------------------------------------------------------ asyncio.Transport: writing

    def write(self, data: Buffer) -> None:
        if self._closing or not data:
            return
        assert not self._eof_written, "written behind the end of file"
        peer = self.peer
        if self._network.tell is not None:
            self._tell(_shown(bytes(data)))
        if peer._shut:
            self._bounce()
            return
        peer._inbox.append(data if type(data) is bytes else bytes(data))
        peer._inbox_bytes += len(data)
        if not peer._arriving and peer._reading:
            peer._arrive_later()
        if not self._held_back and peer._inbox_bytes - self._capacity > self._high_water:
            self._held_back = True
            self.protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self._closing or self._eof_written:
            return
        self._eof_written = True
        self._tell("closes its half")
        self._end_peer(_Ending.END_OF_FILE)

    def get_write_buffer_size(self) -> int:
        """What the kernel has no room for."""
        return 0 if self.peer._shut else max(0, self.peer._inbox_bytes - self._capacity)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low_water, self._high_water

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = HIGH_WATER_BYTES if low is None else 4 * low
        self._high_water = high
        self._low_water = high // 4 if low is None else low

    # ------------------------------------------------------------ asyncio.Transport: reading and the end

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._closing:
            self._reading = True
            self._arrive_if_due()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def get_protocol(self) -> asyncio.Protocol:
        return self.protocol

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if self._closing:
            return
        self._tell("closes")
        self._closing = True
        self._reading = False
        if not self.get_write_buffer_size():
            self._hang_up(reset=False)
            self.loop.call_soon(self._lost, None)
        # Otherwise `_drained` does.

    def abort(self) -> None:
        if self._shut:
            return
        self._tell("aborts")
        self._closing = True
        self._reading = False
        self._drop_unsent()
        self._hang_up(reset=self._chance() < 0.5)
        self.loop.call_soon(self._lost, None)

    def die(self) -> None:
        """The process is gone; the kernel cleans up behind it."""
        self._dead = True
        self._network.forget(self)
        if self._shut:
            return
        self._closing = True
        self._reading = False
        self._drop_unsent()
        self._hang_up(reset=self._chance() < 0.5)

    # ------------------------------------------------------------ what arrives

    def _arrive_if_due(self) -> None:
        if self._reading and not self._arriving and (self._inbox or self._ending is not _Ending.NONE):
            self._arrive_later()

    def _arrive_later(self) -> None:
        self._arriving = True
        # `SimulatedNetwork.later`, once more: it is called for whatever is said.
        chance = self._chance()
        if chance < AT_ONCE_SHARE:
            self.loop.call_soon(self._arrive)
        else:
            self.loop.call_at(self.loop.time() + _delay_s(chance), self._arrive)

    def _arrive(self) -> None:
        self._arriving = False
        if not self._reading:
            return
        if not self._inbox:
            self._arrive_end()
            return
        data = self._take(self._piece_bytes())
        if self._inbox or self._ending is not _Ending.NONE:
            self._arrive_later()
        writer = self.peer
        if (writer._held_back or writer._closing) and not writer._shut:
            writer.loop.call_soon(writer._drained)
        self.protocol.data_received(data)

    def _piece_bytes(self) -> int:
        """How much arrives at once: mostly all."""
        size_bytes = min(self._inbox_bytes, self._capacity, READ_BYTES_MAX)
        if self._dripping:
            self._dripping -= 1
            return 1
        chance = self._chance()
        if chance < CUT_SHARE:
            if chance < DRIP_SHARE:
                self._dripping = int(chance / DRIP_SHARE * DRIP_BYTES_MAX)
            return max(1, int(chance / CUT_SHARE * size_bytes))
        return size_bytes

    def _take(self, size_bytes: int) -> bytes:
        inbox = self._inbox
        left, self._inbox_bytes = size_bytes, self._inbox_bytes - size_bytes
        if not self._inbox_bytes and not self._at:
            taken = inbox[0] if len(inbox) == 1 else b"".join(inbox)
            inbox.clear()
            return taken
        pieces = []
        while left:
            first = inbox[0]
            piece = first[self._at : self._at + left]
            pieces.append(piece)
            left -= len(piece)
            self._at += len(piece)
            if self._at == len(first):
                del inbox[0]
                self._at = 0
        return b"".join(pieces)

    def _arrive_end(self) -> None:
        ending, self._ending = self._ending, _Ending.NONE
        if ending is _Ending.END_OF_FILE:
            if not self.protocol.eof_received():
                self.close()
        elif ending is _Ending.RESET:
            self._lose()

    # ------------------------------------------------------------ what the other end notices

    def _drained(self) -> None:
        """The peer has read, or is gone: there may be room again."""
        if self._shut:
            return
        left_bytes = self.get_write_buffer_size()
        if self._closing:
            if not left_bytes:
                self._hang_up(reset=False)
                self._lost(None)
        elif self._held_back and left_bytes <= self._low_water:
            self._held_back = False
            self.protocol.resume_writing()

    def _drop_unsent(self) -> None:
        """What the kernel had no room for yet never leaves."""
        if self.get_write_buffer_size():
            self.peer._cut_inbox(self._capacity)

    def _cut_inbox(self, size_bytes: int) -> None:
        self._inbox = [self._take(size_bytes)] if size_bytes else []
        self._inbox_bytes = size_bytes
        self._at = 0

    def _hang_up(self, *, reset: bool) -> None:
        """Close the socket. What it has not read makes the kernel reset the connection."""
        peer = self.peer
        reset = reset or self._inbox_bytes > 0
        self._shut = True
        self._inbox.clear()
        self._inbox_bytes = 0
        if peer._shut:
            return
        if reset:
            if peer._inbox_bytes and self._chance() < 0.5:
                kept_bytes = int(self._chance() * peer._inbox_bytes)
                self._tell(f"is reset: {peer._inbox_bytes - kept_bytes} bytes are lost")
                peer._cut_inbox(kept_bytes)
            self._end_peer(_Ending.RESET)
        elif not self._eof_written:
            self._end_peer(_Ending.END_OF_FILE)
        if peer._held_back or peer._closing:
            peer.loop.call_soon(peer._drained)

    def _end_peer(self, ending: _Ending) -> None:
        peer = self.peer
        if not peer._shut:
            peer._ending = ending
            peer._arrive_if_due()

    def _bounce(self) -> None:
        """Somebody writes to a socket that is closed: it is told so, a while later."""
        if not self._bounced:
            self._bounced = True
            self._network.later(self.loop, self._lose)

    def _lose(self) -> None:
        if self._shut:
            return
        self._closing = True
        self._reading = False
        self._shut = True
        self._lost(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer (simulated)"))

    def _lost(self, error: Exception | None) -> None:
        self._network.forget(self)
        if self._made and not self._dead:
            self.protocol.connection_lost(error)

    def _tell(self, what: str) -> None:
        if self._network.tell is not None:
            self._network.tell(f"{self.name} -> {self.peer.name}", what)


def _shown(data: bytes) -> str:
    """The first lines of what is said, and how much it is."""
    lines = data[:200].decode("latin-1").split("\r\n")
    text = " | ".join(line if line.isprintable() else ascii(line) for line in lines[:4] if line)
    return text if len(text) <= 100 and len(data) <= 200 else f"{text[:100]} ... ({len(data)} bytes)"
