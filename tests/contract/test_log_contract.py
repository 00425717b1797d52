"""What every log promises, whatever it is made of: one suite, run on every adapter.

The segment log runs as mail log and as ledger: on the simulated disk, on this machine's disk under a
simulated loop, and on this machine with its real loop, threads and mark.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from tests.simulation.disk import SimulatedDisk
from tests.simulation.loop import SimulatedChance, SimulatedLoop, SimulatedMark

from dispatch.ports import AppendFault, Disk, Entry, Log, LogReader, Lsn, Mark
from dispatch.runtime.machine import MarkFile, SystemChance, SystemClock, SystemDisk, SystemThreads
from dispatch.spool.faults import ReleasedError
from dispatch.spool.log import SegmentLog
from dispatch.spool.memory import MemoryLog, MemoryReader
from dispatch.spool.reader import SegmentReader

SEGMENT_BYTES = 64 << 10
LEDGER_INTERVAL_S = 0.05


class World(Protocol):
    """An adapter with what it needs to run."""

    lasting: bool
    log: Log

    def reader(self) -> LogReader: ...

    def wait(self, until: Callable[[], bool]) -> None: ...

    def restart(self) -> None: ...

    def end(self) -> None: ...


class MemoryWorld:
    lasting = False

    def __init__(self) -> None:
        self._loop = SimulatedLoop()
        self.log = MemoryLog(clock=self._loop)

    def reader(self) -> LogReader:
        return MemoryReader(self.log)

    def wait(self, until: Callable[[], bool]) -> None:
        self._loop.advance(1)
        assert until()

    def restart(self) -> None:
        raise AssertionError("a log in memory ends with its process")

    def end(self) -> None:
        self.log.close()


class SegmentWorld:
    """Segment files on any disk, under the simulated loop."""

    lasting = True

    def __init__(self, disk: Disk, sync_interval_s: float) -> None:
        self._disk = disk
        self._interval_s = sync_interval_s
        self._mark = SimulatedMark()
        self._chance = SimulatedChance(1)
        self._loop = SimulatedLoop()
        self.log = self._open()

    def _open(self) -> SegmentLog:
        return SegmentLog(
            self._disk,
            "mail/0",
            clock=self._loop,
            chance=self._chance,
            threads=self._loop,
            mark=self._mark,
            sync_interval_s=self._interval_s,
            segment_bytes=SEGMENT_BYTES,
            chained=self._interval_s > 0,
        )

    def reader(self) -> LogReader:
        return SegmentReader(self._disk, "mail/0", mark=self._mark)

    def wait(self, until: Callable[[], bool]) -> None:
        self._loop.advance(1)
        assert until()

    def restart(self) -> None:
        self.log.close()
        self.log = self._open()

    def end(self) -> None:
        self.log.close()


class MachineWorld:
    """Segment files on this machine, with everything real."""

    lasting = True

    def __init__(self, root: Path, sync_interval_s: float) -> None:
        self._root = root
        self._interval_s = sync_interval_s
        self._loop = asyncio.new_event_loop()
        self._mark: Mark = MarkFile(root / "mark", writable=True)
        self.log = self._open()

    def _open(self) -> SegmentLog:
        return SegmentLog(
            SystemDisk(self._root),
            "mail/0",
            clock=SystemClock(self._loop),
            chance=SystemChance(),
            threads=SystemThreads(self._loop),
            mark=self._mark,
            sync_interval_s=self._interval_s,
            segment_bytes=SEGMENT_BYTES,
            chained=self._interval_s > 0,
        )

    def reader(self) -> LogReader:
        return SegmentReader(
            SystemDisk(self._root), "mail/0", mark=MarkFile(self._root / "mark", writable=False)
        )

    def wait(self, until: Callable[[], bool]) -> None:
        async def poll() -> None:
            async with asyncio.timeout(20):
                while not until():
                    await asyncio.sleep(0.001)

        self._loop.run_until_complete(poll())

    def restart(self) -> None:
        self.log.close()
        self.log = self._open()

    def end(self) -> None:
        self.log.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


@pytest.fixture(
    params=[
        "memory",
        "mail, simulated disk",
        "ledger, simulated disk",
        "mail, real disk",
        "ledger, real disk",
        "mail, real machine",
        "ledger, real machine",
    ]
)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    name, _, place = request.param.partition(", ")
    interval_s = LEDGER_INTERVAL_S if name == "ledger" else 0.0
    made: World
    match place:
        case "simulated disk":
            made = SegmentWorld(SimulatedDisk(1).process(), interval_s)
        case "real disk":
            made = SegmentWorld(SystemDisk(tmp_path), interval_s)
        case "real machine":
            made = MachineWorld(tmp_path, interval_s)
        case _:
            made = MemoryWorld()
    yield made
    made.end()


def put(world: World, *payloads: bytes) -> list[Lsn]:
    """Append and wait; every record must be taken."""
    answers: list[Lsn | AppendFault] = []
    for payload in payloads:
        world.log.append([payload], answers.append)
    world.wait(lambda: len(answers) == len(payloads))
    assert not any(isinstance(answer, AppendFault) for answer in answers)
    return [Lsn(answer) for answer in answers if not isinstance(answer, AppendFault)]


def read_all(reader: LogReader, cursor: Lsn = Lsn(0), size_bytes_max: int = 1 << 20) -> list[Entry]:  # noqa: B008
    entries: list[Entry] = []
    while found := reader.read(cursor, size_bytes_max):
        entries += found
        cursor = found[-1].next
    return entries


def records(prefix: str, count: int, size_bytes: int = 40) -> list[bytes]:
    return [f"{prefix} {number}".encode().ljust(size_bytes, b".") for number in range(count)]


def test_what_was_appended_is_read_in_its_order_at_the_lsns_that_were_told(world: World) -> None:
    payloads = records("mail", 20)
    lsns = put(world, *payloads)
    entries = read_all(world.reader())
    assert [entry.payload for entry in entries] == payloads
    assert [entry.lsn for entry in entries] == lsns == sorted(set(lsns))


def test_nobody_is_told_from_within_append(world: World) -> None:
    told: list[object] = []
    world.log.append([b"mail"], told.append)
    assert told == []
    world.wait(lambda: len(told) == 1)


def test_a_record_is_readable_when_its_client_is_told_and_not_before(world: World) -> None:
    reader = world.reader()
    readable: list[bool] = []

    def told(answer: Lsn | AppendFault) -> None:
        assert not isinstance(answer, AppendFault)
        readable.append(answer < reader.durable and reader.read(answer, 1)[0].payload == b"mail")

    world.log.append([b"mail"], told)
    assert reader.read(Lsn(0), 1000) == []
    world.wait(lambda: bool(readable))
    assert readable == [True]


def test_records_become_durable_in_order_across_many_rounds(world: World) -> None:
    told: list[Lsn | AppendFault] = []
    started = 0

    def next_round(answer: Lsn | AppendFault | None = None) -> None:
        nonlocal started
        if answer is not None:
            told.append(answer)
        if started < 30:
            started += 1
            world.log.append([b"mail %d" % started], next_round)

    next_round()
    next_round()
    world.wait(lambda: len(told) == 30)
    assert told == sorted(told)
    assert [entry.payload for entry in read_all(world.reader())] == [b"mail %d" % n for n in range(1, 31)]


def test_a_record_of_several_buffers_is_one_record(world: World) -> None:
    told: list[object] = []
    world.log.append([b"head", memoryview(b"..body..")[2:-2], bytearray(b"!")], told.append)
    world.log.append([b""], told.append)
    world.log.append([], told.append)
    world.wait(lambda: len(told) == 3)
    assert [entry.payload for entry in read_all(world.reader())] == [b"headbody!", b"", b""]


def test_reading_goes_on_behind_any_record(world: World) -> None:
    payloads = records("mail", 12)
    put(world, *payloads[:5])
    put(world, *payloads[5:])
    reader = world.reader()
    entries = read_all(reader)
    for number, entry in enumerate(entries):
        assert [later.payload for later in read_all(reader, entry.next)] == payloads[number + 1 :]
    assert entries[-1].next == reader.durable == world.log.durable


def test_a_small_appetite_still_gets_one_record_at_a_time(world: World) -> None:
    payloads = records("mail", 8, 3000)
    put(world, *payloads)
    reader = world.reader()
    assert len(reader.read(Lsn(0), 1)) == 1
    assert [entry.payload for entry in read_all(reader, size_bytes_max=1)] == payloads
    assert len(reader.read(Lsn(0), 6000)) == 2


def test_a_log_larger_than_a_segment_is_read_through(world: World) -> None:
    payloads = [*records("mail", 60, 5000), bytes(60_000), b"last", bytes(200_000), b"very last"]
    for start in range(0, len(payloads), 7):
        put(world, *payloads[start : start + 7])
    assert [entry.payload for entry in read_all(world.reader())] == payloads


def test_a_reader_finds_what_is_appended_after_it_came(world: World) -> None:
    reader = world.reader()
    assert read_all(reader) == []
    cursor = Lsn(0)
    for payload in records("mail", 40, 5000):
        put(world, payload)
        (entry,) = reader.read(cursor, 1 << 20)
        assert entry.payload == payload
        cursor = entry.next


def test_what_was_released_is_gone_and_says_so(world: World) -> None:
    payloads = records("mail", 60, 5000)
    lsns: list[Lsn] = []
    for start in range(0, 60, 10):
        lsns += put(world, *payloads[start : start + 10])
    reader = world.reader()
    assert reader.oldest <= lsns[0]
    world.log.release(lsns[50])
    world.wait(lambda: reader.oldest > lsns[0])
    assert reader.oldest <= lsns[50]
    with pytest.raises(ReleasedError) as released:
        reader.read(Lsn(0), 1000)
    assert lsns[0] < released.value.oldest <= reader.oldest
    assert [entry.payload for entry in read_all(reader, lsns[50])] == payloads[50:]


def test_a_cursor_behind_all_that_was_released_goes_on(world: World) -> None:
    lsns: list[Lsn] = []
    for payload in records("mail", 30, 5000):
        lsns += put(world, payload)
    reader = world.reader()
    end = read_all(reader)[-1].next
    world.log.release(end)
    put(world, *records("more", 30, 5000))
    world.wait(lambda: reader.oldest > lsns[0])
    assert [entry.payload for entry in read_all(reader, end)] == records("more", 30, 5000)


def test_flush_needs_no_loop_and_takes_nothing_away(world: World) -> None:
    told: list[object] = []
    world.log.append([b"one"], told.append)
    world.log.flush()
    world.log.append([b"two"], told.append)
    world.log.flush()
    assert told == []
    world.wait(lambda: len(told) == 2)
    assert [entry.payload for entry in read_all(world.reader())] == [b"one", b"two"]


def test_close_makes_durable_what_was_appended(world: World) -> None:
    told: list[object] = []
    for payload in records("mail", 5):
        world.log.append([payload], told.append)
    world.log.close()
    assert len(told) == 5
    assert [entry.payload for entry in read_all(world.reader())] == records("mail", 5)


def test_a_restart_changes_nothing_and_goes_on_behind(world: World) -> None:
    if not world.lasting:
        pytest.skip("ends with its process")
    before = put(world, *records("mail", 30, 5000))
    reader = world.reader()
    for _ in range(3):
        world.restart()
        end = read_all(reader)[-1].next
        assert end == reader.durable == world.log.durable
        assert reader.read(end, 1000) == []
    after = put(world, *records("more", 30, 5000))
    assert [entry.lsn for entry in read_all(world.reader())] == before + after
    assert read_all(reader) == read_all(world.reader())
    assert [e.payload for e in read_all(reader)] == records("mail", 30, 5000) + records("more", 30, 5000)
