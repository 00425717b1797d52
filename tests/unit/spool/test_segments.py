"""What a segment file says of itself, and what becomes of it when it cannot."""

from __future__ import annotations

from tests.simulation.loop import SimulatedChance
from tests.simulation.spool import SimulatedSpool, records

from dispatch.ports import Lsn
from dispatch.spool.segments import (
    HEADER_BYTES,
    Segment,
    SegmentName,
    Succession,
    decode_header,
    encode_header,
    new_generation,
    parse_name,
    segment_names,
)

SEGMENT = Segment(7 << 32 | 5, 0x10000, 0x8000, 0xFE00, 0xFC00, 0xFC00, 0xFE00, 6 << 32, bytes(range(32)))
NAME = SegmentName(SEGMENT.generation, SEGMENT.base)


def segment(generation: int, base: int, previous_end: int) -> Segment:
    return Segment(generation, base, 0x8000, previous_end, 0, 0, 0, 1)


def test_a_header_survives_the_loss_of_either_copy() -> None:
    header = encode_header(SEGMENT)
    assert len(header) == HEADER_BYTES
    half = HEADER_BYTES // 2
    assert decode_header(header, NAME) == SEGMENT
    assert decode_header(bytes(half) + header[half:], NAME) == SEGMENT
    assert decode_header(header[:half] + bytes(half), NAME) == SEGMENT
    assert decode_header(bytes(HEADER_BYTES), NAME) is None


def test_the_header_of_a_former_life_is_not_taken_for_this_one() -> None:
    assert decode_header(encode_header(SEGMENT), SegmentName(8 << 32, 0x18000)) is None


def test_names_order_by_generation_and_other_files_are_not_ours() -> None:
    old, new = SegmentName(0x2_0000_0009, 0x8000), SegmentName(0x10_0000_0001, 0x10000)
    assert parse_name(str(new)) == new
    assert segment_names([str(new), "00000001.spare", "notes.txt", str(old)]) == [old, new]


def test_generations_count_up_and_cannot_be_guessed() -> None:
    one = new_generation(0, SimulatedChance(1))
    assert new_generation(one, SimulatedChance(2)) >> 32 == (one >> 32) + 1 == 2
    assert new_generation(0, SimulatedChance(3)) != one


def test_a_successor_cuts_off_what_an_abandoned_segment_holds() -> None:
    succession = Succession([segment(1, 0, 0), segment(2, 0x8000, 0x5000)])
    assert succession.ends == [0x5000, 0x10000]


def test_a_tear_cuts_off_the_segments_behind_it() -> None:
    succession = Succession([segment(1, 0, 0), segment(2, 0x8000, 0x7000), segment(3, 0x10000, 0x5000)])
    assert succession.ends == [0x5000, 0x5000, 0x18000]


def test_a_cut_off_segment_that_is_the_oldest_left_does_not_make_its_word_count() -> None:
    succession = Succession([segment(2, 0x8000, 0x7000), segment(3, 0x10000, 0x5000)])
    assert (succession.start, succession.first) == (0x5000, 0x10000 + HEADER_BYTES)


def test_a_cursor_finds_its_segment() -> None:
    succession = Succession([segment(1, 0x8000, 0x7000), segment(2, 0x10000, 0xF000)])
    assert [succession.locate(lsn) for lsn in (0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x90000)] == [-1, 0, 0, 1, 1]


def test_a_mark_before_the_first_batch_of_a_segment_says_where_the_one_before_ended() -> None:
    succession = Succession([segment(1, 0x8000, 0x7000), segment(2, 0x10000, 0xF000)])
    first = 0x10000 + HEADER_BYTES
    assert [succession.end_below(mark) for mark in (0x9000, 0xF000, first, first + 512)] == [
        0x7000,
        0xF000,
        0xF000,
        first + 512,
    ]
    assert Succession([]).end_below(0x9000) == 0x9000


def test_the_unanswered_are_those_in_a_header_s_range() -> None:
    succession = Succession([SEGMENT])
    assert [succession.unanswered(Lsn(lsn)) for lsn in (0xFBFF, 0xFC00, 0xFDFF, 0xFE00)] == [
        False,
        True,
        True,
        False,
    ]


def test_mail_in_a_segment_whose_header_is_damaged_is_still_there() -> None:
    spool = SimulatedSpool()
    mail = records("mail", 30, 5000)
    for payload in mail:
        spool.put(payload)
    for path in spool.files(".segment"):
        spool.disk.damage(path, 0, bytes(HEADER_BYTES))
    assert spool.payloads() == mail
    spool.restart()
    assert spool.payloads() == mail
    spool.put(b"more")
    assert spool.payloads() == [*mail, b"more"]
