"""The parked store behind a thread: changes in batches, questions in between, in the order asked.

While one batch is being committed, everything that comes gathers for the next one, as in the logs:
the deeper the trouble, the larger the batches. A question is asked after every change that was
made before it.

A batch that cannot be committed (a full disk) is kept and tried again, and the changes behind it wait:
nothing is lost by that, since the log or the parked row still owns what the batch speaks of, and the
scheduler takes nothing more up while too much content waits here. Questions do not wait for a disk that is
full: they are answered with the fault.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar

from dispatch.mail.ids import MessageId
from dispatch.mail.message import ContentFile
from dispatch.ports import Clock, Lsn, Worker
from dispatch.store.parked import Change, Park, ParkedMessage, ParkedStore, Settle

T = TypeVar("T")

BATCH_MAX = 500
"""Changes a transaction: bounds how long a question waits behind it."""
RETRY_S = 1.0
"""How long a batch that could not be committed waits."""
DELIVERY_BYTES = 512
"""What a delivery costs in memory beside its content, roughly."""

Taken = tuple[MessageId, tuple[int, ...]]
"""Deliveries of one message that were claimed together."""
Due = tuple[list[ParkedMessage], int | None]
"""What is due; and, where nothing is, when the next is."""


class _Made:
    """A change on its way; without one, only the word that the store has followed the ledger so far."""

    __slots__ = ("change", "done", "explained_by")

    def __init__(self, change: Change | None, explained_by: Lsn, done: Callable[[], None] | None) -> None:
        self.change = change
        self.explained_by = explained_by
        self.done = done


class _Question:
    __slots__ = ("ask", "failed")

    def __init__(self, ask: Callable[[], None], failed: Callable[[Exception], None] | None) -> None:
        self.ask = ask
        self.failed = failed
        """None: it is no question but an order, which keeps its place until it is carried out."""


class Parking:
    """What the scheduler asks of the parked store."""

    def __init__(
        self,
        store: ParkedStore,
        worker: Worker,
        clock: Clock,
        *,
        fault: Callable[[Exception], None],
        abandon: Callable[[list[ContentFile]], None],
    ) -> None:
        """`fault` reports; `abandon` gets content files that the store needs no more."""
        self._store = store
        self._worker = worker
        self._clock = clock
        self._fault = fault
        self._abandon = abandon
        self._line: deque[_Made | _Question] = deque()
        self._busy = False
        self._scheduled = False
        self._closed = False
        self.pending_bytes = 0
        """What waits for its commit, or to be explained by the ledger: the bound on taking up more."""

    def reserve(self, change: Change) -> None:
        """It is going to be made, and is in memory from now on."""
        self.pending_bytes += _cost_bytes(change)

    def change(self, change: Change, explained_by: Lsn, done: Callable[[], None] | None = None) -> None:
        """Make a change that was reserved and whose ledger record is durable; `done` follows its commit."""
        self._line.append(_Made(change, explained_by, done))
        self._soon()

    def follow(self, lsn: Lsn, done: Callable[[], None]) -> None:
        """All that the ledger says up to there about parked deliveries is in the line before this; `done`
        when it is committed."""
        self._line.append(_Made(None, lsn, done))
        self._soon()

    def claim(
        self,
        relay: str,
        now_ms: int,
        limit: int,
        size_bytes_max: int,
        done: Callable[[Due | None], None],
    ) -> None:
        """Due deliveries of a relay, at most `limit` messages; None where the store failed."""

        def question(store: ParkedStore) -> Due:
            claimed = store.claim(relay, now_ms, limit, size_bytes_max)
            return claimed, None if claimed else store.next_due_ms(relay)

        self.ask(question, done, lambda _: done(None))

    def unclaim(self, taken: list[Taken]) -> None:
        """They go back unchanged.

        In its place among everything else: later, a newer claim of the same deliveries would be given back.
        """

        def answer(result: Exception | None) -> None:
            if self._closed:
                return
            if isinstance(result, Exception):
                self._fault(result)
                self._clock.call_later(RETRY_S, give_back)
                self._answer_all(result)
                return
            self._busy = False
            self._next()

        def give_back() -> None:
            if not self._closed:
                self._worker.call(lambda: self._store.put_back(taken), answer)

        self._line.append(_Question(give_back, None))
        self._soon()

    def ask(
        self,
        question: Callable[[ParkedStore], T],
        done: Callable[[T], None],
        failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        """Run `question` on the store's thread, then `done` on the loop, or `failed`; faults are reported."""

        def answer(result: T | Exception) -> None:
            self._busy = False
            if self._closed:
                return
            if isinstance(result, Exception):
                self._fault(result)
                failed(result)
            else:
                done(result)
            self._next()

        self._line.append(_Question(lambda: self._worker.call(lambda: question(self._store), answer), failed))
        self._soon()

    def close(self) -> None:
        """Ask nothing more, and tell nobody what comes of what was asked."""
        self._closed = True
        self._line.clear()

    @property
    def idle(self) -> bool:
        return not self._line and not self._busy

    def _soon(self) -> None:
        """Begin at the end of this turn of the loop, so that what belongs together is one batch."""
        if not self._scheduled and not self._busy:
            self._scheduled = True
            self._clock.call_later(0, self._next)

    def _next(self) -> None:
        self._scheduled = False
        if self._busy or self._closed or not self._line:
            return
        self._busy = True
        first = self._line.popleft()
        if isinstance(first, _Question):
            first.ask()
            return
        batch = [first]
        while self._line and len(batch) < BATCH_MAX and isinstance(self._line[0], _Made):
            made = self._line.popleft()
            assert isinstance(made, _Made)
            batch.append(made)
        self._commit(batch)

    def _commit(self, batch: list[_Made]) -> None:
        if self._closed:
            return
        changes = [made.change for made in batch if made.change is not None]
        explained_by = batch[-1].explained_by

        def answer(result: list[ContentFile] | Exception) -> None:
            if self._closed:
                return
            if isinstance(result, Exception):
                self._fault(result)
                self._clock.call_later(RETRY_S, lambda: self._commit(batch))
                self._answer_all(result)
                return
            self._busy = False
            for made in batch:
                if made.change is not None:
                    self.pending_bytes -= _cost_bytes(made.change)
                if made.done is not None:
                    made.done()
            if result:
                self._abandon(result)
            self._next()

        self._worker.call(lambda: self._store.apply(changes, explained_by), answer)

    def _answer_all(self, fault: Exception) -> None:
        """Nobody's question waits until the disk is well."""
        line, self._line = self._line, deque()
        failed: list[Callable[[Exception], None]] = []
        for each in line:
            if isinstance(each, _Question) and each.failed is not None:
                failed.append(each.failed)
            else:
                self._line.append(each)
        for tell in failed:
            tell(fault)


def _cost_bytes(change: Change) -> int:
    if isinstance(change, Settle):
        return DELIVERY_BYTES
    content = change.content if isinstance(change, Park) else None
    return DELIVERY_BYTES * (1 + len(change.deliveries)) + (0 if content is None else len(content))
