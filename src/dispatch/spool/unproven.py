"""The tail of a log that was complete and that nothing vouched for, on its way to stable storage.

It is held in memory, as it was read before anything was synced: if an earlier process saw its fdatasync fail,
the pages are clean without being on the disk, and a bare second fdatasync would lie; after one that fails now
they may hold what was there before. So it is written once more in its place and then synced, and where that
fails, a copy of the whole segment takes the file's place and name: other blocks of the disk, the same LSNs.

Traps: no record may move to another LSN. Where a power cut set the mark back it was read and tried long ago,
and in another place it would be taken up a second time. And what cannot be placed must not be forgotten: the
ledger's tail says what was tried, and the file may have lost it by now. So the log asks again until the disk
takes it (`log`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dispatch.ports import Disk, File
from dispatch.spool.segments import Segment

COPY_SUFFIX = ".copy"
_CHUNK_BYTES = 1 << 20


class Image(NamedTuple):
    """Bytes that belong into a segment. The rest of its file is proven, or means nothing."""

    segment: Segment
    lsn: int
    data: bytes


def images(disk: Disk, folder: str, segment: Segment, start: int, end: int) -> list[Image]:
    """What a segment holds there now. Raises `OSError`."""
    file = disk.open(f"{folder}/{segment.name}")
    try:
        return [
            Image(segment, lsn, file.read_at(lsn - segment.base, min(_CHUNK_BYTES, end - lsn)))
            for lsn in range(start, end, _CHUNK_BYTES)
        ]
    finally:
        file.close()


class Unproven:
    """The tail, and the folder's names, until they are on stable storage."""

    def __init__(self, disk: Disk, folder: str, tail: list[Image]) -> None:
        self._disk = disk
        self._folder = folder
        self._tail = tail
        self._placed = False
        self.copied_segments = 0
        """Those whose tail the disk did not take where it stood."""

    def place(self, doubted: Callable[[], None]) -> None:
        """See to it that everything is on stable storage. Raises `OSError`; then ask again.

        `doubted` is called as soon as the files may have lost it: this process may die before it has copied.
        """
        if self._placed:
            return
        try:
            self._rewrite()
            self._disk.sync_folder(self._folder)
        except OSError:
            doubted()
            segments = {image.segment for image in self._tail}
            for segment in segments:
                self._replace(segment)
            self._disk.sync_folder(self._folder)
            self.copied_segments = len(segments)
        self._tail = []
        self._placed = True

    def _path(self, segment: Segment) -> str:
        return f"{self._folder}/{segment.name}"

    def _rewrite(self) -> None:
        files: dict[str, File] = {}
        try:
            for segment, lsn, data in self._tail:
                path = self._path(segment)
                if path not in files:
                    files[path] = self._disk.open(path)
                files[path].write_at(lsn - segment.base, [data])
            for file in files.values():
                file.sync()
        finally:
            for file in files.values():
                file.close()

    def _replace(self, segment: Segment) -> None:
        """Give a segment a file of other blocks. Readers that hold the old one open look again (`reader`)."""
        path = self._path(segment)
        original = self._disk.open(path)
        try:
            copy = self._empty(path + COPY_SUFFIX)
            try:
                # A place that cannot be read now is not zeros: that raises.
                for at in range(0, original.size(), _CHUNK_BYTES):
                    copy.write_at(at, [original.read_at(at, _CHUNK_BYTES)])
                for image in self._tail:
                    if image.segment == segment:
                        copy.write_at(image.lsn - segment.base, [image.data])
                copy.sync()
            finally:
                copy.close()
        finally:
            original.close()
        self._disk.rename(path + COPY_SUFFIX, path)

    def _empty(self, path: str) -> File:
        """A new file; what an earlier try left of one goes."""
        try:
            return self._disk.open(path, create=True)
        except FileExistsError:
            file = self._disk.open(path)
            try:
                file.truncate(0)
            except OSError:
                file.close()
                raise
            return file
