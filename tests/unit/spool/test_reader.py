"""A reader knows only files and mark, and lives through whatever the writer does to them."""

from __future__ import annotations

import pytest
from tests.simulation.disk import Operation
from tests.simulation.loop import SimulatedMark
from tests.simulation.spool import FOLDER, SimulatedSpool, read_all, records

from dispatch.ports import Lsn
from dispatch.spool.faults import CorruptError, ReleasedError
from dispatch.spool.reader import SegmentReader


def test_a_reader_lives_through_the_deaths_of_the_writer() -> None:
    spool = SimulatedSpool(segment_bytes=32 << 10)
    reader = spool.reader()
    cursor = Lsn(0)
    for payload in records("mail", 30, 5000):
        spool.put(payload)
        (entry,) = reader.read(cursor, 1 << 20)
        assert entry.payload == payload
        cursor = entry.next
        spool.kill()


def test_nothing_above_the_mark_is_read_although_it_is_in_the_file() -> None:
    spool = SimulatedSpool()
    reader = spool.reader()
    spool.put(b"durable")
    spool.append(b"written")
    spool.log.flush()
    assert [entry.payload for entry in read_all(reader)] == [b"durable"]


def test_a_reader_in_a_segment_that_is_abandoned_does_not_read_on_in_it() -> None:
    spool = SimulatedSpool()
    reader = spool.reader()
    spool.put(b"before")
    (before,) = read_all(reader)
    spool.fail("sync", path=".segment")
    spool.append(b"refused")
    spool.loop.settle()
    spool.put(b"after")
    assert [entry.payload for entry in read_all(reader, before.next)] == [b"after"]


def test_a_reader_is_told_of_the_unanswered_in_a_segment_that_it_had_open() -> None:
    spool = SimulatedSpool()
    reader = spool.reader()
    spool.put(b"told")
    (told,) = read_all(reader)
    spool.append(b"untold")
    spool.log.flush()
    spool.kill()
    (untold,) = reader.read(told.next, 1000)
    assert untold.payload == b"untold"
    assert reader.unanswered(untold.lsn)
    assert not reader.unanswered(told.lsn)


def test_a_reader_is_told_of_the_unanswered_of_a_start_that_died_before_it_moved_the_mark() -> None:
    spool = SimulatedSpool()
    reader = spool.reader()
    spool.put(b"told")
    (told,) = read_all(reader)
    spool.append(b"untold")
    spool.log.flush()
    mark, spool.mark = spool.mark, SimulatedMark()
    spool.mark.store(mark.load())
    spool.kill()
    spool.mark = mark
    assert reader.read(told.next, 1000) == []
    spool.kill()
    (untold,) = reader.read(told.next, 1000)
    assert untold.payload == b"untold"
    assert reader.unanswered(untold.lsn)


def test_a_reader_that_keeps_up_looks_for_segments_only_when_another_was_opened() -> None:
    spool = SimulatedSpool(segment_bytes=32 << 10)
    process = spool.disk.process()
    reader = SegmentReader(process, FOLDER, mark=spool.mark)
    looked = 0

    def count(operation: Operation, _: str) -> None:
        nonlocal looked
        looked += operation == "names"

    cursor = Lsn(0)
    for payload in records("mail", 100, 1000):
        spool.put(payload)
        spool.disk.fault = count
        (entry,) = reader.read(cursor, 1 << 20)
        spool.disk.fault = None
        assert entry.payload == payload
        cursor = entry.next
    assert looked == len(spool.files(".segment")) > 3


def test_a_segment_recycled_under_a_reader_that_did_not_look_is_released() -> None:
    """Its name is still known to the reader, and its file has become the newest segment."""
    spool = SimulatedSpool(segment_bytes=32 << 10, spares=1)
    for payload in records("old", 30, 5000):
        spool.put(payload)
    loaded_before = SimulatedMark()
    loaded_before.store(spool.mark.load())
    reader = SegmentReader(spool.disk.process(), FOLDER, mark=loaded_before)
    cursor = reader.read(Lsn(0), 1)[0].next
    spool.log.release(spool.log.durable)
    spool.loop.settle()
    for payload in records("new", 12, 5000):
        spool.put(payload)
    with pytest.raises(ReleasedError):
        while True:
            cursor = reader.read(cursor, 1)[0].next


