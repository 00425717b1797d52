"""The files of the local inbox: one a captured message, with its envelope in front of its content.

::

    magic (8) | head length (4) | head CRC-32 (4) | content length (8) | content CRC-32 (4)   little endian
    head: msgpack(CapturedHead) | content as it came

The envelope names every recipient that was captured, those of Bcc too. A file is written under another
name, synced, and only then renamed, so a crash leaves a whole file, or a `.part` that nobody called
captured. What is torn all the same (a disk that lied) is named in the listing and otherwise left alone.

`folder` is the inbox, a folder of the disk. All calls block and may raise `OSError`. Names are made of
our own ids; a name that is not one of them never becomes a path.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple
from zlib import crc32

import msgspec

from dispatch.mail.envelope import Recipient
from dispatch.mail.message import ContentFile, Message
from dispatch.ports import Disk, File

_BLOCK_BYTES = 256 * 1024
_MAGIC = b"DSPCAP1\n"
_FRAME = struct.Struct("<8sIIQI")
_HEAD_BYTES_MAX = 64 * 1024 * 1024
_SUFFIX = ".captured"
_PART = ".part"
_NAME = re.compile("[0-9a-f]{32}-[0-9]{1,9}")


class CapturedHead(msgspec.Struct, frozen=True, array_like=True):
    """What is known of a captured message beside its content. Fields may be appended, never reordered."""

    captured_ms: int
    message: Message
    indexes: tuple[int, ...]
    """Which of the envelope's recipients were captured here."""

    @property
    def recipients(self) -> tuple[Recipient, ...]:
        return tuple(self.message.envelope.recipients[index] for index in self.indexes)

    @property
    def name(self) -> str:
        """Of the file, without its suffix. A transaction tried again has the same one: it replaces itself."""
        return f"{self.message.id.hex()}-{self.indexes[0]}"


class Captured(NamedTuple):
    name: str
    head: CapturedHead
    size_bytes: int


class Listing(NamedTuple):
    captured: list[Captured]
    """Oldest first: the names begin with the time of acceptance."""
    torn: list[str]
    """File names that hold no whole captured message."""


class TornCapture(ValueError):
    """The file is not a whole captured message; the text says what is wrong with it."""


class NoSuchCapture(LookupError):
    """No captured message has this name."""


class SourceUnreadable(OSError):
    """The content to be captured cannot be read: not the inbox is unwell, but what was to go into it."""


class SourceLost(SourceUnreadable):
    """It is gone, or not whole."""


_encode_head = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(CapturedHead).decode


def write_captured(
    disk: Disk, folder: str, head: CapturedHead, content: bytes | tuple[ContentFile, File]
) -> None:
    """Write and sync the file; it survives a power cut when the caller has synced the folder as well."""
    path = _path(folder, head.name)
    part = path + _PART
    try:
        file = disk.open(part, create=True)
    except FileExistsError:
        # An earlier attempt died here.
        disk.remove(part)
        file = disk.open(part, create=True)
    try:
        _write(file, _encode_head(head), content)
    except OSError:
        file.close()
        try:
            disk.remove(part)
        except OSError:
            pass  # the next attempt removes it; the first error is the one to tell
        raise
    file.close()
    disk.rename(part, path)


def _write(file: File, encoded: bytes, content: bytes | tuple[ContentFile, File]) -> None:
    offset = begin = _FRAME.size + len(encoded)
    checksum = 0
    for block in _blocks(content):
        file.write_at(offset, (block,))
        checksum = crc32(block, checksum)
        offset += len(block)
    frame = _FRAME.pack(_MAGIC, len(encoded), crc32(encoded), offset - begin, checksum)
    file.write_at(0, (frame, encoded))
    file.sync()


def list_captured(disk: Disk, folder: str) -> Listing:
    """All captured messages, by their heads alone: contents are checked when they are read."""
    captured, torn = [], []
    for file_name in disk.names(folder):
        name = file_name.removesuffix(_SUFFIX)
        try:
            if name == file_name or _NAME.fullmatch(name) is None:
                raise TornCapture("not the name of a captured message")
            file = disk.open(_path(folder, name))
            try:
                head, _, size_bytes, _ = _read_head(file)
            finally:
                file.close()
            captured.append(Captured(name, head, size_bytes))
        except FileNotFoundError:
            continue  # deleted meanwhile
        except TornCapture:
            torn.append(file_name)
    return Listing(captured, torn)


def read_captured(disk: Disk, folder: str, name: str) -> tuple[CapturedHead, bytes]:
    """Envelope and content. Raises `NoSuchCapture` and `TornCapture`."""
    file = _open(disk, folder, name)
    try:
        head, begin, size_bytes, checksum = _read_head(file)
        content = file.read_at(begin, size_bytes)
    finally:
        file.close()
    if crc32(content) != checksum:
        raise TornCapture(f"{name}: the content does not match its checksum")
    return head, content


def delete_captured(disk: Disk, folder: str, name: str) -> None:
    """Delete one, torn or not. Raises `NoSuchCapture`."""
    _open(disk, folder, name).close()
    disk.remove(_path(folder, name))
    disk.sync_folder(folder)


def _path(folder: str, name: str) -> str:
    return f"{folder}/{name}{_SUFFIX}"


def _open(disk: Disk, folder: str, name: str) -> File:
    if _NAME.fullmatch(name) is None:
        raise NoSuchCapture(f"{name!r} is not the name of a captured message")
    try:
        return disk.open(_path(folder, name))
    except FileNotFoundError:
        raise NoSuchCapture(f"nothing captured has the name {name}") from None


def _blocks(content: bytes | tuple[ContentFile, File]) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    reference, source = content
    offset = 0
    while offset < reference.size_bytes:
        wanted = min(_BLOCK_BYTES, reference.size_bytes - offset)
        block = source.read_at(offset, wanted)
        if len(block) < wanted:
            raise SourceLost(f"{reference.name} ends at {offset + len(block)}")
        yield block
        offset += wanted


def _read_head(file: File) -> tuple[CapturedHead, int, int, int]:
    """The head, where the content begins, its length and checksum."""
    frame = file.read_at(0, _FRAME.size)
    if len(frame) < _FRAME.size:
        raise TornCapture("too short")
    magic, head_length, head_checksum, size_bytes, checksum = _FRAME.unpack(frame)
    if magic != _MAGIC or head_length > _HEAD_BYTES_MAX:
        raise TornCapture("not a captured message")
    encoded = file.read_at(_FRAME.size, head_length)
    if crc32(encoded) != head_checksum:
        raise TornCapture("the head does not match its checksum")
    begin = _FRAME.size + head_length
    if file.size() != begin + size_bytes:
        raise TornCapture(f"{file.size()} bytes, and should be {begin + size_bytes}")
    try:
        return _decode_head(encoded), begin, size_bytes, checksum
    except msgspec.MsgspecError as error:
        raise TornCapture(f"the head is unreadable: {error}") from error
