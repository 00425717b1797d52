"""SQLite on the simulated disk: a file system for `apsw` whose files are those of one simulated process.

Duty: what SQLite asks for becomes an operation of `SimulatedProcess`, so that databases are torn, fill, rot
and die by the same rules as the logs beside them. It behaves as SQLite's own file system for Unix does
(`os_unix.c`), its weaknesses included:

- The folder is synced after the first sync of a journal or WAL that was opened to be made, and a failure of
  that is passed over.
- To `xAccess` an empty file does not exist. A write without room is SQLITE_FULL, a read that fails comes out
  as SQLITE_CORRUPT, everything else is an SQLITE_IOERR of its kind.

Rules:

- What the disk promises is SQLite's *powersafe overwrite*: a torn sector harms no neighbour. Nothing larger
  than a sector is atomic, nothing reaches the platter in order, a file may grow before its content is there.
- There is no shared memory: databases are opened with `exclusive=True`, and a second connection is busy.
- When the disk raises `Crash`, the process is dead: SQLite is told of an I/O error, in this call and in all
  later ones, none of which reaches the disk. The test learns it from `process.alive`. What a dead process
  has open closes quietly, also when the garbage collector does it.
- A temporary file has no name on the disk, and faults like any other.

Traps. `apsw` raises a callback's exception from the statement that was under way, even where SQLite itself
has passed the error over: a checkpoint at `close` that fails is silent on a real machine, and raises here.
SQLite has one generator of random numbers for the whole program; each `SimulatedVfs` seeds it anew when made.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

import apsw
from tests.simulation.disk import SECTOR_BYTES, Crash, Inode, SimulatedFile, SimulatedProcess

CHARACTERISTICS = apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE | apsw.SQLITE_IOCAP_SUBPAGE_READ
JOURNALS = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL
UNREADABLE = {errno.EIO, errno.ENXIO, errno.ERANGE}
"""Of a read, these mean to SQLite that the file system is corrupt."""
EPOCH_MS = 210_866_760_000_000
"""1970 as SQLite counts: in milliseconds since the beginning of the Julian period."""

_numbers = count(1)


class SimulatedVfs(apsw.VFS):
    """Registered by making it: `name` is what `vfs` parameters take, together with a path on the disk."""

    def __init__(
        self, process: SimulatedProcess, chance: Random, *, wall: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.name = f"simulated {next(_numbers)}"
        self.process = process
        self.writers: dict[str, SimulatedVfsFile] = {}
        """Path to who holds the lock to write it."""
        self._chance = chance
        self._wall = wall
        super().__init__(self.name)
        self._seed_sqlite()

    def _seed_sqlite(self) -> None:
        usual = apsw.vfs_names()[0]
        apsw.set_default_vfs(self.name)
        # None: forget the seed; one: ask the file system of the moment for another.
        apsw.randomness(0)
        apsw.randomness(1)
        apsw.set_default_vfs(usual)

    @property
    def connections(self) -> list[apsw.Connection]:
        """Those that are open here."""
        return [connection for connection in apsw.connections() if connection.open_vfs == self.name]

    def unregister(self) -> None:
        """Close the connections that are open here, whatever they say, and forget the name."""
        for connection in self.connections:
            try:
                connection.close(True)
            except apsw.Error:
                pass
        super().unregister()

    def check_alive(self) -> None:
        if not self.process.alive:
            raise sqlite_error(apsw.SQLITE_IOERR, "by a process that is dead")

    def failure(self, error: OSError | Crash, code: int) -> Exception:
        """What to tell SQLite when the disk has raised."""
        if isinstance(error, Crash):
            self.process.kill()
            return sqlite_error(apsw.SQLITE_IOERR, "the process died")
        return sqlite_error(code, str(error))

    # ------------------------------------------------------------ files by name

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> SimulatedVfsFile:
        self.check_alive()
        if name is None:
            return SimulatedVfsFile(self, "", SimulatedFile(self.process, Inode("temporary")))
        path = name if isinstance(name, str) else name.filename()
        wanted = flags[1] = flags[0]
        may_create = bool(wanted & apsw.SQLITE_OPEN_CREATE)
        exists = path in self.process.disk.entries
        if not (exists or may_create) or (exists and wanted & apsw.SQLITE_OPEN_EXCLUSIVE):
            raise sqlite_error(apsw.SQLITE_CANTOPEN, f"{path}: {'exists' if exists else 'does not exist'}")
        try:
            file = self.process.open(path, create=not exists)
        except (OSError, Crash) as error:
            raise self.failure(error, apsw.SQLITE_CANTOPEN) from error
        return SimulatedVfsFile(self, path, file, syncs_folder=may_create and bool(wanted & JOURNALS))

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.check_alive()
        code = apsw.SQLITE_IOERR_DELETE
        try:
            self.process.remove(filename)
            if syncdir:
                code = apsw.SQLITE_IOERR_DIR_FSYNC
                self.process.sync_folder(folder_of(filename))
        except FileNotFoundError as error:
            raise sqlite_error(apsw.SQLITE_IOERR_DELETE_NOENT, str(error)) from error
        except (OSError, Crash) as error:
            raise self.failure(error, code) from error

    def xAccess(self, pathname: str, flags: int) -> bool:
        self.check_alive()
        inode = self.process.disk.entries.get(pathname)
        return inode is not None and (flags != apsw.SQLITE_ACCESS_EXISTS or len(inode.cache) > 0)

    def xFullPathname(self, name: str) -> str:
        return name

    # ------------------------------------------------------------ the rest of the machine

    def xRandomness(self, numbytes: int) -> bytes:
        return self._chance.randbytes(numbytes)

    def xCurrentTimeInt64(self) -> int:
        return EPOCH_MS + int(self._wall() * 1000)

    def xSleep(self, microseconds: int) -> int:
        return microseconds

    def xGetLastError(self) -> tuple[int, str]:
        return 0, ""

    def excepthook(self, etype: type[BaseException], evalue: BaseException, etraceback: Any) -> None:
        """What SQLite passes over, as it does a WAL that it cannot remove when it closes, is not printed."""
        if not isinstance(evalue, apsw.Error):
            super().excepthook(etype, evalue, etraceback)


class SimulatedVfsFile(apsw.VFSFile):
    """What SQLite has open. Its base is not initialised: nothing of the machine's own is under it."""

    def __init__(
        self, vfs: SimulatedVfs, path: str, file: SimulatedFile, *, syncs_folder: bool = False
    ) -> None:
        self._vfs = vfs
        self._process = vfs.process
        self._path = path
        self._file = file
        self._syncs_folder = syncs_folder
        """With its next sync."""

    # ------------------------------------------------------------ content

    def xRead(self, amount: int, offset: int) -> bytes:
        if not self._process.alive:
            self._vfs.check_alive()
        try:
            return self._file.read_at(offset, amount)
        except (OSError, Crash) as error:
            if isinstance(error, OSError) and error.errno in UNREADABLE:
                raise unreadable(error) from error
            raise self._vfs.failure(error, apsw.SQLITE_IOERR_READ) from error

    def xWrite(self, data: bytes, offset: int) -> None:
        if not self._process.alive:
            self._vfs.check_alive()
        try:
            self._file.write_at(offset, (data,))
        except (OSError, Crash) as error:
            full = isinstance(error, OSError) and error.errno == errno.ENOSPC
            raise self._vfs.failure(error, apsw.SQLITE_FULL if full else apsw.SQLITE_IOERR_WRITE) from error

    def xSync(self, flags: int) -> None:
        self._vfs.check_alive()
        try:
            self._file.sync()
        except (OSError, Crash) as error:
            raise self._vfs.failure(error, apsw.SQLITE_IOERR_FSYNC) from error
        if self._syncs_folder:
            self._syncs_folder = False
            try:
                self._process.sync_folder(folder_of(self._path))
            except OSError:
                pass
            except Crash as error:
                raise self._vfs.failure(error, apsw.SQLITE_IOERR_DIR_FSYNC) from error

    def xTruncate(self, newsize: int) -> None:
        self._vfs.check_alive()
        try:
            self._file.truncate(newsize)
        except (OSError, Crash) as error:
            raise self._vfs.failure(error, apsw.SQLITE_IOERR_TRUNCATE) from error

    def xFileSize(self) -> int:
        self._vfs.check_alive()
        return self._file.size()

    def xClose(self) -> None:
        self._let_go()
        self._file.close()

    # ------------------------------------------------------------ locks

    def xLock(self, level: int) -> None:
        self._vfs.check_alive()
        if self._vfs.writers.get(self._path, self) is not self:
            raise sqlite_error(apsw.SQLITE_BUSY, f"{self._path}: open already")
        if level >= apsw.SQLITE_LOCK_RESERVED:
            self._vfs.writers[self._path] = self

    def xUnlock(self, level: int) -> None:
        if level < apsw.SQLITE_LOCK_RESERVED:
            self._let_go()

    def xCheckReservedLock(self) -> bool:
        return self._path in self._vfs.writers

    def _let_go(self) -> None:
        if self._vfs.writers.get(self._path) is self:
            del self._vfs.writers[self._path]

    # ------------------------------------------------------------ what SQLite may rely on

    def xSectorSize(self) -> int:
        return SECTOR_BYTES

    def xDeviceCharacteristics(self) -> int:
        return CHARACTERISTICS

    def xFileControl(self, op: int, ptr: int) -> bool:
        if op == apsw.SQLITE_FCNTL_HAS_MOVED and not self._process.alive:
            # Asked before the checkpoint of a close: a file that has moved is left alone.
            ctypes.c_int.from_address(ptr).value = 1
            return True
        return False


def folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def sqlite_error(code: int, why: str) -> Exception:
    error = apsw.exception_for(code)
    error.args = (why,)
    return error


def unreadable(error: OSError) -> apsw.Error:
    """SQLite sees an I/O error, and its caller what SQLite makes of it on the way out."""
    corrupt = apsw.CorruptError(str(error))
    corrupt.extendedresult = apsw.SQLITE_IOERR_CORRUPTFS  # type: ignore[attr-defined]  # missing in the stub
    return corrupt
