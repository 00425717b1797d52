"""Whether a database that looks damaged is, or a read of it has failed."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from random import Random

import apsw
import pytest
from tests.simulation.disk import Operation, SimulatedDisk
from tests.simulation.vfs import SimulatedVfs
from tests.unit.outcomes.ledger import LedgerInList, accepted
from tests.unit.store.messages import message

from dispatch.outcomes.history import History
from dispatch.outcomes.tail import Tail
from dispatch.runtime.machine import SystemDisk
from dispatch.store.damage import is_damaged, set_aside
from dispatch.store.history import HistoryStore
from dispatch.store.sqlite import Folder, StoreFault

PATH = Path("history.db")
PAGE_BYTES = 8192


def filled(path: Path, *, vfs: str | None = None, disk: Folder | None = None) -> None:
    """A history in which some messages are in the search index, and some are not yet."""
    store = HistoryStore.open(path, vfs=vfs, disk=disk)
    ledger = LedgerInList(*(accepted(message(number)) for number in range(30)))
    tail = Tail(ledger, store, History(store))
    while tail.step():
        pass
    ledger.append(*(accepted(message(number)) for number in range(30, 40)))
    tail.step()
    store.close()


def test_a_sound_history_is_sound_although_the_search_index_lags_behind(tmp_path: Path) -> None:
    filled(tmp_path / PATH)
    assert not is_damaged(SystemDisk(tmp_path), tmp_path / PATH)


def test_what_is_not_there_is_not_damaged(tmp_path: Path) -> None:
    assert not is_damaged(SystemDisk(tmp_path), tmp_path / PATH)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("page", [0, 1, 5])
def test_a_page_that_was_overwritten_is_damage(tmp_path: Path, page: int) -> None:
    filled(tmp_path / PATH)
    with (tmp_path / PATH).open("r+b") as file:
        file.seek(page * PAGE_BYTES)
        file.write(b"?" * PAGE_BYTES)
    before = (tmp_path / PATH).read_bytes()
    assert is_damaged(SystemDisk(tmp_path), tmp_path / PATH)
    assert (tmp_path / PATH).read_bytes() == before, "it was looked at, and no more"
    assert set_aside(SystemDisk(tmp_path), PATH.name) == "history.db.damaged-1"
    assert not is_damaged(SystemDisk(tmp_path), tmp_path / PATH)


def test_a_search_index_whose_own_tables_make_no_sense_is_damage(tmp_path: Path) -> None:
    filled(tmp_path / PATH)
    with apsw.Connection(str(tmp_path / PATH)) as connection:
        connection.execute("DELETE FROM search_config")
    connection.close()
    assert is_damaged(SystemDisk(tmp_path), tmp_path / PATH)


def test_a_read_that_fails_is_no_damage_however_often(tmp_path: Path) -> None:
    disk = SimulatedDisk(1)
    process = disk.process()
    vfs = SimulatedVfs(process, Random(1))
    filled(PATH, vfs=vfs.name, disk=process)
    reads = 0

    def failing(first: int, behind: int) -> Callable[[Operation, str], OSError | None]:
        def fault(operation: Operation, path: str) -> OSError | None:
            nonlocal reads
            reads += operation == "read"
            fails = operation == "read" and first <= reads < behind
            return OSError(errno.EIO, "Input/output error") if fails else None

        return fault

    assert not is_damaged(process, PATH, vfs=vfs.name)
    disk.fault = failing(0, 0)
    is_damaged(process, PATH, vfs=vfs.name)
    all_reads = reads
    for first in range(1, all_reads + 1):
        for times in (1, 2, 1 << 30):
            reads = 0
            disk.fault = failing(first, first + times)
            try:
                assert not is_damaged(process, PATH, vfs=vfs.name)
            except (StoreFault, OSError):
                continue
    disk.fault = None
    vfs.unregister()
