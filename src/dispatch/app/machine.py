"""What a process stands on: the machine, its data, and its neighbours, handed to a service as one.

`this_machine` is the real one. The simulation makes its own (tests/simulation), so that what is simulated
is the composition that ships.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from dispatch.app.folders import Folders
from dispatch.observe import Reporter
from dispatch.ports import Chance, Clock, Disk, DnssecFrom, Mark, Network, Resolver, Soon, Threads
from dispatch.runtime.bus import BusServer, Handler, hint_path, socket_path
from dispatch.runtime.bus_client import BusClient, BusError
from dispatch.runtime.hints import HintListener, Hints
from dispatch.runtime.machine import (
    MarkFile,
    SystemChance,
    SystemClock,
    SystemDisk,
    SystemNetwork,
    SystemThreads,
)
from dispatch.runtime.resolver import SystemResolver

T = TypeVar("T")


class Hearing(Protocol):
    def close(self) -> None: ...


class Serving(Protocol):
    async def start(self) -> None: ...

    async def close(self) -> None: ...


class Neighbours(Protocol):
    """The other processes: wake-ups that may get lost, and orders that are confirmed."""

    def hint(self, role: str) -> Callable[[], None]:
        """What wakes the process of that role; never blocks, never raises."""
        ...

    def hear(self, role: str, callback: Callable[[], None]) -> Hearing:
        """Be that role, and be woken."""
        ...

    def serve(
        self, role: str, requests: msgspec.msgpack.Decoder[Any], handle: Handler[Any], report: Reporter
    ) -> Serving:
        """Be that role, and take its orders."""
        ...

    def ask(self, role: str, request: object, answers: msgspec.msgpack.Decoder[T]) -> T | BusError:
        """Give that role an order; blocks until its answer. Raises `BusFault`."""
        ...


class SegmentFiles(NamedTuple):
    """The files of a log."""

    size_bytes: int
    spares: int
    """Written ahead, so that commits go into blocks that the file has already."""


class Machine(NamedTuple):
    clock: Clock
    chance: Chance
    disk: Disk
    threads: Threads
    network: Network
    resolver: Callable[[tuple[str, ...], DnssecFrom], Resolver]
    """That asks these name servers; without any, those that the machine has."""
    soon: Soon
    """Run a callback in the loop's next turn."""
    mark: Callable[[Path, bool], Mark]
    """The mark at a path; True: we write it."""
    neighbours: Neighbours
    folders: Folders
    start_id: str
    """Another one after each start of the machine: a process that dies does not change it."""
    vfs: str | None = None
    """The SQLite file system for the databases; None: the operating system's."""
    segment_files: SegmentFiles | None = None
    """For a machine too small for those of the settings."""


class LocalNeighbours:
    """`Neighbours` over Unix sockets in one folder."""

    def __init__(self, run: Path) -> None:
        self._run = run

    def hint(self, role: str) -> Callable[[], None]:
        return Hints(hint_path(self._run, role)).send

    def hear(self, role: str, callback: Callable[[], None]) -> HintListener:
        return HintListener(hint_path(self._run, role), callback)

    def serve(
        self, role: str, requests: msgspec.msgpack.Decoder[Any], handle: Handler[Any], report: Reporter
    ) -> BusServer[Any]:
        return BusServer(socket_path(self._run, role), requests, handle, report)

    def ask(self, role: str, request: object, answers: msgspec.msgpack.Decoder[T]) -> T | BusError:
        with BusClient(socket_path(self._run, role), answers) as client:
            return client.ask(request)


def this_machine(data: Path) -> Machine:
    """The real one; a loop must be running."""
    loop = asyncio.get_running_loop()
    folders = Folders(data)
    return Machine(
        SystemClock(loop),
        SystemChance(),
        SystemDisk(data),
        SystemThreads(loop),
        SystemNetwork(loop),
        lambda servers, dnssec_from: SystemResolver(servers=servers, dnssec_from=dnssec_from),
        loop.call_soon,
        lambda path, writable: MarkFile(path, writable=writable),
        LocalNeighbours(folders.run),
        folders,
        Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    )
