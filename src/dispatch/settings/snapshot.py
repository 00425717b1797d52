"""Numbered snapshots of the settings on disk, one file a role, each with only what that role may know.

The processes read settings from here and nowhere else, so that a start needs neither the file nor the
database, and so that no process holds what it has no use for. All files of one publication
carry the same number, which only grows; a process compares it with the number that it works by.

Rules:
- A file is replaced as a whole: written beside, synced, renamed, and the folder synced. A reader sees the
  old settings or the new ones.
- Only one process publishes. Dying between two files leaves roles at different numbers, which is a state
  like any other: the next publication has a higher number than all of them.
- Keys that this version does not know are ignored, and those that are missing have their defaults:
  a snapshot outlives an upgrade, and a downgrade.

It does not seal secrets: no key of this version is one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from dispatch.settings.keys import ROLES, WITHHELD, Role
from dispatch.settings.mistakes import SettingsUnreadable
from dispatch.settings.model import KEYS, REPEATED, Settings

_FORMAT = 1


class NoSnapshot(Exception):
    """Nothing usable is there for this role: never published, or damaged."""


class _Number(msgspec.Struct, frozen=True):
    number: int


class _File(msgspec.Struct, frozen=True):
    format: int
    number: int
    settings: Settings


def publish(folder: Path, settings: Settings) -> int:
    """Write a snapshot for every role; returns its number, from 1. Raises `OSError`, which names the file.

    The folder is made where it is missing (0700); files are for their owner only (0600).
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    number = 1 + max(_number(_path(folder, role)) for role in ROLES)
    for role in ROLES:
        with _naming(_path(folder, role)):
            _replace(_path(folder, role), _encode(number, settings, role))
    with _naming(folder):
        _sync_folder(folder)
    return number


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What a write or a sync raises does not say of which file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def load(folder: Path, role: Role) -> tuple[int, Settings]:
    """The latest number and settings for one role.

    Raises `NoSnapshot`; `PermissionError` where another user published; `SettingsUnreadable` where nothing
    can be said of what is there, and the next try may be good. Using a setting that the role is not told is
    an `AssertionError`.
    """
    path = _path(folder, role)
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except (FileNotFoundError, msgspec.MsgspecError) as error:
        raise NoSnapshot(f"{path}: {error}") from error
    except PermissionError:
        raise
    except OSError as error:
        raise SettingsUnreadable(path, error) from error
    if file.format != _FORMAT:
        raise NoSnapshot(f"{path} has format {file.format}: this version reads {_FORMAT}")
    return file.number, _withholding(file.settings, role)


def _withholding(settings: Settings, role: Role) -> Settings:
    """The defaults that stand in for what the role is not told, replaced by what no code can mistake."""
    sections: dict[str, object] = {}
    for name, entries in KEYS.items():
        withheld = {entry.name: WITHHELD for entry in entries.values() if role not in entry.key.roles}
        if name not in REPEATED:
            sections[name] = msgspec.structs.replace(getattr(settings, name), **withheld)
        elif len(withheld) == len(entries):
            sections[name] = WITHHELD
        else:
            tables = getattr(settings, name)
            sections[name] = tuple(msgspec.structs.replace(table, **withheld) for table in tables)
    return msgspec.structs.replace(settings, **sections)


def _encode(number: int, settings: Settings, role: Role) -> bytes:
    told: dict[str, object] = {}
    for name, entries in KEYS.items():
        known = [entry.name for entry in entries.values() if role in entry.key.roles]
        if name not in REPEATED:
            told[name] = {key: getattr(getattr(settings, name), key) for key in known}
        elif known:
            tables = getattr(settings, name)
            told[name] = [{key: getattr(table, key) for key in known} for table in tables]
    return msgspec.json.format(
        msgspec.json.encode({"format": _FORMAT, "number": number, "settings": told}), indent=1
    )


def _path(folder: Path, role: Role) -> Path:
    return folder / f"{role}.json"


def _number(path: Path) -> int:
    """The number of a file, 0 where it holds none: what is damaged is to be replaced."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Number).number
    except (FileNotFoundError, msgspec.MsgspecError):
        return 0
    except OSError as error:
        # A sector gone bad is damage; what is only unreadable now may hold the highest number.
        if error.errno == errno.EIO:
            return 0
        raise


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_suffix(".new")
    # What a crash left there may have another mode; it is no use to anybody.
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
