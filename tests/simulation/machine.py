"""A simulated machine on which asyncio runs: virtual time, threads, disk and marks, all from one seed.

`Machine` is the hardware with what outlives a process: disk, marks, a folder for what needs real files
(mapped files) and the time. `Process` is one life of a process on it: an event loop that never waits,
so hours pass in milliseconds, and the ports that the product is made of. Everything that asyncio offers works
on that loop except real file descriptors.

- Several processes take turns (`Machine.turn`): one round of one loop that has something to do, drawn by
  chance. A process that is alone may also be `run` until something is done.
- Time moves only when nothing else is left to do in any of them; it jumps to the next timer.
- A worker's job runs as one step at a random moment after it was asked for, and its answer comes at another
  one after that; jobs and answers of one worker keep their order.
- A crash is `Death`, raised from any step: what else was to happen in that round of the loop does not.
  `die_after` raises it at the n-th callback from now, a fault of the disk in the middle of one. After it
  the process is only good for `bury`.

Trap: objects of a dead process must do nothing when the garbage collector finds their coroutines suspended
in a `finally`. Whoever starts tasks that touch the product sees to that before `bury`.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from tests.simulation.disk import Crash, SimulatedDisk, SimulatedProcess
from tests.simulation.loop import SimulatedChance, SimulatedMark

T = TypeVar("T")

DELAYS_S = (0.0, 0.0, 0.0, 0.0005, 0.005, 0.05, 0.4)
"""How long a thread may take to begin, and its answer to arrive."""
WALL_OFFSET_S = 1.7e9


class Death(Crash, SystemExit):
    """The process ends here and now; asyncio lets it through."""


class VirtualHandle:
    """`asyncio.TimerHandle`, with as much of it as anybody asks for."""

    __slots__ = ("args", "callback", "context", "when_s")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
        when_s: float = 0.0,
    ) -> None:
        self.callback: Callable[..., object] | None = callback
        """None: cancelled."""
        self.args = args
        self.context = context
        self.when_s = when_s

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self.when_s


class VirtualLoop(asyncio.BaseEventLoop):
    """An asyncio loop in virtual time, which counts its callbacks and never waits.

    Its queues are its own: a seed is some thousands of callbacks, and what asyncio does around each costs
    more than most of them. Of timers for the same moment any may come first; what is called without a context
    of its own runs in the loop's, which nothing of the product looks at.
    """

    _ready: deque[VirtualHandle]
    _scheduled: list[tuple[float, int, VirtualHandle]]

    def __init__(self, machine: Machine, disk: SimulatedProcess) -> None:
        super().__init__()
        self._machine = machine
        self.disk = disk
        self.steps = 0
        self.dies_at: int | None = None
        self.after_step: Callable[[], None] | None = None
        self.faults: list[BaseException] = []
        self._order = 0
        self.set_exception_handler(self._fault)

    def time(self) -> float:
        return self._machine.now_s

    def call_soon(  # type: ignore[override]  # the handle is another one
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> VirtualHandle:
        assert not self._closed, "asked after its close"
        handle = VirtualHandle(callback, args, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]  # the handle is another one
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> VirtualHandle:
        assert not self._closed, "asked after its close"
        # Every number of 32 bits once, in no order that anybody could rely on.
        self._order = order = (self._order * 1_664_525 + 1_013_904_223) & 0xFFFF_FFFF
        handle = VirtualHandle(callback, args, context, when)
        heapq.heappush(self._scheduled, (when, order, handle))
        return handle

    def call_later(  # type: ignore[override]  # the handle is another one
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> VirtualHandle:
        return self.call_at(self._machine.now_s + delay, callback, *args, context=context)

    def due_s(self) -> float:
        """When it has something to do next; now, if not later than `time()`; never is infinite."""
        if self._ready:
            return 0.0
        scheduled = self._scheduled
        while scheduled:
            when_s, _, handle = scheduled[0]
            if handle.callback is not None:
                return when_s
            heapq.heappop(scheduled)
        return math.inf

    def turn(self) -> None:
        """One round, of what is due now."""
        asyncio._set_running_loop(self)
        try:
            self._run_once()
        finally:
            asyncio._set_running_loop(None)

    def _run_once(self) -> None:
        """In place of asyncio's: where nothing is due, time moves."""
        machine, ready, scheduled = self._machine, self._ready, self._scheduled
        now_s = machine.now_s
        if not ready:
            due_s = self.due_s()
            assert due_s != math.inf, "everything waits, and nothing will ever happen"
            if due_s > now_s:
                machine.now_s = now_s = due_s
        while scheduled and scheduled[0][0] <= now_s:
            ready.append(heapq.heappop(scheduled)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            callback = handle.callback
            if callback is None:
                continue
            self.steps += 1
            if self.dies_at is not None and self.steps >= self.dies_at:
                raise Death("at a step")
            try:
                if handle.context is None:
                    callback(*handle.args)
                else:
                    handle.context.run(callback, *handle.args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.faults.append(error)
            if not self.disk.alive:
                # Somebody in between took the death for an error of the disk (SQLite does).
                raise Death("in the middle of a step")
            if self.after_step is not None:
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
        self.processes: list[Process] = []
        """Those that take turns."""
        self.running: Process | None = None
        """Whose turn it is."""
        self.turns = 0
        self.starts = 1
        """Of the machine itself."""

    def turn(self, until_s: float = math.inf) -> Process | None:
        """One round of one of the processes; None where nothing is to be done until then.

        Raises what the round raised; the process's own `Death` is left to the caller, who finds it in
        `process.dead`.
        """
        now_s, next_s = self.now_s, math.inf
        ready: list[Process] = []
        for process in self.processes:
            loop = process.loop
            due_s = now_s if loop._ready else loop.due_s()
            if due_s < now_s:
                due_s = now_s
            if due_s < next_s:
                next_s = due_s
                ready = [process]
            elif due_s == next_s:
                ready.append(process)
        if next_s > now_s:
            self.now_s = max(now_s, min(next_s, until_s))
            if next_s > until_s or next_s == math.inf:
                return None
        process = ready[0]
        if len(ready) > 1:
            process = ready[int(self.random.random() * len(ready))]
        self.turns += 1
        self.running = process
        try:
            process.loop.turn()
        except Death as death:
            process.dead = death
        finally:
            self.running = None
        return process

    def mark(self, name: str) -> SimulatedMark:
        return self._marks.setdefault(name, SimulatedMark())

    def cut_power(self) -> None:
        """Call when no process is left."""
        self.disk.power_cut()
        self.starts += 1
        for mark in self._marks.values():
            mark.power_cut(self.random)


class Process:
    """One life: `ports.Clock`, `ports.Threads`, `ports.Chance` and a disk."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.disk = machine.disk.process()
        self.loop = VirtualLoop(machine, self.disk)
        self.dead: Death | None = None
        self.chance = SimulatedChance(machine.random.getrandbits(32))
        self._running: asyncio.Task[Any] | None = None

    # ------------------------------------------------------------ the ports

    def monotonic(self) -> float:
        return self.machine.now_s

    def wall(self) -> float:
        return self.machine.now_s + self.machine.wall_offset_s

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> VirtualHandle:
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
        if self in self.machine.processes:
            self.machine.processes.remove(self)
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
        delay_s = DELAYS_S[int(self._process.machine.random.random() * len(DELAYS_S))]
        self._process.loop.call_later(delay_s, callback)

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
