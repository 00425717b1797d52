"""Taking connections from a listening socket, also while the machine has none to give.

The event loop's own server is not used: libuv asks again at once, for ever, when `accept` fails, and tells
nobody. Here the failure is heard, and told once for as long as it lasts:

- Without descriptors a reserve is given up for a moment, to cut the new client at once: it comes again
  later instead of waiting for a greeting.
- Where that is no help, the socket is left alone for a while: clients wait in the kernel's backlog.

Either way `accept` is tried again at least once a second, by which we learn when it is over. Connections that
are open notice nothing. Measured, a connection costs what it costs the loop's server: 65 µs.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

from dispatch.observe import Reporter
from dispatch.ports import Clock, Timer

PAUSE_FIRST_S = 0.1
PAUSE_LONGEST_S = 1.0
CALM_S = 3.0
"""It is over when no connection was refused for so long: at its limit a process fails now and then."""

_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
# The client has left before we came; nothing is wrong here (accept(2), "Error handling").
_CLIENT_LEFT = frozenset({errno.ECONNABORTED, errno.EPROTO})


class Accepting:
    """Makes a connection of every client of one socket, from now until `close`."""

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        *,
        clock: Clock,
        report: Reporter,
    ) -> None:
        """Takes the socket over. A loop must be running."""
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._protocol = protocol
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
        client.setblocking(False)
        task = self._loop.create_task(self._connect(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return None

    async def _connect(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, client)
        except OSError:
            # Of this connection alone, and its client sees it closed.
            client.close()

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
