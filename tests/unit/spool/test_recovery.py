"""What a start makes of what it finds."""

from __future__ import annotations

import pytest
from tests.simulation.disk import Operation, io_error
from tests.simulation.loop import SimulatedMark
from tests.simulation.spool import SimulatedSpool, read_all, records

from dispatch.ports import Lsn
from dispatch.spool.faults import CorruptError, ReleasedError
from dispatch.spool.log import Told
from dispatch.spool.reader import SegmentReader
from dispatch.spool.scan import Damage
from dispatch.spool.unproven import COPY_SUFFIX


def newest_with_mail(spool: SimulatedSpool) -> str:
    """The segment written last, before the next start opens another."""
    return spool.files(".segment")[-1]


def test_a_complete_tail_that_nobody_was_told_of_is_kept_as_unanswered() -> None:
    spool = SimulatedSpool()
    (told,) = spool.put(b"told")
    spool.append(b"untold")
    spool.log.flush()
    spool.kill()
    reader = spool.reader()
    entries = read_all(reader)
    assert [entry.payload for entry in entries] == [b"told", b"untold"]
    assert [reader.unanswered(entry.lsn) for entry in entries] == [False, True]
    report = spool.log.recovery
    assert report.unanswered_from <= entries[1].lsn < report.unanswered_to == report.end
    assert entries[0].lsn == told
    spool.put(b"later")
    assert not reader.unanswered(read_all(reader)[-1].lsn)


def test_a_torn_tail_is_cut_and_its_place_is_never_used_again() -> None:
    spool = SimulatedSpool()
    spool.put(b"told")
    path = newest_with_mail(spool)
    spool.append(b"torn " * 300)
    spool.log.flush()
    spool.disk.damage(path, 4096 + 1024, bytes(512))
    spool.kill()
    assert spool.payloads() == [b"told"]
    assert spool.log.recovery.torn_bytes == 2048
    assert spool.log.recovery.damage == ()
    (lsn,) = spool.put(b"next")
    assert lsn > 4096 + 512 + 2048


def test_a_tail_is_written_again_before_it_is_synced() -> None:
    """After a failed fsync the pages are clean: without writing them again, a second fsync would lie."""
    lived = 0
    for seed in range(30):
        spool = SimulatedSpool()
        spool.disk.chance.seed(seed)
        spool.put(b"told")
        spool.append(b"untold " * 200)
        spool.fail("sync", "create", "sync_folder", "rename", times=10_000)
        spool.loop.advance(1)
        spool.kill()
        before = spool.payloads()
        lived += len(before) == 2
        spool.process.kill()
        spool.disk.power_cut()
        spool.start()
        assert spool.payloads() == before
    assert lived


def test_a_tail_that_cannot_be_synced_in_its_file_keeps_its_place_in_a_copy() -> None:
    spool = SimulatedSpool()
    places = spool.put(b"told")
    reader = spool.reader()
    assert [entry.payload for entry in read_all(reader)] == [b"told"]
    path = newest_with_mail(spool)
    spool.append(b"untold")
    spool.log.flush()
    spool.process.kill()
    spool.fail("sync", path=path)
    spool.start()
    assert spool.log.recovery.copied_segments == 1
    # Also for a reader that has the old file open, which no longer gets what is written.
    for entries in (read_all(spool.reader()), read_all(reader)):
        assert [entry.payload for entry in entries] == [b"told", b"untold"]
        assert entries[0].lsn == places[0]
        assert not reader.unanswered(entries[0].lsn)
        assert reader.unanswered(entries[1].lsn)
    spool.put(b"later")
    spool.disk.power_cut()
    spool.restart()
    assert spool.payloads() == [b"told", b"untold", b"later"]
    assert not spool.files(".copy")


@pytest.mark.parametrize("seed", range(20))
def test_a_tail_that_the_failed_sync_threw_away_is_whole_in_the_copy(seed: int) -> None:
    """After a failed fsync its pages may hold what was there before: the first records and not the last."""
    spool = SimulatedSpool(ledger=True)
    spool.disk.chance.seed(seed)
    tail = records("untold", 8, 700)
    for record in tail:
        spool.append(record)
        spool.log.flush()
    path = newest_with_mail(spool)
    spool.process.kill()
    spool.fail("sync", path=path)
    spool.start()
    assert spool.log.recovery.copied_segments == 1
    assert spool.payloads() == tail
    assert not spool.log.recovery.damage


