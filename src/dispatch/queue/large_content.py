"""Content in a file of its own, as a relay gets it: without the fields that must not leave.

The file is never rewritten. A relay reads through a view whose beginning is the cleaned header section,
held in memory (intake takes no large content whose header section is above a mebibyte), and whose rest is the
file. Everything here blocks and belongs on a worker thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dispatch.mail.message import ContentFile
from dispatch.mime.handover import for_relay
from dispatch.mime.inspect import header_end
from dispatch.ports import Buffer, Disk, File

HEADER_BYTES_MAX = 1 << 20
_BLOCK_BYTES = 64 << 10


class HandedOver:
    """`ports.File` for reading: the cleaned header section, then the file from `_body_at` on."""

    def __init__(self, file: File) -> None:
        self._file = file
        stored = _header_section(file)
        self._head = for_relay(stored, verbatim=False)
        self.removed_bytes = len(stored) - len(self._head)

    def read_at(self, offset: int, size_bytes: int) -> bytes:
        head = self._head[offset : offset + size_bytes]
        if len(head) == size_bytes:
            return head
        rest_at = max(offset, len(self._head)) + self.removed_bytes
        return head + self._file.read_at(rest_at, size_bytes - len(head))

    def size(self) -> int:
        return self._file.size() - self.removed_bytes

    def close(self) -> None:
        self._file.close()

    def write_at(self, offset: int, buffers: Sequence[Buffer]) -> None:
        raise AssertionError("a view is read only")

    def sync(self) -> None:
        raise AssertionError("a view is read only")

    def truncate(self, size_bytes: int) -> None:
        raise AssertionError("a view is read only")


def _header_section(file: File) -> bytes:
    """Up to and with the empty line that ends it."""
    head = b""
    while len(head) <= HEADER_BYTES_MAX:
        block = file.read_at(len(head), _BLOCK_BYTES)
        head += block
        end = header_end(head)
        if end < len(head) or not block:
            return head[: end + 2]
    return head


def opener(disk: Disk, folder: str, *, verbatim: bool) -> Callable[[ContentFile], File]:
    """How a relay opens content."""

    def open_content(content: ContentFile) -> File:
        file = disk.open(f"{folder}/{content.name}")
        return file if verbatim else HandedOver(file)

    return open_content


def as_handed_over(disk: Disk, folder: str, content: ContentFile) -> ContentFile:
    """The reference that a relay is given: with the size that it will read."""
    file = disk.open(f"{folder}/{content.name}")
    try:
        return ContentFile(content.name, HandedOver(file).size())
    finally:
        file.close()
