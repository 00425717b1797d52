"""History that looks damaged: what is damaged is made anew, what could not be read for a moment is kept."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import cast

import pytest
from tests.simulation.disk import Operation, SimulatedDisk
from tests.simulation.vfs import SimulatedVfs
from tests.unit.outcomes.ledger import LedgerInList, accepted
from tests.unit.outcomes.test_refusals import Count
from tests.unit.store.messages import message

from dispatch.app.control import Following
from dispatch.app.folders import HISTORY, Folders
from dispatch.app.machine import Machine
from dispatch.mail.message import Message
from dispatch.settings.model import Logging
from dispatch.store.sqlite import StoreFault


class Desk:
    """Control's follower over a ledger in a list and a history on a simulated disk."""

    def __init__(self) -> None:
        self.disk = SimulatedDisk(1)
        self.process = self.disk.process()
        self.vfs = SimulatedVfs(self.process, Random(1))
        self.ledger = LedgerInList()
        self.told: list[dict[str, object]] = []
        """Of what was reported, the fields."""
        self.following = self.open()

    def open(self) -> Following:
        machine = SimpleNamespace(
            disk=self.process, vfs=self.vfs.name, folders=Folders(Path()), mark=lambda path, writable: Count()
        )
        return Following(cast(Machine, machine), self.ledger, Logging(log_delivered=False), self._report)

    def _report(self, event: str, /, **fields: object) -> None:
        self.told.append(fields)

    def follow(self, *numbers: int) -> None:
        """Take these messages in."""
        for number in numbers:
            self.ledger.append(accepted(message(number)))
        while self.following.step():
            pass

    def reopen(self) -> None:
        """So that nothing of the tables is in memory."""
        self.following.close()
        self.following = self.open()

    def fail(self, *operations: Operation, path: str, after: int = 0, times: int = 1 << 30) -> None:
        seen = 0

        def fault(operation: Operation, on: str) -> OSError | None:
            nonlocal seen
            if operation not in operations or path not in on:
                return None
            seen += 1
            return OSError(errno.EIO, "unreadable") if after < seen <= after + times else None

        self.disk.fault = fault

    def fails(self, steps: int) -> list[str]:
        """What so many steps raise."""
        faults = []
        for _ in range(steps):
            with pytest.raises((StoreFault, OSError)) as raised:
                self.following.step()
            faults.append(type(raised.value).__name__)
        return faults

    def heal(self) -> None:
        self.disk.fault = None

    def ruin(self) -> None:
        """All but the first page is overwritten."""
        pages = len(self.disk.content(HISTORY)) // 8192
        self.disk.damage(HISTORY, 8192, b"?" * 8192 * (pages - 1))

    def knows(self, sent: Message) -> bool:
        assert self.following.store is not None
        return self.following.store.number_of(sent.id) is not None

    @property
    def set_aside(self) -> list[object]:
        return [fields["set_aside"] for fields in self.told if "set_aside" in fields]


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.heal()
    desk.vfs.unregister()


@pytest.mark.parametrize("after", range(12))
def test_a_read_that_fails_once_costs_history_nothing(desk: Desk, after: int) -> None:
    desk.follow(*range(40))
    desk.reopen()
    desk.fail("read", path=HISTORY, after=after, times=1)
    desk.ledger.append(accepted(message(40)))
    for _ in range(3):
        try:
            while desk.following.step():
                pass
        except (StoreFault, OSError):
            continue
    assert desk.set_aside == []
    assert desk.knows(message(0)) and desk.knows(message(40))


def test_a_history_that_cannot_be_read_for_long_waits_and_goes_on(desk: Desk) -> None:
    desk.follow(*range(40))
    desk.reopen()
    desk.fail("read", path=HISTORY)
    desk.ledger.append(accepted(message(40)))
    desk.fails(20)
    desk.heal()
    desk.follow(41)
    assert desk.set_aside == []
    assert all(desk.knows(message(number)) for number in (0, 40, 41))


def test_a_damaged_history_is_made_anew_even_if_that_fails_for_a_while(desk: Desk) -> None:
    desk.follow(*range(40))
    desk.following.close()
    desk.ruin()
    desk.following = desk.open()
    desk.ledger.append(accepted(message(40)))
    operations: tuple[Operation, ...] = ("rename", "create", "sync_folder")
    for operation in operations:
        desk.fail(operation, path="")
        desk.fails(5)
    desk.heal()
    desk.follow(41)
    assert desk.set_aside == [f"{HISTORY}.damaged-1"], "once, whatever came in between"
    assert all(desk.knows(message(number)) for number in (0, 40, 41)), "from the ledger that is kept"


def test_history_that_is_damaged_while_it_is_written_is_made_anew(desk: Desk) -> None:
    desk.follow(*range(40))
    desk.reopen()
    desk.ruin()
    desk.ledger.append(accepted(message(40)))
    assert desk.fails(1) == ["StoreDamaged"]
    desk.follow(41)
    assert desk.set_aside == [f"{HISTORY}.damaged-1"]
    assert all(desk.knows(message(number)) for number in (0, 40, 41))


def test_what_every_step_calls_damaged_is_damaged_although_a_look_finds_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatch.app.control.is_damaged", _nothing_found)
    desk.follow(*range(40))
    desk.reopen()
    desk.ruin()
    desk.ledger.append(accepted(message(40)))
    assert desk.fails(2) == ["StoreDamaged"] * 2
    desk.follow(41)
    assert desk.set_aside == [f"{HISTORY}.damaged-1"]


def test_what_cannot_be_closed_is_let_go_of(desk: Desk) -> None:
    """A checkpoint that fails in there must not keep the tables from being made anew."""
    desk.follow(*range(40))
    desk.reopen()
    desk.ruin()
    desk.ledger.append(accepted(message(40)))
    desk.fail("write", "sync", path=HISTORY)
    desk.fails(3)
    desk.heal()
    desk.follow(41)
    assert desk.knows(message(41))


def _nothing_found(*_: object, **__: object) -> bool:
    return False


@pytest.mark.parametrize("after", range(4))
def test_rows_that_a_failed_sync_may_have_lost_are_read_again_from_the_ledger(
    desk: Desk, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite goes on by what it remembers of them, and would copy something else into the database."""
    monkeypatch.setattr("dispatch.store.history.CHECKPOINT_PAGES", 60)
    desk.reopen()
    desk.fail("sync", path=f"{HISTORY}-wal", after=after, times=1)
    faults = []
    for number in range(100):
        try:
            desk.follow(number)
        except StoreFault as fault:
            faults.append(str(fault))
    assert len(faults) == 1
    desk.follow(100)
    desk.reopen()
    desk.follow()
    assert desk.set_aside == []
    assert all(desk.knows(message(each)) for each in range(101))
