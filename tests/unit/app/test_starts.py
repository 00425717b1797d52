"""Whether the machine was started anew is known after any death, and after a power cut at any moment."""

from __future__ import annotations

import pytest
from tests.simulation.disk import Crash, Operation, SimulatedDisk, disk_full

from dispatch.app.starts import Starts


def _started(disk: SimulatedDisk, start_id: str) -> bool:
    """A start that comes to its end; what it found."""
    starts = Starts(disk.process(), start_id)
    starts.remember()
    return starts.power_was_cut


def test_a_first_start_finds_nothing() -> None:
    assert not _started(SimulatedDisk(), "a")


def test_a_process_that_starts_again_finds_nothing() -> None:
    disk = SimulatedDisk()
    _started(disk, "a")
    assert not _started(disk, "a")


@pytest.mark.parametrize("seed", range(20))
def test_a_machine_that_starts_again_is_found_once(seed: int) -> None:
    disk = SimulatedDisk(seed)
    for start_id in "abc":
        assert _started(disk, start_id) is (start_id != "a")
        assert not _started(disk, start_id)
        disk.power_cut()


def test_a_start_that_does_not_come_to_its_end_leaves_it_to_the_next() -> None:
    disk = SimulatedDisk()
    _started(disk, "a")
    disk.power_cut()
    assert Starts(disk.process(), "b").power_was_cut
    assert Starts(disk.process(), "b").power_was_cut


def test_a_stop_in_good_order_is_no_power_cut() -> None:
    disk = SimulatedDisk()
    starts = Starts(disk.process(), "a")
    starts.remember()
    starts.forget()
    disk.power_cut()
    # Where the power is cut directly behind the stop, the removal may be lost: that is doubted for nothing.
    disk.entries.pop("start-a", None)
    assert not _started(disk, "b")
    disk.power_cut()
    assert Starts(disk.process(), "c").power_was_cut


def test_where_nothing_can_be_written_the_next_start_finds_it_again() -> None:
    disk = SimulatedDisk()
    _started(disk, "a")
    disk.power_cut()
    disk.fault = lambda operation, path: disk_full() if operation == "create" else None
    assert _started(disk, "b")
    disk.fault = None
    assert _started(disk, "b")
    assert not _started(disk, "b")


@pytest.mark.parametrize("operation", ["create", "sync_folder"])
def test_a_first_start_that_cannot_be_noted_says_so_until_it_is(operation: Operation) -> None:
    disk = SimulatedDisk()
    starts = Starts(disk.process(), "a")
    disk.fault = lambda done, path: disk_full() if done == operation else None
    assert not starts.remember() and not starts.remember()
    disk.fault = None
    assert starts.remember()
    disk.power_cut()
    assert Starts(disk.process(), "b").power_was_cut


def test_a_start_that_cannot_be_noted_behind_an_older_note_is_safe() -> None:
    disk = SimulatedDisk()
    _started(disk, "a")
    disk.fault = lambda done, path: disk_full() if done == "create" else None
    assert Starts(disk.process(), "b").remember()
    disk.fault = None
    assert Starts(disk.process(), "c").power_was_cut


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("dies_at", range(5))
def test_a_power_cut_while_it_is_noted_is_not_forgotten(dies_at: int, seed: int) -> None:
    disk = SimulatedDisk(seed)
    _started(disk, "a")
    disk.power_cut()
    starts = Starts(disk.process(), "b")
    ends = disk.operations + dies_at

    def fault(operation: Operation, path: str) -> OSError | None:
        if disk.operations > ends:
            raise Crash
        return None

    disk.fault = fault
    try:
        starts.remember()
    except Crash:
        pass
    disk.power_cut()
    assert Starts(disk.process(), "c").power_was_cut
