"""Databases on the simulated disk: what SQLite is told, what is left of it, and who is dead."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from random import Random

import apsw
import pytest
from tests.simulation.disk import (
    Crash,
    Operation,
    SimulatedDisk,
    SimulatedProcess,
    disk_full,
    io_error,
)
from tests.simulation.vfs import SimulatedVfs
from tests.unit.store.messages import message, park

from dispatch.store import parked
from dispatch.store.history import HistoryStore
from dispatch.store.parked import ParkedStore
from dispatch.store.sqlite import StoreBusy, StoreDamaged, StoreFault, StoreFull

PARKED = Path("parked.db")


class Machine:
    """A disk, and one process after the other on it."""

    def __init__(self, seed: int = 1) -> None:
        self.disk = SimulatedDisk(seed)
        self.done: list[tuple[Operation, str]] = []
        self.process: SimulatedProcess
        self.vfs: SimulatedVfs
        self._lives = count(1)
        self._used: list[SimulatedVfs] = []
        self.start()

    def start(self) -> None:
        self.process = self.disk.process()
        self.vfs = SimulatedVfs(self.process, Random(next(self._lives)))
        self._used.append(self.vfs)

    def restart(self, *, power_cut: bool = False) -> None:
        self.process.kill()
        self.disk.fault = None
        if power_cut:
            self.disk.power_cut()
        self.start()

    def parked(self) -> ParkedStore:
        return ParkedStore.open(PARKED, vfs=self.vfs.name, disk=self.process)

    def history(self) -> HistoryStore:
        return HistoryStore.open(Path("history.db"), vfs=self.vfs.name, disk=self.process)

    def record(self) -> None:
        """From now on `done` tells what the disk was asked for."""

        def remember(operation: Operation, path: str) -> None:
            self.done.append((operation, path))

        self.disk.fault = remember

    def fail(self, operation: Operation, path: str, error: Callable[[], OSError]) -> None:
        def fault(asked: Operation, of: str) -> OSError | None:
            return error() if (asked, of) == (operation, path) else None

        self.disk.fault = fault

    def die_before(self, operations: int) -> None:
        left = count(operations, -1)

        def fault(operation: Operation, path: str) -> None:
            if next(left) == 0:
                raise Crash

        self.disk.fault = fault

    def forget(self) -> None:
        for vfs in self._used:
            vfs.unregister()


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    yield made
    made.forget()


# ---------------------------------------------------------------- what is kept


def test_what_was_parked_is_there_after_a_restart(machine: Machine) -> None:
    store = machine.parked()
    store.apply([park(message(1), content=b"c" * 10_000)], 7)
    store.close()
    assert machine.disk.paths == ["parked.db"]
    store = machine.parked()
    held = store.get(message(1).id, content=True)
    assert held is not None
    assert held.content == b"c" * 10_000
    assert store.ledger_lsn == 7


def test_what_was_parked_survives_the_death_of_the_process_and_a_power_cut(machine: Machine) -> None:
    for lsn, power_cut in enumerate((False, True, False, True), 1):
        store = machine.parked()
        store.apply([park(message(lsn))], lsn)
        machine.restart(power_cut=power_cut)
    store = machine.parked()
    assert store.ledger_lsn == 4
    assert len(list(store.ids())) == 4


@pytest.mark.parametrize("seed", range(10))
def test_history_may_lose_its_last_commits_to_a_power_cut_but_not_halves_of_them(seed: int) -> None:
    machine = Machine(seed)
    store = machine.history()
    for lsn in range(20):
        with store.transaction():
            store.set_cursor("a", lsn)
            store.count({(1, "", "received"): 1})
            store.set_cursor("b", lsn)
    machine.restart(power_cut=True)
    store = machine.history()
    (connection,) = machine.vfs.connections
    assert connection.pragma("integrity_check") == "ok"
    assert store.cursor("a") == store.cursor("b")
    counted = connection.execute("SELECT sum(count) FROM counter").get
    through = store.cursor("a")
    assert counted == (None if through is None else through + 1)
    machine.forget()


def test_one_seed_is_one_disk_to_the_last_byte() -> None:
    images = []
    for _ in range(2):
        machine = Machine(5)
        stores = machine.parked(), machine.history()
        stores[0].apply([park(message(1))], 1)
        images.append({path: machine.disk.content(path) for path in machine.disk.paths})
        machine.forget()
    assert images[0] == images[1]
    assert "parked.db-wal" in images[0]


def test_the_folder_is_synced_with_the_first_sync_of_a_new_wal(machine: Machine) -> None:
    machine.parked().close()
    machine.record()
    store = machine.parked()
    store.apply([park(message(1))], 1)
    store.apply([park(message(2))], 2)
    syncs = [name for name in machine.done if name[0] in ("create", "sync", "sync_folder")]
    # The store's own sync of the folder, and then SQLite's.
    assert syncs[:2] == [("create", "parked.db-wal"), ("sync_folder", "")]
    assert syncs[2:4] == [("sync", "parked.db-wal"), ("sync_folder", "")]
    assert syncs[4:] == [("sync", "parked.db-wal")] * (len(syncs) - 4)
    assert len(syncs) > 5


def test_a_folder_that_cannot_be_synced_is_passed_over_as_on_a_real_machine(machine: Machine) -> None:
    connection = apsw.Connection("any.db", vfs=machine.vfs.name)
    connection.pragma("locking_mode", "EXCLUSIVE")
    connection.pragma("journal_mode", "WAL")
    machine.fail("sync_folder", "", io_error)
    connection.execute("CREATE TABLE any (thing)")


def test_what_was_cut_off_a_file_does_not_come_back_when_it_grows(machine: Machine) -> None:
    file = machine.process.open("any", create=True)
    machine.process.sync_folder("")
    file.write_at(0, [b"a" * 3000])
    file.sync()
    file.truncate(100)
    file.write_at(2000, [b"b"])
    file.sync()
    machine.disk.power_cut()
    assert machine.disk.content("any") == b"a" * 100 + bytes(1900) + b"b"


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("operation", "error", "fault"),
    [
        ("write", disk_full, StoreFull),
        ("write", io_error, StoreFault),
        ("write", lambda: OSError(errno.EDQUOT, "quota"), StoreFault),
        ("sync", io_error, StoreFault),
        ("sync", disk_full, StoreFault),
    ],
)
def test_a_failed_commit_leaves_what_was_there_before_it(
    machine: Machine, operation: Operation, error: Callable[[], OSError], fault: type[StoreFault]
) -> None:
    store = machine.parked()
    store.apply([park(message(1))], 1)
    machine.fail(operation, "parked.db-wal", error)
    with pytest.raises(StoreFault) as raised:
        store.apply([park(message(2))], 2)
    assert type(raised.value) is fault
    machine.disk.fault = None
    assert list(store.ids()) == [message(1).id]
    assert store.ledger_lsn == 1
    store.apply([park(message(3))], 3)
    machine.restart(power_cut=True)
    assert list(machine.parked().ids()) == [message(1).id, message(3).id]


def test_what_cannot_be_read_counts_as_damaged(machine: Machine) -> None:
    machine.parked().close()
    machine.fail("read", "parked.db", io_error)
    with pytest.raises(StoreDamaged):
        machine.parked()


def test_rot_is_found(machine: Machine) -> None:
    machine.parked().close()
    machine.disk.damage("parked.db", 0, bytes(100))
    with pytest.raises(StoreDamaged):
        machine.parked()


def test_a_database_that_cannot_be_made_for_want_of_space_can_be_made_later(machine: Machine) -> None:
    machine.disk.capacity_bytes = 20_000
    with pytest.raises(StoreFull):
        machine.parked()
    machine.disk.capacity_bytes = None
    machine.parked().apply([park(message(1))], 1)


def test_who_opens_it_a_second_time_is_busy(machine: Machine) -> None:
    store = machine.parked()
    with pytest.raises(StoreBusy):
        machine.parked()
    store.close()
    machine.parked()


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_a_checkpoint_that_fails_takes_nothing_from_the_commit_before_it(
    machine: Machine, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked, "CHECKPOINT_PAGES", 1)
    store = machine.parked()
    machine.fail(operation, "parked.db", io_error)
    for number in range(3):
        store.apply([park(message(number))], number)
    machine.record()
    store.apply([park(message(3))], 3)
    assert ("sync", "parked.db") in machine.done
    machine.restart(power_cut=True)
    assert len(list(machine.parked().ids())) == 4


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_what_is_shown_after_a_failed_sync_and_a_death_survives_a_power_cut(first: int) -> None:
    for seed in range(first, first + 50):
        machine = Machine(seed)
        store = machine.parked()
        machine.fail("sync", "parked.db-wal", io_error)
        with pytest.raises(StoreFault):
            store.apply([], 1)
        machine.restart()
        store = machine.parked()
        store.apply([park(message(2))], store.ledger_lsn + 1)
        lsn = store.ledger_lsn
        machine.restart(power_cut=True)
        store = machine.parked()
        assert store.ledger_lsn == lsn
        assert list(store.ids()) == [message(2).id]
        machine.forget()


# ---------------------------------------------------------------- death


@pytest.mark.parametrize("power_cut", [False, True])
def test_a_process_that_dies_within_a_call_never_touches_the_disk_again(power_cut: bool) -> None:
    for operations in count():
        machine = Machine(operations)
        store = machine.parked()
        store.apply([park(message(0))], 1)
        machine.die_before(operations)
        try:
            store.apply([park(message(1))], 2)
        except StoreFault:
            assert not machine.process.alive
        else:
            assert machine.process.alive
            break
        left = {path: machine.disk.content(path) for path in machine.disk.paths}
        done = machine.disk.operations
        for number in (2, 3):
            with pytest.raises(StoreFault):
                store.apply([park(message(number))], 3)
        del store
        gc.collect()
        assert {path: machine.disk.content(path) for path in machine.disk.paths} == left
        assert machine.disk.operations == done
        machine.restart(power_cut=power_cut)
        store = machine.parked()
        assert (store.ledger_lsn, len(list(store.ids()))) in ((1, 1), (2, 2))
        machine.forget()
    machine.forget()
    assert operations > 10


@pytest.mark.parametrize("power_cut", [False, True])
@pytest.mark.parametrize("opened", [ParkedStore, HistoryStore])
def test_whoever_dies_while_making_a_database_leaves_one_that_can_be_opened(
    opened: type[ParkedStore | HistoryStore], power_cut: bool
) -> None:
    for operations in count():
        machine = Machine(operations)
        machine.die_before(operations)
        try:
            opened.open(PARKED, vfs=machine.vfs.name, disk=machine.process).close()
            survived = True
        except (StoreFault, Crash):
            survived = False
        machine.restart(power_cut=power_cut)
        opened.open(PARKED, vfs=machine.vfs.name, disk=machine.process).close()
        machine.forget()
        if survived:
            break
    assert operations > 50


def test_a_dead_process_closes_quietly(machine: Machine) -> None:
    store = machine.parked()
    store.apply([park(message(1))], 1)
    machine.process.kill()
    before = machine.disk.operations
    store.close()
    assert machine.disk.operations == before
    assert "parked.db-wal" in machine.disk.paths


# ---------------------------------------------------------------- the rest of the machine


def test_temporary_files_have_no_name_on_the_disk(machine: Machine) -> None:
    machine.record()
    connection = apsw.Connection("any.db", vfs=machine.vfs.name)
    connection.pragma("temp_store", "FILE")
    connection.execute("CREATE TEMP TABLE many (bytes)")
    connection.executemany("INSERT INTO many VALUES (randomblob(1000))", [()] * 5000)
    assert connection.execute("SELECT count(DISTINCT bytes) FROM many").get == 5000
    assert ("write", "temporary") in machine.done
    assert machine.disk.paths == ["any.db"]


def test_the_time_is_that_of_the_simulation(machine: Machine) -> None:
    vfs = SimulatedVfs(machine.process, Random(1), wall=lambda: 1_780_272_000.0)
    connection = apsw.Connection("any.db", vfs=vfs.name)
    assert connection.execute("SELECT datetime('now')").get == "2026-06-01 00:00:00"
    vfs.unregister()


def test_an_empty_file_does_not_exist_to_sqlite(machine: Machine) -> None:
    machine.process.open("empty", create=True).close()
    file = machine.process.open("full", create=True)
    file.write_at(0, [b"x"])
    found = [machine.vfs.xAccess(name, apsw.SQLITE_ACCESS_EXISTS) for name in ("empty", "full", "absent")]
    assert found == [False, True, False]


def test_once_unregistered_nothing_of_it_is_left(machine: Machine) -> None:
    usual = apsw.vfs_names()[0]
    vfs = SimulatedVfs(machine.process, Random(1))
    left_open = ParkedStore.open(PARKED, vfs=vfs.name, disk=machine.process)
    assert apsw.vfs_names()[0] == usual
    assert vfs.connections
    vfs.unregister()
    assert vfs.name not in apsw.vfs_names()
    assert not vfs.connections
    left_open.close()
    assert machine.disk.paths == ["parked.db"]
