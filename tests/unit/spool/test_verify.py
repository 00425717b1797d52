"""Reading without trust: what is said about a sound log, and what is saved from a damaged one."""

from __future__ import annotations

from tests.simulation.spool import FOLDER, SimulatedSpool, records

from dispatch.ports import Entry
from dispatch.spool.scan import Damage
from dispatch.spool.verify import SegmentState, iterate, verify_log


def states(spool: SimulatedSpool) -> list[SegmentState]:
    return [segment.state for segment in verify_log(spool.process, FOLDER).segments]


def exported(spool: SimulatedSpool, from_lsn: int = 0) -> list[bytes]:
    pieces = iterate(spool.process, FOLDER, from_lsn)
    return [piece.payload for piece in pieces if isinstance(piece, Entry)]


def filled(count: int = 30) -> tuple[SimulatedSpool, list[bytes]]:
    spool = SimulatedSpool(segment_bytes=32 << 10)
    mail = records("mail", count, 5000)
    for payload in mail:
        spool.put(payload)
    return spool, mail


def test_a_sound_log_is_counted_and_exported_whole() -> None:
    spool, mail = filled()
    report = verify_log(spool.process, FOLDER)
    assert report.sound
    assert report.records == len(mail)
    assert sum(segment.payload_bytes for segment in report.segments) == 5000 * len(mail)
    assert sum(segment.batches for segment in report.segments) == len(mail)
    assert set(states(spool)) == {SegmentState.OK}
    assert exported(spool) == mail
    assert exported(spool, spool.lsn(mail[12])) == mail[12:]


def test_damage_is_named_and_everything_around_it_is_exported() -> None:
    spool, mail = filled()
    path = spool.files(".segment")[2]
    hurt = mail[12]
    base = int(path.rpartition("-")[2].removesuffix(".segment"), 16)
    hurt = next(payload for payload in mail if base < spool.lsn(payload) < base + (32 << 10))
    spool.disk.damage(path, spool.lsn(hurt) - base + 100, b"?")
    report = verify_log(spool.process, FOLDER)
    assert not report.sound
    assert states(spool).count(SegmentState.CORRUPT) == 1
    (damage,) = report.segments[2].damage
    assert damage.start == spool.lsn(hurt)
    assert exported(spool) == [payload for payload in mail if payload != hurt]
    assert [piece for piece in iterate(spool.process, FOLDER) if isinstance(piece, Damage)] == [damage]


def test_a_torn_tail_is_not_damage() -> None:
    spool, mail = filled(3)
    spool.append(b"torn " * 400)
    spool.log.flush()
    path = spool.files(".segment")[-1]
    spool.disk.damage(path, spool.log.durable + 1000, bytes(600))
    spool.kill()
    report = verify_log(spool.process, FOLDER)
    assert report.sound
    assert states(spool) == [SegmentState.TORN, SegmentState.OK]
    assert exported(spool) == mail


def test_what_was_refused_is_not_exported() -> None:
    spool, mail = filled(3)
    spool.fail("sync", path=".segment")
    spool.append(b"refused")
    spool.loop.settle()
    spool.disk.fault = None
    spool.put(b"after")
    assert exported(spool) == [*mail, b"after"]
    assert verify_log(spool.process, FOLDER).sound


def test_a_segment_that_never_came_to_be_is_stale() -> None:
    spool, mail = filled(3)
    process = spool.disk.process()
    process.open(f"{FOLDER}/00000099deadbeef-0000000000900000.segment", create=True)
    assert states(spool)[-1] is SegmentState.STALE
    assert exported(spool) == mail
    spool.kill()
    spool.put(b"after")
    assert exported(spool) == [*mail, b"after"]


def test_an_empty_folder_is_a_sound_log_of_nothing() -> None:
    spool = SimulatedSpool()
    assert verify_log(spool.process, "elsewhere").segments == ()
    assert list(iterate(spool.process, "elsewhere")) == []
    assert exported(spool) == []
