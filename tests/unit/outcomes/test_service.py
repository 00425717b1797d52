"""The control process follows the ledger, whatever its databases say."""

from __future__ import annotations

from tests.simulation.loop import SimulatedLoop, SimulatedMark

from dispatch.outcomes.service import ControlService
from dispatch.ports import Lsn


class Follower:
    """Takes one record a step; fails while it has a fault."""

    def __init__(self) -> None:
        self.cursor = Lsn(0)
        self.end = Lsn(3)
        self.fault: Exception | None = None

    def step(self) -> bool:
        if self.fault is not None:
            raise self.fault
        self.cursor = Lsn(min(self.cursor + 1, self.end))
        return self.cursor < self.end


def service(
    loop: SimulatedLoop, follower: Follower, faults: list[str], mark: SimulatedMark
) -> ControlService:
    return ControlService(
        loop,
        loop.worker("outcomes"),
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
