"""Content files: content above a megabyte (`INLINE_BYTES_MAX`) stands beside the log, not in it.

Streamed in while the client still sends: chunks go to the worker, a bounded number of bytes at a time, and
the client is not read while the disk is behind. `finish` syncs file and folder; only then may the
record that names the file be appended. From there on the file is handed from owner to owner by that
name (`mail.message.ContentFile`), never copied, and removed by the last owner.

A process that dies between file and record leaves an orphan. Nobody but the writer knows what
is still to be appended, so a file bears in its name the incarnation of the log that it was written
under: once a reader has passed the start of a later incarnation, a file of an earlier one that
nothing names is one that nothing ever will. Nothing is removed by age or by looking at clocks.

Reading is the relays' business, each in its own way (`relays.smtp_content`, `relays.capture_store`).

::

    <incarnation, 16 hex digits>-<message id, 32 hex digits>.content
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from functools import partial

from dispatch.mail.ids import MessageId
from dispatch.mail.message import ContentFile
from dispatch.ports import AppendFault, Buffer, Disk, File, Worker
from dispatch.spool.faults import append_fault

INLINE_BYTES_MAX = 1 << 20
CHUNK_BYTES = 256 << 10
BEHIND_BYTES_MAX = 1 << 20
"""More than this on its way to the disk, and the writer asks its source to wait."""

_NAME = re.compile(r"([0-9a-f]{16})-[0-9a-f]{32}\.content")


def orphans(names: list[str], named: Container[str], incarnation: int) -> list[str]:
    """Of a content folder's names, those of earlier incarnations that nothing names.

    `incarnation` is one whose predecessors' records were all read (`LogReader.incarnation`); `named` holds
    every name that one of these records, or the parked store, still needs.
    """
    return [
        name
        for name in names
        if (match := _NAME.fullmatch(name)) and int(match[1], 16) < incarnation and name not in named
    ]


def message_id_of(name: str) -> MessageId:
    """Whose content a file of a content folder is."""
    return MessageId(bytes.fromhex(name[17:49]))


class ContentFolder:
    """The content files of one log. Everything that may block runs on the worker, in the order asked."""

    def __init__(self, disk: Disk, folder: str, *, worker: Worker, incarnation: int = 0) -> None:
        """`incarnation` is the writer's (`SegmentLog.incarnation`); who only reads and removes needs none."""
        self._disk = disk
        self._folder = folder
        self._worker = worker
        self._incarnation = incarnation
        disk.names(folder)
        disk.sync_folder(folder.rpartition("/")[0])

    def create(self, message_id: MessageId, drained: Callable[[], None]) -> ContentWriter:
        """Begin a file. `drained` is called when a writer that said "wait" has caught up."""
        name = f"{self._incarnation:016x}-{message_id.hex()}.content"
        return ContentWriter(self._disk, self._folder, name, self._worker, drained)

    def remove(self, names: list[str], done: Callable[[Exception | None], None]) -> None:
        """Remove files that no owner needs any more; those that are gone already do not matter.

        Not synced: a removal that a power cut undoes leaves an orphan, which the next sweep finds.
        """
        paths = [self._path(name) for name in names]

        def work() -> None:
            for path in paths:
                try:
                    self._disk.remove(path)
                except FileNotFoundError:
                    continue

        self._worker.call(work, done)

    def _path(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a content file")
        return f"{self._folder}/{name}"


class ContentWriter:
    """One file on its way to the disk. Ends with exactly one of `finish` and `abandon`."""

    def __init__(
        self, disk: Disk, folder: str, name: str, worker: Worker, drained: Callable[[], None]
    ) -> None:
        self._disk = disk
        self._folder = folder
        self._path = f"{folder}/{name}"
        self._name = name
        self._worker = worker
        self._drained = drained
        self._file: File | None = None
        self._error: Exception | None = None
        self._gathered: list[Buffer] = []
        self._gathered_bytes = 0
        self._behind_bytes = 0
        self._waiting = False
        self._ended = False
        self.size_bytes = 0

    def write(self, buffer: Buffer) -> bool:
        """Take bytes, which the writer owns from now on. False: give no more until `drained` is called.

        A fault of the disk shows in `finish`, not here; what is written after it goes nowhere.
        """
        assert not self._ended, "written after its end"
        self._gathered.append(buffer)
        self._gathered_bytes += len(buffer)
        self.size_bytes += len(buffer)
        if self._gathered_bytes >= CHUNK_BYTES:
            self._send()
        self._waiting = self._behind_bytes > BEHIND_BYTES_MAX
        return not self._waiting

    def finish(self, done: Callable[[ContentFile | AppendFault], None]) -> None:
        """Put it on stable storage: the reference, or why there is no such file."""
        assert not self._ended, "ended twice"
        self._send()
        self._ended = True

        def finished(result: Exception | None) -> None:
            if result is None:
                done(ContentFile(self._name, self.size_bytes))
            else:
                done(append_fault(result))

        self._worker.call(self._sync, finished)

    def abandon(self) -> None:
        """The submission came to nothing: so does the file. Once finished it is `ContentFolder.remove`'s."""
        assert not self._ended, "ended twice"
        self._ended = True
        self._gathered = []
        self._worker.call(self._discard, _ignore)

    def _send(self) -> None:
        chunk, self._gathered = self._gathered, []
        size_bytes, self._gathered_bytes = self._gathered_bytes, 0
        self._behind_bytes += size_bytes
        offset = self.size_bytes - size_bytes
        self._worker.call(partial(self._write, offset, chunk), partial(self._sent, size_bytes))

    def _sent(self, size_bytes: int, _: Exception | None) -> None:
        self._behind_bytes -= size_bytes
        if self._waiting and self._behind_bytes <= BEHIND_BYTES_MAX // 2 and not self._ended:
            self._waiting = False
            self._drained()

    # ------------------------------------------------------------ on the worker

    def _write(self, offset: int, chunk: list[Buffer]) -> None:
        if self._error is not None:
            return
        try:
            if self._file is None:
                self._file = self._disk.open(self._path, create=True)
            self._file.write_at(offset, chunk)
        except OSError as error:
            self._error = error

    def _sync(self) -> None:
        if self._error is None:
            assert self._file is not None, "synced before its first chunk"
            try:
                self._file.sync()
                self._disk.sync_folder(self._folder)
            except OSError as error:
                self._error = error
        if self._error is not None:
            self._discard()
            raise self._error
        self._close()

    def _discard(self) -> None:
        if self._file is not None:
            self._close()
            try:
                self._disk.remove(self._path)
            except OSError:
                # An orphan then: no record will name it.
                return

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _ignore(_: object) -> None:
    """There is nothing to be done about it."""
