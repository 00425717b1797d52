"""One commit: the batches it makes durable, and the work that the worker does for it.

A commit writes at most one batch (the mail log's; the ledger's are written on the loop before), then syncs
every segment that holds one of its batches, and the folder if one of these segments is new. The first of a
start puts the tail that was found there on stable storage before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

from dispatch.ports import AppendFault, Buffer, Disk, File, Lsn
from dispatch.spool.frames import build_batch
from dispatch.spool.segments import Segment
from dispatch.spool.spares import Spares
from dispatch.spool.unproven import Unproven

Append = tuple[Sequence[Buffer], int, Callable[[Lsn | AppendFault], None]]
"""A record's buffers, their length, and whom to tell."""


class OpenSegment:
    """A segment that this process writes; its file is there once its first batch is put."""

    __slots__ = ("file", "segment")

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.file: File | None = None

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


class WriteBatch:
    """Records on their way into a segment. An empty one only opens its segment."""

    __slots__ = ("appends", "buffers", "chain", "end", "home", "lsn", "lsns", "opens")

    def __init__(
        self,
        home: OpenSegment,
        lsn: int,
        appends: list[Append],
        *,
        opens: bool,
        previous_end: int,
        synced: int,
        before: bytes | None,
    ) -> None:
        self.home = home
        self.lsn = lsn
        self.appends = appends
        self.opens = opens
        self.buffers: list[Buffer] = []
        self.lsns: list[Lsn] = []
        self.end = lsn
        self.chain = before
        """The chain behind it; None in a log without one."""
        if appends:
            self.buffers, self.lsns, self.end, self.chain = build_batch(
                [record for record, _, _ in appends],
                lsn=lsn,
                generation=home.segment.generation,
                previous_end=previous_end,
                synced=synced,
                before=before,
            )

    def put(self, spares: Spares) -> None:
        """Write it. Raises `OSError`; then the batch is not whole, and no recovery will ever take it."""
        if self.opens:
            self.home.file = spares.open_segment(self.home.segment, self.buffers)
        else:
            assert self.home.file is not None, "a batch for a segment that was never opened"
            self.home.file.write_at(self.lsn - self.home.segment.base, self.buffers)
        self.buffers = []


class Commit:
    """Runs once, on the worker; `outcome` stays for whoever could not wait to be told."""

    def __init__(
        self,
        disk: Disk,
        folder: str,
        spares: Spares,
        batches: list[WriteBatch],
        unwritten: WriteBatch | None,
        failed: Callable[[], None],
        unproven: Unproven | None = None,
    ) -> None:
        """`failed` is called on the worker, at once: the process may not live to see what came of it.
        `unproven`: the tail before all batches, while it may have to be placed."""
        self._disk = disk
        self._folder = folder
        self._spares = spares
        self._failed = failed
        self._unproven = unproven
        self.batches = batches
        self.unwritten = unwritten
        """That one of the batches which the commit itself writes; None once it was."""
        self._writing = Lock()
        self._write_error: OSError | None = None
        self.finished = False
        self.error: Exception | None = None

    def write(self) -> None:
        """Write what is unwritten. Either thread may come first; the other one gets the same answer."""
        with self._writing:
            if self._write_error is not None:
                raise self._write_error
            if self.unwritten is not None:
                try:
                    if self._unproven is not None:
                        self._unproven.place(self._failed)
                    self.unwritten.put(self._spares)
                except OSError as error:
                    self._write_error = error
                    raise
                self.unwritten = None

    def run(self) -> None:
        try:
            self.write()
            for home in dict.fromkeys(batch.home for batch in self.batches):
                assert home.file is not None, "a batch was put without a file"
                home.file.sync()
            if any(batch.opens for batch in self.batches):
                self._disk.sync_folder(self._folder)
        except Exception as error:
            self._failed()
            self.error = error
        self.finished = True
