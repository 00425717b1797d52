"""Where new segments come from and released ones go: files that already own their blocks.

A commit into blocks that were written before costs half of one that grows its file, and it cannot run out
of disk. So released segments become *spares*, up to a bound. Below half of the bound the upkeep worker
writes new ones full of zeros; not below the bound itself, because a log that is read as fast as it is written
lives on its own released segments and need write no zeros at all. A log that finds no spare makes a
file that grows. The ledger's spares are the reserve that lets outcomes be recorded on a full disk.

A spare is `<number>.spare`, and full length if it is ready. It keeps whatever bytes it had: the
generation in every checksum makes them mean nothing. A segment gets its header and its first batch while it
still bears the spare's name, so it appears under its own name complete or not at all.

Ready names pass between the threads through a `deque`, whose two ends are safe to use at once.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from itertools import count

from dispatch.ports import Buffer, Disk, File
from dispatch.spool.segments import HEADER_BYTES, Segment, encode_header

SPARE_SUFFIX = ".spare"
_NAME = re.compile(r"([0-9a-f]{8,16})\.spare")
_CHUNK = bytes(1 << 20)
_ROOM_SEGMENTS = 2
"""A new spare is written only while this many would fit: it must not be what fills the disk."""


class Spares:
    """The spare files of one log. `open_segment` runs on any one thread, the rest on the upkeep worker."""

    def __init__(self, disk: Disk, folder: str, segment_bytes: int, most: int) -> None:
        assert segment_bytes % HEADER_BYTES == 0, "a segment is a whole number of pages"
        self._disk = disk
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._most = most
        self._least = (most + 1) // 2
        self._ready: deque[str] = deque()
        found = [match for name in disk.names(folder) if (match := _NAME.fullmatch(name))]
        self._numbers = count(max((int(match[1], 16) for match in found), default=0) + 1)
        self._unfinished: list[str] = []
        self._released: deque[str] = deque()
        """Segments that nobody needs, oldest first, and that are segments still."""
        for match in found:
            (self._ready if self._is_full(match[0]) else self._unfinished).append(match[0])

    @property
    def ready(self) -> int:
        return len(self._ready)

    @property
    def behind(self) -> bool:
        """Something that was released is a segment still: it is about to be recycled, or could not be."""
        return bool(self._released)

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def open_segment(self, segment: Segment, buffers: Sequence[Buffer]) -> File:
        """Turn a spare, or a new file, into this segment with a first batch. Nothing is synced.

        Raises `OSError`; then the segment does not exist.
        """
        name, file = self._take()
        try:
            file.write_at(0, [encode_header(segment), *buffers])
            self._disk.rename(self._path(name), self._path(segment.name))
        except OSError:
            file.close()
            self._discard(name)
            raise
        return file

    def _is_full(self, name: str) -> bool:
        file = self._disk.open(self._path(name))
        try:
            return file.size() == self._segment_bytes
        finally:
            file.close()

    def _take(self) -> tuple[str, File]:
        while self._ready:
            name = self._ready.popleft()
            try:
                return name, self._disk.open(self._path(name))
            except OSError:
                continue
        name = self._new_name()
        return name, self._disk.open(self._path(name), create=True)

    def _new_name(self) -> str:
        return f"{next(self._numbers):08x}{SPARE_SUFFIX}"

    def _discard(self, name: str) -> None:
        try:
            self._disk.remove(self._path(name))
        except OSError:
            # It stays as a file that nobody counts on; the next start looks at it again.
            return

    def recycle(self, segment_names: Sequence[str]) -> None:
        """Make spares of released segments, oldest first, or remove what is beyond the bound.

        Raises `OSError`. What was not reached is still a segment, and comes before all others the next time:
        a log in which an older segment stays while a later one goes would look damaged.
        """
        self._released.extend(segment_names)
        while self._released:
            spare = self._take_name_from(self._released[0])
            self._released.popleft()
            try:
                # The old name must be gone for good before its bytes may change, or the next one goes.
                self._disk.sync_folder(self._folder)
            except OSError:
                if spare is not None:
                    self._discard(spare)
                raise
            if spare is not None:
                self._complete(spare, create=False)

    def _take_name_from(self, segment_name: str) -> str | None:
        """It is no segment any more; the spare that it is now, if one is wanted."""
        try:
            if self.ready >= self._most:
                self._disk.remove(self._path(segment_name))
                return None
            spare = self._new_name()
            self._disk.rename(self._path(segment_name), self._path(spare))
        except FileNotFoundError:
            return None
        return spare

    def refill(self) -> None:
        """Write new spares until half the bound is ready, or the disk has no room to give.

        Raises `OSError`.
        """
        while self._unfinished:
            name = self._unfinished.pop()
            if self.ready < self._most:
                self._complete(name, create=False)
            else:
                self._discard(name)
        while self.ready < self._least and self._disk.free_bytes() >= _ROOM_SEGMENTS * self._segment_bytes:
            self._complete(self._new_name(), create=True)

    def _complete(self, name: str, *, create: bool) -> None:
        """Write the file up to its full length and count it as ready."""
        file = self._disk.open(self._path(name), create=create)
        try:
            at = file.size()
            if at > self._segment_bytes:
                file.truncate(self._segment_bytes)
            while at < self._segment_bytes:
                chunk = _CHUNK[: self._segment_bytes - at]
                file.write_at(at, [chunk])
                at += len(chunk)
            file.sync()
        except OSError:
            self._discard(name)
            raise
        finally:
            file.close()
        self._ready.append(name)
