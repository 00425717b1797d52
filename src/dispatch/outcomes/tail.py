"""The tail: follows the ledger from a cursor and hands its records to reactors, batch by batch.

A batch, what the reactors wrote in the history database because of it, and the cursor behind it are
one transaction. So tables are written exactly once, whatever dies in between. A reactor that speaks
outward speaks before the commit: at least once.

Damage in the ledger stops nobody: a range that cannot be read is skipped at its `resume` cursor, a
record that cannot be understood is skipped alone, and what was released before it was read is
given up. Each is counted and reported as a `Gap`; the counters below say how much is missing.

No thread, no clock, no waiting here: the caller calls `step` on a worker until it says that nothing
is left, then waits for news. A step that raised `StoreFault` has changed nothing and may be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from dispatch.ports import LogReader, Lsn
from dispatch.spool.faults import CorruptError, ReleasedError
from dispatch.spool.records import LedgerRecord, UnreadableRecord, decode_ledger
from dispatch.store.history import HistoryStore

CURSOR = "ledger"
BATCH_BYTES = 1 << 18
"""About 500 messages that were delivered at once: a few milliseconds of work a step."""


Happened = tuple[Lsn, LedgerRecord]
"""One ledger record behind its place. A plain tuple, because there are three for every message."""


class Gap(NamedTuple):
    """A part of the ledger that was passed over."""

    start: Lsn
    resume: Lsn
    why: str


class Reactor(Protocol):
    """Reads the ledger and does one thing. Runs on the tail's thread, inside its transaction."""

    def react(self, batch: Sequence[Happened]) -> None:
        """Take in what happened, in order. What is raised undoes the batch, which then comes again."""
        ...

    def idle(self) -> bool:
        """Nothing happens just now: do a little of what can wait; whether more of it waits."""
        ...


class Tail:
    """Follows one ledger."""

    def __init__(
        self,
        reader: LogReader,
        store: HistoryStore,
        *reactors: Reactor,
        report: Callable[[Gap], None] = lambda gap: None,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self._reader = reader
        self._store = store
        self._reactors = reactors
        self._report = report
        self._batch_bytes = batch_bytes
        cursor = store.cursor(CURSOR)
        self.cursor = reader.oldest if cursor is None else Lsn(cursor)
        """Everything below is in the tables."""
        self.records = 0
        self.unreadable = 0
        """Records that were passed over, one by one."""
        self.damaged_bytes = 0
        """What was passed over because it could not be read."""
        self.released_bytes = 0
        """What was released before it could be read."""

    def step(self) -> bool:
        """Take in one batch, or, where there is none, let the reactors catch up a little.

        Returns whether there is more to do at once. Raises `StoreFault`, `OSError`, and what reactors
        raise; then nothing has changed.
        """
        try:
            entries = self._reader.read(self.cursor, self._batch_bytes)
        except CorruptError as damage:
            self.damaged_bytes += damage.resume - self.cursor
            self._skip(Gap(self.cursor, damage.resume, str(damage)))
            return True
        except ReleasedError as released:
            self.released_bytes += released.oldest - self.cursor
            self._skip(Gap(self.cursor, released.oldest, str(released)))
            return True
        if not entries:
            more = [reactor.idle() for reactor in self._reactors]
            return any(more)
        batch: list[Happened] = []
        gaps: list[Gap] = []
        for lsn, behind, payload in entries:
            for place, record in enumerate(decode_ledger(payload), lsn):
                if isinstance(record, UnreadableRecord):
                    gaps.append(Gap(Lsn(place), behind, str(record)))
                else:
                    batch.append((Lsn(place), record))
        self._commit(batch, entries[-1].next)
        self.records += len(batch)
        self.unreadable += len(gaps)
        for gap in gaps:
            self._report(gap)
        return True

    def _skip(self, gap: Gap) -> None:
        assert gap.resume > gap.start, f"a gap that does not lead on: {gap}"
        self._commit([], gap.resume)
        self._report(gap)

    def _commit(self, batch: Sequence[Happened], cursor: Lsn) -> None:
        with self._store.transaction():
            if batch:
                for reactor in self._reactors:
                    reactor.react(batch)
            self._store.set_cursor(CURSOR, cursor)
        self.cursor = cursor
