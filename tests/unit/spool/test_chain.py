"""The hash chain: what is done behind the writer's back is found and named, and nothing else is.

The forgers here know the format and mend every checksum. Those who also make the chain anew are found by a
head that was noted before, and by nothing else: that is asserted as well.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple
from zlib import crc32

import pytest
from tests.simulation.disk import SimulatedFile, SimulatedProcess
from tests.simulation.loop import SimulatedMark
from tests.simulation.spool import FOLDER, SimulatedSpool, records

from dispatch.ports import Lsn
from dispatch.spool.chain import Break, ChainReport, Head, Noted, Why, parse_head, verify_chain
from dispatch.spool.frames import (
    BATCH,
    BATCH_FRAME_BYTES,
    CHAIN_BYTES,
    FRAME_BYTES,
    GENESIS,
    BatchHead,
    Link,
    build_batch,
    pack_seal,
)
from dispatch.spool.scan import Found, SegmentScan
from dispatch.spool.segments import Segment, encode_header, read_succession, segment_names


class Batch(NamedTuple):
    segment: Segment
    head: BatchHead
    link: Link
    payloads: list[bytes]


def filled(count: int = 12, *, segment_bytes: int = 16 << 10, size_bytes: int = 600) -> SimulatedSpool:
    """A ledger of so many batches, three records each."""
    spool = SimulatedSpool(ledger=True, segment_bytes=segment_bytes)
    for number in range(count):
        spool.put(*records(f"batch {number}", 3, size_bytes))
    return spool


def follow(spool: SimulatedSpool, noted: Head | None = None, mark: int | None = None) -> ChainReport:
    return verify_chain(spool.disk.process(), FOLDER, spool.mark.load() if mark is None else mark, noted)


def head_of(report: ChainReport) -> Head:
    assert report.head is not None
    return report.head


def batches(spool: SimulatedSpool) -> list[Batch]:
    return list(_batches(spool))


def _batches(spool: SimulatedSpool) -> Iterator[Batch]:
    disk = spool.disk.process()
    succession = read_succession(disk, FOLDER, segment_names(disk.names(FOLDER)))
    for segment, end in zip(succession.segments, succession.ends, strict=True):
        scan = SegmentScan(disk.open(f"{FOLDER}/{segment.name}"), segment.generation, segment.base)
        lsn = segment.first
        while lsn < end and (head := scan.batch(lsn, end)):
            assert head.link is not None
            found = scan.walk(head.frames_at, head.end)
            payloads = [piece.frame.payload for piece in found if isinstance(piece, Found)]
            yield Batch(segment, head, head.link, payloads)
            lsn = head.end


def forged(batch: Batch, payloads: list[bytes], *, lsn: int, link: Link | None = None) -> bytes:
    """A batch with good checksums at a place; its chain made anew, or as claimed in `link`."""
    generation = batch.segment.generation
    before = batch.link.before if link is None else link.before
    made = build_batch(
        [[payload] for payload in payloads],
        lsn=lsn,
        generation=generation,
        previous_end=batch.head.previous_end if lsn == batch.head.lsn else lsn,
        synced=batch.head.synced,
        before=before,
    )
    data = bytearray(b"".join(made.buffers))
    if link is not None:
        data[BATCH_FRAME_BYTES + CHAIN_BYTES : BATCH_FRAME_BYTES + 2 * CHAIN_BYTES] = link.after
        head = data[FRAME_BYTES : BATCH_FRAME_BYTES + 2 * CHAIN_BYTES]
        struct.pack_into("<I", data, 0, crc32(head, crc32(pack_seal(generation, lsn, len(head), BATCH))))
    return bytes(data)


def write(spool: SimulatedSpool, batch: Batch, lsn: int, data: bytes) -> None:
    spool.disk.damage(f"{FOLDER}/{batch.segment.name}", lsn - batch.segment.base, data)


# ---------------------------------------------------------------- nothing is found where nothing is


def test_a_chain_begins_with_nothing_and_its_head_is_the_last_batch() -> None:
    spool = filled()
    report = follow(spool)
    written = batches(spool)
    assert (report.sound, report.batches, report.start) == (True, 12, 0)
    assert written[0].link.before == GENESIS
    assert head_of(report) == Head(written[-1].head.end, written[-1].link.after.hex())


def test_a_log_in_which_nothing_happened_has_a_chain_of_nothing() -> None:
    report = follow(SimulatedSpool(ledger=True))
    assert (report.sound, report.batches, report.head) == (True, 0, Head(0, GENESIS.hex()))


def test_a_head_is_continued_by_every_later_day() -> None:
    spool = filled(2)
    heads = [head_of(follow(spool))]

    def kill() -> None:
        spool.append(b"on its way")
        spool.log.flush()
        spool.kill()

    def fail_sync() -> None:
        spool.fail("sync", path=".segment")
        spool.put(b"written twice")

    def torn() -> None:
        spool.append(b"torn " * 400)
        spool.log.flush()
        base = int(spool.files(".segment")[-1].rpartition("-")[2].removesuffix(".segment"), 16)
        spool.disk.damage(spool.files(".segment")[-1], spool.log.durable - base + 1024, bytes(512))
        spool.kill()

    for happens in (kill, fail_sync, spool.restart, torn, spool.restart, kill):
        happens()
        for payload in records("more", 5, 5000):
            spool.put(payload)
        for head in heads:
            report = follow(spool, head)
            assert report.sound, report.breaks
            assert report.noted is Noted.CONTINUED
        heads.append(head_of(report))


def test_the_ledger_written_again_after_a_failed_sync_is_one_chain() -> None:
    spool = filled(3)
    spool.append(b"one", b"two")
    spool.log.flush()
    spool.append(b"three")
    spool.log.flush()
    spool.fail("sync", "create", times=3)
    spool.loop.advance(30)
    spool.put(b"four")
    assert spool.payloads()[-4:] == [b"one", b"two", b"three", b"four"]
    assert follow(spool).sound


def test_a_tail_that_is_put_in_a_copy_keeps_its_place_in_the_chain() -> None:
    spool = filled(3)
    path = spool.files(".segment")[-1]
    spool.append(b"untold")
    spool.log.flush()
    spool.process.kill()
    spool.fail("sync", path=path)
    spool.start()
    assert spool.log.recovery.copied_segments == 1
    spool.put(b"later")
    assert follow(spool).sound
    assert spool.payloads()[-2:] == [b"untold", b"later"]


def test_the_chain_outlives_the_batches_that_are_released() -> None:
    spool = filled(30)
    first, head = head_of(follow(spool, mark=batches(spool)[0].head.end)), head_of(follow(spool))
    spool.restart()
    spool.log.release(spool.log.durable)
    spool.loop.settle()
    assert len(spool.files(".segment")) == 1
    for _ in range(2):
        report = follow(spool, head)
        assert (report.sound, report.batches, report.head) == (True, 0, head)
        assert (report.noted, report.start) == (Noted.CONTINUED, head.lsn)
        spool.restart()
    spool.put(b"later")
    assert follow(spool, head).noted is Noted.CONTINUED
    report = follow(spool, first)
    assert (report.noted, report.sound) == (Noted.OLDER, True)


def test_segments_released_while_they_are_read_are_no_break() -> None:
    spool = filled(30)
    released = False

    class Releasing(SimulatedProcess):
        """The writer releases everything when a second file is opened to be followed."""

        def open(self, path: str, *, create: bool = False) -> SimulatedFile:
            nonlocal released
            opened.append(path)
            if not released and opened.count(path) == 2 and path != opened[0]:
                released = True
                spool.log.release(spool.log.durable)
                spool.loop.settle()
            return super().open(path, create=create)

    opened: list[str] = []
    report = verify_chain(Releasing(spool.disk), FOLDER, spool.mark.load())
    assert released
    assert report.sound, report.breaks
    assert report.batches < 30


def test_beside_a_writer_only_what_is_durable_is_followed() -> None:
    spool = filled(2)
    spool.append(b"written")
    spool.log.flush()
    assert (follow(spool).batches, follow(spool).sound) == (2, True)
    spool.loop.advance(1)
    assert (follow(spool).batches, follow(spool).sound) == (3, True)


def test_a_mark_that_a_power_cut_set_back_hides_nothing_that_headers_vouch_for() -> None:
    spool = filled(30)
    older = follow(spool, mark=0)
    assert older.sound
    assert older.batches > 20


# ---------------------------------------------------------------- what was done to the files


def test_a_flipped_byte_with_a_mended_checksum_is_found_where_it_is() -> None:
    spool = filled()
    for batch in batches(spool)[3], batches(spool)[-1]:
        payloads = [batch.payloads[0].replace(b".", b"!"), *batch.payloads[1:]]
        write(spool, batch, batch.head.lsn, forged(batch, payloads, lsn=batch.head.lsn, link=batch.link))
    report = follow(spool)
    three, last = batches(spool)[3].head, batches(spool)[-1].head
    assert report.breaks == (
        Break(three.lsn, three.end, Why.ALTERED),
        Break(last.lsn, last.end, Why.ALTERED),
    )
    assert not report.sound


def test_a_batch_whose_own_chain_was_made_anew_is_betrayed_by_the_next() -> None:
    spool = filled()
    batch, behind = batches(spool)[3:5]
    write(spool, batch, batch.head.lsn, forged(batch, [b"x" * 600] * 3, lsn=batch.head.lsn))
    assert follow(spool).breaks == (Break(behind.head.lsn, behind.head.end, Why.UNLINKED),)


def test_a_batch_taken_out_is_missed_although_its_neighbours_were_closed_up() -> None:
    spool = filled(5, segment_bytes=64 << 10)
    *_, taken, behind, last = batches(spool)
    moved = forged(behind, behind.payloads, lsn=taken.head.lsn, link=behind.link)
    rest = forged(last, last.payloads, lsn=behind.head.lsn, link=last.link)
    write(spool, taken, taken.head.lsn, moved + rest)
    report = follow(spool, mark=last.head.lsn)
    assert report.breaks == (Break(taken.head.lsn, last.head.lsn, Why.UNLINKED),)


def test_two_batches_in_each_others_place_are_found() -> None:
    spool = filled(6, segment_bytes=64 << 10)
    one, two = batches(spool)[2:4]
    write(spool, one, one.head.lsn, forged(two, two.payloads, lsn=one.head.lsn, link=two.link))
    write(spool, two, two.head.lsn, forged(one, one.payloads, lsn=two.head.lsn, link=one.link))
    (found,) = follow(spool).breaks
    assert found.start == one.head.lsn
    assert found.resume == batches(spool)[4].head.end, "the one behind does not follow on the swapped ones"


def test_a_batch_put_in_at_the_end_is_found() -> None:
    spool = filled(5, segment_bytes=64 << 10)
    last = batches(spool)[-1]
    guess = Link(GENESIS, GENESIS)
    data = forged(last, [b"never written"], lsn=last.head.end, link=guess)
    file = spool.disk.process().open(f"{FOLDER}/{last.segment.name}")
    file.write_at(last.head.end - last.segment.base, [data])
    end = last.head.end + 512
    assert follow(spool, mark=end).breaks == (Break(last.head.end, end, Why.UNLINKED),)


def test_a_batch_without_a_chain_is_found() -> None:
    spool = filled(5, segment_bytes=64 << 10)
    batch = batches(spool)[2]
    made = build_batch(
        [[payload] for payload in batch.payloads],
        lsn=batch.head.lsn,
        generation=batch.segment.generation,
        previous_end=batch.head.lsn,
        synced=0,
    )
    write(spool, batch, batch.head.lsn, b"".join(made.buffers))
    assert follow(spool).breaks == (Break(batch.head.lsn, batch.head.end, Why.UNCHAINED),)


@pytest.mark.parametrize("at", [4, BATCH_FRAME_BYTES + 5, 200])
def test_rot_is_named_once_and_the_batches_around_it_hold(at: int) -> None:
    spool = filled()
    batch = batches(spool)[4]
    write(spool, batch, batch.head.lsn + at, b"\xff\xfe\xfd")
    report = follow(spool)
    assert report.breaks == (Break(batch.head.lsn, batch.head.end, Why.UNREADABLE),)
    spool.restart()
    spool.put(b"later")
    assert follow(spool).breaks == report.breaks


@pytest.mark.parametrize("restarted", [False, True])
def test_a_last_batch_that_rotted_is_not_forgotten_by_a_restart(restarted: bool) -> None:
    spool = filled()
    last = batches(spool)[-1].head
    write(spool, batches(spool)[-1], last.lsn, b"rotten")
    if restarted:
        spool.kill()
        spool.put(b"later")
    assert follow(spool).breaks == (Break(last.lsn, last.end, Why.UNREADABLE),)


def test_a_segment_that_vanished_is_missing() -> None:
    spool = filled(30)
    succession = sorted({batch.segment for batch in batches(spool)})
    gone = succession[2]
    spool.disk.process().remove(f"{FOLDER}/{gone.name}")
    last = [batch for batch in batches(spool) if batch.segment == succession[1]][-1]
    (found,) = follow(spool).breaks
    assert found.start == last.head.end
    assert gone.base < found.resume <= succession[3].first


@pytest.mark.parametrize("count", [1, 100])
def test_newest_segments_that_vanished_are_missing_even_after_the_next_start(count: int) -> None:
    spool = filled(30)
    head = head_of(follow(spool))
    for path in spool.files(".segment")[-count:]:
        spool.disk.process().remove(path)
    assert not follow(spool).sound
    spool.kill()
    spool.put(b"later")
    report = follow(spool, head)
    assert len(report.breaks) == 1
    assert report.noted is not Noted.CONTINUED


def test_a_header_that_was_changed_is_found() -> None:
    spool = filled(6)
    spool.restart()
    names = segment_names(spool.process.names(FOLDER))
    segment = read_succession(spool.process, FOLDER, names).segments[-1]
    changed = segment._replace(chain=bytes(31) + b"\1")
    spool.disk.damage(f"{FOLDER}/{segment.name}", 0, encode_header(changed))
    assert follow(spool).breaks == (Break(segment.base, segment.first, Why.UNLINKED),)


# ---------------------------------------------------------------- what only a noted head shows


def cut_the_tail(spool: SimulatedSpool) -> int:
    """Remove the last two batches; the mark that is left."""
    *_, one, two = batches(spool)
    write(spool, one, one.head.lsn, bytes(two.head.end - one.head.lsn))
    return one.head.lsn


def make_all_anew(spool: SimulatedSpool) -> int:
    """Alter the third batch, and the chain of all behind it."""
    before = GENESIS
    for number, batch in enumerate(batches(spool)):
        payloads = [b"?" * 600] * 3 if number == 2 else batch.payloads
        follows = batch._replace(link=Link(before, GENESIS))
        write(spool, batch, batch.head.lsn, forged(follows, payloads, lsn=batch.head.lsn))
        before = batches(spool)[number].link.after
    return spool.mark.load()


@pytest.mark.parametrize(
    ("forge", "verdict"), [(cut_the_tail, Noted.CUT), (make_all_anew, Noted.CONTRADICTED)]
)
def test_a_chain_that_was_cut_or_made_anew_is_betrayed_by_a_noted_head_alone(
    forge: Callable[[SimulatedSpool], int], verdict: Noted
) -> None:
    spool = filled(6, segment_bytes=64 << 10)
    head = head_of(follow(spool))
    mark = forge(spool)
    alone = follow(spool, mark=mark)
    assert alone.sound, "nobody can see it from the files"
    for noted in (head, parse_head(head.short), parse_head(str(head))):
        report = follow(spool, noted, mark)
        assert (report.breaks, report.noted, report.sound) == ((), verdict, False)


def test_a_cut_that_a_later_start_wrote_over_is_betrayed_by_a_noted_head_alone() -> None:
    spool = filled(6, segment_bytes=64 << 10)
    head = head_of(follow(spool))
    mark = cut_the_tail(spool)
    spool.mark = SimulatedMark()
    spool.mark.store(mark)
    spool.kill()
    spool.put(*records("other", 3, 600))
    assert follow(spool).sound
    assert follow(spool, head).noted is Noted.CONTRADICTED


def test_a_head_is_written_and_read_in_one_way() -> None:
    head = Head(0x1F200, "9c" * 32)
    assert str(head) == "1f200-" + "9c" * 32
    assert head.short == "1f200-" + "9c" * 8
    assert parse_head(f" {str(head).upper()}\n") == head
    for text in ("", "9c" * 32, "1f200-9c", "1f200-" + "9c" * 33, "xyz-" + "9c" * 32):
        with pytest.raises(ValueError, match="no head of a chain"):
            parse_head(text)


def test_lsns_of_a_chained_log_are_those_that_were_told() -> None:
    spool = filled(4)
    told = [spool.lsn(payload) for number in range(4) for payload in records(f"batch {number}", 3, 600)]
    assert told == sorted(told)
    reader = spool.reader()
    assert [entry.lsn for entry in reader.read(Lsn(0), 1 << 20)] == told
