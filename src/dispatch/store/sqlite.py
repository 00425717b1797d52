"""Opening a SQLite database: pragmas, migrations, transactions, and what may go wrong.

Rules. A database is opened in write-ahead mode, by one writer; each migration is one transaction
together with its `user_version`, so that a crash leaves the old schema or the new one. A database
that a newer version has migrated is refused: its rows may mean what this version cannot know.

Traps. `page_size` and `auto_vacuum` count only before the first page is written. An *exclusive*
database keeps its WAL index on the heap: no shared memory file, no lock calls on the hot path, and
no need of shared memory in a `vfs` put under it; in exchange nobody else can open it meanwhile.
After a sync of the WAL that failed in a commit the transaction is rolled back and the next one writes the
same frames anew, so a failed sync is never taken for one that worked; after one that failed in a checkpoint
of commits that were not synced the database is to be opened again (`doubted`); and what another process has
left in the WAL is written once more before it is believed. SQLite syncs the folder of a
new database or WAL, but passes over a failure of that: a power cut could take the name, and with it all that
was committed. So the folder is synced here as well, before a database counts as open. And a database is made
under another name: what a disk that fails while it is made leaves behind is no database, and would have to be
told from one that was damaged.

A read that fails may look like damage: SQLite calls the page malformed that the disk did not give, and does
not keep the two apart. So `StoreDamaged` is a suspicion (`damage`).

Nothing above this package catches an `apsw` exception: they leave it as one of these::

    StoreFault
    ├── StoreFull      no space left (ENOSPC)
    ├── StoreBusy      another process holds the lock
    ├── StoreDamaged   not a database, or a broken one, or it could not be read just then
    └── NewerSchema    written by a later version of Dispatch
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Literal, Protocol

import apsw

BUSY_TIMEOUT_MS = 5_000
STATEMENT_CACHE_SIZE = 200
COPY_BYTES = 1 << 16


class StoreFault(Exception):
    """A database did not do what it was asked; the transaction, if any, has left no trace."""


class StoreFull(StoreFault):
    """No space left for it."""


class StoreBusy(StoreFault):
    """Another process holds the database."""


class StoreDamaged(StoreFault):
    """The file is no database, or a broken one; or a read of it has failed (`damage`)."""


class NewerSchema(StoreFault):
    """A later version has migrated the database; run that version, or restore a backup."""


def open_database(
    path: Path,
    schema: str,
    *,
    synchronous: Literal["FULL", "NORMAL"],
    exclusive: bool = False,
    page_size_bytes: int = 4096,
    checkpoint_pages: int = 1000,
    shrinks: bool = False,
    vfs: str | None = None,
    disk: Folder | None = None,
    doubted: Callable[[str], None] = lambda _: None,
) -> apsw.Connection:
    """Open for writing, making or migrating the database as needed. Raises `StoreFault`.

    `synchronous=FULL`: a commit that returned survives a power cut. `NORMAL`: it survives the death
    of the process; a power cut may undo the last ones, never half of one. `schema` names the folder
    of migrations, `vfs` a registered SQLite file system to use instead of the machine's; `disk` then has the
    same files, with the database in its root.
    `doubted` is told, within a commit, that a checkpoint has failed. With `synchronous=NORMAL` the commits
    since the last one may be lost then, though SQLite goes on by what it remembers of them: close it, with
    `forsake`, and open it again.
    One that `shrinks` can give pages back (`PRAGMA incremental_vacuum`).
    """
    folder = disk or _MachineFolder(path.parent)
    _make(folder, path, schema, page_size_bytes=page_size_bytes, shrinks=shrinks, vfs=vfs)
    with faults(f"{path.name}: cannot be opened"):
        connection = apsw.Connection(str(path), vfs=vfs, statementcachesize=STATEMENT_CACHE_SIZE)
    try:
        with faults(f"{path.name}: cannot be opened"):
            connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            # Where this fails, the close must not copy about what the disk has just failed to keep.
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            if exclusive:
                # First of all: whatever reads the file before asks for shared memory.
                connection.pragma("locking_mode", "EXCLUSIVE")
                if connection.pragma("journal_mode") == "wal":
                    _write_wal_again(path, vfs)
            elif vfs is None and path.with_name(f"{path.name}-wal").exists():
                _write_wal_again(path, vfs)
            connection.pragma("journal_mode", "WAL")
            connection.pragma("synchronous", synchronous)
            connection.set_wal_hook(partial(_checkpoint, checkpoint_pages, doubted))
            connection.pragma("trusted_schema", False)
            migrate(connection, schema, name=path.name)
            # The WAL has the name by now under which everything will be committed.
            with _disk_faults(path):
                folder.sync_folder("")
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    except BaseException:
        try:
            connection.close()
        except apsw.Error:
            # The fault to tell of is the one before.
            pass
        raise
    return connection


def _make(
    folder: Folder, path: Path, schema: str, *, page_size_bytes: int, shrinks: bool, vfs: str | None
) -> None:
    """Make the database where there is none: whole, on stable storage, and only then by its name."""
    with _disk_faults(path):
        names = folder.names("")
        if path.name in names:
            return
        new = path.with_name(f"{path.name}.new")
        for suffix in ("", "-wal", "-shm", "-journal"):
            if new.name + suffix in names:
                folder.remove(new.name + suffix)
    with faults(f"{path.name}: cannot be made"):
        connection = apsw.Connection(str(new), vfs=vfs)
        with closed_on_failure(connection):
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.pragma("locking_mode", "EXCLUSIVE")
            connection.pragma("page_size", page_size_bytes)
            if shrinks:
                connection.pragma("auto_vacuum", "INCREMENTAL")
            connection.pragma("journal_mode", "WAL")
            connection.pragma("synchronous", "FULL")
            migrate(connection, schema, name=path.name)
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            # So that nothing of it stands beside it: a WAL has its own name.
            connection.pragma("journal_mode", "DELETE")
        connection.close()
    with _disk_faults(path):
        file = folder.open(new.name)
        try:
            file.sync()
        finally:
            file.close()
        folder.rename(new.name, path.name)
        folder.sync_folder("")


class _Synced(Protocol):
    def sync(self) -> None: ...

    def close(self) -> None: ...


class Folder(Protocol):
    """What is asked of the folder that a database lies in; `ports.Disk` is one."""

    def names(self, folder: str) -> list[str]: ...

    def open(self, path: str) -> _Synced: ...

    def rename(self, old: str, new: str) -> None: ...

    def remove(self, path: str) -> None: ...

    def sync_folder(self, folder: str) -> None: ...


class _MachineFolder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self, folder: str) -> list[str]:
        return [each.name for each in self._path.iterdir()]

    def open(self, path: str) -> _Synced:
        return _MachineFile(self._path / path)

    def rename(self, old: str, new: str) -> None:
        (self._path / old).rename(self._path / new)

    def remove(self, path: str) -> None:
        (self._path / path).unlink()

    def sync_folder(self, folder: str) -> None:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _MachineFile:
    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


@contextmanager
def _disk_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (StoreFull if full else StoreFault)(f"{path.name}: its folder: {error}") from error


def _write_wal_again(path: Path, vfs: str | None) -> None:
    """Put the WAL that an earlier process has left on stable storage. Only for the one who writes.

    SQLite takes for committed what it finds there, though a sync of it may have failed. The kernel counts
    such pages as written: only writing them once more makes the next sync put them on the disk.
    """
    flags = [apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, 0]
    file = apsw.VFSFile(vfs or "", f"{path}-wal", flags)
    try:
        size_bytes = file.xFileSize()
        for offset in range(0, size_bytes, COPY_BYTES):
            file.xWrite(file.xRead(min(COPY_BYTES, size_bytes - offset), offset), offset)
        if size_bytes:
            file.xSync(apsw.SQLITE_SYNC_NORMAL)
    finally:
        file.xClose()


def forsake(connection: apsw.Connection) -> None:
    """Close it without copying into the database what its WAL is only remembered to hold."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.close()


