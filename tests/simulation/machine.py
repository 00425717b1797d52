"""A simulated machine on which asyncio runs: virtual time, threads, disk and marks, all from one seed.

`Machine` is the hardware with what outlives a process: disk, marks, a folder for what needs real files
(SQLite, mapped files) and the time. `Process` is one life of a process on it: an event loop that never waits,
so hours pass in milliseconds, and the ports that the product is made of. Everything that asyncio offers works
on that loop except real file descriptors.

- Time moves only when nothing else is left to do; it jumps to the next timer.
- A worker's job runs as one step at a random moment after it was asked for, and its answer comes at another
  one after that; jobs and answers of one worker keep their order.
- A crash is `Death`, raised from any step: what else was to happen in that round of the loop does not.
  `die_after` raises it at the n-th callback from now. After it the process is only good for `bury`.

Trap: objects of a dead process must do nothing when the garbage collector finds their coroutines suspended
in a `finally`. Whoever starts tasks that touch the product sees to that before `bury`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from tests.simulation.disk import Crash, SimulatedDisk
from tests.simulation.loop import SimulatedChance, SimulatedMark

T = TypeVar("T")

DELAYS_S = (0.0, 0.0, 0.0, 0.0005, 0.005, 0.05, 0.4)
"""How long a thread may take to begin, and its answer to arrive."""
WALL_OFFSET_S = 1.7e9


class Death(Crash, SystemExit):
    """The process ends here and now; asyncio lets it through."""


class _NoDescriptors:
    """In place of a selector: nothing ever arrives, and waiting is moving the clock."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def select(self, timeout: float | None) -> list[Any]:
        assert timeout is not None, "everything waits, and nothing will ever happen"
        self._machine.now_s += timeout
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """An asyncio loop in virtual time, which counts its callbacks."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine
        self._selector = _NoDescriptors(machine)
        self.steps = 0
        self.dies_at: int | None = None
        self.after_step: Callable[[], None] = lambda: None
        self.faults: list[BaseException] = []
        self.set_exception_handler(self._fault)

    def time(self) -> float:
        return self._machine.now_s

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        return super().call_soon(self._step, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return super().call_at(when, self._step, callback, *args, context=context)

    def _step(self, callback: Any, *args: Any) -> None:
        self.steps += 1
        if self.dies_at is not None and self.steps >= self.dies_at:
            raise Death("at a step")
        callback(*args)
        self.after_step()

    def _fault(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.faults.append(context.get("exception") or AssertionError(context["message"]))

    # What BaseEventLoop asks of a loop that has descriptors.

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody calls from another thread."""


class Machine:
    """What outlives processes. `folder` is a real one, for what insists on real files."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = Random(seed)
        self.folder = folder
        self.disk = SimulatedDisk(self.random.getrandbits(32))
        self.now_s = 1000.0
        self.wall_offset_s = WALL_OFFSET_S
        self._marks: dict[str, SimulatedMark] = {}

    def mark(self, name: str) -> SimulatedMark:
        return self._marks.setdefault(name, SimulatedMark())

    def cut_power(self) -> None:
        """Call when no process is left."""
        self.disk.power_cut()
        for mark in self._marks.values():
            mark.power_cut(self.random)


class Process:
    """One life: `ports.Clock`, `ports.Threads`, `ports.Chance` and a disk."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.loop = VirtualLoop(machine)
        self.disk = machine.disk.process()
        self.chance = SimulatedChance(machine.random.getrandbits(32))
        self._running: asyncio.Task[Any] | None = None

    # ------------------------------------------------------------ the ports

    def monotonic(self) -> float:
        return self.machine.now_s

    def wall(self) -> float:
        return self.machine.now_s + self.machine.wall_offset_s

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(delay_s, callback)

    def worker(self, name: str) -> VirtualWorker:
        return VirtualWorker(self)

    # ------------------------------------------------------------ the test's side

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run until the work is done. Raises `Death`, and the first fault that a callback raised."""
        # Kept: a task whose step was dropped by a death would be collected before `bury` sees it.
        self._running = self.loop.create_task(work)
        result: T = self.loop.run_until_complete(self._running)
        if self.loop.faults:
            raise self.loop.faults[0]
        return result

    def pass_time(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    def die_after(self, steps: int | None) -> None:
        self.loop.dies_at = None if steps is None else self.loop.steps + steps

    def bury(self) -> None:
        """It is dead: close its loop, and what it has open."""
        self.disk.kill()
        for task in asyncio.all_tasks(self.loop):
            # Nobody is left who could wait for it.
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            task.get_coro().close()
        self.loop.close()


class VirtualWorker:
    """`ports.Worker`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._asked: deque[tuple[Callable[[], Any], Callable[[Any], None]]] = deque()
        self._answers: deque[Callable[[], None]] = deque()
        self._running = False
        self._closed = False

    def call(self, work: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        assert not self._closed, "asked after its close"
        self._asked.append((work, done))
        if not self._running:
            self._running = True
            self._later(self._work)

    def close(self) -> None:
        self._closed = True
        while self._asked:
            self._job()

    def _later(self, callback: Callable[[], None]) -> None:
        self._process.loop.call_later(self._process.machine.random.choice(DELAYS_S), callback)

    def _work(self) -> None:
        if self._asked:
            self._job()
        self._running = bool(self._asked)
        if self._running:
            self._later(self._work)

    def _job(self) -> None:
        work, done = self._asked.popleft()
        result: Any
        try:
            result = work()
        except Exception as error:
            result = error
        self._answers.append(lambda: done(result))
        self._later(lambda: self._answers.popleft()())
