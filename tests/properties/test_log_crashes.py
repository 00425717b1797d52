"""Whatever happens to process, disk and power: what was told is true.

Hypothesis writes the history of one log: appends, flushes, releases, reads, faults of the disk, a full
disk, deaths of the process and power cuts at any disk operation, recoveries that die themselves. After every
start, and at the end, the log is read and compared with what the clients were told:

- told an LSN: the record is there, once, in order, under that LSN;
- told a fault: it is not there, and never will be;
- not told: it may be there; if recovery found it, it is called unanswered, and it stays.

A second reader lives beside the writer and must come to see exactly the same log, never beyond the mark.

The ledger's chain is followed as well: it is unbroken after all of that, and goes on from every head that it
ever had. Where a byte of it was damaged, the batch that holds it is named, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.simulation.disk import Crash, Operation, SimulatedDisk, disk_full, io_error
from tests.simulation.loop import SimulatedChance, SimulatedLoop, SimulatedMark

from dispatch.ports import AppendFault, Entry, Lsn
from dispatch.spool.chain import Break, ChainReport, Head, Noted, Why, verify_chain
from dispatch.spool.faults import LogUnwell
from dispatch.spool.log import SegmentLog
from dispatch.spool.reader import SegmentReader
from dispatch.spool.scan import SegmentScan
from dispatch.spool.segments import Segment, read_succession, segment_names

SEGMENT_BYTES = 16 << 10
LEDGER_INTERVAL_S = 0.05
FOLDER = "log"

Step = Callable[["History"], None]


class History:
    """One log through all its lives, and what its clients know."""

    def __init__(self, seed: int, sync_interval_s: float) -> None:
        self.disk = SimulatedDisk(seed)
        self._interval_s = sync_interval_s
        self._seed = seed
        self._starts = 0
        self._mark = SimulatedMark()
        self._appended = 0
        self._told: dict[int, Lsn | AppendFault] = {}
        self._stays: dict[int, Lsn] = {}
        """Seen by a reader: must never go, nor move."""
        self._unanswered: set[int] = set()
        """Found in the log by recovery, without anybody having been told."""
        self._flushed = range(0)
        """Of this life, what has left the process."""
        self.faulty = False
        """The disk has misbehaved in this life: a failed sync may take from the cache what was flushed."""
        self._born = 0
        self._released = Lsn(0)
        self._seen: list[Entry] = []
        """What the reader beside the writer saw, and where it stands."""
        self._cursor = Lsn(0)
        self._head: Head | None = None
        """The chain's, as it was last seen."""
        self.log: SegmentLog
        self._beside: SegmentReader
        self.start()

    # ------------------------------------------------------------ lives

    def start(self) -> bool:
        """Until a start gets through; tells whether the power was cut again on the way."""
        power_was_cut = False
        while True:
            self._starts += 1
            self.loop = SimulatedLoop(self._seed + self._starts)
            self._process = self.disk.process()
            try:
                self.log = SegmentLog(
                    self._process,
                    FOLDER,
                    clock=self.loop,
                    chance=SimulatedChance(self._seed + self._starts),
                    threads=self.loop,
                    mark=self._mark,
                    sync_interval_s=self._interval_s,
                    segment_bytes=SEGMENT_BYTES,
                    spares=4,
                    chained=self._interval_s > 0,
                )
            except Crash:
                power = self.disk.chance.random() < 0.5
                power_was_cut |= power
                self._die(power)
            except OSError:
                # The very first start may be refused; nobody was told anything yet.
                assert not self._told
                self._die(power=False)
            else:
                break
        if not hasattr(self, "_beside"):
            self._beside = SegmentReader(self.disk.process(), FOLDER, mark=self._mark)
        self.faulty = self.disk.capacity_bytes is not None
        return power_was_cut

    def crash(self, power: bool) -> None:
        untold = set(range(self._appended)) - set(self._told) - set(self._stays)
        flushed, self._flushed = self._flushed, range(0)
        self._born = self._appended
        flushed = range(0) if self.faulty else flushed
        self._die(power)
        power |= self.start()
        if self.log.unwell is None:
            self._check_after_start(untold, flushed, power)

    def _die(self, power: bool) -> None:
        self._process.kill()
        self.disk.fault = None
        if power:
            self.disk.power_cut()
            self._mark.power_cut(self.disk.chance)
            self._beside = SegmentReader(self.disk.process(), FOLDER, mark=self._mark)

    def die_and_start(self, power: bool) -> None:
        """Without looking at what is left."""
        self._die(power)
        self.start()

    def _check_after_start(self, untold: set[int], flushed: range, power: bool) -> None:
        assert not self.log.recovery.damage
        found = self.check()
        reader = SegmentReader(self._process, FOLDER, mark=self._mark)
        reader.read(self._released, 1)
        for number, lsn in found.items():
            if number in untold:
                assert reader.unanswered(lsn), "found in the log by recovery, but not called unanswered"
                self._unanswered.add(number)
            elif not power and isinstance(self._told.get(number), int):
                assert not reader.unanswered(lsn) or number in self._stays
        if not power:
            missing = (untold & set(flushed)) - set(found)
            assert not missing, "flushed, and gone with the process"

    # ------------------------------------------------------------ what clients do

    def append(self, size_bytes: int) -> None:
        number = self._appended
        self._appended += 1

        def told(answer: Lsn | AppendFault) -> None:
            assert number not in self._told, "told twice"
            self._told[number] = answer

        payload = f"{number}:".encode().ljust(size_bytes, b"%d" % (number % 10))
        self.log.append([payload[:3], payload[3:]], told)

    def flush(self) -> None:
        try:
            self.log.flush()
        except LogUnwell:
            return
        self._flushed = range(self._born, self._appended)

    def read_beside(self, size_bytes_max: int) -> None:
        entries = self._beside.read(self._cursor, size_bytes_max)
        for entry in entries:
            assert entry.next <= self._mark.load(), "read beyond the mark"
            number = number_of(entry)
            self._stays[number] = entry.lsn
            if number in self._unanswered:
                assert self._beside.unanswered(entry.lsn), "recovered under a reader that was not told"
        self._seen += entries
        if entries:
            self._cursor = entries[-1].next

    def release(self) -> None:
        self._released = self._cursor
        self.log.release(self._cursor)

    # ------------------------------------------------------------ what must hold

    def check(self) -> dict[int, Lsn]:
        """Read all that is kept, and compare."""
        reader = SegmentReader(self._process, FOLDER, mark=self._mark)
        entries: list[Entry] = []
        cursor = self._released
        while batch := reader.read(cursor, 5000):
            entries += batch
            cursor = batch[-1].next
        numbers = [number_of(entry) for entry in entries]
        assert numbers == sorted(set(numbers)), "twice, or out of order"
        found = {number: entry.lsn for number, entry in zip(numbers, entries, strict=True)}
        assert sorted(found.values()) == list(found.values())
        for number, answer in self._told.items():
            if isinstance(answer, AppendFault):
                assert number not in found, "refused, and in the log"
            elif answer >= self._released:
                assert found.get(number) == answer, "told, and not there"
        for number, lsn in self._stays.items():
            if lsn >= self._released:
                assert found.get(number) == lsn, "was there, and is not"
        self._stays.update(found)
        if self._interval_s:
            self._check_chain()
        return found

    def _check_chain(self) -> None:
        report = self.follow_chain()
        assert report.breaks == ()
        assert report.noted in (None, Noted.CONTINUED, Noted.OLDER)
        if report.noted is Noted.OLDER:
            assert self._head is not None and self._head.lsn <= self._released
        self._head = report.head

    def follow_chain(self) -> ChainReport:
        return verify_chain(self._process, FOLDER, self._mark.load(), self._head)

    def batches(self) -> list[tuple[Segment, int, int]]:
        """Segment, place and end of every batch that is kept."""
        found = []
        succession = read_succession(self._process, FOLDER, segment_names(self._process.names(FOLDER)))
        for segment, stop in zip(succession.segments, succession.ends, strict=True):
            scan = SegmentScan(
                self._process.open(f"{FOLDER}/{segment.name}"), segment.generation, segment.base
            )
            lsn = segment.first
            while lsn < stop and (head := scan.batch(lsn, stop)):
                found.append((segment, lsn, head.end))
                lsn = head.end
        return found

    def end(self) -> None:
        """Heal the disk; then everybody must be told, and both readers see the same."""
        self.disk.fault = None
        self.disk.capacity_bytes = None
        self.survive(partial(self.loop.advance, 60))
        assert self.log.unwell is None
        self.append(100)
        self.survive(partial(self.loop.advance, 60))
        assert isinstance(self._told.get(self._appended - 1), int)
        self.check()
        before = len(self._seen)
        while self._cursor < self._mark.load():
            self.read_beside(3000)
            assert len(self._seen) > before or self._cursor >= self._mark.load()
            before = len(self._seen)
        numbers = [number_of(entry) for entry in self._seen]
        assert numbers == sorted(set(numbers))
        for number, answer in self._told.items():
            assert (number in numbers) == isinstance(answer, int)
        self.log.close()
        self.loop.settle()
        self.start()
        self.check()

    def survive(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Crash:
            self.crash(power=self.disk.chance.random() < 0.5)


def number_of(entry: Entry) -> int:
    number, _, filling = entry.payload.partition(b":")
    assert set(filling) <= set(b"%d" % (int(number) % 10)), "mixed with another record"
    return int(number)


# ---------------------------------------------------------------- steps


def faulty(operations: tuple[Operation, ...], times: int, error: Callable[[], OSError]) -> Step:
    def step(history: History) -> None:
        left = times

        def fault(operation: Operation, _: str) -> OSError | None:
            nonlocal left
            if left and operation in operations:
                left -= 1
                return error()
            return None

        history.faulty = True
        history.disk.fault = fault

    return step


def crash_soon(operations: int) -> Step:
    def step(history: History) -> None:
        left = operations

        def fault(operation: Operation, _: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash

        history.disk.fault = fault

    return step


def fill_disk(room_bytes: int) -> Step:
    def step(history: History) -> None:
        history.faulty = True
        history.disk.capacity_bytes = history.disk.used_bytes + room_bytes

    return step


def make_room(history: History) -> None:
    history.disk.capacity_bytes = None


def run(steps: int) -> Step:
    def step(history: History) -> None:
        for _ in range(steps):
            history.loop.step()

    return step


def append(sizes_bytes: list[int]) -> Step:
    def step(history: History) -> None:
        for size_bytes in sizes_bytes:
            history.append(size_bytes)

    return step


def restart(history: History) -> None:
    history.log.close()
    history.loop.settle()
    history.crash(power=False)


SIZES = st.one_of(st.integers(4, 60), st.integers(400, 600), st.integers(3000, 9000))
FAILING: st.SearchStrategy[tuple[Operation, ...]] = st.sampled_from(
    [
        ("write",),
        ("sync",),
        ("rename",),
        ("create",),
        ("sync_folder",),
        ("remove",),
        ("write", "sync", "create", "rename", "sync_folder"),
    ]
)
STEPS = st.one_of(
    st.builds(append, st.lists(SIZES, min_size=1, max_size=6)),
    st.builds(append, st.lists(SIZES, min_size=1, max_size=6)),
    st.builds(run, st.integers(1, 6)),
    st.builds(run, st.integers(20, 60)),
    st.sampled_from([0.01, 0.06, 1.0]).map(lambda seconds: lambda history: history.loop.advance(seconds)),
    st.just(History.flush),
    st.builds(lambda size: lambda history: history.read_beside(size), st.sampled_from([1, 2000, 50000])),
    st.just(History.release),
    st.builds(faulty, FAILING, st.integers(1, 6), st.sampled_from([io_error, disk_full])),
    st.builds(crash_soon, st.integers(0, 25)),
    st.builds(fill_disk, st.integers(0, 20_000)),
    st.just(make_room),
    st.booleans().map(lambda power: lambda history: history.crash(power)),
    st.just(restart),
)


def live_through(steps: list[Step], seed: int, sync_interval_s: float) -> None:
    history = History(seed, sync_interval_s)
    for step in steps:
        history.survive(partial(step, history))
    history.end()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(STEPS, max_size=20), seed=st.integers(0, 1 << 32), place=st.data())
def test_damage_of_the_ledger_is_named_and_nothing_else_is(
    steps: list[Step], seed: int, place: st.DataObject
) -> None:
    history = History(seed, LEDGER_INTERVAL_S)
    for step in steps:
        history.survive(partial(step, history))
    history.end()
    segment, lsn, end = place.draw(st.sampled_from(history.batches()))
    at = place.draw(st.integers(lsn, end - 1))
    path = f"{FOLDER}/{segment.name}"
    byte = history.disk.content(path)[at - segment.base]
    history.disk.damage(path, at - segment.base, bytes([byte ^ 0x40]))
    named = history.follow_chain().breaks
    padding = not named
    assert named == (() if padding else (Break(lsn, end, Why.UNREADABLE),))
    if padding:
        assert byte == 0, "only what fills a batch up is not vouched for"
    power = place.draw(st.booleans())
    history.die_and_start(power)
    history.append(100)
    history.loop.advance(60)
    assert history.follow_chain().breaks == named


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(STEPS, max_size=40), seed=st.integers(0, 1 << 32))
def test_the_mail_log_keeps_its_word(steps: list[Step], seed: int) -> None:
    live_through(steps, seed, 0.0)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(STEPS, max_size=40), seed=st.integers(0, 1 << 32))
def test_the_ledger_keeps_its_word(steps: list[Step], seed: int) -> None:
    live_through(steps, seed, LEDGER_INTERVAL_S)