def _checkpoint(
    pages_min: int, doubted: Callable[[str], None], connection: apsw.Connection, database: str, pages: int
) -> int:
    """Called after each commit, which stands whatever comes of this: the next one tries again."""
    if pages >= pages_min:
        try:
            connection.wal_checkpoint(database, apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.BusyError:
            # A reader is in the way.
            pass
        except apsw.Error as error:
            # SQLite's own hook passes it over as well; but a fault that a `vfs` in Python raises
            # in there would leave the COMMIT that has been made.
            doubted(str(error))
    return apsw.SQLITE_OK


def open_read_only(path: Path) -> apsw.Connection:
    """Open what another process writes, to look only. Raises `StoreFault`, also where there is none."""
    with faults(f"{path}: cannot be read"):
        connection = apsw.Connection(
            str(path), flags=apsw.SQLITE_OPEN_READONLY, statementcachesize=STATEMENT_CACHE_SIZE
        )
        try:
            connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            connection.pragma("query_only", True)
            connection.pragma("trusted_schema", False)
            schema_version(connection)
        except BaseException:
            connection.close()
            raise
    return connection


# ---------------------------------------------------------------- migrations


def migrations(schema: str) -> list[tuple[int, str]]:
    """Number and SQL of each migration of a schema, in ascending order from 1 without a gap."""
    folder = files(__package__) / "migrations" / schema
    found = sorted(
        (int(file.name.partition("_")[0]), file.read_text("utf-8"))
        for file in folder.iterdir()
        if file.name.endswith(".sql")
    )
    assert [number for number, _ in found] == list(range(1, len(found) + 1)), f"a gap in {schema}"
    return found


def schema_version(connection: apsw.Connection) -> int:
    """How many migrations the database has seen."""
    version = connection.pragma("user_version")
    assert isinstance(version, int)
    return version


def migrate(connection: apsw.Connection, schema: str, *, name: str) -> None:
    """Bring a database to the newest schema; raises `NewerSchema` where it is already beyond that."""
    known = migrations(schema)
    for number, script in known:
        if schema_version(connection) >= number:
            continue
        with transaction(connection):
            # Another process may have been faster, between that look and the lock.
            if schema_version(connection) < number:
                connection.execute(script)
                connection.pragma("user_version", number)
    version = schema_version(connection)
    if version > len(known):
        raise NewerSchema(
            f"{name} has schema {version}, this version of Dispatch knows {len(known)}: "
            "a later version has migrated it. Run that version, or restore a backup of before"
        )


# ---------------------------------------------------------------- statements

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def statements(subject: str) -> dict[str, str]:
    """The named statements of `sql/<subject>.sql`."""
    text = (files(__package__) / "sql" / f"{subject}.sql").read_text("utf-8")
    parts = _NAME.split(text)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


_LIKE_SPECIAL = re.compile(r"([\\%_])")


def like_literal(text: str) -> str:
    r"""Text to stand for itself in a pattern of `LIKE … ESCAPE '\'`."""
    return _LIKE_SPECIAL.sub(r"\\\1", text)


def address_pattern(address_or_domain: str) -> str:
    r"""The `LIKE … ESCAPE '\'` pattern of an address, or of any address in a domain (`example.org`).

    LIKE compares ASCII without regard to case, which is right for domains (RFC 5321 section 2.4)
    and merciful to a person who looks for a local part.
    """
    wanted = address_or_domain.strip()
    if "@" in wanted[1:]:
        return like_literal(wanted)
    return "%@" + like_literal(wanted.removeprefix("@"))


# ---------------------------------------------------------------- transactions and faults


@contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """One write transaction: all of it on return, nothing of it after an exception. Raises `StoreFault`."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except apsw.Error:
                # SQLite rolls back by itself after the faults that make a ROLLBACK fail.
                pass
        if isinstance(error, apsw.Error):
            raise _fault(error, "transaction undone") from error
        raise


@contextmanager
def closed_on_failure(connection: apsw.Connection) -> Iterator[None]:
    """What fails in here leaves no connection behind for the garbage collector."""
    try:
        yield
    except BaseException:
        try:
            connection.close(True)
        except apsw.Error:
            # The first fault is the one to tell.
            pass
        raise


@contextmanager
def faults(doing: str) -> Iterator[None]:
    """Turn the driver's exceptions into `StoreFault`, saying what was being done."""
    try:
        yield
    except apsw.Error as error:
        raise _fault(error, doing) from error


_DAMAGED_INDEX = re.compile(r"invalid fts5|vtable constructor failed")
"""How a search index speaks of its own tables where they make no sense: with the code of a bad statement."""


def _fault(error: apsw.Error, doing: str) -> StoreFault:
    match error:
        case apsw.FullError():
            kind: type[StoreFault] = StoreFull
        case apsw.BusyError() | apsw.LockedError():
            kind = StoreBusy
        case apsw.CorruptError() | apsw.NotADBError():
            kind = StoreDamaged
        case apsw.SQLError() if _DAMAGED_INDEX.search(str(error)):
            kind = StoreDamaged
        case _:
            kind = StoreFault
    return kind(f"{doing}: {error}")
