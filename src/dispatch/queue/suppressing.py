"""What is claimed from the parked store is tried only where its recipient is not on the suppression list.

What is taken up from the log is looked at by its routes; but mail that waits for hours must not be tried
either when its recipient has been put on the list meanwhile. It ends before any attempt: a claim is no
attempt, and needs no word on record.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from dispatch.mail.message import Message
from dispatch.policy.suppression import SUPPRESSED_ROUTE
from dispatch.ports import Clock
from dispatch.queue.book import Book
from dispatch.queue.custody import Custody
from dispatch.queue.turned_away import kept_from_relays
from dispatch.queue.work import Work, parked_work
from dispatch.store.parked import ParkedMessage, Settle


class Suppressing:
    """Asked by the scheduler."""

    def __init__(
        self, clock: Clock, book: Book, custody: Custody, suppressed: Callable[[Message], frozenset[int]]
    ) -> None:
        self._clock = clock
        self._book = book
        self._custody = custody
        self._suppressed = suppressed

    def works(self, claimed: list[ParkedMessage]) -> list[Work]:
        """What of it may be tried; the rest is settled."""
        works: list[Work] = []
        for parked in claimed:
            suppressed = self._suppressed(parked.message)
            if suppressed:
                ended = tuple(row.index for row in parked.deliveries if row.index in suppressed)
                if ended:
                    self._end(parked, ended)
                rest = tuple(row for row in parked.deliveries if row.index not in suppressed)
                if not rest:
                    continue
                parked = msgspec.structs.replace(parked, deliveries=rest)
            works.append(parked_work(parked))
        return works

    def _end(self, parked: ParkedMessage, indexes: tuple[int, ...]) -> None:
        now_ms = int(self._clock.wall() * 1000)
        self._book.write(kept_from_relays(SUPPRESSED_ROUTE, parked.message.id, indexes, now_ms))
        self._custody.change(Settle(parked.message.id, indexes))
