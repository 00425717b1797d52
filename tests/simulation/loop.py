"""A simulated event loop with its clock, threads, chance and marks: time moves only when a test says so.

What is due runs in the order of its time; a worker's job runs when the loop is idle at that moment, and its
`done` is delivered separately, so that the loop's own callbacks can come between the two.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from itertools import count
from random import Random
from typing import TypeVar

T = TypeVar("T")


class SimulatedTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class SimulatedLoop:
    """`ports.Clock` and `ports.Threads`."""

    def __init__(self, seed: int = 0) -> None:
        self._chance = Random(seed)
        self._now_s = 1000.0
        self.wall_offset_s = 1.7e9
        self._timers: list[tuple[float, int, SimulatedTimer]] = []
        self._ready: deque[Callable[[], None]] = deque()
        self._order = count()
        self._workers: list[SimulatedWorker] = []

    # ------------------------------------------------------------ ports.Clock, ports.Threads

    def monotonic(self) -> float:
        return self._now_s

    def wall(self) -> float:
        return self._now_s + self.wall_offset_s

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> SimulatedTimer:
        timer = SimulatedTimer(callback)
        heapq.heappush(self._timers, (self._now_s + max(0.0, delay_s), next(self._order), timer))
        return timer

    def worker(self, name: str) -> SimulatedWorker:
        worker = SimulatedWorker(self)
        self._workers.append(worker)
        return worker

    # ------------------------------------------------------------ the test's side

    def post(self, callback: Callable[[], None]) -> None:
        self._ready.append(callback)

    def step(self) -> bool:
        """Run one thing that can run now; False if there is none."""
        while self._timers and self._timers[0][0] <= self._now_s:
            _, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                timer.callback()
                return True
        busy = [worker for worker in self._workers if worker.asked]
        turn = self._chance.randrange(len(busy) + bool(self._ready)) if busy or self._ready else -1
        if turn < 0:
            return False
        if turn < len(busy):
            busy[turn].work()
        else:
            self._ready.popleft()()
        return True

    def settle(self) -> None:
        """Run until nothing more can run at this time."""
        while self.step():
            pass

    def advance(self, seconds: float) -> None:
        """Let time pass, and run what falls due in it."""
        end_s = self._now_s + seconds
        self.settle()
        while self._timers and self._timers[0][0] <= end_s:
            self._now_s = max(self._now_s, self._timers[0][0])
            self.settle()
        self._now_s = end_s
        self.settle()


class SimulatedWorker:
    """`ports.Worker`: its jobs run one by one, each at one moment of the loop's time."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self.asked: deque[Callable[[], None]] = deque()
        self._closed = False

    def call(self, work: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        assert not self._closed, "asked after its close"

        def job() -> None:
            result: T | Exception
            try:
                result = work()
            except Exception as error:
                result = error
            self._loop.post(lambda: done(result))

        self.asked.append(job)

    def work(self) -> None:
        self.asked.popleft()()

    def close(self) -> None:
        self._closed = True
        while self.asked:
            self.work()


class SimulatedChance:
    """`ports.Chance`."""

    def __init__(self, seed: int = 0) -> None:
        self._random = Random(seed)

    def uniform(self) -> float:
        return self._random.random()

    def token(self, size_bytes: int) -> bytes:
        return self._random.randbytes(size_bytes)


class SimulatedMark:
    """`ports.Mark`: outlives the process; after a power cut it may be as old as it pleases, never newer."""

    def __init__(self) -> None:
        self._stored = [0]

    def load(self) -> int:
        return self._stored[-1]

    def store(self, value: int) -> None:
        if value != self._stored[-1]:
            self._stored.append(value)

    def power_cut(self, chance: Random) -> None:
        self._stored = self._stored[: chance.randrange(len(self._stored)) + 1]
