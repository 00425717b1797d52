"""A simulated disk: files as the kernel shows them, and what would be left of them after a power cut.

`SimulatedDisk` is the hardware; each process has its own `SimulatedProcess`, which is a `ports.Disk` and
gives out `ports.File`s. They promise the least that a real machine does:

- What is written is seen by every reader at once. A power cut leaves each sector of 512 bytes that was
  written since the last good `sync` in any of its versions since then, each sector for itself, in no order.
- A file's length is no better off than its content.
- Creations, renames and removals last after `sync_folder` of their folder. Before, each may be
  lost for itself, but not one that builds on a lost one.
- A `sync` that fails has put any of the sectors on the platter and thrown the others away: their
  pages count as clean, may read back either way, and the next `sync` says yes without writing them.
- A write that fails has written any sectors of a true prefix. A full disk fails writes that need new room.
- A process that is killed loses nothing that it had written. Its open files become unusable, as all files
  do in a power cut, so that nothing of an old process can go on by mistake. Folders are always there.

Faults come from `fault`, asked before every operation with its name and path; it may return an
`OSError` to raise, or raise `Crash` itself. All chance comes from one `Random`: a seed is a disk.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from random import Random
from typing import Literal

Buffer = bytes | bytearray | memoryview

SECTOR_BYTES = 512

Operation = Literal[
    "open",
    "create",
    "read",
    "write",
    "sync",
    "truncate",
    "rename",
    "remove",
    "names",
    "sync_folder",
    "free_bytes",
]
Fault = Callable[[Operation, str], OSError | None]


class Crash(BaseException):
    """The process ends here and now. Not an `Exception`: no code under test may survive it."""


def io_error() -> OSError:
    return OSError(errno.EIO, "Input/output error (simulated)")


def disk_full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device (simulated)")


class Inode:
    """One file: the page cache's view, the platter's, and what lies between them."""

    def __init__(self, path: str) -> None:
        self.path = path
        """Its latest name."""
        self.cache = bytearray()
        self.platter = bytearray()
        self.lengths: list[int] = []
        """Lengths since the last good sync."""
        self._versions: dict[int, list[bytes]] = {}
        """Sector number to what it held since the last good sync, the newest last, but for `_writes`."""
        self._writes: list[tuple[int, bytes, bytearray, int]] = []
        """Writes since then that are not in `_versions`: offset, data, what they replaced, length before.

        Most writes are synced before anybody asks for versions, which cost more than all else."""
        self._shortest: int | None = None
        """To which length it was truncated since the last good sync."""

    def write(self, offset: int, data: bytes) -> None:
        cache = self.cache
        length = len(cache)
        end = offset + len(data)
        self._writes.append((offset, data, cache[offset:end], length))
        if offset > length:
            cache.extend(bytes(offset - length))
        cache[offset:end] = data
        self.lengths.append(len(cache))

    def truncate(self, size_bytes: int) -> None:
        if size_bytes != len(self.cache):
            self._note_versions()
            self._resize(self.cache, size_bytes)
        self.lengths.append(size_bytes)
        self._shortest = size_bytes if self._shortest is None else min(self._shortest, size_bytes)

    def sync(self) -> None:
        if self._shortest is not None:
            del self.platter[self._shortest :]
        for sector in self._versions:
            self._put(self.platter, sector * SECTOR_BYTES, self._cached(sector))
        start = end = 0
        for offset, data, _, _ in self._writes:
            if offset != end:
                self._sync_range(start, end)
                start = offset
            end = offset + len(data)
        self._sync_range(start, end)
        self._resize(self.platter, len(self.cache))
        self._forget()

    def _sync_range(self, start: int, end: int) -> None:
        """Whole sectors go to the platter, never a part of one."""
        if start < end:
            first = start // SECTOR_BYTES * SECTOR_BYTES
            behind = -(-end // SECTOR_BYTES) * SECTOR_BYTES
            self._put(self.platter, first, self.cache[first:behind])

    def sync_badly(self, chance: Random) -> None:
        """Some sectors reach the platter, some of the others are forgotten by the cache as well."""
        self._note_versions()
        length = len(self.cache)
        # Most kernels forget nothing until they need the memory.
        forgotten = chance.choice((0, 0.5))
        for sector in list(self._versions):
            start = sector * SECTOR_BYTES
            if chance.random() < 0.5:
                self._put(self.platter, start, self._cached(sector))
            elif chance.random() < forgotten:
                held = bytes(self.platter[start : start + SECTOR_BYTES])
                self._put(self.cache, start, held.ljust(SECTOR_BYTES, b"\0"))
        self._resize(self.platter, max(len(self.platter), length))
        self._resize(self.cache, length)
        self._forget()

    def rot(self, offset: int, data: bytes) -> None:
        assert offset + len(data) <= len(self.cache), "rot beyond the file's end"
        self._note_versions()
        self.cache[offset : offset + len(data)] = data
        for sector in range(offset // SECTOR_BYTES, -(-(offset + len(data)) // SECTOR_BYTES)):
            if sector in self._versions:
                self._versions[sector] = [self._cached(sector)]
            else:
                self._put(self.platter, sector * SECTOR_BYTES, self._cached(sector))

    def lose_power(self, chance: Random) -> None:
        self._note_versions()
        length = chance.choice([len(self.platter), *self.lengths])
        for sector, versions in self._versions.items():
            kept = chance.randrange(len(versions) + 1)
            if kept:
                self._put(self.platter, sector * SECTOR_BYTES, versions[kept - 1])
        self._resize(self.platter, length)
        self.cache = bytearray(self.platter)
        self._forget()

    def _note_versions(self) -> None:
        """Undo the writes that are not noted, then do them again and look at each sector."""
        cache = self.cache
        for offset, _, held, length in reversed(self._writes):
            cache[offset : offset + len(held)] = held
            del cache[length:]
        for offset, data, _, _ in self._writes:
            self._put(cache, offset, data)
            for sector in range(offset // SECTOR_BYTES, -(-(offset + len(data)) // SECTOR_BYTES)):
                self._versions.setdefault(sector, []).append(self._cached(sector))
        self._writes.clear()

    def _forget(self) -> None:
        self._versions.clear()
        self._writes.clear()
        self.lengths.clear()
        self._shortest = None

    def _cached(self, sector: int) -> bytes:
        return bytes(self.cache[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES])

    @staticmethod
    def _put(where: bytearray, start: int, data: Buffer) -> None:
        if start > len(where):
            where.extend(bytes(start - len(where)))
        where[start : start + len(data)] = data

    @staticmethod
    def _resize(where: bytearray, length: int) -> None:
        if length < len(where):
            del where[length:]
        else:
            where.extend(bytes(length - len(where)))


class _Change:
    """A creation, rename or removal that no folder sync has covered."""

    def __init__(self, removed: str | None, added: str | None, inode: Inode) -> None:
        self.removed = removed
        self.added = added
        self.inode = inode

    @property
    def paths(self) -> set[str]:
        return {path for path in (self.removed, self.added) if path is not None}

    def apply(self, entries: dict[str, Inode]) -> None:
        if self.removed is not None:
            entries.pop(self.removed, None)
        if self.added is not None:
            entries[self.added] = self.inode


class SimulatedDisk:
    """The hardware, and the test's side. `capacity_bytes` is the room that all files may take."""

    def __init__(self, seed: int = 0, *, capacity_bytes: int | None = None) -> None:
        self.chance = Random(seed)
        self.capacity_bytes = capacity_bytes
        self.fault: Fault | None = None
        self.operations = 0
        """How many were done so far: crash before the N-th by a `fault` that counts."""
        self.entries: dict[str, Inode] = {}
        self._lasting: dict[str, Inode] = {}
        self._changes: list[_Change] = []
        self._processes: list[SimulatedProcess] = []

    def process(self) -> SimulatedProcess:
        process = SimulatedProcess(self)
        self._processes.append(process)
        return process

    @property
    def used_bytes(self) -> int:
        return sum(len(inode.cache) for inode in set(self.entries.values()))

    @property
    def free_bytes(self) -> int:
        return 1 << 50 if self.capacity_bytes is None else max(0, self.capacity_bytes - self.used_bytes)

    @property
    def paths(self) -> list[str]:
        return sorted(self.entries)

    def power_cut(self) -> None:
        """Only the platter is left, and on it whatever chance has put there. No process survives."""
        for process in self._processes:
            process.alive = False
        self._processes = []
        self.fault = None
        lost: set[str] = set()
        lost_inodes: set[Inode] = set()
        for change in self._changes:
            if change.paths & lost or change.inode in lost_inodes or self.chance.random() < 0.5:
                lost |= change.paths
                lost_inodes.add(change.inode)
            else:
                change.apply(self._lasting)
        self._changes = []
        self.entries = dict(self._lasting)
        for path in sorted(self.entries):
            self.entries[path].lose_power(self.chance)

    def damage(self, path: str, offset: int, data: bytes) -> None:
        """Rot: cache and platter change alike, behind everybody's back."""
        self.entries[path].rot(offset, data)

    def content(self, path: str) -> bytes:
        return bytes(self.entries[path].cache)

    # ------------------------------------------------------------ the processes' side

    def check(self, operation: Operation, path: str) -> None:
        self.operations += 1
        fault = self.fault
        if fault is not None and (error := fault(operation, path)):
            raise error

    def change(self, removed: str | None, added: str | None, inode: Inode) -> None:
        change = _Change(removed, added, inode)
        change.apply(self.entries)
        inode.path = added or inode.path
        self._changes.append(change)

    def sync_folder(self, folder: str) -> None:
        waiting = []
        for change in self._changes:
            if any(path.rpartition("/")[0] == folder for path in change.paths):
                change.apply(self._lasting)
            else:
                waiting.append(change)
        self._changes = waiting


