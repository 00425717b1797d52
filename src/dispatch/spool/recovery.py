"""What a log does first after any start: find its end, and make sure of it.

1. *Known* is the greatest LSN that something vouches for: the mark, or what the headers call synced. Below
   it nothing is read, so a restart costs the same whether one segment is kept or five hundred.
2. From there every batch is checked. A batch that does not verify, where a later one's `synced` or the mark
   lies above it, was on stable storage and is damaged: the range is copied aside and reported, and the walk
   goes on behind it. Without such a witness it is a torn tail, and the log ends there.
3. What is complete but above everything proven is the unpublished tail: no answer may have left for it. It is
   read, and put on stable storage again before anything else is (`unproven`).
4. The log then opens a new segment, whose header says where the log ended and which range is unanswered,
   and only after that publishes the mark (`spool.log`).

The mark is a number in a file, and may be anything after a person or a bad disk had it. A true one is where
a batch ends, or where a start began.

- One that cannot be true is not believed: not on a sector border, or further above the newest segment
  than files could be missing. The log goes on from where its batches end, as if there were no mark.
- One that could be true and is not where a batch ends says that batches were there which cannot be read: all
  from the newest `synced` on is checked, the rest up to the mark is damage, and the log goes on above it.
  So it is if the newest segments were removed: their places are not used again, and every reader is told.

A chain goes on from the last batch of what is kept. It is read from that batch's head, or from the header of
the segment that was opened behind it.

Nothing is deleted, truncated or overwritten with anything but itself, and no damage stops a start.
"""

from __future__ import annotations

from typing import NamedTuple

from dispatch.ports import Disk
from dispatch.spool.frames import GENESIS, SECTOR_BYTES, BatchHead, align
from dispatch.spool.scan import Damage, SegmentScan
from dispatch.spool.segments import Segment, SegmentName, Succession, read_succession, segment_names
from dispatch.spool.unproven import Image, Unproven, images

DAMAGED_SUFFIX = ".damaged"
_CHUNK_BYTES = 1 << 20
_MISSING_SEGMENTS_MAX = 64
"""So many of the newest segment files may be missing before a mark that speaks of them is not believed."""
_MARK_MAX = 1 << 62
"""No log lives to see it."""


class RecoveryReport(NamedTuple):
    """What recovery found, for the operator. LSNs are plain numbers."""

    end: int
    """Where the log ended."""
    unanswered_from: int
    unanswered_to: int
    """Complete records for which the client may have got no answer; empty if the two are equal."""
    torn_bytes: int
    """Length of the batches, whole or not, that were cut off behind the end."""
    damage: tuple[Damage, ...]
    """Ranges below the durable mark that do not verify: an alarm, always."""
    copied_segments: int
    """Those whose unanswered tail the disk did not take where it stood: copies have taken their place."""
    segments: int
    elapsed_s: float
    disbelieved_mark: int | None = None
    """What the durable mark said, where that cannot be true."""


class Recovered(NamedTuple):
    """What the log goes on from."""

    names: list[SegmentName]
    """Every segment file of the folder, oldest first, those among them that never came to be included."""
    succession: Succession
    durable: int
    """Where the log ends."""
    chain: bytes
    """The chain there; means nothing in a log without one."""
    unanswered_from: int
    """Up to `durable`."""
    unproven: Unproven
    """The records up to `durable`, which become so when this is placed."""
    generation: int
    """The highest ever used."""
    next_base: int
    """No file that is here has a place at or above it."""
    torn_bytes: int
    damage: tuple[Damage, ...]
    disbelieved_mark: int | None

    def report(self, elapsed_s: float) -> RecoveryReport:
        return RecoveryReport(
            end=self.durable,
            unanswered_from=self.unanswered_from,
            unanswered_to=self.durable,
            torn_bytes=self.torn_bytes,
            damage=self.damage,
            copied_segments=self.unproven.copied_segments,
            segments=len(self.succession.segments),
            elapsed_s=elapsed_s,
            disbelieved_mark=self.disbelieved_mark,
        )


def recover(disk: Disk, folder: str, mark: int, segment_bytes: int) -> Recovered:
    """Find the end of the log, and its unproven tail. `mark` is the durable mark as it was left.

    Raises `OSError` only where folder or files cannot be opened at all (permissions, no descriptors left).
    """
    names = segment_names(disk.names(folder))
    succession = read_succession(disk, folder, names)
    # A name without a segment may yet own frames, on a disk that has lied: its stretch counts as used.
    top = max([succession.limit, *(name.base + segment_bytes for name in names)])
    believed = _could_be_true(mark, top + _MISSING_SEGMENTS_MAX * segment_bytes if names else _MARK_MAX)
    tail = _Tail(disk, folder, succession, succession.end_below(mark) if believed else 0)
    tail.walk()
    if not believed and mark > tail.end:
        tail.damage.append(Damage(tail.end, mark))
    return Recovered(
        names=names,
        succession=succession,
        durable=tail.end,
        chain=tail.chain(tail.end),
        unanswered_from=min(tail.proven, tail.end),
        unproven=Unproven(disk, folder, tail.unproven()),
        generation=max((name.generation for name in names), default=0),
        next_base=align(max(tail.end, top)),
        torn_bytes=tail.torn_bytes,
        damage=tuple(tail.damage),
        disbelieved_mark=None if believed else mark,
    )


def _could_be_true(mark: int, most: int) -> bool:
    return mark <= most and mark % SECTOR_BYTES == 0


