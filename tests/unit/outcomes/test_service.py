"""The control process follows the ledger, whatever its databases say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from tests.simulation.loop import SimulatedLoop, SimulatedMark

from dispatch.outcomes.service import BEHIND_BYTES_MAX, ControlService
from dispatch.ports import Lsn

T = TypeVar("T")


class Follower:
    """Takes `stride` bytes a step; fails while it has a fault."""

    def __init__(self) -> None:
        self.cursor = Lsn(0)
        self.end = Lsn(3)
        self.stride = 1
        self.fault: Exception | None = None

    def step(self) -> bool:
        if self.fault is not None:
            raise self.fault
        self.cursor = Lsn(min(self.cursor + self.stride, self.end))
        return self.cursor < self.end


class Noting:
    """A worker that notes its name for each thing that it does."""

    def __init__(self, loop: SimulatedLoop, name: str, worked: list[str]) -> None:
        self._worker = loop.worker(name)
        self._name = name
        self._worked = worked

    def call(self, work: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        self._worked.append(self._name)
        self._worker.call(work, done)

    def close(self) -> None:
        self._worker.close()


def service(
    loop: SimulatedLoop,
    follower: Follower,
    faults: list[str],
    mark: SimulatedMark,
    worked: list[str] | None = None,
) -> ControlService:
    worked = [] if worked is None else worked
    return ControlService(
        loop,
        (Noting(loop, "patient", worked), Noting(loop, "pressed", worked)),
        follower,
        followed=mark,
        durable=lambda: follower.end,
        fault=lambda error: faults.append(str(error)),
        publish=lambda: None,
        close=lambda: None,
    )


def test_the_ledger_is_followed_to_its_end_and_the_mark_says_how_far() -> None:
    loop, follower, mark = SimulatedLoop(), Follower(), SimulatedMark()
    service(loop, follower, [], mark)
    loop.advance(1.0)
    assert (follower.cursor, mark.load()) == (3, 3)
    follower.end = Lsn(5)
    loop.advance(5.0)
    assert mark.load() == 5, "a lost hint costs a second"


def test_a_fault_that_lasts_is_said_once_and_followed_behind_when_it_ends() -> None:
    loop, follower, faults, mark = SimulatedLoop(), Follower(), [], SimulatedMark()
    follower.fault = OSError("full")
    service(loop, follower, faults, mark)
    loop.advance(60.0)
    assert faults == ["full"]
    follower.fault = OSError("unwell")
    loop.advance(60.0)
    assert faults == ["full", "unwell"]
    follower.fault = None
    loop.advance(5.0)
    assert mark.load() == 3
    follower.fault = OSError("unwell")
    loop.advance(60.0)
    assert faults == ["full", "unwell", "unwell"]


def test_history_gives_way_to_mail_until_it_is_far_behind() -> None:
    loop, follower, mark, worked = SimulatedLoop(), Follower(), SimulatedMark(), list[str]()
    service(loop, follower, [], mark, worked)
    loop.advance(1.0)
    assert worked and set(worked) == {"patient"}
    worked.clear()
    follower.end = Lsn(follower.cursor + BEHIND_BYTES_MAX + 2)
    follower.stride = BEHIND_BYTES_MAX // 2
    loop.advance(1.0)
    assert follower.cursor == follower.end
    assert worked[:2] == ["pressed", "patient"]


def test_history_does_not_keep_a_stop_waiting() -> None:
    loop, follower, mark, worked = SimulatedLoop(), Follower(), SimulatedMark(), list[str]()
    control = service(loop, follower, [], mark, worked)
    loop.advance(1.0)
    follower.end = Lsn(9)
    worked.clear()

    async def stop() -> None:
        drained = asyncio.ensure_future(control.drain(5.0))
        await asyncio.sleep(0)
        loop.advance(1.0)
        await drained

    asyncio.run(stop())
    assert follower.cursor == 9 and set(worked) == {"pressed"}
