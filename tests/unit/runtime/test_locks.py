from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dispatch.runtime.locks import FolderLock, LockHeld, held_by, lock_folder

HOLDER = """
import sys
from pathlib import Path
from dispatch.runtime.locks import lock_folder
held = lock_folder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds the lock of the folder."""
    popen = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert popen.stdout is not None and popen.stdin is not None
    assert popen.stdout.readline() == b"held\n"
    yield popen
    popen.stdin.close()
    popen.wait(20)
    popen.stdout.close()


def test_a_second_holder_is_told_who_the_first_is(holder, tmp_path: Path) -> None:
    with pytest.raises(LockHeld) as refused:
        lock_folder(tmp_path)
    assert refused.value.pid == holder.pid
    assert held_by(tmp_path / "lock") == holder.pid


def test_a_lock_dies_with_its_holder(holder, tmp_path: Path) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait(20)
    assert held_by(tmp_path / "lock") is None
    with lock_folder(tmp_path):
        assert held_by(tmp_path / "lock") == os.getpid()
    assert held_by(tmp_path / "lock") is None


def test_waiting_ends_when_the_holder_does(holder, tmp_path: Path) -> None:
    pauses: list[float] = []

    def end_the_holder(pause_s: float) -> None:
        pauses.append(pause_s)
        holder.kill()
        holder.wait(20)

    lock_folder(tmp_path, wait_s=20, pause=end_the_holder).release()
    assert len(pauses) == 1


def test_waiting_is_bounded(holder, tmp_path: Path) -> None:
    with pytest.raises(LockHeld):
        lock_folder(tmp_path, wait_s=0.1)


def test_the_lock_does_not_leak_into_programs_that_are_started(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "lock")
    argv = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False) as other:
        assert other.stdout is not None
        other.stdout.readline()
        lock.release()
        assert held_by(tmp_path / "lock") is None
        other.kill()


def test_an_absent_folder_is_free_and_is_made_for_a_holder(tmp_path: Path) -> None:
    assert held_by(tmp_path / "new" / "lock") is None
    lock_folder(tmp_path / "new").release()
    assert (tmp_path / "new" / "lock").stat().st_mode & 0o077 == 0


def test_on_a_full_disk_a_lock_is_held_without_the_name_of_its_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("dispatch.runtime.locks.os.pwrite", full)
    with lock_folder(tmp_path):
        with pytest.raises(LockHeld) as refused:
            lock_folder(tmp_path)
        assert refused.value.pid == 0
    assert held_by(tmp_path / "lock") is None
