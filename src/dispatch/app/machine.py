"""The machine that a service runs on, handed in as one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dispatch.ports import Chance, Clock, Disk, Mark, Network, Threads
from dispatch.runtime.machine import (
    MarkFile,
    SystemChance,
    SystemClock,
    SystemDisk,
    SystemNetwork,
    SystemThreads,
)


class Machine(NamedTuple):
    clock: Clock
    chance: Chance
    disk: Disk
    threads: Threads
    network: Network
    soon: Callable[[Callable[[], None]], object]
    """Run a callback in the loop's next turn."""
    mark: Callable[[Path, bool], Mark]
    """The mark at a path; True: we write it."""


def this_machine(data: Path) -> Machine:
    """The real one; a loop must be running."""
    loop = asyncio.get_running_loop()
    return Machine(
        SystemClock(loop),
        SystemChance(),
        SystemDisk(data),
        SystemThreads(loop),
        SystemNetwork(loop),
        loop.call_soon,
        lambda path, writable: MarkFile(path, writable=writable),
    )
