"""Happy eyeballs (RFC 8305 section 5): one connection to a host, whichever of its addresses gives it first.

Each address gets a head start of `HEAD_START_S` before the next one is tried beside it; an address that
fails makes room at once. The first connection that stands is taken, the others are dropped unused.

The protocol that is to have the connection sees the winner's transport and no other: each runner has a
protocol of its own that hands over. Trap: the winner's attempt must not be cancelled, though it has not
returned yet; asyncio would close its transport.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import cast

from dispatch.ports import Clock, Timer

HEAD_START_S = 0.25
"""The Connection Attempt Delay that RFC 8305 section 8 recommends."""

Dial = Callable[[str, Callable[[], asyncio.Protocol], float], Coroutine[object, object, None]]
"""Connects to an address with a protocol, within so many seconds."""


class ConnectFailed(Exception):
    """No address of a host can be connected to."""

    def __init__(self, errors: dict[str, BaseException]) -> None:
        words = (f"{address}: {str(error) or type(error).__name__}" for address, error in errors.items())
        super().__init__("; ".join(words))
        self.errors = errors
        """At least one."""


class Race:
    """Begins when it is made; `stop` it when `winner` is known."""

    def __init__(
        self, addresses: Sequence[str], dial: Dial, protocol: asyncio.Protocol, clock: Clock, timeout_s: float
    ) -> None:
        """`protocol` gets the winner's transport."""
        self.winner: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Its address, or `ConnectFailed`."""
        self.failed: dict[str, BaseException] = {}
        self.protocol = protocol
        self._waiting = deque(addresses)
        self._dial = dial
        self._clock = clock
        self._until = clock.monotonic() + timeout_s
        self._running: dict[str, asyncio.Task[None]] = {}
        self._timer: Timer | None = None
        self._start_next()

    def stop(self) -> None:
        """Drop whoever still runs."""
        if self._timer is not None:
            self._timer.cancel()
        won = self.winner.done() and not self.winner.cancelled() and self.winner.exception() is None
        winner = self.winner.result() if won else None
        self.winner.cancel()
        for address, task in self._running.items():
            if address != winner:
                task.cancel()

    def _start_next(self) -> None:
        if self.winner.done():
            return
        address = self._waiting.popleft()
        left_s = max(0.0, self._until - self._clock.monotonic())
        task = asyncio.ensure_future(self._dial(address, partial(_Runner, self, address), left_s))
        self._running[address] = task
        task.add_done_callback(partial(self._ended, address))
        self._timer = self._clock.call_later(HEAD_START_S, self._start_next) if self._waiting else None

    def _ended(self, address: str, task: asyncio.Task[None]) -> None:
        del self._running[address]
        if task.cancelled() or (error := task.exception()) is None:
            return
        self.failed[address] = error
        if self._waiting:
            if self._timer is not None:
                self._timer.cancel()
            self._start_next()
        elif not self._running and not self.winner.done():
            self.winner.set_exception(ConnectFailed(self.failed))


class _Runner(asyncio.Protocol):
    """What an attempt connects; the first one hands its transport over."""

    def __init__(self, race: Race, address: str) -> None:
        self._race = race
        self._address = address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        race = self._race
        if race.winner.done():
            cast(asyncio.Transport, transport).abort()
            return
        race.winner.set_result(self._address)
        transport.set_protocol(race.protocol)
        race.protocol.connection_made(transport)
