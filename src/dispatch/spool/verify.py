"""Reading a log without trusting it: `dispatch spool verify` and `dispatch spool export`.

Both work on the files alone, beside a running writer or on a copied folder, change nothing, and stop at
nothing. They see the newest segment up to its last whole batch, which may be a moment more than what was
answered for; what the durable mark says beyond that is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from dispatch.ports import Disk, Entry, Lsn
from dispatch.spool.frames import BATCH
from dispatch.spool.scan import Damage, Found, SegmentScan
from dispatch.spool.segments import Segment, SegmentName, Succession, read_succession, segment_names


class SegmentState(StrEnum):
    OK = "ok"
    TORN = "torn"
    """Bytes of batches behind the end of the log: cut off, and nothing that was answered for."""
    CORRUPT = "corrupt"
    """A range, or the header, that was on stable storage does not verify."""
    STALE = "stale"
    """Never came to be, or is cut off entirely by a later one."""


class SegmentReport(NamedTuple):
    name: str
    base: Lsn
    end: Lsn
    """Behind the last record that counts."""
    batches: int
    records: int
    payload_bytes: int
    state: SegmentState
    damage: tuple[Damage, ...] = ()


class VerifyReport(NamedTuple):
    segments: tuple[SegmentReport, ...]
    """Oldest first."""
    missing: Damage | None = None
    """What was on stable storage, says the mark, and is gone from the log's end."""

    @property
    def records(self) -> int:
        return sum(segment.records for segment in self.segments)

    @property
    def sound(self) -> bool:
        """Nothing that was on stable storage is damaged."""
        return self.missing is None and all(
            segment.state is not SegmentState.CORRUPT for segment in self.segments
        )


def verify_log(disk: Disk, folder: str, mark: int = 0) -> VerifyReport:
    """Check every checksum of a log. Reads all of it; raises `OSError` if a file cannot be opened.

    `mark`: the durable mark, loaded before. That of a writer that runs moves on; the log is never behind it.
    """
    names = segment_names(disk.names(folder))
    succession = read_succession(disk, folder, names)
    places = {segment.base: index for index, segment in enumerate(succession.segments)}
    reports = []
    for name in names:
        index = places.get(name.base)
        if index is None:
            reports.append(_never_was(name))
        else:
            try:
                reports.append(_verify_segment(disk, folder, succession, index))
            except FileNotFoundError:
                continue  # Released while we read.
    end = max((report.end for report in reports), default=Lsn(0))
    durable = succession.end_below(mark)
    return VerifyReport(tuple(reports), Damage(end, durable) if end < durable else None)


def iterate(disk: Disk, folder: str, from_lsn: int = 0) -> Iterator[Entry | Damage]:
    """Every readable record from a cursor on, in order; damage is told of where it stands, and passed."""
    succession = read_succession(disk, folder, segment_names(disk.names(folder)))
    start = max(0, succession.locate(from_lsn))
    for index in range(start, len(succession.segments)):
        segment = succession.segments[index]
        try:
            file = disk.open(f"{folder}/{segment.name}")
        except FileNotFoundError:
            continue
        try:
            scan = SegmentScan(file, segment.generation, segment.base)
            for piece in _pieces(scan, succession, index, max(from_lsn, segment.first)):
                match piece:
                    case Found(lsn, frame) if frame.kind != BATCH:
                        yield Entry(Lsn(lsn), Lsn(frame.next), frame.payload)
                    case Damage():
                        yield piece
        finally:
            file.close()


def _pieces(scan: SegmentScan, succession: Succession, index: int, start: int) -> Iterator[Found | Damage]:
    """Walk a segment to its end; in the newest one, to its last whole batch or the last damage before it."""
    segment = succession.segments[index]
    stop = succession.ends[index]
    if index + 1 == len(succession.segments):
        stop = _last_batch_end(scan, segment)
    yield from scan.walk(start, stop)


def _last_batch_end(scan: SegmentScan, segment: Segment) -> int:
    """Where the newest segment ends: behind its last whole batch, or the last that is vouched for."""
    end = lsn = segment.first
    while head := scan.next_batch(lsn, segment.limit):
        whole = scan.batch(head.lsn, segment.limit)
        # One that does not follow on the batch before counts if it vouches for what lies between.
        if whole and (head.lsn == end or head.synced > end):
            end = head.end
        lsn = max(head.end, head.lsn + 1) if whole else head.lsn + 1
    return end


def _never_was(name: SegmentName) -> SegmentReport:
    return SegmentReport(str(name), Lsn(name.base), Lsn(name.base), 0, 0, 0, SegmentState.STALE)


def _verify_segment(disk: Disk, folder: str, succession: Succession, index: int) -> SegmentReport:
    segment = succession.segments[index]
    newest = index + 1 == len(succession.segments)
    if succession.ends[index] <= segment.first and not newest:
        return _never_was(SegmentName(segment.generation, segment.base))
    file = disk.open(f"{folder}/{segment.name}")
    try:
        scan = SegmentScan(file, segment.generation, segment.base)
        batches = records = payload_bytes = 0
        end = segment.first
        damage = []
        for piece in _pieces(scan, succession, index, segment.first):
            match piece:
                case Damage():
                    damage.append(piece)
                case Found(_, frame) if frame.kind == BATCH:
                    batches += 1
                case Found(_, frame):
                    records += 1
                    payload_bytes += len(frame.payload)
                    end = frame.next
        torn = scan.next_batch(max(end, *(d.resume for d in damage), segment.first), segment.limit)
        state = SegmentState.TORN if torn else SegmentState.OK
        if damage or segment.damaged:
            state = SegmentState.CORRUPT
        return SegmentReport(
            segment.name, Lsn(segment.base), Lsn(end), batches, records, payload_bytes, state, tuple(damage)
        )
    finally:
        file.close()
