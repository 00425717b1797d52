"""Who owns which delivery: the log, the parked store or nobody any more, and how it passes on.

The order of these steps is what a restart relies on (see the package and `recovery`):

- To settle: the record of the outcome, and when it is durable the parked row, or the log's claim, goes.
- To park: the parked store's commit, then the ledger's `parked` record, and when that is durable the
  log's claim goes.
- Content files go last. Whether the parked store still needs one is asked of the store itself, when the
  log lets go of the message: two owners that each keep a flag about the other would disagree one day.

Trap: what a *checkpoint* says of a message is what the records before it say, durable or not; what
may be *let go* of is what is durable (`LogOwned` keeps both).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from dispatch.mail.ids import MessageId
from dispatch.mail.message import ContentFile, Message
from dispatch.policy.copies import copies_of
from dispatch.ports import Clock, Lsn
from dispatch.queue.book import Book
from dispatch.queue.moves import after_move, needs_content
from dispatch.queue.parking import RETRY_S, Parking
from dispatch.queue.settle import Decision
from dispatch.queue.work import LogOwned, Work
from dispatch.spool.records import Live, Moved, Parked, Placed
from dispatch.store.parked import Change, Park, ParkedDelivery, Settle, Update


class Custody:
    """What the log owns, and every step by which a delivery changes its owner."""

    def __init__(
        self,
        clock: Clock,
        book: Book,
        parking: Parking,
        *,
        remove_files: Callable[[list[ContentFile]], None],
        latest_due_ms: Callable[[int], int],
        waiting: Callable[[tuple[ParkedDelivery, ...]], None],
        parked: Callable[[], None],
    ) -> None:
        """`latest_due_ms`: what no due time lies beyond that was planned by the clock as it is now.
        `waiting` is told what now waits in the parked store; `parked` that room was made."""
        self._clock = clock
        self._book = book
        self._parking = parking
        self._remove_files = remove_files
        self._latest_due_ms = latest_due_ms
        self._waiting = waiting
        self._room_made = parked
        self.live: dict[Lsn, LogOwned] = {}
        """Messages that stand in the log, until it may let go of them."""
        self._files: dict[str, LogOwned] = {}
        self._placed: list[tuple[LogOwned, tuple[int, ...]]] = []
        self._closed = False

    def own(
        self, lsn: Lsn, message: Message, gone: tuple[int, ...] = (), *, shared_file: bool = False
    ) -> LogOwned:
        """The log owns it from here on."""
        owner = self.live[lsn] = LogOwned(lsn, message, gone, shared_file=shared_file)
        if message.content_file is not None:
            self._files[message.content_file.name] = owner
        return owner

    def settle(self, work: Work, decision: Decision) -> None:
        """Write what was decided into the ledger; when that is durable, the deliveries change their owner."""
        self._book.write(decision.attempted)
        for moved in decision.moved:
            self._book.write(moved)
        gone, staying, owner = decision.gone, decision.staying, work.owner
        if owner is None:
            if staying:
                self.change(Update(work.message.id, staying), partial(self._waiting, staying))
            if gone:
                self.change(Settle(work.message.id, gone))
            return
        if staying:
            owner.history += (decision.attempted, *decision.moved)
            self._move_to_store(work, owner, staying)
        if gone:
            owner.decided.update(gone)
            self._book.once_durable(partial(self._let_go, owner, gone))

    def turn_away(self, work: Work, moved: Moved) -> None:
        """Routing ends or holds what the log owns, before it was tried."""
        owner = work.owner
        assert owner is not None, "routing turns away what was just taken up"
        self._book.write(moved)
        if needs_content(moved.state):
            owner.history += (moved,)
            self._move_to_store(work, owner, tuple(after_move(row, moved) for row in work.deliveries))
        else:
            owner.decided.update(work.indexes)
            self._book.once_durable(partial(self._let_go, owner, work.indexes))

    def park(self, work: Work) -> None:
        """The store takes a work over that the log owns; of one that is its own, it learns the due times."""
        if work.owner is None:
            rows = work.deliveries
            self.change(Update(work.message.id, rows), partial(self._waiting, rows))
            return
        self._move_to_store(work, work.owner, self._due_by_now(work.message, work.deliveries))

    def change(self, change: Change, done: Callable[[], None] | None = None) -> None:
        """Make a change to the parked store once everything written so far is durable; then `done`."""
        self._parking.reserve(change)
        self._book.once_durable(lambda: self._parking.change(change, self._book.durable_lsn, done))

    def standing(self) -> list[Live]:
        """What a restart must look at again, by all records written so far: for the checkpoint."""
        return [
            Live(owner.message.id, lsn, tuple(sorted(owner.decided)), owner.history, copies_of(owner.message))
            for lsn, owner in self.live.items()
            if owner.undecided
        ]

    def abandoned(self, files: list[ContentFile]) -> None:
        """The parked store needs these no more. Where the log may, it sees to it when it lets go."""
        removable = [file for file in files if file.name not in self._files]
        if removable:
            self._remove_files(removable)

    def file_names(self) -> frozenset[str]:
        """Content files of what the log owns."""
        return frozenset(self._files)

    def close(self) -> None:
        """Write nothing more."""
        self._closed = True

    def _move_to_store(self, work: Work, owner: LogOwned, deliveries: tuple[ParkedDelivery, ...]) -> None:
        owner.shared_file = True
        content = work.content if isinstance(work.content, bytes) else None
        self.change(Park(work.message, content, deliveries), partial(self._parked, owner, deliveries))

    def _due_by_now(
        self, message: Message, deliveries: tuple[ParkedDelivery, ...]
    ) -> tuple[ParkedDelivery, ...]:
        """As the clock goes now: it may have gone back since they were planned, or never were.

        What was never tried is due since its acceptance. Housekeeping sees only to what is in the store.
        """
        now_ms = int(self._clock.wall() * 1000)
        if all(delivery.due_ms <= now_ms for delivery in deliveries):
            return deliveries
        latest_ms = self._latest_due_ms(now_ms)
        return tuple(
            msgspec.structs.replace(
                delivery,
                due_ms=now_ms if delivery.due_ms == message.accepted_ms else min(delivery.due_ms, latest_ms),
            )
            if delivery.due_ms > now_ms
            else delivery
            for delivery in deliveries
        )

    def _parked(self, owner: LogOwned, deliveries: tuple[ParkedDelivery, ...]) -> None:
        """The store has them on stable storage: the ledger says so, then the log lets go."""
        self._waiting(deliveries)
        if not self._placed:
            self._clock.call_later(0, self._write_placed)
        self._placed.append((owner, tuple(delivery.index for delivery in deliveries)))

    def _write_placed(self) -> None:
        if self._closed:
            return
        placed, self._placed = self._placed, []
        at_ms = int(self._clock.wall() * 1000)
        self._book.write(Parked(at_ms, tuple(Placed(owner.message.id, indexes) for owner, indexes in placed)))
        for owner, indexes in placed:
            owner.decided.update(indexes)
            self._book.once_durable(partial(self._let_go, owner, indexes))
        self._room_made()

    def _let_go(self, owner: LogOwned, indexes: tuple[int, ...]) -> None:
        if not owner.let_go(indexes):
            return
        del self.live[owner.lsn]
        file = owner.message.content_file
        if file is None:
            return
        del self._files[file.name]
        if not owner.shared_file:
            self._remove_files([file])
            return
        self._remove_unless_parked(owner.message.id, file)

    def _remove_unless_parked(self, message_id: MessageId, file: ContentFile) -> None:
        if self._closed:
            return

        def decide(parked: bool) -> None:
            if not parked:
                self._remove_files([file])

        def again(_: Exception) -> None:
            self._clock.call_later(RETRY_S, partial(self._remove_unless_parked, message_id, file))

        self._parking.ask(lambda store: store.get(message_id, content=False) is not None, decide, again)
