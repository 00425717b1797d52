"""The control process: follows the ledger, and publishes settings.

The ledger is read when a hint says that it grew, and at least once a second; but not more often than every
`PACE_S`, because many records at a time cost a fraction of what they cost one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from dispatch.ports import Clock, Lsn, Mark, Timer, Worker

TICK_S = 1.0
PACE_S = 0.2


class Follower(Protocol):
    """Reads the ledger from a cursor (`outcomes.tail`). A step that raises may be repeated."""

    @property
    def cursor(self) -> Lsn: ...

    def step(self) -> bool:
        """Take a piece; blocks. True: there is more."""
        ...


class Serving(Protocol):
    """The socket on which orders come."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


class ControlService:
    """Runs one follower on a thread of its own."""

    def __init__(
        self,
        clock: Clock,
        worker: Worker,
        follower: Follower,
        *,
        followed: Mark,
        durable: Callable[[], Lsn],
        fault: Callable[[Exception], None],
        publish: Callable[[], None],
        close: Callable[[], None],
        bus: Serving | None = None,
    ) -> None:
        """`durable` is how far the ledger goes; `fault` is told what a step raised, once while it lasts.
        `publish` reads the settings again, and raises where they have mistakes. `close` ends it all."""
        self._clock = clock
        self._worker = worker
        self._follower = follower
        self._followed = followed
        self._durable = durable
        self._fault = fault
        self._publish = publish
        self._close = close
        self._bus = bus
        self._busy = False
        self._again = False
        self._said = ""
        """The last fault that was reported, while it lasts."""
        self._stepped_s = 0.0
        self._caught_up: asyncio.Future[None] | None = None
        self._timer: Timer = clock.call_later(0, self._tick)

    async def start(self) -> None:
        """Take orders, where any are taken."""
        if self._bus is not None:
            await self._bus.start()

    def wake(self) -> None:
        """The ledger grew."""
        self._again = True
        if not self._busy:
            self._busy = True
            wait_s = self._stepped_s + PACE_S - self._clock.monotonic()
            self._clock.call_later(max(0.0, wait_s), self._step)

    def _tick(self) -> None:
        self._timer = self._clock.call_later(TICK_S, self._tick)
        self.wake()

    def _step(self) -> None:
        self._again = False
        self._stepped_s = self._clock.monotonic()
        self._worker.call(self._follower.step, self._stepped)

    def _stepped(self, more: bool | Exception) -> None:
        self._busy = False
        if isinstance(more, Exception):
            # Tried again each second: a disk that is full for hours is said once, not with every try.
            if repr(more) != self._said:
                self._said = repr(more)
                self._fault(more)
            return
        self._said = ""
        self._followed.store(self._follower.cursor)
        if self._caught_up is not None and self._follower.cursor >= self._durable():
            # Nothing is left to be told; what could be indexed beside it can wait for the next start.
            if not self._caught_up.done():
                self._caught_up.set_result(None)
        elif more:
            self._busy = True
            self._step()
        elif self._again:
            self.wake()

    async def drain(self, grace_s: float) -> None:
        """Delivery has ended: follow the ledger to its end."""
        self._caught_up = asyncio.get_running_loop().create_future()
        self.wake()
        async with asyncio.timeout(grace_s):
            await self._caught_up

    async def reload(self) -> None:
        """SIGHUP: read the settings again; a mistake keeps those in force."""
        self._publish()

    async def close(self) -> None:
        self._timer.cancel()
        if self._bus is not None:
            await self._bus.close()
        self._worker.close()
        self._close()