def test_a_tail_that_the_disk_may_have_lost_is_in_doubt_until_it_is_copied() -> None:
    spool = SimulatedSpool(ledger=True)
    spool.put(b"told")
    spool.append(b"untold")
    spool.log.flush()
    path = newest_with_mail(spool)
    spool.process.kill()
    doubts: list[bool] = []

    def fault(called: Operation, on: str) -> OSError | None:
        if called == "create" and on.endswith(COPY_SUFFIX):
            assert doubts == [True], "a death before the copy stands would be missed by nobody"
        return io_error() if called == "sync" and on == path else None

    spool.disk.fault = fault
    spool.start(Told(doubted=doubts.append))
    assert spool.log.recovery.copied_segments == 1
    assert doubts == [True, False]


@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename", "sync_folder"])
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("ledger", [False, True])
def test_a_tail_for_which_the_disk_takes_no_copy_either_is_tried_until_it_does(
    operation: Operation, seed: int, ledger: bool
) -> None:
    """It may have been read and tried long ago, where a power cut has set the mark back: it must not move.
    And it must not be forgotten: of what the ledger says, the disk may have nothing but this."""
    spool = SimulatedSpool(ledger=ledger)
    spool.disk.chance.seed(seed)
    places = spool.put(*records("told", 4, 700))
    tail = records("untold", 4, 700)
    for record in tail:
        spool.append(record)
        spool.log.flush()
    path = newest_with_mail(spool)
    spool.process.kill()
    spool.mark.store(0)

    def fault(called: Operation, on: str) -> OSError | None:
        return io_error() if called == operation or (called == "sync" and on == path) else None

    spool.disk.fault = fault
    spool.start()
    spool.loop.advance(30)
    assert spool.log.unwell is not None
    assert read_all(spool.reader()) == []
    spool.disk.fault = None
    spool.loop.advance(30)
    assert spool.log.unwell is None
    entries = read_all(spool.reader())
    assert [entry.payload for entry in entries] == [*records("told", 4, 700), *tail]
    assert [entry.lsn for entry in entries[:4]] == places
    spool.put(b"later")
    assert spool.payloads()[-1] == b"later"


@pytest.mark.parametrize("ledger", [False, True])
def test_without_the_mark_the_files_themselves_say_what_was_durable(ledger: bool) -> None:
    spool = SimulatedSpool(ledger=ledger)
    mail = records("mail", 40, 5000)
    for payload in mail:
        spool.put(payload)
    spool.mark = SimulatedMark()
    spool.kill()
    assert spool.payloads() == mail
    reader = spool.reader()
    assert read_all(reader)[0].lsn == spool.lsn(mail[0])
    assert reader.durable == spool.log.durable > spool.lsn(mail[-1])


def test_damage_below_the_mark_costs_one_record_and_raises_the_alarm() -> None:
    spool = SimulatedSpool()
    mail = records("mail", 10, 600)
    spool.put(*mail[:5])
    spool.put(*mail[5:])
    path = newest_with_mail(spool)
    hurt = spool.lsn(mail[2])
    spool.disk.damage(path, hurt + 100, b"rotten")
    spool.mark = SimulatedMark()
    spool.kill()
    (damage,) = spool.log.recovery.damage
    assert (damage.start, damage.resume) == (hurt, spool.lsn(mail[3]))
    (aside,) = spool.files(".damaged")
    assert b"rotten" in spool.disk.content(aside)
    reader = spool.reader()
    assert read_all_but_damage(reader) == mail[:2] + mail[3:]


def read_all_but_damage(reader: SegmentReader) -> list[bytes]:
    payloads: list[bytes] = []
    cursor = Lsn(0)
    while True:
        try:
            found = reader.read(cursor, 1 << 20)
        except CorruptError as corrupt:
            assert corrupt.resume > cursor
            cursor = corrupt.resume
            continue
        if not found:
            return payloads
        payloads += [entry.payload for entry in found]
        cursor = found[-1].next


def test_a_bad_batch_that_a_later_one_vouches_for_is_damage_and_not_the_end() -> None:
    spool = SimulatedSpool()
    for payload in records("mail", 6, 600):
        spool.put(payload)
    path = newest_with_mail(spool)
    spool.disk.damage(path, 4096 + 1024, bytes(1024))
    spool.mark = SimulatedMark()
    spool.kill()
    assert len(spool.log.recovery.damage) == 1
    assert spool.log.recovery.torn_bytes == 0
    survivors = read_all_but_damage(spool.reader())
    assert survivors == [records("mail", 6, 600)[number] for number in (0, 2, 3, 4, 5)]


