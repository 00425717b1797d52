"""A database that looks damaged: whether it is, and where it goes if so.

SQLite calls a page malformed that the disk did not give, and does not always tell that from one whose bytes
are wrong. What can be made anew may still be the only copy of what it holds: so it is looked at again before
it is set aside, and while it cannot be read nothing is done to it at all.

The parked store is never set aside: it cannot be made anew. Its faults are tried again, and its process
does not start without it.
"""

from __future__ import annotations

import re
from pathlib import Path

import apsw

from dispatch.ports import Disk
from dispatch.store.sqlite import BUSY_TIMEOUT_MS, StoreDamaged, StoreFault, closed_on_failure, faults

_BLOCK_BYTES = 1 << 20
_ERROR_CODE = re.compile(r"error code=(\d+)")
"""How a check of SQLite's speaks of a page that it could not get."""


def is_damaged(disk: Disk, path: Path, *, vfs: str | None = None) -> bool:
    """Whether a database that nobody has open is damaged, and did not only look like it while a read failed.

    Two looks at all of it must agree, and in between every byte must have been readable. Blocks for as long
    as that takes. Raises `OSError` and `StoreFault` where the disk does not let itself be read: nobody can
    say then. What is not there is not damaged.
    """
    if path.name not in disk.names(""):
        return False
    if not _looks_damaged(path, vfs):
        return False
    _read_all(disk, path.name)
    _read_all(disk, f"{path.name}-wal")
    return _looks_damaged(path, vfs)


def _looks_damaged(path: Path, vfs: str | None) -> bool:
    try:
        with faults(f"{path.name}: cannot be checked"):
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
            with closed_on_failure(connection):
                connection.set_busy_timeout(BUSY_TIMEOUT_MS)
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                if vfs is not None:
                    connection.pragma("locking_mode", "EXCLUSIVE")
                found = str(connection.execute("PRAGMA integrity_check(1)").get)
            connection.close()
    except StoreDamaged:
        return True
    if any(int(code) & 0xFF == apsw.SQLITE_IOERR for code in _ERROR_CODE.findall(found)):
        raise StoreFault(f"{path.name}: cannot be read: {found}")
    return found != "ok"


def _read_all(disk: Disk, name: str) -> None:
    try:
        file = disk.open(name)
    except FileNotFoundError:
        return
    try:
        offset = 0
        while block := file.read_at(offset, _BLOCK_BYTES):
            offset += len(block)
    finally:
        file.close()


def set_aside(disk: Disk, name: str) -> str:
    """Rename a database that nobody has open, with what belongs to it, to a free name beside it.

    For one that is damaged and can be made anew: nothing is deleted, a person may still want to look.
    """
    names = disk.names("")
    number = 1
    while (aside := f"{name}.damaged-{number}") in names:
        number += 1
    for suffix in ("-wal", "-shm", ""):
        if name + suffix in names:
            disk.rename(name + suffix, aside + suffix)
    return aside
