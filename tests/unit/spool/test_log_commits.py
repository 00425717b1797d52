"""How records are grouped into commits, and where the segments come from."""

from __future__ import annotations

from tests.simulation.disk import Operation
from tests.simulation.spool import FOLDER, LEDGER_INTERVAL_S, SimulatedSpool, read_all, records

from dispatch.ports import Lsn
from dispatch.spool.log import CROWD_WAIT_S
from dispatch.spool.verify import verify_log


class Syncs:
    """Counts the syncs of segments."""

    def __init__(self, spool: SimulatedSpool) -> None:
        self.times_s: list[float] = []
        self._spool = spool
        spool.disk.fault = self._count

    def _count(self, operation: Operation, path: str) -> None:
        if operation == "sync" and path.endswith((".segment", "00000001.spare")):
            self.times_s.append(self._spool.loop.monotonic())


def batches(spool: SimulatedSpool) -> int:
    return sum(segment.batches for segment in verify_log(spool.process, FOLDER).segments)


def test_what_one_round_appends_is_one_commit() -> None:
    spool = SimulatedSpool()
    syncs = Syncs(spool)
    spool.put(*records("mail", 20))
    assert len(syncs.times_s) == 1
    assert batches(spool) == 1


def test_what_arrives_during_a_commit_is_the_next_one() -> None:
    spool = SimulatedSpool()
    spool.loop.settle()
    spool.append(b"first")
    spool.loop.step()
    spool.append(b"second", b"third")
    spool.loop.settle()
    assert len(spool.told) == 3
    assert batches(spool) == 2


def test_a_commit_does_not_grow_with_the_backlog() -> None:
    spool = SimulatedSpool(segment_bytes=16 << 20, spares=0)
    spool.put(*[bytes([number]) * (1 << 20) for number in range(10)])
    assert batches(spool) == 4


def test_the_ledger_syncs_once_an_interval_however_often_it_writes() -> None:
    spool = SimulatedSpool(ledger=True)
    spool.loop.settle()
    syncs = Syncs(spool)
    for number in range(100):
        spool.append(b"%d" % number)
        spool.log.flush()
        spool.loop.advance(0.01)
    spool.loop.advance(1)
    assert len(spool.told) == 100
    gaps = [later - earlier for earlier, later in zip(syncs.times_s, syncs.times_s[1:], strict=False)]
    assert min(gaps) >= LEDGER_INTERVAL_S * 0.99
    assert 15 <= len(gaps) <= 21


def test_a_flushed_record_outlives_the_process_before_it_is_durable() -> None:
    spool = SimulatedSpool(ledger=True)
    spool.append(b"sending")
    spool.log.flush()
    spool.append(b"not flushed")
    spool.kill()
    assert spool.told == {}
    assert spool.payloads() == [b"sending"]


def test_the_mail_log_can_be_flushed_while_a_commit_is_under_way() -> None:
    spool = SimulatedSpool()
    spool.append(*records("first", 3))
    spool.loop.step()
    spool.append(*records("second", 3))
    spool.log.flush()
    spool.kill()
    assert spool.payloads() == records("first", 3) + records("second", 3)


def test_released_segments_are_used_again_and_their_old_mail_never_returns() -> None:
    spool = SimulatedSpool(segment_bytes=32 << 10)
    old = records("old", 20, 5000)
    for payload in old:
        spool.put(payload)
    inode = spool.disk.entries[spool.files(".segment")[0]]
    spool.log.release(spool.log.durable)
    spool.loop.settle()
    assert len(spool.files(".segment")) == 1
    gone = [payload for payload in old if spool.lsn(payload) < spool.reader().oldest]
    assert len(gone) > 10
    new = records("new", 200, 700)
    for payload in new:
        spool.put(payload)
    assert inode in [spool.disk.entries[path] for path in spool.files(".segment")]
    for _ in range(3):
        spool.kill()
    entries = [entry.payload for entry in read_all(spool.reader(), spool.reader().oldest)]
    assert not set(entries) & set(gone)
    assert entries[-len(new) :] == new


def test_spares_are_kept_within_their_bound_and_written_to_their_full_length() -> None:
    spool = SimulatedSpool(segment_bytes=32 << 10, spares=4)
    for payload in records("mail", 60, 5000):
        spool.put(payload)
    assert len(spool.files(".segment")) >= 10
    spool.log.release(spool.log.durable)
    spool.loop.settle()
    assert len(spool.files(".segment")) == 1
    assert [len(spool.disk.content(path)) for path in spool.files(".spare")] == [32 << 10] * 4


def test_a_spare_that_a_crash_left_half_written_is_completed() -> None:
    spool = SimulatedSpool(segment_bytes=32 << 10)
    spool.loop.settle()
    path = spool.files(".spare")[0]
    spool.process.open(path).truncate(10_000)
    spool.restart()
    spool.loop.settle()
    assert [len(spool.disk.content(path)) for path in spool.files(".spare")] == [32 << 10] * 2


def test_a_log_that_is_read_as_fast_as_it_is_written_lives_on_its_own_segments() -> None:
    spool = SimulatedSpool(segment_bytes=32 << 10)
    created: list[str] = []

    def note(operation: Operation, path: str) -> None:
        if operation == "create":
            created.append(path)

    spool.loop.settle()
    spool.disk.fault = note
    for payload in records("mail", 200, 5000):
        spool.put(payload)
        spool.log.release(spool.log.durable)
    assert len(created) <= 2


def test_segments_that_are_needed_are_not_released() -> None:
    spool = SimulatedSpool(segment_bytes=32 << 10)
    lsns: list[Lsn] = []
    for payload in records("mail", 20, 5000):
        lsns += spool.put(payload)
    spool.log.release(Lsn(lsns[9]))
    spool.loop.settle()
    reader = spool.reader()
    assert reader.oldest <= lsns[9]
    assert reader.read(lsns[9], 1)[0].payload == records("mail", 20, 5000)[9]


def test_a_log_that_restarts_often_and_does_nothing_gives_its_segments_back() -> None:
    spool = SimulatedSpool()
    spool.put(b"mail")
    for _ in range(10):
        spool.restart()
    spool.log.release(spool.log.durable)
    spool.loop.settle()
    assert len(spool.files(".segment")) == 1
    assert spool.reader().read(spool.log.durable, 1000) == []


def test_a_commit_waits_until_those_of_the_last_one_are_back() -> None:
    spool = SimulatedSpool()
    spool.put(*records("first", 3))
    spool.append(b"one", b"two")
    spool.loop.settle()
    assert b"one" not in spool.told, "the third may come in this very moment"
    spool.append(b"three")
    spool.loop.settle()
    assert {b"one", b"two", b"three"} <= spool.told.keys()


def test_a_commit_does_not_wait_for_clients_that_stay_away() -> None:
    spool = SimulatedSpool()
    spool.put(*records("first", 20))
    spool.append(b"alone")
    spool.loop.advance(CROWD_WAIT_S)
    assert b"alone" in spool.told
    spool.append(b"next")
    spool.loop.settle()
    assert b"next" in spool.told, "they are not waited for again"


def test_a_single_client_is_never_kept_waiting() -> None:
    spool = SimulatedSpool()
    for payload in records("one after the other", 5):
        spool.append(payload)
        spool.loop.settle()
        assert payload in spool.told


def test_a_log_that_is_closed_waits_for_nobody() -> None:
    spool = SimulatedSpool()
    spool.put(*records("first", 20))
    spool.append(b"last")
    spool.log.close()
    spool.kill()
    assert b"last" in spool.payloads()
