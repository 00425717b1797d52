"""Content in a file of its own, as a relay gets it (`mime.departure`).

The file is never rewritten. All that changes lies in the header section: `departing` makes a reference that
holds the new one in memory (intake takes no large content whose header section is above a mebibyte), and
through it a relay reads a view: that head, then the file from behind the stored header section.
So what is read is what was measured and signed, whenever it is read.

Everything here blocks and belongs on a worker thread. Signing reads the body once more, block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dispatch.mail.message import ContentFile
from dispatch.mail.report import Fault, FaultKind
from dispatch.mime.departure import Departure
from dispatch.mime.dkim import Unsignable
from dispatch.mime.inspect import header_end
from dispatch.ports import Buffer, Disk, File

HEADER_BYTES_MAX = 1 << 20
Content = bytes | ContentFile
_BLOCK_BYTES = 64 << 10
_SIGNED_BLOCK_BYTES = 256 << 10


class DepartingFile(ContentFile, frozen=True, array_like=True, gc=False):
    """A content file as one relay gets it: with the size that it will read, and never stored."""

    head: bytes
    stored_head_bytes: int
    """How much of the file the head stands for."""


class Departing:
    """`ports.File` for reading: the head, then the file behind the one that is stored."""

    def __init__(self, file: File, content: DepartingFile) -> None:
        self._file = file
        self._head = content.head
        self._rest_at = content.stored_head_bytes
        """Where in the file that begins which follows the head."""

    def read_at(self, offset: int, size_bytes: int) -> bytes:
        head_bytes = len(self._head)
        head = self._head[offset : offset + size_bytes]
        if len(head) == size_bytes:
            return head
        rest_at = self._rest_at + max(offset - head_bytes, 0)
        return head + self._file.read_at(rest_at, size_bytes - len(head))

    def size(self) -> int:
        return len(self._head) + self._file.size() - self._rest_at

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


def opener(disk: Disk, folder: str) -> Callable[[ContentFile], File]:
    """How a relay opens content: as it is stored, or as its reference says."""

    def open_content(content: ContentFile) -> File:
        file = disk.open(f"{folder}/{content.name}")
        return Departing(file, content) if isinstance(content, DepartingFile) else file

    return open_content


def unfit_to_leave(error: Exception) -> Fault:
    """What an attempt comes to whose content could not be prepared."""
    match error:
        case Unsignable():
            return Fault(FaultKind.UNSUITED, f"it cannot be signed: {error}")
        case FileNotFoundError():
            return Fault(FaultKind.CONTENT_LOST, str(error))
        case OSError():
            return Fault(FaultKind.CONTENT_UNREADABLE, str(error))
        case _:
            return Fault(FaultKind.CONTENT_UNREADABLE, f"not to be handed over: {error!r}")


def departing(disk: Disk, folder: str, content: ContentFile, departure: Departure, now_s: int) -> ContentFile:
    """The reference that a relay is given. Raises `OSError`, and `dkim.Unsignable`."""
    if departure.as_stored:
        return content
    file = disk.open(f"{folder}/{content.name}")
    try:
        stored = _header_section(file)
        head = departure.header(stored)
        if departure.signing is not None:
            body = departure.signing.body_hash()
            at = len(stored)
            while block := file.read_at(at, _SIGNED_BLOCK_BYTES):
                body.feed(block)
                at += len(block)
            head = departure.signatures(head, body, now_s) + head
        size_bytes = len(head) + file.size() - len(stored)
        return DepartingFile(content.name, size_bytes, head, len(stored))
    finally:
        file.close()
