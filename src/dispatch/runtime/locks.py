"""One writer for each folder: `flock`, held for life.

The kernel lets go of the lock when its holder dies, however it dies, so a lock is never stale. The
pid inside is for people and for `dispatch drain`; only the lock itself decides. The file is never
removed: whoever opened the old one would hold a lock that nobody else sees.

Traps: the lock belongs to the open file, so a descriptor that leaks through `exec` keeps it (Python
opens with O_CLOEXEC). `held_by` takes the lock for an instant to look at it: only for those whom
nobody races, or who try again.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

LOCK_NAME = "lock"
_POLL_S = 0.02


class LockHeld(Exception):
    """Another process writes here. Whoever cannot go on without the lock exits 75 (EX_TEMPFAIL)."""

    def __init__(self, path: Path, pid: int) -> None:
        self.path = path
        self.pid = pid
        """0 where the holder did not say."""
        super().__init__(f"{path} is held by process {pid or 'unknown'}")


class FolderLock:
    """A lock that is held. Keep the object: when it goes, so does the lock."""

    def __init__(self, path: Path) -> None:
        """Take it at once or raise `LockHeld`. The folder is made where it is absent."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = _pid_in(fd)
            os.close(fd)
            raise LockHeld(path, pid) from None
        except BaseException:
            os.close(fd)
            raise
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            # A full or failing disk: the lock is held all the same, only its holder goes without a name.
            pass
        self.path = path
        self._fd = fd

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.release()


def lock_folder(
    folder: Path, wait_s: float = 0.0, pause: Callable[[float], object] = time.sleep
) -> FolderLock:
    """Hold `<folder>/lock`, waiting for it at most `wait_s`; then `LockHeld`."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return FolderLock(folder / LOCK_NAME)
        except LockHeld:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise
            pause(min(_POLL_S, left_s))


def held_by(path: Path) -> int | None:
    """The pid of the holder (0: unknown), or None where the lock is free or its file absent."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid_in(fd)
    finally:
        os.close(fd)
    return None


def _pid_in(fd: int) -> int:
    text = os.pread(fd, 20, 0).strip()
    return int(text) if text.isdigit() else 0
