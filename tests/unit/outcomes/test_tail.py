"""The tail: exactly once, past damage, and in step with its reactors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.unit.outcomes.ledger import LedgerInList, accepted, attempted, frame_of
from tests.unit.store.full_disk import FullDisk
from tests.unit.store.messages import message

from dispatch.mail.delivery import DeliveryState
from dispatch.outcomes.history import History
from dispatch.outcomes.tail import Gap, Happened, Tail
from dispatch.ports import Lsn
from dispatch.store.history import HistoryStore
from dispatch.store.history_reader import HistoryReader
from dispatch.store.search import HistoryFilter
from dispatch.store.sqlite import StoreFull


@pytest.fixture
def store(tmp_path: Path) -> Iterator[HistoryStore]:
    opened = HistoryStore.open(tmp_path / "history.db")
    yield opened
    opened.close()


class Listener:
    """Remembers what it was told."""

    def __init__(self, idle_work: int = 0) -> None:
        self.heard: list[Lsn] = []
        self.idle_work = idle_work

    def react(self, batch: Sequence[Happened]) -> None:
        self.heard += [lsn for lsn, _ in batch]

    def idle(self) -> bool:
        self.idle_work -= self.idle_work > 0
        return self.idle_work > 0


def run(tail: Tail) -> None:
    while tail.step():
        pass


def test_records_come_in_order_and_the_cursor_follows(store: HistoryStore) -> None:
    ledger = LedgerInList(*(accepted(message(number)) for number in range(5)))
    listener = Listener()
    tail = Tail(ledger, store, listener, batch_bytes=1)
    assert tail.step()
    assert (listener.heard, tail.cursor) == ([0], 100)
    run(tail)
    assert listener.heard == [0, 100, 200, 300, 400]
    assert (tail.cursor, tail.records) == (500, 5)
    assert not tail.step()
    ledger.append(accepted(message(9)))
    assert tail.step()
    assert listener.heard[-1] == 500


def test_another_tail_goes_on_where_the_last_one_ended(store: HistoryStore) -> None:
    ledger = LedgerInList(accepted(message(1)), accepted(message(2)))
    run(Tail(ledger, store, Listener()))
    ledger.append(accepted(message(3)))
    listener = Listener()
    run(Tail(ledger, store, listener))
    assert listener.heard == [200]


def test_a_damaged_range_is_reported_and_skipped(store: HistoryStore) -> None:
    ledger = LedgerInList(*(accepted(message(number)) for number in range(4)))
    ledger.payloads[1] = None
    gaps: list[Gap] = []
    listener = Listener()
    tail = Tail(ledger, store, listener, report=gaps.append)
    run(tail)
    assert listener.heard == [0, 200, 300]
    assert [(gap.start, gap.resume) for gap in gaps] == [(100, 200)]
    assert tail.damaged_bytes == 100


def test_a_record_of_a_later_version_is_reported_and_passed_over(store: HistoryStore) -> None:
    ledger = LedgerInList(*(accepted(message(number)) for number in range(3)))
    ledger.payloads[1] = b"\x63from the future"
    gaps: list[Gap] = []
    listener = Listener()
    tail = Tail(ledger, store, listener, report=gaps.append)
    run(tail)
    assert listener.heard == [0, 200]
    assert [(gap.start, gap.resume) for gap in gaps] == [(100, 200)]
    assert tail.unreadable == 1


def test_a_record_amid_a_frame_that_cannot_be_understood_is_passed_over_alone(store: HistoryStore) -> None:
    ledger = LedgerInList()
    frame = frame_of(*(accepted(message(number)) for number in range(3)))
    ledger.payloads = [frame.replace(b"accepted", b"foretold", 2).replace(b"foretold", b"accepted", 1)]
    gaps: list[Gap] = []
    listener = Listener()
    tail = Tail(ledger, store, listener, report=gaps.append)
    run(tail)
    assert listener.heard == [0, 2]
    assert [(gap.start, gap.resume) for gap in gaps] == [(1, 100)]
    assert tail.unreadable == 1


def test_what_was_released_before_it_was_read_is_given_up(store: HistoryStore) -> None:
    ledger = LedgerInList(*(accepted(message(number)) for number in range(4)))
    first = Tail(ledger, store, Listener(), batch_bytes=1)
    first.step()
    ledger.oldest = Lsn(300)
    gaps: list[Gap] = []
    listener = Listener()
    tail = Tail(ledger, store, listener, report=gaps.append)
    run(tail)
    assert listener.heard == [300]
    assert [(gap.start, gap.resume) for gap in gaps] == [(100, 300)]
    assert tail.released_bytes == 200


def test_a_new_history_begins_at_the_oldest_record_kept(store: HistoryStore) -> None:
    ledger = LedgerInList(*(accepted(message(number)) for number in range(3)))
    ledger.oldest = Lsn(200)
    listener = Listener()
    run(Tail(ledger, store, listener))
    assert listener.heard == [200]


def test_what_can_wait_is_done_when_nothing_happens(store: HistoryStore) -> None:
    ledger = LedgerInList(accepted(message(1)))
    listener = Listener(idle_work=3)
    tail = Tail(ledger, store, listener)
    assert [tail.step() for _ in range(4)] == [True, True, True, False]


def test_a_reactor_that_fails_makes_the_batch_come_back_whole(store: HistoryStore) -> None:
    class Fails(Listener):
        fails = True

        def react(self, batch: Sequence[Happened]) -> None:
            super().react(batch)
            if self.fails:
                raise OSError("a sink is gone")

    sent = message(1)
    ledger = LedgerInList(accepted(sent), attempted(sent.id, DeliveryState.DELIVERED))
    failing = Fails()
    tail = Tail(ledger, store, History(store), failing)
    with pytest.raises(OSError, match="a sink is gone"):
        tail.step()
    assert (tail.cursor, store.cursor("ledger")) == (0, None)
    assert store.number_of(sent.id) is None
    failing.fails = False
    run(tail)
    assert failing.heard == [0, 100, 0, 100]
    assert store.number_of(sent.id) is not None


@pytest.mark.parametrize("writes", range(8))
def test_history_is_written_once_though_the_disk_was_full(tmp_path: Path, writes: int) -> None:
    disk = FullDisk(f"history that is full after {writes}")
    path = tmp_path / "full.db"
    store = HistoryStore.open(path, vfs=disk.name)
    ids = [message(number) for number in range(300)]
    records = [accepted(sent) for sent in ids] + [attempted(sent.id, DeliveryState.DELIVERED) for sent in ids]
    tail = Tail(LedgerInList(*records), store, History(store), batch_bytes=1 << 13)
    tail.step()
    with disk.full_after(writes), pytest.raises(StoreFull):
        run(tail)
    run(tail)
    store.close()
    disk.unregister()
    reader = HistoryReader.open(path)
    assert len(reader.find(HistoryFilter(), limit=1000)) == 300
    assert {row.kind: row.count for row in reader.counts(0, 1 << 40)} == {"received": 300, "delivered": 300}
    reader.close()
