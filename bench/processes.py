"""What processes use: CPU to the nanosecond, memory without counting shared pages twice.

CPU comes from each process's own CPU clock, not from `/proc/PID/stat`: that cuts user and system time down to
whole ticks of 10 ms each, so that of a hundred and fifty living processes a second and a half is missing. Of
children that ended only the sum is left, in their parent's ticks, and there it is cut down once.

Memory is PSS: a page that several processes share counts for each of them with its share, so that sums over
processes are true. Reading it walks a process's page tables; `Scales` does so a few times a second at most,
and never in a round whose rate is reported.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
WEIGH_EVERY_S = 0.25


class Member(NamedTuple):
    """A process of a contestant."""

    pid: int
    role: str


class Memory(NamedTuple):
    """Of one role, over all of its processes."""

    pss_bytes: int
    rss_bytes: int


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def cpu_s(pid: int) -> float:
    """User and system time of all threads of a process, the ended ones included; 0 when it is gone."""
    # How clock_getcpuclockid(3) writes the number of another process's clock.
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def reaped_s(pid: int) -> float:
    """The same of the children of a process that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[13:15])) / TICKS


def machine_busy_s() -> float:
    """What the machine's cores worked together since its start, kernel threads included."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / TICKS


def memory(members: Iterable[Member]) -> dict[str, Memory]:
    """By role."""
    found: dict[str, Memory] = {}
    for pid, role in members:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        except OSError:
            continue
        sizes = {line.partition(":")[0]: int(line.split()[1]) << 10 for line in lines}
        before = found.get(role, Memory(0, 0))
        found[role] = Memory(before.pss_bytes + sizes["Pss"], before.rss_bytes + sizes["Rss"])
    return found


def total_pss(memories: dict[str, Memory]) -> int:
    return sum(each.pss_bytes for each in memories.values())


class Scales:
    """Weighs processes while something happens; `with Scales(...) as scales`, then `scales.peak`.

    `peak` has the largest weight of each role, `peak_total` the largest sum at one moment: the roles need not
    have been at their largest together.
    """

    def __init__(self, members: Callable[[], Iterable[Member]]) -> None:
        self.peak: dict[str, Memory] = {}
        self.peak_total_bytes = 0
        self._members = members
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._weigh_on, daemon=True)

    def __enter__(self) -> Scales:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._weigh()

    def _weigh_on(self) -> None:
        while not self._done.wait(WEIGH_EVERY_S):
            self._weigh()

    def _weigh(self) -> None:
        now = memory(self._members())
        self.peak_total_bytes = max(self.peak_total_bytes, total_pss(now))
        for role, weight in now.items():
            before = self.peak.get(role, weight)
            self.peak[role] = Memory(
                max(before.pss_bytes, weight.pss_bytes), max(before.rss_bytes, weight.rss_bytes)
            )
