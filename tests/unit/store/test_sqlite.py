"""Opening, transactions, and faults by their names."""

from __future__ import annotations

import errno
from pathlib import Path

import apsw
import pytest
from tests.unit.store.full_disk import FullDisk
from tests.unit.store.messages import message, park

from dispatch.runtime.machine import SystemDisk
from dispatch.store.parked import ParkedStore
from dispatch.store.sqlite import (
    StoreBusy,
    StoreDamaged,
    StoreFault,
    StoreFull,
    address_pattern,
    like_literal,
    open_database,
    open_read_only,
    transaction,
)


def test_durability_is_as_asked(tmp_path: Path) -> None:
    full = open_database(tmp_path / "full.db", "parked", synchronous="FULL", exclusive=True)
    normal = open_database(tmp_path / "normal.db", "history", synchronous="NORMAL")
    assert (full.pragma("journal_mode"), full.pragma("synchronous")) == ("wal", 2)
    assert (normal.pragma("journal_mode"), normal.pragma("synchronous")) == ("wal", 1)
    full.close()
    normal.close()


def test_a_transaction_that_raises_leaves_nothing(tmp_path: Path) -> None:
    connection = open_database(tmp_path / "a.db", "parked", synchronous="FULL")
    with pytest.raises(ZeroDivisionError), transaction(connection):
        connection.execute("UPDATE ledger SET lsn = 5")
        raise ZeroDivisionError
    assert connection.execute("SELECT lsn FROM ledger").get == 0
    with transaction(connection):
        connection.execute("UPDATE ledger SET lsn = 6")
    assert connection.execute("SELECT lsn FROM ledger").get == 6
    connection.close()


def test_an_exclusive_database_cannot_be_opened_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatch.store.sqlite.BUSY_TIMEOUT_MS", 1)
    store = ParkedStore.open(tmp_path / "parked.db")
    with pytest.raises(StoreBusy):
        ParkedStore.open(tmp_path / "parked.db")
    store.close()
    ParkedStore.open(tmp_path / "parked.db").close()


def test_a_file_that_is_no_database_is_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "parked.db").write_bytes(b"From: mail, not a database\n" * 500)
    with pytest.raises(StoreDamaged, match=r"parked\.db"):
        ParkedStore.open(tmp_path / "parked.db")


def test_rows_that_nobody_writes_are_called_damage_too(tmp_path: Path) -> None:
    """A page that never reached the disk leaves a database that is whole, and nonsense."""
    path = tmp_path / "parked.db"
    ParkedStore.open(path).close()
    database = apsw.Connection(str(path))
    columns = [column[1] for column in database.execute("pragma table_info(lane)")]
    database.execute("create table nonsense as select * from lane")
    database.execute("drop table lane")
    database.execute("alter table nonsense rename to lane")
    database.execute(f"insert into lane ({columns[0]}) values (1)")
    database.close()
    with pytest.raises(StoreDamaged, match="a lane makes no sense"):
        ParkedStore.open(path)


class LossyFolder(SystemDisk):
    """The folder of a database, on a disk that fails at one of its operations."""

    fails: str | None = None

    def _may(self, operation: str) -> None:
        if operation == self.fails:
            raise OSError(errno.EIO, "Input/output error")

    def rename(self, old: str, new: str) -> None:
        self._may("rename")
        super().rename(old, new)

    def remove(self, path: str) -> None:
        self._may("remove")
        super().remove(path)

    def sync_folder(self, folder: str) -> None:
        self._may("sync_folder")
        super().sync_folder(folder)


def test_a_database_whose_name_may_go_with_a_power_cut_does_not_open(tmp_path: Path) -> None:
    path, folder = tmp_path / "parked.db", LossyFolder(tmp_path)
    folder.fails = "sync_folder"
    for _ in range(2):  # while it is made, and when it is there
        with pytest.raises(StoreFault, match="its folder"):
            ParkedStore.open(path, disk=folder)
    assert path.with_name("parked.db-wal").exists(), "the log of what will be committed has its name by then"
    folder.fails = None
    ParkedStore.open(path, disk=folder).close()


def test_a_database_that_could_not_be_made_whole_does_not_get_its_name(tmp_path: Path) -> None:
    path, folder = tmp_path / "parked.db", LossyFolder(tmp_path)
    folder.fails = "rename"
    with pytest.raises(StoreFault):
        ParkedStore.open(path, disk=folder)
    assert not path.exists()
    for leftover in tmp_path.iterdir():
        leftover.write_bytes(b"what a disk that fails may leave" * 100)
    folder.fails = None
    ParkedStore.open(path, disk=folder).close()
    assert [each.name for each in tmp_path.iterdir() if ".new" in each.name] == []


def test_reading_what_is_not_there_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreFault):
        open_read_only(tmp_path / "history.db")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    writer = open_database(tmp_path / "history.db", "history", synchronous="NORMAL")
    reader = open_read_only(tmp_path / "history.db")
    with pytest.raises(apsw.ReadOnlyError):
        reader.execute("DELETE FROM message")
    reader.close()
    writer.close()


@pytest.mark.parametrize("writes", range(6))
def test_a_full_disk_is_called_full_and_the_change_can_be_made_later(tmp_path: Path, writes: int) -> None:
    disk = FullDisk(f"disk that is full after {writes}")
    store = ParkedStore.open(tmp_path / "parked.db", vfs=disk.name)
    store.apply([park(message(1))], 1)
    (first,) = store.claim("smarthost", 0, 10, 1 << 20)
    large = park(message(2), content=bytes(100_000))
    with disk.full_after(writes), pytest.raises(StoreFull):
        store.apply([large], 2)
    assert store.ledger_lsn == 1
    assert store.claim("smarthost", 0, 10, 1 << 20) == [], "what was in hand is in hand still"
    store.apply([large], 2)
    assert [found.message.id for found in store.claim("smarthost", 0, 10, 1 << 20)] == [large.id]
    store.put_back([(first.message.id, (0,))])
    assert store.claim("smarthost", 0, 10, 1 << 20) == [first]
    store.close()
    disk.unregister()


def test_patterns_mean_text_and_nothing_more() -> None:
    assert like_literal(r"100%_\x") == r"100\%\_\\x"
    assert address_pattern("example.org") == address_pattern("@example.org") == "%@example.org"
    assert address_pattern(" a_b@example.org ") == r"a\_b@example.org"
