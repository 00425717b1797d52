"""The intake process: what stands around the sessions, from start to drain.

Once a second it looks at two things that other processes may have changed: the settings snapshot, and how
far the mail log may be recycled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from dispatch.intake.listener import SmtpListener
from dispatch.ports import Clock, Log, Lsn, Mark, Timer

TICK_S = 1.0


class Stoppable(Protocol):
    def stop(self) -> None: ...


class Serving(Protocol):
    """The socket on which our own processes hand mail in."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


class Door(Protocol):
    """Where clients come in."""

    async def drain(self, grace_s: float) -> None: ...

    def close(self) -> None: ...


class IntakeService:
    """Runs the doors over one mail log."""

    def __init__(
        self,
        clock: Clock,
        listener: SmtpListener,
        log: Log,
        *,
        released: Mark,
        watches: tuple[Stoppable, ...],
        changed: Callable[[], bool],
        apply: Callable[[], None],
        closed: Callable[[], None],
        bus: Serving,
        other_doors: tuple[Door, ...] = (),
    ) -> None:
        """`changed` says whether there are other settings than those in force; `apply` puts them in force.
        `closed` is called behind everything else."""
        self.listener = listener
        self._doors: tuple[Door, ...] = (listener, *other_doors)
        self._clock = clock
        self._log = log
        self._released = released
        self._watches = watches
        self._changed = changed
        self._apply = apply
        self._closed = closed
        self._bus = bus
        self._timer: Timer = clock.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._timer = self._clock.call_later(TICK_S, self._tick)
        self._log.release(Lsn(self._released.load()))
        if self._changed():
            self._apply()

    async def drain(self, grace_s: float) -> None:
        """No new connections; what is under way finishes and is answered."""
        await asyncio.gather(*(door.drain(grace_s) for door in self._doors))

    async def reload(self) -> None:
        if self._changed():
            self._apply()

    async def close(self) -> None:
        self._timer.cancel()
        for watch in self._watches:
            watch.stop()
        await self._bus.close()
        for door in self._doors:
            door.close()
        self._log.close()
        self._closed()
