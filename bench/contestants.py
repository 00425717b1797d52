"""What a relay must offer to be measured, and when one may be measured: while nobody has anything left to do.

Both relays run during the whole part of a bench, and take turns. Between turns everything that was written is
put on the disk, and the next one begins when neither has used CPU for half a second: Dispatch's history must
not be written while Postfix is measured, nor Postfix's processes end while Dispatch is.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

from bench.processes import Member, cpu_s, reaped_s

QUIET_S = 0.5
QUIET_CPU_S = 0.005
"""So little CPU in `QUIET_S` is idleness: one in a hundred of a core."""
BOUND_S = 600.0
"""Only a fault takes so long."""


class Contestant(Protocol):
    name: str
    port: int

    def start(self) -> None:
        """Begin, on what an earlier start left, and return when it listens."""
        ...

    def members(self) -> list[Member]:
        """Its processes, the first of them the parent of the others."""
        ...

    def caught_up(self) -> bool:
        """It has nothing left to write about what it delivered."""
        ...

    def stop(self) -> None: ...


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes] | None = None) -> None:
    """Until somebody listens; `process` is who should, and must not end meanwhile."""

    def listens() -> bool:
        assert process is None or process.poll() is None, f"ended before it listened: {process.args!r}"
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            return False
        return True

    wait_until(listens, f"somebody listens on port {port}", bound_s=60)


def wait_until(
    true: Callable[[], bool], what: str, *, bound_s: float = BOUND_S, every_s: float = 0.02
) -> None:
    deadline_s = time.monotonic() + bound_s
    while not true():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"waited {bound_s:.0f} s in vain until {what}")
        time.sleep(every_s)


def cpu_of(contestant: Contestant) -> float:
    """Seconds that all its processes used so far, those that ended included."""
    members = contestant.members()
    return reaped_s(members[0].pid) + sum(cpu_s(member.pid) for member in members)


def settle(contestants: Sequence[Contestant]) -> None:
    """Return when all is on the disk and none of them has anything left to do."""
    os.sync()
    before = [-1.0] * len(contestants)
    deadline_s = time.monotonic() + BOUND_S
    while time.monotonic() < deadline_s:
        now = [cpu_of(each) for each in contestants]
        idle = all(used - earlier < QUIET_CPU_S for used, earlier in zip(now, before, strict=True))
        if idle and all(each.caught_up() for each in contestants):
            return
        before = now
        time.sleep(QUIET_S)
    raise TimeoutError(f"still busy after {BOUND_S:.0f} s")


@contextmanager
def running(*contestants: Contestant) -> Iterator[None]:
    """They run, and have come to rest."""
    with ExitStack() as stack:
        for contestant in contestants:
            contestant.start()
            stack.callback(contestant.stop)
        settle(contestants)
        yield
