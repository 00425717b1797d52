"""Makes a power cut out of a `kill -9`: takes back, by chance, what the shim's journals say was not synced.

The promises are those of the simulated disk (tests/simulation/disk.py), for real files:

- Each sector of 512 bytes that was written since the file's last good sync falls back, for itself, to any
  of its versions since then, or stays. A file is as likely to lose nothing or all as something of it.
- A file's length falls back to any since then; what a truncation took comes back with the length.
- Creations, renames and removals whose folder was not synced since are undone or not, each for itself,
  but none that builds on an undone one stays.
- What a failed sync was to write stays in doubt until it is written anew and synced.
- The machine has started anew: processes under the shim read another boot id.

Mapped files are not in the journals. SQLite's `-shm` goes; a mark falls back to a sample from its life
(`control.MarkSampler`) or stays; the notes of what is in hand are zeros or stay.
"""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from random import Random
from typing import NamedTuple

SECTOR_BYTES = 512
MARKS = "*.mark"
IN_HAND = "in-hand"
SHARED_MEMORY = "*-shm"
BOOT_ID = "boot-id"

_HEAD = struct.Struct("<4Q")
_RECORD = struct.Struct("<5Q")
_WRITE, _SYNCED, _FAILED = 1, 2, 3
_CHANGE = struct.Struct("<II5QII")
_CREATE, _RENAME, _UNLINK, _FOLDER_SYNCED, _ALL_SYNCED = 1, 2, 3, 4, 5


class Report(NamedTuple):
    """What a power cut has done."""

    files: int
    """That were touched."""
    sectors: int
    """That fell back."""
    lengths: int
    names: int
    """Creations, renames and removals that were undone."""
    marks: int
    at_stake: int
    """Sectors and names that might have fallen back."""
    told: list[str]
    """A line for each thing that was done, for a person who looks for the reason of a failure."""


def kept_beside(data: Path) -> Path:
    """Where files live on that lost their name in a folder that was not synced since."""
    return data.with_name(f".{data.name}.kept")


def cut(
    data: Path, journals: Path, random: Random, samples: Mapping[str, Sequence[bytes]] | None = None
) -> Report:
    """Cut the power under a data folder whose processes are all dead, and forget the journals."""
    told: list[str] = []
    at_stake, names = _undo_names(data, kept_beside(data), _changes(journals / "names"), random, told)
    files = sectors = lengths = 0
    for path in sorted(each for each in data.rglob("*") if each.is_file() and not each.is_symlink()):
        journal = journals / f"undo-{path.stat().st_ino}"
        if not journal.exists() or any(fnmatch(path.name, p) for p in (MARKS, IN_HAND, SHARED_MEMORY)):
            continue
        versions, sizes = _versions(journal.read_bytes())
        at_stake += len(versions)
        reverted, resized = _lose(path, versions, sizes, random)
        if reverted or resized is not None:
            length = "" if resized is None else f", {resized[1]} of {resized[0]} bytes"
            told.append(f"{path.relative_to(data)}: {reverted} of {len(versions)} sectors fell back{length}")
        files += bool(reverted or resized)
        sectors += reverted
        lengths += resized is not None
    marks = _undo_mapped(data, random, samples or {}, told)
    for journal in journals.iterdir():
        journal.unlink()
    (journals / BOOT_ID).write_text(f"{uuid.UUID(int=random.getrandbits(128))}\n")
    (journals / BOOT_ID).chmod(0o644)
    return Report(files, sectors, lengths, names, marks, at_stake, told)


# ---------------------------------------------------------------- contents


