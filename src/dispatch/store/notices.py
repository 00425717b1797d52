"""What senders are still to be told, and what they were told: the tables of `outcomes.bounce`.

Part of `history.db`, so that a notice becomes due in the transaction of the ledger record that it tells of.
What stands in the blobs is the reactor's business; here they are bytes. Everything that writes is called
within `HistoryStore.transaction`, on its thread. Methods raise what the driver raises, but for those that are
asked outside a transaction: they raise `StoreFault`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import apsw

from dispatch.mail.ids import MessageId
from dispatch.store.sqlite import faults, statements

_SQL = statements("history")


class Notifiable(NamedTuple):
    """A message of which something may still have to be told."""

    id: MessageId
    message: bytes
    standings: bytes
    waits_since_ms: int | None
    """Since when the first recipient waits whose sender has not been told of the delay; None: nobody does."""


class Pending(NamedTuple):
    """What is to be told of one recipient, once: the first four are its key."""

    message: MessageId
    position: int
    kind: str
    at_ms: int
    told: bytes


class Unsent(NamedTuple):
    """A notice that nobody has taken yet."""

    notice_id: MessageId
    at_ms: int
    """Its date."""
    frozen: bytes
    tries: int


class NoticeTables:
    """The reading and the writing end; made by `HistoryStore`."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._executemany = connection.executemany

    # ------------------------------------------------------------ messages

    def load(self, message_id: MessageId) -> tuple[bytes, bytes] | None:
        """Message and standings, where something of it may still have to be told."""
        row = self._execute(_SQL["load_notifiable"], (message_id,)).fetchone()
        return None if row is None else cast(tuple[bytes, bytes], row)

    def add(self, rows: Sequence[Notifiable]) -> None:
        self._executemany(_SQL["add_notifiable"], rows)

    def change(self, message_id: MessageId, standings: bytes, waits_since_ms: int | None) -> None:
        self._execute(_SQL["change_notifiable"], (message_id, standings, waits_since_ms))

    def drop(self, message_id: MessageId) -> None:
        self._execute(_SQL["drop_notifiable"], (message_id,))

    def waiting(self, since_ms: int, limit: int) -> list[Notifiable]:
        """Messages with a recipient that waits since then or longer, unnoticed. Raises `StoreFault`."""
        with faults("history: delays"):
            return [Notifiable(*row) for row in self._execute(_SQL["waiting_notifiable"], (since_ms, limit))]

    # ------------------------------------------------------------ what is to be told

    def tell(self, rows: Sequence[Pending]) -> None:
        """A row that is here already stays as it is."""
        self._executemany(_SQL["add_pending"], rows)

    def withdraw(self, message_id: MessageId, position: int, kind: str) -> None:
        self._execute(_SQL["withdraw_pending"], (message_id, position, kind))

    def ripe(self, before_ms: int, now_ms: int, limit: int) -> list[MessageId]:
        """Messages of which something is told of a time before that, or after now. Raises `StoreFault`."""
        with faults("history: notices"):
            return [row[0] for row in self._execute(_SQL["ripe_pending"], (before_ms, now_ms, limit))]

    def pending_of(self, message_id: MessageId) -> list[bytes]:
        """In the order in which it happened."""
        return [row[0] for row in self._execute(_SQL["pending_of"], (message_id,))]

    # ------------------------------------------------------------ notices

    def seal(self, notice_id: MessageId, message_id: MessageId, at_ms: int, frozen: bytes) -> None:
        """Put it into the outbox, unless it is there already: then it may have been sent."""
        self._execute(_SQL["add_notice"], (notice_id, message_id, at_ms, "unsent", frozen))

    def next_unsent(self, now_ms: int, latest_ms: int) -> Unsent | None:
        """The first that is due, or due later than can be. Raises `StoreFault`."""
        with faults("history: outbox"):
            row = self._execute(_SQL["next_unsent"], (now_ms, latest_ms)).fetchone()
        return None if row is None else Unsent(*row)

    def settle(self, notice_id: MessageId, at_ms: int, state: str) -> bool:
        """It is `sent`, or `given up`; whether that is news.

        One that is not here was sealed in another life of these tables, and is remembered.
        """
        if self._execute(_SQL["notice_state"], (notice_id,)).get is None:
            self._execute(_SQL["add_notice"], (notice_id, b"", at_ms, state, b""))
            return True
        self._execute(_SQL["settle_notice"], (notice_id, state))
        return self._connection.changes() > 0

    def put_off(self, notice_id: MessageId, due_ms: int) -> None:
        """It was tried in vain."""
        self._execute(_SQL["put_off_notice"], (notice_id, due_ms))

    def has_settled(self, before_ms: int) -> bool:
        """Whether there is anything to forget. Raises `StoreFault`."""
        with faults("history: outbox"):
            return self._execute(_SQL["settled_notice"], (before_ms,)).get is not None

    def forget(self, before_ms: int, limit: int) -> None:
        """Settled notices of before that time."""
        self._execute(_SQL["forget_notices"], (before_ms, limit))
