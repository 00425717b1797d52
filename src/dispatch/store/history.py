"""The history store: what became of each message, for people to look at.

Duty: rows, counters, cursors and the search index of `history.db`. What a ledger record *means* for
them is decided in `outcomes.history`; this module writes down what it is told.

Rules: only the control process writes, one thread at a time. `synchronous=NORMAL`, because a cursor is
committed with the rows that it speaks of: after a power cut both go back together, and
the ledger is read again from there. Text that came from outside is scrubbed of control characters
before it gets here (`scrub`).

The search index is not written with the rows: that would cost more than all else. `index` fills it
when there is time; until then readers look through the rows that are missing from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import apsw
import msgspec

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.ids import MessageId
from dispatch.mail.showable import showable
from dispatch.store.notices import NoticeTables
from dispatch.store.numbers import PROBES, first_number, number_at
from dispatch.store.sqlite import (
    Folder,
    StoreFault,
    closed_on_failure,
    faults,
    forsake,
    open_database,
    statements,
    transaction,
)

PAGE_SIZE_BYTES = 8192
CHECKPOINT_PAGES = 2000
TEXT_MAX = 2000
"""Characters kept of any one text that came from outside."""

_SQL = statements("history")


Row = tuple[object, ...]
"""Written in the order of the columns of its statement in `sql/history.sql`. Plain tuples, because they
are made for every message, and naming their fields costs as much as storing them."""


class Standing(msgspec.Struct, frozen=True, gc=False):
    """How a delivery stands."""

    state: DeliveryState
    relay: str
    attempts: int
    since_ms: int
    due_ms: int | None


class HistoryStore:
    """The writing end of `history.db`."""

    def __init__(self, connection: apsw.Connection, doubts: Sequence[str] = ()) -> None:
        self._connection = connection
        self.notices = NoticeTables(connection)
        self.doubts = doubts
        """Why what was written last may be lost. Once there is any: to be closed, and opened again."""
        self._execute = connection.execute
        self._executemany = connection.executemany
        with faults("history: load"):
            self._highest = cast(int | None, self._execute(_SQL["highest_number"]).get) or -1
            self._through = cast(int, self._execute(_SQL["search_progress"]).get)
        self._given: set[int] = set()

    @classmethod
    def open(cls, path: Path, *, vfs: str | None = None, disk: Folder | None = None) -> HistoryStore:
        """Open or make the database. Raises `StoreFault`. On a `vfs`, nobody else can read it meanwhile."""
        doubts: list[str] = []
        connection = open_database(
            path,
            "history",
            synchronous="NORMAL",
            # Readers need shared memory, which only the machine's own file system has.
            exclusive=vfs is not None,
            page_size_bytes=PAGE_SIZE_BYTES,
            checkpoint_pages=CHECKPOINT_PAGES,
            vfs=vfs,
            disk=disk,
            doubted=doubts.append,
        )
        with closed_on_failure(connection):
            return cls(connection, doubts)

    def close(self) -> None:
        with faults("history: close"):
            if self.doubts:
                forsake(self._connection)
            else:
                self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written within is kept, or nothing of it. Raises `StoreFault`; with `doubts`, nobody
        knows which of the two."""
        if self._given:
            self._highest = max(self._highest, *self._given)
            self._given.clear()
        with transaction(self._connection):
            yield
        if self.doubts:
            raise StoreFault(f"history: not known to be kept: {self.doubts[0]}")

    # ------------------------------------------------------------ cursors

    def cursor(self, name: str) -> int | None:
        """Where a reader goes on; None where it has never been."""
        with faults("history: cursor"):
            return cast(int | None, self._execute(_SQL["load_cursor"], (name,)).get)

    def set_cursor(self, name: str, lsn: int) -> None:
        self._execute(_SQL["store_cursor"], (name, lsn))

    # ------------------------------------------------------------ rows

    def number_of(self, message_id: MessageId) -> int | None:
        """The row number of a message that is here."""
        found = self._execute(_SQL["number_of"], (first_number(message_id), message_id))
        return cast(int | None, found.get)

    def holds(self, message_id: MessageId) -> bool:
        """Whether a message is here, the transaction under way aside."""
        return first_number(message_id) <= self._highest and self.number_of(message_id) is not None

    def new_number(self, message_id: MessageId) -> int | None:
        """A free row number for a message; None where it is here already. Ask once a transaction."""
        number = first_number(message_id)
        # Nearly every message is later than all that is here; the others have to look who is there.
        if number <= self._highest or number in self._given:
            if self.number_of(message_id) is not None:
                return None
            taken = {row[0] for row in self._execute(_SQL["taken_numbers"], (number,))} | self._given
            number = next(free for free in range(number, number + PROBES) if free not in taken)
        self._given.add(number)
        return number

    def standing_of(self, number: int) -> list[Standing]:
        """The deliveries of a message, in the order of its recipients."""
        rows = self._execute(_SQL["standing_of"], (number,))
        return [Standing(DeliveryState(state), *rest) for state, *rest in rows]

    def recipients_of(self, number: int) -> int:
        """How many recipients its envelope has; the deliveries behind them are copies."""
        return cast(int, self._execute(_SQL["recipients_of"], (number,)).get)

    def envelope_of(self, message_id: MessageId) -> tuple[str, tuple[str, ...], int] | None:
        """Reverse-path, the addresses of all deliveries, and how many of them are no copies, of a message;
        None where it is not here."""
        number = self.number_of(message_id)
        if number is None:
            return None
        sender = cast(str, self._execute(_SQL["sender_of"], (number,)).get)
        addresses = self._execute(_SQL["addresses_of"], (number,))
        return sender, tuple(cast(str, address) for (address,) in addresses), self.recipients_of(number)

    def add(
        self,
        messages: Sequence[Row],
        deliveries: Sequence[Row],
        attempts: Sequence[Row],
        moved: Sequence[Row],
    ) -> None:
        """New rows; those of `messages` begin with a number that `new_number` gave."""
        self._executemany(_SQL["add_message"], messages)
        self._executemany(_SQL["add_delivery"], deliveries)
        self._executemany(_SQL["add_attempt"], attempts)
        self._executemany(_SQL["add_moved"], moved)
        late = [(number,) for number in self._given if number <= self._through]
        self._executemany(_SQL["add_search_late"], late)

    def change_message(self, number: int, state: str, settled_ms: int | None) -> None:
        self._execute(_SQL["change_message"], (number, state, settled_ms))

    def change_deliveries(self, number: int, changed: Iterable[tuple[int, Standing]]) -> None:
        rows = [(number, index, *msgspec.structs.astuple(standing)) for index, standing in changed]
        self._executemany(_SQL["change_delivery"], rows)

    def count(self, deltas: Mapping[tuple[int, str, str], int]) -> None:
        """Add to the counters: by day (UTC, since 1970), relay and kind."""
        self._executemany(_SQL["add_count"], [(*key, delta) for key, delta in deltas.items()])

    def count_logins(self, used: Mapping[str, tuple[int, int]]) -> None:
        """Add to what is known of logins: how many messages, and when the last one came."""
        self._executemany(_SQL["add_login"], [(name, *use) for name, use in used.items()])

    # ------------------------------------------------------------ when there is time

    def index(self, limit: int) -> int:
        """Put up to so many messages into the search index; returns how many. Raises `StoreFault`."""
        with faults("history: index"):
            late = [row[0] for row in self._execute(_SQL["late_to_search"], (limit,))]
            fresh = [
                cast(int, row[0])
                for row in self._execute(_SQL["next_to_search"], (self._through, limit - len(late)))
            ]
        if not late and not fresh:
            # Asked each second: an idle relay leaves its disk alone.
            return 0
        with self.transaction():
            self._executemany(_SQL["index_message"], [(number,) for number in (*late, *fresh)])
            self._executemany(_SQL["drop_search_late"], [(number,) for number in late])
            through = fresh[-1] if fresh else self._through
            self._execute(_SQL["store_search_progress"], (through,))
        self._through = through
        return len(late) + len(fresh)

    def purge(self, before_ms: int, *, failed: bool, limit: int) -> int:
        """Forget up to `limit` messages that were accepted and settled before a time; returns how many.

        `failed`: those of which some recipient was not reached; otherwise those that went well or were
        taken out on purpose. Counters stay. Raises `StoreFault`.
        """
        with self.transaction():
            rows = self._execute(
                _SQL["finished_before"], (number_at(before_ms), before_ms, not failed, limit)
            )
            numbers = [(cast(int, number),) for (number,) in rows]
            waiting = {row[0] for row in self._execute(_SQL["late_to_search"], (-1,))}
            indexed = [key for key in numbers if key[0] <= self._through and key[0] not in waiting]
            self._executemany(_SQL["unindex_message"], indexed)
            for name in (
                "drop_notifiable_numbered",
                "drop_message",
                "drop_deliveries",
                "drop_attempts",
                "drop_moved",
                "drop_search_late",
            ):
                self._executemany(_SQL[name], numbers)
        return len(numbers)


def scrub(text: str) -> str:
    """Text from outside, fit for a terminal and a page: no control characters, no bidirectional
    overrides, bounded in length."""
    if text.isprintable() and len(text) <= TEXT_MAX:
        return text
    return showable(text[:TEXT_MAX])