def _versions(journal: bytes) -> tuple[dict[int, list[bytes]], list[int]]:
    """Of each sector in doubt what it held before each write, oldest first; and the lengths before them.

    A version is shorter than a sector where the file ended in it, empty where it ended before."""
    if len(journal) < _HEAD.size:
        return {}, []
    base, floor, valid, _ = _HEAD.unpack_from(journal)
    pending: list[tuple[int, int, int, int, int]] = []
    lost: dict[int, list[bytes]] = {}
    lost_sizes: list[int] = []
    place = floor
    while place < valid:
        at = _HEAD.size + place - base
        kind, offset, touched, old_size, image = _RECORD.unpack_from(journal, at)
        if kind == _WRITE:
            pending.append((place, offset, touched, old_size, at + _RECORD.size))
        else:
            settled = [record for record in pending if record[0] < offset]
            pending = pending[len(settled) :]
            if kind == _FAILED:
                _sort_by_sector(journal, settled, lost, lost_sizes)
            else:
                # Written anew and synced: no longer in doubt. Lengths are, as metadata, of the whole file.
                lost_sizes.clear()
                for _, offset, touched, _, _ in settled:
                    for sector in range(offset // SECTOR_BYTES, (offset + touched) // SECTOR_BYTES):
                        lost.pop(sector, None)
        place += _RECORD.size + image
    _sort_by_sector(journal, pending, lost, lost_sizes)
    return lost, lost_sizes


def _sort_by_sector(
    journal: bytes,
    records: list[tuple[int, int, int, int, int]],
    versions: dict[int, list[bytes]],
    sizes: list[int],
) -> None:
    for _, offset, touched, old_size, at in records:
        sizes.append(old_size)
        for start in range(offset, offset + touched, SECTOR_BYTES):
            held = max(0, min(SECTOR_BYTES, old_size - start))
            image = journal[at + start - offset : at + start - offset + held]
            versions.setdefault(start // SECTOR_BYTES, []).append(image)


def _lose(
    path: Path, versions: dict[int, list[bytes]], sizes: list[int], random: Random
) -> tuple[int, tuple[int, int] | None]:
    """How many sectors fell back, and from which length to which."""
    if not versions and not sizes:
        return 0, None
    staying = random.choice((0.0, 0.5, 1.0, random.random()))
    reverted = 0
    with path.open("r+b") as file:
        present = os.fstat(file.fileno()).st_size
        length = present if random.random() < 0.5 else random.choice([*sizes, present])
        for sector, images in sorted(versions.items()):
            start = sector * SECTOR_BYTES
            if start >= length:
                continue
            now = os.pread(file.fileno(), SECTOR_BYTES, start)
            # What lies beyond the present end was cut off, and nothing else has become of it since.
            longer = next((image for image in reversed(images) if len(image) > len(now)), b"")
            stays = now + longer[len(now) :] if start + SECTOR_BYTES > present else now
            held = stays if random.random() < staying else random.choice(images)
            if held.ljust(SECTOR_BYTES, b"\0") != now.ljust(SECTOR_BYTES, b"\0"):
                reverted += held is not stays
                os.pwrite(file.fileno(), held.ljust(SECTOR_BYTES, b"\0"), start)
        os.ftruncate(file.fileno(), length)
    return reverted, None if length == present else (present, length)


# ---------------------------------------------------------------- names


class _Change(NamedTuple):
    kind: int
    sequence: int
    inode: int
    replaced: int
    folders: tuple[int, int]
    old: str
    new: str

    @property
    def paths(self) -> set[str]:
        return {path for path in (self.old, self.new) if path}

    def happened(self, names: dict[str, int]) -> bool:
        """Whether the names are as it left them; its process may have died between the deed and the note."""
        if self.new and names.get(self.new) != self.inode:
            return False
        return not self.old or names.get(self.old) != self.inode

    def undo(self, names: dict[str, int]) -> None:
        if self.new:
            names.pop(self.new, None)
            if self.replaced:
                names[self.new] = self.replaced
        if self.old:
            names[self.old] = self.inode

    def apply(self, names: dict[str, int]) -> None:
        if self.old:
            names.pop(self.old, None)
        if self.new:
            names[self.new] = self.inode

    def __str__(self) -> str:
        word = {_CREATE: "creation", _RENAME: "rename", _UNLINK: "removal"}[self.kind]
        return f"{word} of {' to '.join(filter(None, (self.old, self.new)))}"


def _changes(journal: Path) -> list[_Change]:
    """Those that no sync of their folder has covered, in their order."""
    if not journal.exists():
        return []
    pending: list[_Change] = []
    for change in _noted(journal.read_bytes()):
        if change.kind == _FOLDER_SYNCED:
            folder = change.folders[0]
            pending = [p for p in pending if p.sequence > change.sequence or folder not in p.folders]
        elif change.kind == _ALL_SYNCED:
            pending = []
        else:
            pending.append(change)
    return pending


def _noted(journal: bytes) -> Iterator[_Change]:
    at = 8
    (valid,) = struct.unpack_from("<Q", journal)
    while at < valid:
        size, kind, sequence, inode, replaced, folder, other, old, new = _CHANGE.unpack_from(journal, at)
        text = journal[at + _CHANGE.size : at + size]
        paths = os.fsdecode(text[:old]), os.fsdecode(text[old : old + new])
        yield _Change(kind, sequence, inode, replaced, (folder, other), *paths)
        at += size


def _undo_names(
    data: Path, kept: Path, pending: list[_Change], random: Random, told: list[str]
) -> tuple[int, int]:
    """How many changes were in doubt, and how many were undone."""
    affected = {path for change in pending for path in change.paths}
    present = {path: os.lstat(data / path).st_ino for path in affected if (data / path).is_file()}
    names = dict(present)
    doubtful = []
    for change in reversed(pending):
        if change.happened(names):
            change.undo(names)
            doubtful.append(change)
    lost_paths: set[str] = set()
    lost_inodes: set[int] = set()
    undone = 0
    for change in reversed(doubtful):
        builds_on_lost = change.paths & lost_paths or change.inode in lost_inodes
        if builds_on_lost or random.random() < 0.5:
            lost_paths |= change.paths
            lost_inodes.add(change.inode)
            undone += 1
            told.append(f"the {change} was undone")
        else:
            change.apply(names)
    _name_anew(data, kept, present, names)
    for leftover in kept.iterdir():
        leftover.unlink()
    return len(doubtful), undone


def _name_anew(data: Path, kept: Path, present: dict[str, int], names: dict[str, int]) -> None:
    # Every file gets a name of its own first, so that none is gone while the names change places.
    anchors = {os.lstat(each).st_ino: each for each in kept.iterdir()}
    for path, inode in present.items():
        if inode not in anchors:
            anchors[inode] = kept / f"anchor-{inode}"
            os.link(data / path, anchors[inode])
    for path, inode in present.items():
        if names.get(path) != inode:
            (data / path).unlink()
    for path, inode in names.items():
        if present.get(path) != inode and inode in anchors:
            os.link(anchors[inode], data / path)


# ---------------------------------------------------------------- what is mapped


def _undo_mapped(data: Path, random: Random, samples: Mapping[str, Sequence[bytes]], told: list[str]) -> int:
    """How many marks fell back."""
    for shared in data.rglob(SHARED_MEMORY):
        shared.unlink()
    marks = 0
    for name, values in sorted(samples.items()):
        path = data / name
        if path.exists() and values and random.random() < 0.5:
            with path.open("r+b") as file:
                before, value = file.read(8), random.choice(values)
                file.seek(0)
                file.write(value)
            if before != value:
                marks += 1
                numbers = (int.from_bytes(each, "little") for each in (before, value))
                told.append("{}: from {} back to {}".format(name, *numbers))
    in_hand = data / IN_HAND
    if in_hand.exists() and random.random() < 0.5:
        in_hand.write_bytes(bytes(in_hand.stat().st_size))
        told.append(f"{IN_HAND}: nothing is noted")
    return marks
