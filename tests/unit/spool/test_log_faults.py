"""When the disk says no: a failed fsync is never retried as if it had worked (invariant 9)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import cast

import pytest
from tests.simulation.disk import Operation, disk_full, io_error
from tests.simulation.spool import FOLDER, SimulatedSpool, read_all, records

from dispatch.ports import AppendFault
from dispatch.spool.commit import Commit, WriteBatch
from dispatch.spool.faults import LogUnwell
from dispatch.spool.spares import Spares
from dispatch.spool.verify import verify_log


def fault_of(spool: SimulatedSpool, payload: bytes) -> AppendFault:
    answer = spool.told[payload]
    assert isinstance(answer, AppendFault)
    return answer


def test_a_failed_fsync_refuses_those_who_waited_and_the_next_are_taken() -> None:
    spool = SimulatedSpool()
    spool.put(b"before")
    spool.fail("sync", path=".segment")
    spool.append(b"waited")
    spool.loop.settle()
    assert not fault_of(spool, b"waited").full
    spool.put(b"after")
    assert spool.payloads() == [b"before", b"after"]
    spool.kill()
    assert spool.payloads() == [b"before", b"after"]


def test_a_failed_fsync_is_told_of_before_anybody_could_die_of_it() -> None:
    spool = SimulatedSpool()
    doubts: list[bool] = []

    class Unsynced:
        file = SimpleNamespace(sync=lambda: (_ for _ in ()).throw(OSError(errno.EIO, "lost")))

    batch = SimpleNamespace(home=Unsynced, opens=False)
    disk = spool.disk.process()
    commit = Commit(
        disk,
        FOLDER,
        Spares(disk, FOLDER, 1 << 16, 0),
        [cast(WriteBatch, batch)],
        None,
        partial(doubts.append, True),
    )
    commit.run()
    assert doubts == [True] and isinstance(commit.error, OSError)


def test_the_segment_of_a_failed_fsync_is_never_touched_again() -> None:
    spool = SimulatedSpool()
    spool.put(b"before")
    spool.loop.settle()
    dead = spool.files(".segment")[-1]
    touched: list[Operation] = []
    failed = False

    def fault(operation: Operation, path: str) -> OSError | None:
        nonlocal failed
        if path == dead and operation in ("sync", "write", "truncate"):
            if failed:
                touched.append(operation)
            if operation == "sync" and not failed:
                failed = True
                return OSError(errno.EIO, "lost")
        return None

    spool.disk.fault = fault
    spool.append(b"waited")
    spool.loop.settle()
    spool.put(*records("after", 10))
    assert failed
    assert touched == []


def test_nobody_is_refused_before_the_successor_that_makes_it_true() -> None:
    """The whole batch is in the file: until a header cuts it off, a recovery could still find it."""
    spool = SimulatedSpool()
    spool.put(b"before")
    spool.fail("sync", "create", "rename", "sync_folder", times=3)
    spool.append(b"waited")
    while spool.log.unwell is None:
        assert spool.loop.step()
    assert b"waited" not in spool.told
    spool.loop.advance(30)
    assert spool.log.unwell is None
    fault_of(spool, b"waited")


def test_without_a_successor_appends_are_refused_at_once_and_it_heals_by_itself() -> None:
    spool = SimulatedSpool()
    spool.put(b"before")
    spool.fail("sync", "sync_folder", times=10_000)
    spool.append(b"waited")
    spool.loop.advance(1)
    assert spool.log.unwell is not None
    spool.append(b"refused")
    assert b"refused" not in spool.told
    spool.loop.settle()
    fault_of(spool, b"refused")
    assert spool.payloads() == [b"before"]
    spool.disk.fault = None
    spool.loop.advance(30)
    assert spool.log.unwell is None
    spool.put(b"after")
    assert spool.payloads() == [b"before", b"after"]


def test_a_process_that_dies_before_the_successor_leaves_the_waiting_unanswered() -> None:
    spool = SimulatedSpool()
    spool.put(b"before")
    spool.append(b"waited")
    while not spool.told.get(b"waited") and spool.disk.fault is None:
        spool.fail("sync", "sync_folder", "create", times=10_000)
    spool.loop.advance(1)
    assert b"waited" not in spool.told
    spool.kill()
    assert spool.payloads() in ([b"before"], [b"before", b"waited"])


def test_a_full_disk_is_told_apart_from_a_broken_one() -> None:
    spool = SimulatedSpool(spares=0)
    spool.put(b"before")
    spool.disk.capacity_bytes = spool.disk.used_bytes
    spool.append(b"no room")
    spool.loop.settle()
    assert fault_of(spool, b"no room").full
    spool.append(b"still no room")
    spool.loop.settle()
    assert fault_of(spool, b"still no room").full
    spool.disk.capacity_bytes = None
    spool.loop.advance(30)
    spool.put(b"room")
    assert spool.payloads() == [b"before", b"room"]


def test_a_disk_that_fills_leaves_no_litter_of_failed_segments() -> None:
    spool = SimulatedSpool(spares=0)
    spool.put(b"before")
    spool.disk.capacity_bytes = spool.disk.used_bytes
    spool.append(b"no room")
    spool.loop.advance(600)
    assert len(spool.disk.paths) <= 3


def test_written_spares_let_the_ledger_record_on_a_full_disk() -> None:
    spool = SimulatedSpool(ledger=True, segment_bytes=32 << 10)
    spool.put(b"before")
    spool.disk.capacity_bytes = spool.disk.used_bytes
    outcomes = records("outcome", 30, 1000)
    for outcome in outcomes:
        spool.append(outcome)
        spool.log.flush()
        spool.loop.advance(0.06)
    assert spool.payloads() == [b"before", *outcomes]


def test_the_ledger_writes_again_what_a_failed_fsync_lost() -> None:
    spool = SimulatedSpool(ledger=True)
    spool.put(b"before")
    spool.append(b"one", b"two")
    spool.log.flush()
    spool.fail("sync", path=".segment")
    spool.loop.advance(1)
    spool.put(b"three")
    assert all(not isinstance(answer, AppendFault) for answer in spool.told.values())
    assert spool.payloads() == [b"before", b"one", b"two", b"three"]
    spool.process.kill()
    spool.disk.power_cut()
    spool.start()
    assert spool.payloads() == [b"before", b"one", b"two", b"three"]


def test_the_ledger_refuses_nothing_and_says_when_flush_cannot_keep_its_promise() -> None:
    spool = SimulatedSpool(ledger=True, spares=0)
    spool.put(b"before")
    spool.disk.capacity_bytes = spool.disk.used_bytes
    spool.append(b"one")
    with pytest.raises(LogUnwell):
        spool.log.flush()
        spool.append(b"two")
        spool.log.flush()
    spool.loop.advance(5)
    spool.append(b"three")
    with pytest.raises(LogUnwell):
        spool.log.flush()
    assert set(spool.told) == {b"before"}
    spool.disk.capacity_bytes = None
    spool.loop.advance(30)
    spool.log.flush()
    spool.loop.advance(1)
    payloads = spool.payloads()
    assert payloads[0] == b"before"
    assert payloads[-1] == b"three"
    assert set(payloads) == set(spool.told)


def test_a_log_opens_on_a_full_disk_and_takes_mail_when_there_is_room() -> None:
    spool = SimulatedSpool(spares=0)
    spool.put(b"before")
    spool.disk.capacity_bytes = spool.disk.used_bytes
    spool.kill()
    assert spool.log.unwell is not None
    assert spool.payloads() == [b"before"]
    spool.disk.capacity_bytes = None
    spool.loop.advance(30)
    spool.put(b"after")
    assert spool.payloads() == [b"before", b"after"]


def test_the_reserve_is_there_for_a_start_on_a_full_disk_too() -> None:
    spool = SimulatedSpool(ledger=True, segment_bytes=32 << 10)
    spool.put(b"before")
    spool.disk.capacity_bytes = spool.disk.used_bytes
    spool.kill()
    assert spool.log.unwell is None
    spool.put(b"after")
    assert spool.payloads() == [b"before", b"after"]


def test_upkeep_that_fails_does_not_disturb_the_mail() -> None:
    spool = SimulatedSpool(segment_bytes=32 << 10)
    spool.fail("create", "rename", "remove", error=disk_full, path=".spare")
    spool.loop.settle()
    assert spool.log.upkeep_error is not None
    mail = records("mail", 20, 5000)
    for payload in mail:
        spool.put(payload)
    assert spool.payloads() == mail
    assert spool.log.upkeep_error is None


def readable(spool: SimulatedSpool) -> list[bytes]:
    reader = spool.reader()
    return [entry.payload for entry in read_all(reader, reader.oldest)]


@pytest.mark.parametrize("operation", ["rename", "remove", "sync_folder"])
def test_segments_that_could_not_be_recycled_go_before_all_others_the_next_time(operation: Operation) -> None:
    """A log in which an older one stays while a later one goes would look damaged, and be so to a reader."""
    spool = SimulatedSpool(segment_bytes=32 << 10, spares=0 if operation == "remove" else 4)
    mail = records("mail", 60, 5000)
    for payload in mail:
        spool.put(payload)
    older = spool.files(".segment")
    for place in (20, 40, 55):
        spool.fail(operation, times=2, path=FOLDER if operation == "sync_folder" else ".segment")
        spool.log.release(spool.lsn(mail[place]))
        spool.loop.settle()
        assert spool.log.upkeep_error is not None
        assert verify_log(spool.process, FOLDER, spool.mark.load()).sound
        assert readable(spool)[-1] == mail[-1]
    spool.disk.fault = None
    spool.log.release(spool.lsn(mail[55]))
    spool.loop.settle()
    assert spool.log.upkeep_error is None
    assert readable(spool)[0] in mail[50:56], "nothing stays behind"
    assert verify_log(spool.process, FOLDER, spool.mark.load()).sound
    assert set(spool.files(".segment")) < set(older)


def test_a_power_cut_while_segments_are_recycled_leaves_a_sound_log() -> None:
    for seed in range(40):
        spool = SimulatedSpool(segment_bytes=32 << 10, spares=seed % 3)
        mail = records("mail", 60, 5000)
        for payload in mail:
            spool.put(payload)
        spool.disk.chance.seed(seed)
        spool.fail("sync_folder", times=1)
        spool.log.release(spool.lsn(mail[30]))
        spool.loop.settle()
        spool.log.release(spool.lsn(mail[40]))
        for _ in range(seed):
            spool.loop.step()
        spool.process.kill()
        spool.disk.power_cut()
        assert verify_log(spool.disk.process(), FOLDER, spool.mark.load()).sound, f"seed {seed}"


def test_what_a_log_suffers_from_is_told_alike_while_it_lasts_and_otherwise_when_it_changes() -> None:
    spool = SimulatedSpool(spares=0)
    spool.put(b"before")
    causes: list[tuple[Operation, Callable[[], OSError]]] = [
        ("sync", io_error),
        ("sync", disk_full),
        ("create", io_error),
        ("write", io_error),
    ]
    told: list[set[str]] = []
    for operation, error in causes:
        spool.fail(operation, times=10_000, error=error)
        spool.append(b"refused")
        spool.loop.advance(20)
        told.append(set())
        for _ in range(100):
            spool.loop.advance(1)
            if spool.log.unwell is not None:
                told[-1].add(spool.log.unwell.detail)
    assert [len(each) for each in told] == [1, 1, 1, 1]
    assert len(set.union(*told)) == 3, "to create is to write; otherwise each has its own words"


def test_frames_of_an_abandoned_segment_verify_nowhere_else() -> None:
    spool = SimulatedSpool()
    spool.put(b"before")
    dead = spool.files(".segment")[-1]
    spool.fail("sync", path=".segment")
    spool.append(b"abandoned " * 100)
    spool.loop.settle()
    spool.disk.fault = None
    spool.put(b"x" * 1000)
    heir = spool.files(".segment")[-1]
    assert heir != dead
    # Even if the disk put the dead segment's bytes into its successor, they would not be mail.
    body = spool.disk.content(dead)[4096:6144]
    spool.disk.damage(heir, 4096, body[: len(spool.disk.content(heir)) - 4096])
    found = [path for path in spool.disk.paths if path.startswith(FOLDER) and path.endswith(".segment")]
    assert len(found) == 2
    reader = spool.reader()
    assert [entry.payload for entry in reader.read(reader.oldest, 1 << 20)] == [b"before"]
