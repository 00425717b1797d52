"""Large content on its way from its file to a connection: read and framed on a worker thread, block by block.

Memory is bounded: one block is in the making or on its way to the transport, and the next one is asked
for only while the transport takes more. A slow peer therefore holds a block and an open file, never the
message.
"""

from __future__ import annotations

from collections.abc import Callable

from dispatch.mail.message import ContentFile
from dispatch.ports import File, Worker
from dispatch.smtp.client_content import ContentFramer, Framing

BLOCK_BYTES = 256 * 1024

OpenContent = Callable[[ContentFile], File]
"""Called on the worker thread; may raise `OSError`."""


class ContentTooShort(OSError):
    """The file ends before the size that its owner recorded."""


class ContentStream:
    """Gives out the blocks of one content file, each on request, the last one marked."""

    __slots__ = (
        "_content",
        "_file",
        "_framer",
        "_offset",
        "_on_block",
        "_on_error",
        "_open",
        "_stopped",
        "_worker",
        "busy",
    )

    def __init__(
        self,
        content: ContentFile,
        framing: Framing,
        worker: Worker,
        open_content: OpenContent,
        on_block: Callable[[bytes, bool], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        """`on_block` gets a framed block and whether it is the last; `on_error` what went wrong instead.

        That is an `OSError`, or `body.BareNewline` for content that may not be sent. Both are called on the
        loop, neither after `stop`.
        """
        self._content = content
        self._framer = ContentFramer(framing)
        self._worker = worker
        self._open = open_content
        self._on_block = on_block
        self._on_error = on_error
        self._file: File | None = None
        """Touched on the worker only."""
        self._offset = 0
        self._stopped = False
        self.busy = False
        """A block was asked for and has not come."""

    def ask(self) -> None:
        """Ask for the next block; one at a time."""
        assert not self.busy, "a block is already on its way"
        self.busy = True
        self._worker.call(self._read, self._deliver)

    def stop(self) -> None:
        """Nothing more is wanted."""
        if not self._stopped:
            self._stopped = True
            self._worker.call(self._close, _ignore)

    def _read(self) -> tuple[bytes, bool]:
        if self._file is None:
            self._file = self._open(self._content)
        wanted = min(BLOCK_BYTES, self._content.size_bytes - self._offset)
        block = self._file.read_at(self._offset, wanted) if wanted else b""
        if len(block) < wanted:
            have = self._offset + len(block)
            raise ContentTooShort(f"{self._content.name}: {have} of {self._content.size_bytes} bytes")
        self._offset += len(block)
        last = self._offset == self._content.size_bytes
        return self._framer.frame(block, last=last), last

    def _deliver(self, result: tuple[bytes, bool] | Exception) -> None:
        self.busy = False
        if self._stopped:
            return
        if isinstance(result, Exception):
            self._on_error(result)
        else:
            self._on_block(*result)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _ignore(_: object) -> None:
    """Nothing can be done about a file, read to its end or not, that does not close."""
