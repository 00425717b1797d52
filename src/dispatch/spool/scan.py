"""Looking through one segment file: is this a batch, is this a frame, where does it go on after damage.

For recovery, verification and export, which must read what nobody vouches for. Places that the disk
refuses to read count as zeros: nothing verifies there. The hot path of readers is `spool.reader`, which
comes here only when something is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dispatch.ports import File
from dispatch.spool.frames import (
    BATCH_FRAME_BYTES,
    CHAINED_FRAME_BYTES,
    FRAME_BYTES,
    LAST,
    SECTOR_BYTES,
    BatchHead,
    Frame,
    align,
    check_batch,
    check_link,
    find_magic,
    read_batch_head,
    read_frame,
    unpack_frame,
)

_WINDOW_BYTES = 1 << 20
_BACKWARD_BYTES_MIN = 64 << 10
_PAGE_BYTES = 4096


class Found(NamedTuple):
    """A frame that verifies."""

    lsn: int
    frame: Frame


class Damage(NamedTuple):
    """Bytes in which nothing verifies."""

    start: int
    resume: int


class SegmentScan:
    """One segment file through a window of a megabyte. Places are LSNs."""

    def __init__(self, file: File, generation: int, base: int) -> None:
        self._file = file
        self._generation = generation
        self._base = base
        self._window = b""
        self._window_lsn = 0

    def read(self, lsn: int, size_bytes: int) -> tuple[bytes, int]:
        """Data that holds the range (as far as the file goes), and the range's offset in it."""
        offset = lsn - self._window_lsn
        if offset < 0 or offset + size_bytes > len(self._window):
            self._window = self._read_file(lsn - self._base, max(size_bytes, _WINDOW_BYTES))
            self._window_lsn = lsn
            offset = 0
        return self._window, offset

    def _read_file(self, at: int, size_bytes: int) -> bytes:
        try:
            return self._file.read_at(at, size_bytes)
        except OSError:
            pages = []
            for page_at in range(at, min(at + size_bytes, self._file.size()), _PAGE_BYTES):
                wanted = min(_PAGE_BYTES, at + size_bytes - page_at)
                try:
                    pages.append(self._file.read_at(page_at, wanted))
                except OSError:
                    pages.append(bytes(wanted))
            return b"".join(pages)

    def frame(self, lsn: int, stop: int) -> Frame | None:
        """The frame at a place, if it verifies and does not reach over `stop`."""
        if lsn + FRAME_BYTES > stop:
            return None
        data, offset = self.read(lsn, FRAME_BYTES)
        if len(data) - offset < FRAME_BYTES:
            return None
        size_bytes = FRAME_BYTES + unpack_frame(data, offset)[1]
        if lsn + size_bytes > stop:
            return None
        data, offset = self.read(lsn, size_bytes)
        return read_frame(data, offset, lsn=lsn, generation=self._generation)

    def head(self, lsn: int) -> BatchHead | None:
        """The head of the batch at a place; what it announces is not checked."""
        data, offset = self.read(lsn, CHAINED_FRAME_BYTES)
        return read_batch_head(data, offset, lsn=lsn, generation=self._generation)

    def batch(self, lsn: int, stop: int) -> BatchHead | None:
        """The batch at a place, if all of it verifies and ends at or before `stop`."""
        head = self.head(lsn)
        if head is None or head.end > stop:
            return None
        return head if check_batch(self._whole(head), head, generation=self._generation) else None

    def linked(self, head: BatchHead) -> bool:
        """Whether the batch gives the chain that its head claims; then all of it is as it was written."""
        return check_link(self._whole(head), head, generation=self._generation)

    def _whole(self, head: BatchHead) -> bytes:
        size_bytes = head.frames_end - head.lsn
        data, offset = self.read(head.lsn, size_bytes)
        return data if offset == 0 else data[offset : offset + size_bytes]

    def next_batch(self, start: int, stop: int) -> BatchHead | None:
        """The first batch at or behind `start` whose head verifies."""
        lsn = align(start)
        while lsn < stop:
            data, offset = self.read(lsn, BATCH_FRAME_BYTES)
            window_lsn = lsn - offset
            found = find_magic(data, window_lsn, offset)
            if found >= 0:
                lsn = window_lsn + found
                if lsn < stop and (head := self.head(lsn)):
                    return head
                lsn += SECTOR_BYTES
                continue
            window_end = window_lsn + len(data)
            if window_end >= self._base + self._file.size():
                return None
            # A head may straddle the window's end: look at the last sector again, in the next window.
            lsn = max(align(window_end - SECTOR_BYTES), lsn + SECTOR_BYTES)
        return None

    def last_batch(self, start: int, stop: int) -> BatchHead | None:
        """The last batch at or behind `start` that ends at or before `stop`; only its head is checked.

        Looks backwards, a growing piece at a time: what is looked for is most often near.
        """
        size_bytes = _BACKWARD_BYTES_MIN
        upper = stop
        while upper > start:
            lower = max(start, (upper - size_bytes) & -SECTOR_BYTES)
            data = self._read_file(lower - self._base, upper - lower)
            last = None
            offset = -1
            while (offset := find_magic(data, lower, offset + 1)) >= 0:
                head = read_batch_head(data, offset, lsn=lower + offset, generation=self._generation)
                if head is not None and head.end <= stop:
                    last = head
            if last is not None:
                return last
            upper = lower
            size_bytes = min(2 * size_bytes, _WINDOW_BYTES)
        return None

    def resume(self, bad: int, stop: int) -> int:
        """Where frames verify again behind a bad one; `stop` if nowhere before it."""
        data, offset = self.read(bad, FRAME_BYTES)
        behind = []
        if len(data) - offset >= FRAME_BYTES:
            # One flipped bit costs one record: the frame's own length still leads to its neighbour.
            _, length, kind = unpack_frame(data, offset)
            next_ = bad + FRAME_BYTES + length
            behind.append(align(next_) if kind == LAST else next_)
        behind += [bad + BATCH_FRAME_BYTES, bad + CHAINED_FRAME_BYTES]
        for lsn in behind:
            if lsn < stop and self.frame(lsn, stop):
                return lsn
        head = self.next_batch(bad + 1, stop)
        return head.lsn if head else stop

    def walk(self, start: int, stop: int) -> Iterator[Found | Damage]:
        """Everything from `start`, which is the place of a frame, to `stop`, without a gap."""
        lsn = start
        while lsn < stop:
            frame = self.frame(lsn, stop)
            if frame is not None:
                yield Found(lsn, frame)
                lsn = frame.next
            else:
                resume = self.resume(lsn, stop)
                yield Damage(lsn, resume)
                lsn = resume
