"""The ledger as the queue writes it: records in, and callbacks for "all so far is on stable storage".

Nothing in the queue waits for one record; everything waits for *all records written so far*. That
is one counter instead of a callback for each record, and it is the rule that keeps the parked store
behind the ledger: a change to it is made only when the ledger explains it.

Records of one turn of the loop leave in one frame (`spool.records`): a frame costs as much as encoding three
records, and there are three for every message.

Trap: a callback that waits for a record in the middle of a frame must be told the place of that record, not
of the frame's last: what is done because of it may be the last thing that this process does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dispatch.ports import AppendFault, Log, Lsn, Soon
from dispatch.spool.records import Checkpoint, LedgerFrame, LedgerRecord


class Book:
    """One writer's view of the ledger."""

    def __init__(self, ledger: Log, soon: Soon) -> None:
        self._ledger = ledger
        self._soon = soon
        self._frame = LedgerFrame()
        self._framed: deque[int] = deque()
        """How many records each frame has that is not durable yet."""
        self._written = 0
        self._durable = 0
        self._durable_lsn = ledger.durable
        self._waiting: deque[tuple[int, Callable[[], object]]] = deque()

    def write(self, record: LedgerRecord) -> None:
        """Add a record; it leaves the process at the latest at the end of this turn of the loop."""
        frame = self._frame
        if not frame.records:
            self._soon(self.hand_over)
        frame.add(record)
        self._written += 1
        if frame.full:
            self.hand_over()

    def begin(self, checkpoint: Checkpoint) -> None:
        """Write it as the first of a frame: a restart begins to read at its place."""
        self.hand_over()
        self.write(checkpoint)

    def hand_over(self) -> None:
        """Whatever was written is the ledger's business from here on."""
        frame = self._frame
        if frame.records:
            self._frame = LedgerFrame()
            self._framed.append(frame.records)
            self._ledger.append((frame.payload(),), self._frame_durable)

    def flush(self) -> None:
        """Return when all records have left the process: they survive `kill -9` (not a power cut)."""
        self.hand_over()
        self._ledger.flush()

    def once_durable(self, callback: Callable[[], object]) -> None:
        """Call back when all that was written so far is on stable storage, in the order of the calls.

        Where it already is and nobody waits before, the call comes at once, from within this one.
        """
        if self._durable == self._written and not self._waiting:
            callback()
            return
        self._waiting.append((self._written, callback))

    @property
    def written(self) -> int:
        """Records written since the start."""
        return self._written

    @property
    def undurable(self) -> int:
        """Records written that are not on stable storage yet."""
        return self._written - self._durable

    @property
    def durable_lsn(self) -> Lsn:
        """The place of the last durable record of ours, while it calls back of the one that was waited for;
        before there is one, the ledger's end as this run found it."""
        return self._durable_lsn

    def release(self, below: Lsn) -> None:
        self._ledger.release(below)

    def _frame_durable(self, result: Lsn | AppendFault) -> None:
        # The ledger keeps what it could not write and tries again; it gives a frame up only when it
        # is closed, and then nothing that waits for it may happen.
        if isinstance(result, AppendFault):
            return
        before = self._durable
        self._durable += self._framed.popleft()
        waiting = self._waiting
        while waiting and waiting[0][0] <= self._durable:
            # Taken out only afterwards: what it asks for in turn must not overtake those behind it.
            number, callback = waiting[0]
            if number > before:
                self._durable_lsn = Lsn(result + number - before - 1)
            try:
                callback()
            finally:
                waiting.popleft()
        self._durable_lsn = Lsn(result + self._durable - before - 1)
