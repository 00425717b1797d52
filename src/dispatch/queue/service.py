"""The delivery process: the scheduler with its relays and its store, from recovery to drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from dispatch.ports import Log, Timer, Worker
from dispatch.queue.housekeeping import TICK_S, Housekeeping
from dispatch.queue.lane import Lane
from dispatch.queue.scheduler import Scheduler, Seams
from dispatch.store.parked import ParkedStore

SETTLE_S = 5.0
"""How long a stop waits for the ledger and the parked store to take what was decided."""
RETIRE_S = 660.0
"""How long a lane that the settings have no more may take to finish: its longest timeout, and a minute."""


class Orderly(Protocol):
    """The bus, which hears orders."""

    async def close(self) -> None: ...


class Listening(Protocol):
    """The hints, which hear that there is mail."""

    def close(self) -> None: ...


class DeliveryService:
    """Everything that stops with the process."""

    def __init__(
        self,
        scheduler: Scheduler,
        housekeeping: Housekeeping,
        seams: Seams,
        *,
        ledger: Log,
        store: ParkedStore,
        workers: tuple[Worker, ...],
        doors: tuple[Orderly, Listening],
        stopped: Callable[[], None],
    ) -> None:
        """`stopped` is called at the end of a stop that left nothing under way."""
        self.scheduler = scheduler
        self._housekeeping = housekeeping
        self._s = seams
        self._ledger = ledger
        self._store = store
        self._workers = workers
        self._bus, self._hints = doors
        self._stopped = stopped
        self._retiring: set[asyncio.Task[None]] = set()
        self._changed: Callable[[], bool] = lambda: False
        self._apply: Callable[[], None] = lambda: None
        self._timer: Timer | None = None

    def follow(self, changed: Callable[[], bool], apply: Callable[[], None]) -> None:
        """Look once a second whether there are other settings, and put them in force."""
        self._changed, self._apply = changed, apply
        self._look()

    def _look(self) -> None:
        self._timer = self._s.clock.call_later(TICK_S, self._look)
        if self._changed():
            self._apply()

    def retire(self, lanes: list[Lane]) -> None:
        """They are used no more: what stands ready goes elsewhere, what is under way finishes."""
        for lane in lanes:
            self.scheduler.unload(lane)
            task = asyncio.get_running_loop().create_task(lane.relay.close(RETIRE_S))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        self.scheduler.look_again()

    async def reload(self) -> None:
        if self._changed():
            self._apply()

    async def drain(self, grace_s: float) -> None:
        """Start nothing more; let what is under way finish, and settle it."""
        self.scheduler.stopping = True
        await asyncio.gather(*(lane.relay.close(grace_s) for lane in self.scheduler.lanes.values()))
        await self._settled()

    async def _settled(self) -> None:
        """Return when the ledger and the parked store have taken what was decided."""
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def taken(_: object) -> None:
            if not settled.done():
                settled.set_result(None)

        self._housekeeping.write_checkpoint()
        self._s.book.once_durable(lambda: self._s.parking.ask(lambda store: None, taken, taken))
        # What is not settled in time is found again by the next start.
        await asyncio.wait((settled,), timeout=SETTLE_S)

    async def close(self) -> None:
        self.scheduler.stopping = True
        self._housekeeping.stop()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._retiring:
            task.cancel()
        self._hints.close()
        await self._bus.close()
        self._s.parking.close()
        self.scheduler.custody.close()
        for worker in self._workers:
            worker.close()
        self._store.close()
        self._s.book.hand_over()
        self._ledger.close()
        if not self.scheduler.under_way:
            self._s.in_hand.close()
            self._stopped()