def test_one_flipped_bit_costs_one_record() -> None:
    spool = SimulatedSpool()
    mail = records("mail", 5, 700)
    spool.put(*mail)
    spool.disk.damage(spool.files(".segment")[0], spool.lsn(mail[2]) + 50, b"X")
    reader = spool.reader()
    found = reader.read(Lsn(0), 1 << 20)
    assert [entry.payload for entry in found] == mail[:2]
    with pytest.raises(CorruptError) as corrupt:
        reader.read(found[-1].next, 1 << 20)
    assert corrupt.value.start == spool.lsn(mail[2])
    assert [entry.payload for entry in read_all(reader, corrupt.value.resume)] == mail[3:]


@pytest.mark.parametrize("at", [0, 4, 8, 20])
def test_a_damaged_batch_head_costs_no_record(at: int) -> None:
    spool = SimulatedSpool()
    spool.put(b"one")
    second = spool.log.durable
    spool.put(b"two")
    spool.disk.damage(spool.files(".segment")[0], second + at, b"\xff\xff")
    reader = spool.reader()
    with pytest.raises(CorruptError) as corrupt:
        reader.read(second, 1000)
    assert [entry.payload for entry in read_all(reader, corrupt.value.resume)] == [b"two"]


def test_a_segment_that_vanished_is_named_and_passed() -> None:
    spool = SimulatedSpool(segment_bytes=32 << 10)
    mail = records("mail", 30, 5000)
    for payload in mail:
        spool.put(payload)
    paths = spool.files(".segment")
    spool.disk.process().remove(paths[1])
    reader = spool.reader()
    found: list[bytes] = []
    holes = 0
    cursor = Lsn(0)
    while cursor < reader.durable:
        try:
            entries = reader.read(cursor, 1 << 20)
        except CorruptError as corrupt:
            holes += 1
            assert corrupt.resume > cursor
            cursor = corrupt.resume
            continue
        found += [entry.payload for entry in entries]
        cursor = entries[-1].next
    assert holes >= 1
    lost = [payload for payload in mail if payload not in found]
    assert found == [payload for payload in mail if payload not in lost]
    assert 1 <= len(lost) <= 6


def test_a_segment_recycled_under_a_slow_reader_is_released_and_not_corrupt() -> None:
    spool = SimulatedSpool(segment_bytes=32 << 10)
    for payload in records("old", 30, 5000):
        spool.put(payload)
    reader = spool.reader()
    slow = reader.read(Lsn(0), 1)[0].next
    spool.log.release(spool.log.durable)
    spool.loop.settle()
    for payload in records("new", 40, 5000):
        spool.put(payload)
    with pytest.raises(ReleasedError) as released:
        reader.read(slow, 1000)
    assert released.value.oldest > slow
    assert read_all(reader, released.value.oldest)[-1].payload == records("new", 40, 5000)[-1]


def test_a_reader_knows_which_incarnations_it_has_left_behind() -> None:
    spool = SimulatedSpool()
    spool.put(b"first life")
    first = spool.log.incarnation
    spool.restart()
    spool.put(b"second life")
    second = spool.log.incarnation
    assert second > first
    reader = spool.reader()
    one, two = read_all(reader)
    assert reader.incarnation(one.lsn) == first
    assert reader.incarnation(one.next) == reader.incarnation(two.next) == second


def test_reading_takes_few_calls_of_the_disk() -> None:
    spool = SimulatedSpool(segment_bytes=1 << 20, spares=0)
    spool.put(*records("mail", 200, 1000))
    reader = spool.reader()
    reader.read(Lsn(0), 1)
    before = spool.disk.operations
    assert len(read_all(reader, 0, 1 << 20)) == 200
    assert spool.disk.operations - before <= 4


def test_the_last_bytes_begin_with_a_segment() -> None:
    spool = SimulatedSpool(segment_bytes=32 << 10)
    reader = spool.reader()
    written = records("mail", 30, 5000)
    for payload in written:
        spool.put(payload)
    assert reader.last(1 << 30) == reader.oldest
    begin = reader.last(10_000)
    assert reader.oldest < begin <= reader.durable - 10_000
    assert [entry.payload for entry in read_all(reader, begin)][-2:] == written[-2:]
