"""The ledger as the queue writes it: records in, and callbacks for "all so far is on stable storage".

Nothing in the queue waits for one record; everything waits for *all records written so far*. That
is one counter instead of a callback for each record, and it is the rule that keeps the parked store
behind the ledger: a change to it is made only when the ledger explains it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dispatch.ports import AppendFault, Log, Lsn
from dispatch.spool.records import LedgerRecord, encode_ledger


class Book:
    """One writer's view of the ledger."""

    def __init__(self, ledger: Log) -> None:
        self._ledger = ledger
        self._written = 0
        self._durable = 0
        self._durable_lsn = ledger.durable
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()

    def write(self, record: LedgerRecord) -> None:
        """Add a record; it leaves the process at the latest at the end of this turn of the loop."""
        self._written += 1
        self._ledger.append(encode_ledger(record), self._one_durable)

    def flush(self) -> None:
        """Return when all records have left the process: they survive `kill -9` (not a power cut)."""
        self._ledger.flush()

    def once_durable(self, callback: Callable[[], None]) -> None:
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
        """The last durable record of ours; before there is one, the ledger's end as this run found it."""
        return self._durable_lsn

    def release(self, below: Lsn) -> None:
        self._ledger.release(below)

    def _one_durable(self, result: Lsn | AppendFault) -> None:
        # The ledger keeps what it could not write and tries again; it gives a record up only when it
        # is closed, and then nothing that waits for it may happen.
        if isinstance(result, AppendFault):
            return
        self._durable += 1
        self._durable_lsn = result
        waiting = self._waiting
        while waiting and waiting[0][0] <= self._durable:
            # Taken out only afterwards: what it asks for in turn must not overtake those behind it.
            callback = waiting[0][1]
            try:
                callback()
            finally:
                waiting.popleft()
