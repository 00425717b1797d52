"""How much room is left, without fluttering."""

from __future__ import annotations

import pytest
from tests.simulation.disk import Operation, SimulatedDisk, io_error
from tests.simulation.loop import SimulatedLoop

from dispatch.ports import DiskLevel
from dispatch.spool.levels import DiskLevels, DiskLimits, DiskWatch

MB = 1 << 20
LIMITS = DiskLimits(1024 * MB, 500 * MB, 200 * MB)


@pytest.mark.parametrize(
    ("free_mb", "level"),
    [
        (5000, DiskLevel.AMPLE),
        (1024, DiskLevel.AMPLE),
        (1023, DiskLevel.LOW),
        (500, DiskLevel.LOW),
        (499, DiskLevel.THROTTLED),
        (199, DiskLevel.SUSPENDED),
        (0, DiskLevel.SUSPENDED),
    ],
)
def test_a_level_is_entered_at_its_limit(free_mb: int, level: DiskLevel) -> None:
    assert DiskLevels(LIMITS).observe(free_mb * MB) is level


def test_a_level_is_left_only_with_a_margin() -> None:
    levels = DiskLevels(LIMITS)
    assert levels.observe(199 * MB) is DiskLevel.SUSPENDED
    assert levels.observe(210 * MB) is DiskLevel.SUSPENDED
    assert levels.observe(221 * MB) is DiskLevel.THROTTLED
    assert levels.observe(540 * MB) is DiskLevel.THROTTLED
    assert levels.observe(551 * MB) is DiskLevel.LOW
    assert levels.observe(1100 * MB) is DiskLevel.LOW
    assert levels.observe(1127 * MB) is DiskLevel.AMPLE


def test_a_disk_that_gets_room_at_once_is_ample_at_once() -> None:
    levels = DiskLevels(LIMITS)
    levels.observe(0)
    assert levels.observe(5000 * MB) is DiskLevel.AMPLE


def test_hovering_at_a_limit_changes_the_level_once() -> None:
    levels = DiskLevels(LIMITS)
    seen = [levels.observe(free_mb * MB) for free_mb in (501, 499, 501, 499, 503, 498)]
    assert seen == [DiskLevel.LOW] + [DiskLevel.THROTTLED] * 5


def test_a_limit_of_nothing_is_off() -> None:
    assert DiskLevels(DiskLimits(0, 0, 0)).observe(0) is DiskLevel.AMPLE


def watch(disk: SimulatedDisk, loop: SimulatedLoop) -> tuple[DiskWatch, list[DiskLevel]]:
    changes: list[DiskLevel] = []
    made = DiskWatch(
        disk.process(), DiskLevels(LIMITS), clock=loop, worker=loop.worker("disk"), changed=changes.append
    )
    return made, changes


def test_the_watch_tells_of_changes_and_recovers_alone() -> None:
    disk, loop = SimulatedDisk(capacity_bytes=5000 * MB), SimulatedLoop()
    watched, changes = watch(disk, loop)
    loop.advance(30)
    assert (changes, watched.free_bytes) == ([], 5000 * MB)
    disk.capacity_bytes = 100 * MB
    loop.advance(10)
    assert changes == [DiskLevel.SUSPENDED]
    disk.capacity_bytes = 5000 * MB
    loop.advance(10)
    assert changes == [DiskLevel.SUSPENDED, DiskLevel.AMPLE]


def test_a_disk_that_cannot_be_asked_is_no_disk_to_accept_mail_on() -> None:
    disk, loop = SimulatedDisk(), SimulatedLoop()
    watched, changes = watch(disk, loop)
    loop.settle()

    def away(operation: Operation, _: str) -> OSError:
        return io_error()

    disk.fault = away
    loop.advance(10)
    assert changes == [DiskLevel.SUSPENDED]
    assert watched.free_bytes is None


def test_a_watch_that_was_stopped_says_nothing_more() -> None:
    disk, loop = SimulatedDisk(), SimulatedLoop()
    watched, changes = watch(disk, loop)
    loop.settle()
    watched.stop()
    disk.capacity_bytes = 0
    loop.advance(100)
    assert changes == []