def test_ledger_batches_behind_a_tear_are_cut_with_it() -> None:
    """Several batches were written since the last sync; that a later one is whole proves nothing."""
    spool = SimulatedSpool(ledger=True)
    spool.put(b"durable")
    path = newest_with_mail(spool)
    for payload in records("unsynced", 3, 600):
        spool.append(payload)
        spool.log.flush()
    spool.disk.damage(path, 4096 + 512 + 200, bytes(100))
    spool.kill()
    assert spool.payloads() == [b"durable"]
    assert spool.log.recovery.damage == ()
    spool.put(b"next")
    spool.restart()
    assert spool.payloads() == [b"durable", b"next"]


def test_a_segment_that_a_power_cut_took_is_part_of_the_tear() -> None:
    """Its name was not synced, that of its successor came through all the same."""
    spool = SimulatedSpool(ledger=True, segment_bytes=16 << 10, spares=0)
    spool.put(b"durable")
    for payload in records("unsynced", 6, 9000):
        spool.append(payload)
        spool.log.flush()
    spool.disk.process().remove(spool.files(".segment")[2])
    spool.kill()
    assert spool.payloads() == [b"durable", *records("unsynced", 6, 9000)[:2]]
    assert spool.log.recovery.damage == ()
    assert spool.log.recovery.torn_bytes > 0
    spool.put(b"next")
    spool.restart()
    assert spool.payloads() == [b"durable", *records("unsynced", 6, 9000)[:2], b"next"]


def test_releasing_early_and_losing_the_mark_does_not_look_like_a_tear() -> None:
    spool = SimulatedSpool(ledger=True, segment_bytes=16 << 10)
    outcomes = records("outcome", 6, 9000)
    spool.put(*outcomes)
    spool.log.release(spool.lsn(outcomes[5]))
    spool.loop.settle()
    spool.mark = SimulatedMark()
    spool.kill()
    assert spool.log.recovery.damage == ()
    reader = spool.reader()
    assert read_all(reader, reader.oldest)[-1].payload == outcomes[5]


def test_a_mark_above_all_that_can_be_read_is_damage_that_the_reader_is_told_of() -> None:
    spool = SimulatedSpool()
    mail = records("mail", 6, 600)
    for payload in mail:
        spool.put(payload)
    path = newest_with_mail(spool)
    last = spool.lsn(mail[5])
    spool.disk.damage(path, last, bytes(512))
    spool.kill()
    spool.put(b"after")
    found = read_all_but_damage(spool.reader())
    assert found == [*mail[:5], b"after"]


def with_mark(spool: SimulatedSpool, value: int) -> None:
    """Kill it, put something else into the mark, and start it again."""
    spool.mark = SimulatedMark()
    spool.mark.store(value)
    spool.kill()


IMPOSSIBLE = [1, 0x1234, 0x1001, 1 << 40, (1 << 62) + 512, (1 << 64) - 512, 0x5F3A_9C01_77E2_D40B]


@pytest.mark.parametrize("ledger", [False, True])
@pytest.mark.parametrize("mark", IMPOSSIBLE, ids=hex)
def test_a_mark_that_cannot_be_true_is_not_believed(mark: int, ledger: bool) -> None:
    spool = SimulatedSpool(ledger=ledger, segment_bytes=32 << 10)
    mail = records("mail", 20, 5000)
    for payload in mail:
        spool.put(payload)
    end = spool.log.durable
    with_mark(spool, mark)
    report = spool.log.recovery
    assert (report.end, report.disbelieved_mark) == (end, mark)
    assert report.damage == ((Damage(end, mark),) if mark > end else ())
    assert spool.payloads() == mail
    (after,) = spool.put(b"after")
    assert end < after < end + (256 << 10), "places go on from the true end"
    spool.restart()
    assert spool.log.recovery.disbelieved_mark is None
    assert spool.log.recovery.damage == ()
    assert spool.payloads() == [*mail, b"after"]


def test_a_mark_that_cannot_be_true_does_not_keep_a_first_log_from_opening() -> None:
    spool = SimulatedSpool()
    spool.mark.store((1 << 64) - 1)
    spool.process.kill()
    for path in spool.disk.paths:
        spool.disk.process().remove(path)
    spool.start()
    spool.put(b"mail")
    assert spool.payloads() == [b"mail"]


