"""A SQLite file system that can be told that there is no space left.

It passes everything else on to the machine's own, but for shared memory, which it does not have: a
database that opens on it keeps its WAL index on the heap, as it must on a simulated disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw


class FullDisk(apsw.VFS):
    """Register it by making it; `name` is what `vfs` parameters take."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.writes_left: int | None = None
        """None: there is space."""
        super().__init__(name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _File(self, name, flags)

    @contextmanager
    def full_after(self, writes: int) -> Iterator[None]:
        self.writes_left = writes
        try:
            yield
        finally:
            self.writes_left = None


class _File(apsw.VFSFile):
    def __init__(self, disk: FullDisk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._disk = disk
        super().__init__("", name, flags)  # type: ignore[arg-type]  # the stub knows no unnamed files

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._disk.writes_left is not None:
            if self._disk.writes_left == 0:
                raise apsw.FullError("no space left on this disk")
            self._disk.writes_left -= 1
        super().xWrite(data, offset)
