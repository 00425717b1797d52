"""Reading history: pages of messages newest first, one message with its timeline, counters.

Any process may read while control writes. A page begins behind the row number of the page before,
never at an offset, so the thousandth costs what the first does. What a filter means is in `search`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import msgspec

from dispatch.mail.ids import MessageId
from dispatch.store.numbers import first_number, number_ms
from dispatch.store.search import HistoryFilter, Query, Source, match_expression
from dispatch.store.sqlite import faults, open_read_only, statements

_SQL = statements("history")


_MESSAGE_FIELDS = (
    "id",
    "state",
    "settled_ms",
    "sender",
    "size_bytes",
    "priority",
    "source",
    "client_address",
    "client_name",
    "login",
    "tls",
    "subject",
    "header_from",
    "message_id",
    "mailer",
    "tags",
    "unanswered",
    "power",
)
"""What `load_message` selects behind the number."""

_ATTEMPT_FIELDS = (
    "at_ms",
    "relay",
    "attempt",
    "indexes",
    "move",
    "state",
    "scope",
    "reply",
    "reason",
    "due_ms",
    "took_ms",
    "peer",
    "tls",
)
"""What `load_attempts` selects."""


class Listed(msgspec.Struct, frozen=True):
    """A message on a page."""

    id: MessageId
    accepted_ms: int
    state: str
    sender: str
    recipient: str
    """The first one."""
    recipients: int
    relay: str
    """Of the first recipient."""
    subject: str
    size_bytes: int
    settled_ms: int | None
    place: int
    """The next page begins behind the place of the last one."""


class RecordedDelivery(msgspec.Struct, frozen=True):
    index: int
    address: str
    state: str
    relay: str
    attempts: int
    since_ms: int
    due_ms: int | None
    copy: bool = False
    """By a rule's `copy_to`: the address is that of a recipient, and the mail went to an archive."""


class Happening(msgspec.Struct, frozen=True, omit_defaults=True):
    """An attempt, or what a person or a policy did."""

    at_ms: int
    indexes: tuple[int, ...]
    move: str
    state: str
    reason: str
    relay: str = ""
    attempt: int = 0
    scope: str = ""
    reply: str | None = None
    due_ms: int | None = None
    took_ms: int | None = None
    peer: str = ""
    tls: str | None = None
    by: str = ""
    """Empty: it was an attempt."""


class RecordedMessage(msgspec.Struct, frozen=True):
    """All that history knows of one message."""

    id: MessageId
    accepted_ms: int
    state: str
    settled_ms: int | None
    sender: str
    size_bytes: int
    priority: str
    source: str
    client_address: str
    client_name: str
    login: str | None
    tls: str | None
    subject: str
    header_from: str
    message_id: str
    mailer: str
    tags: tuple[str, ...]
    unanswered: bool
    """Its client may never have seen our answer."""
    power: bool
    """May have been delivered before a power cut without a trace."""
    deliveries: tuple[RecordedDelivery, ...]
    timeline: tuple[Happening, ...]


class Count(msgspec.Struct, frozen=True):
    day: int
    """Days since 1970, UTC."""
    relay: str
    kind: str
    count: int


class LoginUse(msgspec.Struct, frozen=True):
    messages: int
    """How many of its messages were kept since history counts them."""
    last_ms: int
    """When the last one was accepted."""


class HistoryReader:
    """The reading end of `history.db`."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute

    @classmethod
    def open(cls, path: Path) -> HistoryReader:
        """Raises `StoreFault`, also where there is no history yet."""
        return cls(open_read_only(path))

    def close(self) -> None:
        with faults("history: close"):
            self._connection.close()

    def find(self, wanted: HistoryFilter, *, limit: int, after: int | None = None) -> list[Listed]:
        """A page of at most `limit` messages, newest first, behind the place `after`. Raises `StoreFault`."""
        searched = match_expression(wanted)
        if searched is None:
            with faults("history: find"):
                return self._page(Query(wanted, after), limit)
        with faults("history: find"), self._snapshot():
            rows = self._page(Query(wanted, after, Source.INDEXED, searched), limit)
            rows += self._page(Query(wanted, after, Source.LATER), limit)
            rows += self._page(Query(wanted, after, Source.LATE), limit)
        return sorted(rows, key=lambda row: row.place, reverse=True)[:limit]

    def get(self, message_id: MessageId) -> RecordedMessage | None:
        """One message with its deliveries and its timeline. Raises `StoreFault`."""
        with faults("history: get"), self._snapshot():
            key = (first_number(message_id), message_id)
            row = self._execute(_SQL["load_message"], key).fetchone()
            if row is None:
                return None
            number = row[0]
            fields = dict(zip(_MESSAGE_FIELDS, row[1:], strict=True))
            fields["accepted_ms"] = number_ms(number)
            fields["tags"] = fields["tags"].split()
            fields["deliveries"] = self._deliveries(number)
            fields["timeline"] = self._timeline(number)
            return msgspec.convert(fields, RecordedMessage, strict=False)

    def counts(self, first_day: int, last_day: int) -> list[Count]:
        """The counters of some days (since 1970, UTC), both included. Raises `StoreFault`."""
        with faults("history: counters"):
            return [Count(*row) for row in self._execute(_SQL["counts_between"], (first_day, last_day))]

    def logins(self) -> dict[str, LoginUse]:
        """By name, those of which mail was kept. Raises `StoreFault`."""
        with faults("history: logins"):
            return {name: LoginUse(*use) for name, *use in self._execute(_SQL["logins"])}

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """What is read within is one state of the database, whatever its writer does."""
        self._execute("BEGIN")
        try:
            yield
        finally:
            self._execute("COMMIT")

    def _page(self, query: Query, limit: int) -> list[Listed]:
        rows = self._execute(query.sql(), query.bindings | {"limit": limit})
        return [
            Listed(*(message_id, number_ms(number), *shown, number)) for number, message_id, *shown in rows
        ]

    def _deliveries(self, number: int) -> tuple[RecordedDelivery, ...]:
        return tuple(
            RecordedDelivery(index, address, state, relay, attempts, since_ms, due_ms, bool(copy))
            for index, address, state, relay, attempts, since_ms, due_ms, copy in self._execute(
                _SQL["load_deliveries"], (number,)
            )
        )

    def _timeline(self, number: int) -> tuple[Happening, ...]:
        happenings = []
        for row in self._execute(_SQL["load_attempts"], (number,)):
            fields = dict(zip(_ATTEMPT_FIELDS, row, strict=True))
            fields["indexes"] = _indexes(fields["indexes"])
            happenings.append(Happening(**fields))
        for at_ms, positions, move, state, actor, reason in self._execute(_SQL["load_moved"], (number,)):
            happenings.append(Happening(at_ms, _indexes(positions), move, state, reason, by=actor))
        return tuple(sorted(happenings, key=lambda happening: happening.at_ms))


def _indexes(positions: str) -> tuple[int, ...]:
    return tuple(int(position) for position in positions.split())
