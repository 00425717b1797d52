"""Wake-ups between processes: one byte in a datagram that may get lost.

A hint says "look"; what there is to see stands in a log or behind a number in shared memory, and
everybody looks at least each second anyway. So sending never waits and never fails: nobody there, nobody
reading, a full socket (then a hint lies in it already) all mean the same. Many hints that wait make one call.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

from dispatch.runtime.bus_frames import bind_at, reachable

_HINT = b"\x01"
_DRAIN_MAX = 64
"""Datagrams read in one go; the kernel keeps about ten (net.unix.max_dgram_qlen)."""


class Hints:
    """The sending end, for the role whose socket is at `path`. Never blocks, never raises."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def send(self) -> None:
        """About two microseconds of CPU; the kernel adds a few when it must wake a sleeping reader.

        So: one for each commit, not one for each message.
        """
        if self._socket is None:
            self._connect_and_send()
            return
        try:
            self._socket.send(_HINT)
        except BlockingIOError:
            pass
        except OSError:
            # It has been restarted since.
            self._connect_and_send()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect_and_send(self) -> None:
        self.close()
        try:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError:
            return
        try:
            made.setblocking(False)
            with reachable(self._path) as address:
                made.connect(address)
            made.send(_HINT)
        except OSError:
            made.close()
            return
        self._socket = made


class HintListener:
    """The receiving end; calls back on the loop."""

    def __init__(self, path: Path, callback: Callable[[], None], *, shared: bool = False) -> None:
        """Bound at once; the caller holds the role's lock. `shared`: other users may send."""
        self._path = path
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._socket = bind_at(path, socket.SOCK_DGRAM, shared=shared)
        self._loop.add_reader(self._socket.fileno(), self._on_readable)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._path.unlink(missing_ok=True)
            self._socket.close()

    def _on_readable(self) -> None:
        fd = self._socket.fileno()
        try:
            for _ in range(_DRAIN_MAX):
                os.read(fd, 1)
        except OSError:
            pass
        self._callback()