def test_a_torn_tail_is_cut_where_the_mark_was_not_believed() -> None:
    spool = SimulatedSpool(ledger=True)
    spool.put(b"durable")
    end = spool.log.durable
    path = newest_with_mail(spool)
    spool.append(b"torn " * 300)
    spool.log.flush()
    spool.disk.damage(path, end + 512, bytes(512))
    with_mark(spool, end + 3)
    assert spool.log.recovery.end == end
    assert spool.log.recovery.torn_bytes > 0
    assert spool.payloads() == [b"durable"]


def test_a_mark_in_the_middle_of_a_sound_log_names_no_damage() -> None:
    spool = SimulatedSpool()
    mail = records("mail", 6, 3000)
    for payload in mail:
        spool.put(payload)
    end = spool.log.durable
    with_mark(spool, spool.lsn(mail[3]) + 1024 & -512)
    assert (spool.log.recovery.end, spool.log.recovery.damage) == (end, ())
    assert spool.payloads() == mail


def test_what_a_possible_mark_vouches_for_and_is_not_there_is_damage() -> None:
    """Either mail was there, or the mark is wrong: nobody can tell, and nobody keeps quiet about it."""
    spool = SimulatedSpool()
    mail = records("mail", 6, 600)
    for payload in mail:
        spool.put(payload)
    end = spool.log.durable
    with_mark(spool, end + 2048)
    assert spool.log.recovery.damage == (Damage(end, end + 2048),)
    assert spool.log.recovery.end == end + 2048
    assert read_all_but_damage(spool.reader()) == mail
    with pytest.raises(CorruptError):
        read_all(spool.reader())
    spool.put(b"after")
    assert read_all_but_damage(spool.reader()) == [*mail, b"after"]


def test_the_last_batch_below_the_mark_is_damage_and_named_by_recovery() -> None:
    spool = SimulatedSpool()
    mail = records("mail", 6, 600)
    for payload in mail:
        spool.put(payload)
    end = spool.log.durable
    hurt = spool.lsn(mail[5]) & -512
    spool.disk.damage(newest_with_mail(spool), hurt, bytes(512))
    spool.append(b"untold")
    spool.log.flush()
    spool.kill()
    report = spool.log.recovery
    assert [damage.start for damage in report.damage] == [hurt]
    assert report.damage[0].resume <= end < report.end
    assert read_all_but_damage(spool.reader()) == [*mail[:5], b"untold"]


@pytest.mark.parametrize("count", [1, 2, 100])
def test_newest_segments_that_were_removed_are_missed_and_their_places_not_used_again(count: int) -> None:
    spool = SimulatedSpool(segment_bytes=32 << 10)
    mail = records("mail", 20, 5000)
    for payload in mail:
        spool.put(payload)
    end = spool.log.durable
    removed = spool.files(".segment")[-count:]
    for path in removed:
        spool.disk.process().remove(path)
    spool.kill()
    (damage,) = spool.log.recovery.damage
    assert damage.resume == end
    (after,) = spool.put(b"after")
    assert after > end
    reader = spool.reader()
    with pytest.raises((CorruptError, ReleasedError)):
        read_all(reader)
    left = [payload for payload in mail if spool.lsn(payload) < damage.start]
    assert len(left) < len(mail)
    if left:
        assert read_all_but_damage(reader) == [*left, b"after"]


def test_a_restart_does_not_read_what_was_durable_long_ago() -> None:
    spool = SimulatedSpool(segment_bytes=32 << 10)
    for payload in records("mail", 200, 5000):
        spool.put(payload)
    segments = len(spool.files(".segment"))
    assert segments > 30
    spool.log.close()
    spool.process.kill()
    reads: list[str] = []

    def count(operation: Operation, path: str) -> None:
        if operation == "read":
            reads.append(path)

    spool.disk.fault = count
    spool.start()
    assert len(reads) <= segments + 5


def test_a_recovery_that_dies_again_and_again_loses_nothing() -> None:
    spool = SimulatedSpool()
    mail = records("mail", 20, 3000)
    for payload in mail:
        spool.put(payload)
    for _ in range(20):
        spool.kill()
    assert spool.payloads() == mail
    spool.put(b"after")
    assert spool.payloads() == [*mail, b"after"]
