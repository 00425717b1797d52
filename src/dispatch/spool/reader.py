"""A reading end of a log of segment files, in the writer's process or in any other.

It knows nothing but the files and the mark. The mark is asked at every read; the names only when it lies
above all places of the segments that are known: the writer has opened another one then. Every start of the
writer opens one and moves the mark into it, so what a header says of the records before it (where they end,
which are unanswered) is known before the mark lets them be read. First the mark is loaded, then the names:
in that order, whatever the mark vouches for lies in files whose names are seen. Headers are read when
the names change, and records with one large read each for many of them.

A released segment may be recycled while it is known, or being read. Its file is not found then, or its frames
stop to verify; but its name is gone as well, which tells this from damage. While nothing of it was
overwritten its records may still be read: they are what they were.
"""

from __future__ import annotations

from zlib import crc32

from dispatch.ports import Disk, Entry, File, Lsn, Mark
from dispatch.spool.faults import CorruptError, ReleasedError
from dispatch.spool.frames import BATCH, FRAME_BYTES, LAST, align, pack_seal, unpack_frame
from dispatch.spool.scan import SegmentScan
from dispatch.spool.segments import Segment, Succession, read_succession, segment_names

_READ_BYTES_MIN = 64 << 10


class SegmentReader:
    """`ports.LogReader` over segment files. Keeps one file open; `close` lets go of it."""

    def __init__(self, disk: Disk, folder: str, *, mark: Mark) -> None:
        self._disk = disk
        self._folder = folder
        self._mark = mark
        self._vouched = Lsn(0)
        self._names: list[str] = []
        self._succession = Succession([])
        self._file: File | None = None
        self._file_name = ""

    # ------------------------------------------------------------ the port

    @property
    def durable(self) -> Lsn:
        return Lsn(self._succession.end_below(self._readable()))

    @property
    def oldest(self) -> Lsn:
        self._look()
        return Lsn(self._succession.first) if self._succession.segments else self.durable

    def read(self, cursor: Lsn, size_bytes_max: int) -> list[Entry]:
        """As the port says; raises `OSError` too, where the disk does not let a segment be read."""
        durable = self._readable()
        if cursor >= durable:
            return []
        if durable > self._succession.limit:
            self._look()
        lsn = self._enter(cursor)
        while lsn < durable:
            index = self._succession.locate(lsn)
            segment = self._succession.segments[index]
            end = self._succession.ends[index]
            lsn = max(lsn, segment.first)
            if lsn < end:
                try:
                    entries, lsn = self._read_segment(segment, lsn, min(end, durable), size_bytes_max)
                except FileNotFoundError:
                    return self._read_anew(cursor, size_bytes_max)
                if entries:
                    return entries
                if lsn < min(end, durable):
                    if self._recycled(segment) or self._replaced(segment, lsn, min(end, durable)):
                        return self._read_anew(cursor, size_bytes_max)
                    raise self._corrupt(segment, lsn, min(end, durable))
            if lsn >= end:
                lsn = self._next_segment(index, lsn, durable)
        return []

    def vouch(self, below: Lsn) -> None:
        self._vouched = max(self._vouched, below)

    def _readable(self) -> int:
        return max(self._mark.load(), self._vouched)

    # ------------------------------------------------------------ beyond the port

    def last(self, size_bytes: int) -> Lsn:
        """Where to begin to read at least the last so many bytes, or all that is kept."""
        oldest, wanted = self.oldest, self.durable - size_bytes
        return Lsn(max([oldest, *(s.first for s in self._succession.segments if s.first <= wanted)]))

    def unanswered(self, lsn: Lsn) -> bool:
        """Whether the record's client may never have seen our answer. For records that were read."""
        return self._succession.unanswered(lsn)

    def incarnation(self, cursor: Lsn) -> int:
        """The latest start of the writer before which everything lies below the cursor; 0 if unknown.

        What an earlier incarnation wrote, and no record below the cursor names, no record ever will.
        """
        self._look()
        return max((s.incarnation for s in self._succession.segments if s.previous_end <= cursor), default=0)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    # ------------------------------------------------------------ the segments

    def _look(self) -> None:
        names = self._disk.names(self._folder)
        if names != self._names:
            self._succession = read_succession(
                self._disk, self._folder, segment_names(names), self._succession
            )
            self._names = names

    def _enter(self, cursor: Lsn) -> int:
        """Where to begin: the cursor, or the oldest record if what lies between never held any."""
        segments = self._succession.segments
        if not segments:
            raise ReleasedError(cursor, self.durable)
        if cursor < self._succession.start:
            raise ReleasedError(cursor, Lsn(self._succession.first))
        return max(cursor, segments[0].first)

    def _next_segment(self, index: int, lsn: int, durable: int) -> int:
        """The first place of the segment that follows; the mark if none does."""
        for segment, end in zip(
            self._succession.segments[index + 1 :], self._succession.ends[index + 1 :], strict=True
        ):
            if end > segment.first:
                if segment.previous_end > max(lsn, self._succession.ends[index]):
                    raise CorruptError(Lsn(lsn), Lsn(segment.first), segment.name)
                return segment.first
        return durable

    def _read_anew(self, cursor: Lsn, size_bytes_max: int) -> list[Entry]:
        self.close()
        self._file_name = ""
        self._names = []
        self._look()
        return self.read(cursor, size_bytes_max)

    # ------------------------------------------------------------ one segment

    def _open(self, segment: Segment) -> File:
        name = segment.name
        if self._file is None or self._file_name != name:
            self.close()
            self._file = self._disk.open(f"{self._folder}/{name}")
            self._file_name = name
        return self._file

    def _read_segment(
        self, segment: Segment, lsn: int, stop: int, size_bytes_max: int
    ) -> tuple[list[Entry], int]:
        """Records from the frame at `lsn` on, and where that ended: at the stop, the size or a bad frame."""
        file = self._open(segment)
        generation = segment.generation
        wanted = min(max(size_bytes_max, _READ_BYTES_MIN), stop - lsn)
        data = file.read_at(lsn - segment.base, wanted)
        entries: list[Entry] = []
        at = 0
        taken_bytes = 0
        while lsn < stop:
            start = at + FRAME_BYTES
            if start <= len(data):
                checksum, length, kind = unpack_frame(data, at)
            if start > len(data) or start + length > len(data):
                needed = FRAME_BYTES if start > len(data) else FRAME_BYTES + length
                if entries or lsn + needed > stop or len(data) < wanted:
                    return entries, lsn
                # One record larger than a block: read all of it.
                wanted = min(max(needed, _READ_BYTES_MIN), stop - lsn)
                data, at = file.read_at(lsn - segment.base, wanted), 0
                continue
            payload = data[start : start + length]
            if crc32(payload, crc32(pack_seal(generation, lsn, length, kind))) != checksum:
                return entries, lsn
            next_ = lsn + FRAME_BYTES + length
            if kind == LAST:
                next_ = align(next_)
            if kind != BATCH:
                entries.append(Entry(Lsn(lsn), Lsn(next_), payload))
                taken_bytes += length
            at += next_ - lsn
            lsn = next_
            if taken_bytes >= size_bytes_max:
                break
        return entries, lsn

    def _recycled(self, segment: Segment) -> bool:
        """A segment loses its name before a byte of it may change."""
        return segment.name not in self._disk.names(self._folder)

    def _replaced(self, segment: Segment, lsn: int, stop: int) -> bool:
        """A start of the writer may have put a copy in the place of the file that is open (`recovery`)."""
        self.close()
        return bool(self._read_segment(segment, lsn, stop, 1)[0])

    def _corrupt(self, segment: Segment, lsn: int, stop: int) -> CorruptError:
        scan = SegmentScan(self._open(segment), segment.generation, segment.base)
        return CorruptError(Lsn(lsn), Lsn(scan.resume(lsn, stop)), segment.name)