class SimulatedProcess:
    """`ports.Disk`, as one process sees it."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self.disk = disk
        self.alive = True

    def kill(self) -> None:
        """The process dies; the page cache lives on."""
        self.alive = False

    def open(self, path: str, *, create: bool = False) -> SimulatedFile:
        self._check("create" if create else "open", path)
        if not create:
            return SimulatedFile(self, self._inode(path))
        if path in self.disk.entries:
            raise FileExistsError(errno.EEXIST, "File exists", path)
        self.disk.change(None, path, Inode(path))
        return SimulatedFile(self, self._inode(path))

    def names(self, folder: str) -> list[str]:
        self._check("names", folder)
        paths = self.disk.paths
        return [path.rpartition("/")[2] for path in paths if path.rpartition("/")[0] == folder]

    def rename(self, old: str, new: str) -> None:
        self._check("rename", old)
        self.disk.change(old, new, self._inode(old))

    def remove(self, path: str) -> None:
        self._check("remove", path)
        self.disk.change(path, None, self._inode(path))

    def sync_folder(self, folder: str) -> None:
        self._check("sync_folder", folder)
        self.disk.sync_folder(folder)

    def free_bytes(self) -> int:
        self._check("free_bytes", "")
        return self.disk.free_bytes

    def _inode(self, path: str) -> Inode:
        if path not in self.disk.entries:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return self.disk.entries[path]

    def _check(self, operation: Operation, path: str) -> None:
        assert self.alive, f"{operation} {path!r} by a process that is dead"
        self.disk.check(operation, path)


class SimulatedFile:
    """`ports.File`."""

    def __init__(self, process: SimulatedProcess, inode: Inode) -> None:
        self._process = process
        self._disk = process.disk
        self._inode = inode
        self._closed = False

    def write_at(self, offset: int, buffers: Sequence[Buffer]) -> None:
        self._usable()
        inode = self._inode
        data = b"".join(buffers) if len(buffers) != 1 else bytes(buffers[0])
        try:
            self._disk.check("write", inode.path)
            growth = offset + len(data) - len(inode.cache)
            if growth > 0 and self._disk.capacity_bytes is not None and growth > self._disk.free_bytes:
                raise disk_full()
        except (OSError, Crash):
            self._write_prefix(offset, data)
            raise
        inode.write(offset, data)

    def _write_prefix(self, offset: int, data: bytes) -> None:
        """Sectors of a true prefix, within the room there is."""
        if data:
            sectors = -(-(offset + len(data)) // SECTOR_BYTES) - offset // SECTOR_BYTES
            kept = self._disk.chance.randrange(sectors) * SECTOR_BYTES
            room = len(self._inode.cache) - offset + self._disk.free_bytes
            if prefix := data[: max(0, min(kept, room, len(data) - 1))]:
                self._inode.write(offset, prefix)

    def read_at(self, offset: int, size_bytes: int) -> bytes:
        self._usable()
        self._disk.check("read", self._inode.path)
        return bytes(self._inode.cache[offset : offset + size_bytes])

    def sync(self) -> None:
        self._usable()
        try:
            self._disk.check("sync", self._inode.path)
        except OSError:
            self._inode.sync_badly(self._disk.chance)
            raise
        self._inode.sync()

    def size(self) -> int:
        self._usable()
        return len(self._inode.cache)

    def truncate(self, size_bytes: int) -> None:
        self._usable()
        self._disk.check("truncate", self._inode.path)
        self._inode.truncate(size_bytes)

    def close(self) -> None:
        self._closed = True

    def _usable(self) -> None:
        assert not self._closed, f"{self._inode.path} used after its close"
        assert self._process.alive, f"{self._inode.path} used by a process that is dead"
