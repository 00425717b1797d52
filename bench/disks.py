"""Where the relays keep their mail: the given folder, a journaled ext4 in a file of it, or memory.

Why a file system of our own: on an ext4 without a journal, as some virtual machines have it, creating a file
means looking at every inode that was deleted in its block group in the last minutes (the kernel avoids to use
them again, `recently_deleted` in fs/ext4/ialloc.c). Postfix creates and deletes a file for each message; its
second thousand messages cost twice its first. A mail server stands on a journaled file system, so there the
comparison is made. The image is written in full before it is used and driven past the page cache (direct
I/O), so that a sync is a sync of the real disk.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

IMAGE_MB = 3072
SYNCED_BYTES = 4500
SYNCS = 200
MEMORY = Path("/dev/shm")


class Disk(NamedTuple):
    name: str
    """For the tables."""
    folder: Path

    def __str__(self) -> str:
        return f"{self.name}; 4.5 KB are synced in {sync_ms(self.folder):.2f} ms"


def sync_ms(folder: Path) -> float:
    """The median time in which an append is on the disk."""
    took: list[float] = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(SYNCS):
            start_s = time.perf_counter()
            file.write(bytes(SYNCED_BYTES))
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - start_s)
    return statistics.median(took) * 1000


def file_system_of(folder: Path) -> str:
    return subprocess.run(
        ["stat", "--file-system", "--format", "%T", str(folder)], check=True, capture_output=True, text=True
    ).stdout.strip()


def lacks_journal(folder: Path) -> bool:
    """Whether it is on an ext4 without a journal."""
    number = folder.stat().st_dev
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve().name
    is_ext4 = Path(f"/proc/fs/ext4/{device}").exists()
    return is_ext4 and not list(Path("/proc/fs/jbd2").glob(f"{device}-*"))


def name_of(folder: Path) -> str:
    match file_system_of(folder):
        case "ext2/ext3":
            return "ext4 without a journal" if lacks_journal(folder) else "ext4"
        case other:
            return other


@contextmanager
def plain(parent: Path) -> Iterator[Disk]:
    """A folder on whatever `parent` is on."""
    with _scratch(parent) as folder:
        yield Disk(name_of(folder), folder)


@contextmanager
def in_memory(parent: Path = MEMORY) -> Iterator[Disk]:
    """A tmpfs, wherever `parent` is."""
    with _scratch(MEMORY) as folder:
        yield Disk("tmpfs", folder)


@contextmanager
def journaled(parent: Path) -> Iterator[Disk]:
    """`parent` itself if a journal is all that it could lack and does not; else an ext4 in a file there."""
    if not lacks_journal(parent):
        with plain(parent) as disk:
            yield disk
        return
    with _scratch(parent) as folder, ExitStack() as stack:
        image, mounted = folder / "image", folder / "mounted"
        _do("dd", "if=/dev/zero", f"of={image}", "bs=1M", f"count={IMAGE_MB}", "conv=fsync")
        ready = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
        _do("mkfs.ext4", "-q", "-F", "-E", ready, str(image))
        device = _do("losetup", "--direct-io=on", "--show", "--find", str(image))
        stack.callback(_do, "losetup", "--detach", device)
        mounted.mkdir()
        _do("mount", device, str(mounted))
        stack.callback(_do, "umount", str(mounted))
        yield Disk("ext4", mounted)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="dispatch-bench-", dir=parent))
    # Postfix's processes are users of their own and must come through.
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _do(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()
