"""Taking connections from a listening socket, also while the machine has none to give.

The event loop's own server is not used: libuv asks again at once, for ever, when `accept` fails, and tells
nobody. Here the failure is heard, and told once for as long as it lasts:

- Without descriptors a reserve is given up for a moment, to cut the new client at once: it comes again
  later instead of waiting for a greeting.
- Where that is no help, the socket is left alone for a while: clients wait in the kernel's backlog.

Either way `accept` is tried again at least once a second, by which we learn when it is over. Connections that
are open notice nothing. Measured, a connection costs what it costs the loop's server: 65 µs.

What comes before the first command is done here, too: the header by which a proxy says whom it speaks for,
and the handshake of a port on which TLS begins with the connection. Either may take so long and no longer,
and so many connections at a time may be in it: more are cut.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import NamedTuple

from dispatch.intake.proxy_header import Malformed, Peer, ProxyHeader
from dispatch.observe import Reporter
from dispatch.ports import Clock, Timer
from dispatch.security.tls import explain

PAUSE_FIRST_S = 0.1
PAUSE_LONGEST_S = 1.0
CALM_S = 3.0
"""It is over when no connection was refused for so long: at its limit a process fails now and then."""

BEGINNINGS_MAX = 1000
"""Connections of one socket that are still in what comes before the session."""
_PEEK_BYTES = 1024

_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
# The client has left before we came; nothing is wrong here (accept(2), "Error handling").
_CLIENT_LEFT = frozenset({errno.ECONNABORTED, errno.EPROTO})


class Beginning(NamedTuple):
    """How connections of a port begin; asked anew for each."""

    proxied: Callable[[str], bool] = lambda _: False
    """Whether the peer at an address must say whom it speaks for."""
    tls: Callable[[], ssl.SSLContext | None] | None = None
    """The context of a port on which TLS comes first; it may be missing for now."""
    timeout_s: Callable[[], float] = lambda: 60.0
    """How long each of the two may take."""
    begins: Callable[[str], bool] = lambda _: True
    """A client at an address begins a handshake; False: it has too many connections."""
    began: Callable[[str], None] = lambda _: None
    """The handshake is over, however."""


class NoBeginning(OSError):
    """It did not begin as it must; nothing can be said to it."""


class Accepting:
    """Makes a connection of every client of one socket, from now until `close`."""

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[str | None], asyncio.Protocol],
        *,
        clock: Clock,
        report: Reporter,
        beginning: Beginning | None = None,
    ) -> None:
        """Takes the socket over. A loop must be running. `protocol` gets the address that a proxy said."""
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._protocol = protocol
        self._beginning = beginning or Beginning()
        self._clock = clock
        self._report = report
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: Timer | None = None
        self._pause_s = PAUSE_FIRST_S
        self._paused = False
        self._failed_s: float | None = None
        """When `accept` failed last, while that is not over."""
        self._reserve_fd = -1
        self._keep_reserve()
        listening.setblocking(False)
        self._loop.add_reader(listening, self._on_client)

    def close(self) -> None:
        """No new connections: whoever comes now is refused by the kernel."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()
        self._give_up_reserve()
        for task in self._tasks:
            task.cancel()

    def _on_client(self) -> None:
        fault = self._take()
        if fault is not None:
            self._suffer(fault)

    def _take(self) -> OSError | None:
        """Take one client, if there is one; why none can be taken."""
        try:
            client, _ = self._listening.accept()
        except BlockingIOError:
            return None
        except OSError as error:
            return None if error.errno in _CLIENT_LEFT else error
        if len(self._tasks) >= BEGINNINGS_MAX:
            client.close()
            return None
        client.setblocking(False)
        task = self._loop.create_task(self._connect(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return None

    async def _connect(self, client: socket.socket) -> None:
        beginning = self._beginning
        what, address = "PROXY header", ""
        announced: str | None = None
        try:
            address = str(client.getpeername()[0])
            if beginning.proxied(address):
                async with asyncio.timeout(beginning.timeout_s()):
                    announced = await self._read_header(client)
            if beginning.tls is None:
                await self._loop.connect_accepted_socket(lambda: self._protocol(announced), client)
            else:
                what = "TLS"
                await self._begin_tls(client, announced, announced or address)
        except OSError as error:
            # Of this connection alone, and its client sees it closed.
            client.close()
            if isinstance(error, (ssl.SSLError, NoBeginning, TimeoutError)):
                self._report("no_beginning", client=announced or address, what=what, why=why_not(error))
        except asyncio.CancelledError:
            client.close()
            raise

    async def _begin_tls(self, client: socket.socket, announced: str | None, address: str) -> None:
        beginning = self._beginning
        context = beginning.tls() if beginning.tls is not None else None
        if context is None:
            raise NoBeginning("there is no certificate")
        if not beginning.begins(address):
            raise NoBeginning("too many connections")
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._protocol(announced),
                client,
                ssl=context,
                ssl_handshake_timeout=beginning.timeout_s(),
            )
        finally:
            beginning.began(address)

    async def _read_header(self, client: socket.socket) -> str | None:
        """The address that the proxy announces. Not a byte behind the header is read: it may be TLS's."""
        header = ProxyHeader()
        while True:
            await self._readable(client)
            try:
                seen = client.recv(_PEEK_BYTES, socket.MSG_PEEK)
            except BlockingIOError:
                continue
            result = header.feed(seen) if seen else Malformed("closed before its end")
            match result:
                case Malformed(reason):
                    # A health check that only connects is no fault.
                    raise NoBeginning(reason) if seen else ConnectionResetError(reason)
                case Peer(address, _, rest):
                    client.recv(len(seen) - len(rest))
                    return address
                case None:
                    client.recv(len(seen))

    async def _readable(self, client: socket.socket) -> None:
        ready = asyncio.Event()
        self._loop.add_reader(client, ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_reader(client)

    def _suffer(self, fault: OSError) -> None:
        cut = fault.errno in _NO_DESCRIPTOR and self._cut_one()
        if self._failed_s is None:
            address, port, *_ = self._listening.getsockname()
            meanwhile = "new connections are cut" if cut else "new connections wait"
            why = os.strerror(fault.errno or 0)
            self._report("accept_fault", address=address, port=port, why=why, meanwhile=meanwhile)
        self._failed_s = self._clock.monotonic()
        if not cut and not self._paused:
            self._paused = True
            self._loop.remove_reader(self._listening)
        if self._timer is None:
            self._timer = self._clock.call_later(self._pause_s, self._try_again)

    def _try_again(self) -> None:
        # Without descriptors `accept` fails also where nobody waits, so it tells how we are.
        self._timer = None
        fault = self._take()
        if fault is not None:
            self._pause_s = min(self._pause_s * 2, PAUSE_LONGEST_S)
            self._suffer(fault)
            return
        self._pause_s = PAUSE_FIRST_S
        self._keep_reserve()
        if self._paused:
            self._paused = False
            self._loop.add_reader(self._listening, self._on_client)
        assert self._failed_s is not None
        if self._clock.monotonic() - self._failed_s < CALM_S:
            self._timer = self._clock.call_later(PAUSE_LONGEST_S, self._try_again)
            return
        self._failed_s = None
        address, port, *_ = self._listening.getsockname()
        self._report("accept_well", address=address, port=port)

    def _cut_one(self) -> bool:
        """Close the connection of one client, if one waits; whether that could be done, and can be again."""
        if self._reserve_fd < 0:
            return False
        self._give_up_reserve()
        try:
            self._listening.accept()[0].close()
        except BlockingIOError:
            pass
        except OSError:
            return False
        self._keep_reserve()
        return self._reserve_fd >= 0

    def _keep_reserve(self) -> None:
        if self._reserve_fd < 0:
            try:
                self._reserve_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                # Somebody was faster; there may be one later.
                return

    def _give_up_reserve(self) -> None:
        fd, self._reserve_fd = self._reserve_fd, -1
        if fd >= 0:
            os.close(fd)


def why_not(error: OSError) -> str:
    """Why a handshake or a header did not come about, for the operator."""
    if isinstance(error, ssl.SSLError):
        return explain(error)
    return str(error) or ("timed out" if isinstance(error, TimeoutError) else "the client hung up")