class _Tail:
    """The walk from what is known to the end of the log."""

    def __init__(self, disk: Disk, folder: str, succession: Succession, mark: int) -> None:
        self._disk = disk
        self._folder = folder
        self._succession = succession
        self._mark = mark
        synced = max((segment.synced for segment in succession.segments), default=0)
        self.proven = max(mark, synced)
        """Everything below was durable, says the mark, a header or a later batch."""
        self.end = mark if mark > synced and self._ends_a_batch(mark) else synced
        self.torn_bytes = 0
        self.damage: list[Damage] = []
        self._batches: list[tuple[Segment, int, int]] = []

    def walk(self) -> None:
        segments = self._succession.segments
        for index in range(max(0, self._succession.locate(self.end)), len(segments)):
            if not self._walk_segment(index):
                break
        if self.end < self._mark:
            self.damage.append(Damage(self.end, self._mark))
            self.end = self._mark

    def _ends_a_batch(self, mark: int) -> bool:
        if any(segment.previous_end == mark for segment in self._succession.segments):
            return True
        last = self._last_batch(self._succession.locate(mark - 1), mark)
        return last is not None and last.end == mark

    def _last_batch(self, index: int, stop: int) -> BatchHead | None:
        """The last batch of a segment that ends at or before `stop`."""
        if index < 0:
            return None
        segment = self._succession.segments[index]
        file = self._disk.open(f"{self._folder}/{segment.name}")
        try:
            scan = SegmentScan(file, segment.generation, segment.base)
            return scan.last_batch(segment.first, min(stop, self._succession.ends[index]))
        finally:
            file.close()

    def chain(self, end: int) -> bytes:
        """The chain behind the last batch that ends at or before `end`, as far as it can be read."""
        for index in range(len(self._succession.segments) - 1, -1, -1):
            segment = self._succession.segments[index]
            if segment.first < end and (last := self._last_batch(index, end)):
                return last.link.after if last.link else GENESIS
            if segment.previous_end <= end and not segment.damaged:
                return segment.chain
        return GENESIS

    def _walk_segment(self, index: int) -> bool:
        """False where the log ends in this segment."""
        segment = self._succession.segments[index]
        stop = self._succession.ends[index]
        lsn = max(self.end, segment.first)
        if lsn >= stop:
            return True
        if self.end < segment.previous_end and not self._bridge(index):
            return False
        file = self._disk.open(f"{self._folder}/{segment.name}")
        try:
            scan = SegmentScan(file, segment.generation, segment.base)
            while lsn < stop:
                if head := scan.batch(lsn, stop):
                    self._batches.append((segment, lsn, head.end))
                    self.proven = max(self.proven, head.synced)
                    self.end = lsn = head.end
                    continue
                later = self._later(scan, lsn, index)
                if not self._vouched(lsn, later):
                    first = scan.head(lsn)
                    self.torn_bytes = sum(h.end - h.lsn for h in ([first] if first else []) + later)
                    return False
                behind = [self._mark, *(head.lsn for head in later)]
                resume = min([place for place in behind if lsn < place < stop], default=stop)
                if resume == segment.limit < self._mark and index + 1 == len(self._succession.segments):
                    # The mark speaks of files that are gone; where this one was left for them, nobody knows.
                    return False
                for damage in scan.walk(lsn, resume):
                    if isinstance(damage, Damage):
                        self.damage.append(damage)
                        self._set_aside(scan, damage)
                self._batches.append((segment, lsn, resume))
                self.end = lsn = resume
            return True
        finally:
            file.close()

    def _vouched(self, lsn: int, later: list[BatchHead]) -> bool:
        """Whether what cannot be read at a place was on stable storage."""
        return self._mark > lsn or any(head.synced > lsn for head in later)

    def _bridge(self, index: int) -> bool:
        """A segment is missing before this one: damage if a batch vouches for it, else part of a tear."""
        segment = self._succession.segments[index]
        later = self._heads(index)
        if not self._vouched(self.end, later):
            self.torn_bytes = sum(head.end - head.lsn for head in later)
            return False
        self.damage.append(Damage(self.end, segment.first))
        return True

    def _later(self, scan: SegmentScan, lsn: int, index: int) -> list[BatchHead]:
        """Heads of all batches behind a bad one, in its segment and in those that follow."""
        return _heads(scan, lsn + 1, self._succession.segments[index].limit) + self._heads(index + 1)

    def _heads(self, index: int) -> list[BatchHead]:
        """Heads of all batches in a segment and in those that follow."""
        heads = []
        for segment in self._succession.segments[index:]:
            file = self._disk.open(f"{self._folder}/{segment.name}")
            try:
                rest = SegmentScan(file, segment.generation, segment.base)
                heads += _heads(rest, segment.first, segment.limit)
            finally:
                file.close()
        return heads

    def _set_aside(self, scan: SegmentScan, damage: Damage) -> None:
        """Copy a damaged range into a file of its own; the alarm is raised whether that works or not."""
        name = f"{self._folder}/{damage.start:016x}-{damage.resume:016x}{DAMAGED_SUFFIX}"
        try:
            copy = self._disk.open(name, create=True)
        except OSError:
            return
        try:
            for lsn in range(damage.start, damage.resume, _CHUNK_BYTES):
                size_bytes = min(_CHUNK_BYTES, damage.resume - lsn)
                data, offset = scan.read(lsn, size_bytes)
                copy.write_at(lsn - damage.start, [data[offset : offset + size_bytes]])
            copy.sync()
        except OSError:
            pass
        finally:
            copy.close()

    def unproven(self) -> list[Image]:
        """Every batch that nothing vouches for, byte by byte."""
        return [
            image
            for segment, lsn, end in self._batches
            if end > self.proven
            for image in images(self._disk, self._folder, segment, lsn, end)
        ]


def _heads(scan: SegmentScan, start: int, stop: int) -> list[BatchHead]:
    heads = []
    lsn = start
    while head := scan.next_batch(lsn, stop):
        heads.append(head)
        lsn = max(head.end, lsn + 1)
    return heads
