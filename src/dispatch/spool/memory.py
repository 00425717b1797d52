"""The log in memory: for `serve --memory`, for tests, and to read the contract without disks.

Durable means here: in this process. It keeps every other promise of the port: order, one round's
appends in one batch, `done` in a later round, the mark, released records gone, a limit on its size.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import partial

from dispatch.ports import AppendFault, Buffer, Clock, Entry, Lsn, Soon
from dispatch.spool.faults import ReleasedError

_FRAME_BYTES = 1
"""Even an empty record takes a place of its own."""


class MemoryLog:
    """`ports.Log`; make its readers with `MemoryReader(log)`."""

    def __init__(self, *, clock: Clock, size_bytes_max: int = 64 << 20, soon: Soon | None = None) -> None:
        self._soon: Soon = soon or partial(clock.call_later, 0.0)
        self._size_bytes_max = size_bytes_max
        self._size_bytes = 0
        self._end = 0
        self._durable = 0
        self._pending: list[tuple[Entry, Callable[[Lsn | AppendFault], None]]] = []
        self._gathering = False
        self._closed = False
        self.entries: list[Entry] = []
        """Durable and not released, in order."""
        self.oldest = 0

    @property
    def durable(self) -> Lsn:
        return Lsn(self._durable)

    def append(self, record: Sequence[Buffer], done: Callable[[Lsn | AppendFault], None]) -> None:
        assert not self._closed, "append to a closed log"
        payload = b"".join(record)
        if self._size_bytes + len(payload) > self._size_bytes_max:
            detail = f"the log in memory holds its {self._size_bytes_max} bytes"
            self._soon(partial(done, AppendFault(full=True, detail=detail)))
            return
        lsn, self._end = self._end, self._end + _FRAME_BYTES + len(payload)
        self._size_bytes += len(payload)
        self._pending.append((Entry(Lsn(lsn), Lsn(self._end), payload), done))
        if not self._gathering:
            self._gathering = True
            self._soon(self._commit)

    def flush(self) -> None:
        """Nothing here survives the process anyway."""

    def release(self, below: Lsn) -> None:
        count = bisect_right(self.entries, below, key=lambda entry: entry.next)
        if count:
            self.oldest = self.entries[count - 1].next
            self._size_bytes -= sum(len(entry.payload) for entry in self.entries[:count])
            del self.entries[:count]

    def close(self) -> None:
        if not self._closed:
            self._commit()
            self._closed = True

    def _commit(self) -> None:
        self._gathering = False
        batch, self._pending = self._pending, []
        if not batch:
            return
        self.entries += [entry for entry, _ in batch]
        self._durable = batch[-1][0].next
        for entry, done in batch:
            done(entry.lsn)


class MemoryReader:
    """`ports.LogReader` of a `MemoryLog`."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    @property
    def durable(self) -> Lsn:
        return self._log.durable

    @property
    def oldest(self) -> Lsn:
        return Lsn(self._log.oldest)

    def vouch(self, below: Lsn) -> None:
        """Its mark cannot fall back."""

    def read(self, cursor: Lsn, size_bytes_max: int) -> list[Entry]:
        if cursor < self._log.oldest:
            raise ReleasedError(cursor, self.oldest)
        entries = self._log.entries
        index = bisect_left(entries, cursor, key=lambda entry: entry.lsn)
        found: list[Entry] = []
        size_bytes = 0
        while index < len(entries) and size_bytes < size_bytes_max:
            found.append(entries[index])
            size_bytes += len(entries[index].payload)
            index += 1
        return found or entries[index : index + 1]

    def unanswered(self, lsn: Lsn) -> bool:
        """Never: what this log holds ends with the process that could have answered for it."""
        return False

    def incarnation(self, cursor: Lsn) -> int:
        """There was no earlier start."""
        return 0

    def close(self) -> None:
        """Nothing to let go of."""
