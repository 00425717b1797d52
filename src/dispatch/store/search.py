r"""Looking for messages in history: a filter as SQL.

Words, senders, recipients and Message-IDs are looked up in the full-text index (FTS5), newest first;
what is found is compared exactly afterwards, where exactness was asked for. Messages that are not in
the index yet are looked through one by one. Words match from their beginning and without regard to
case or accents: `invo` finds *Invoice*; among the messages not yet indexed also *preinvoice*, and
accents count.

A filter on the client, the relay or a usual state alone has no index: where few match it reads on
until a page is full. Everything that a person wrote is bound, and stands for itself in a pattern.
"""

from __future__ import annotations

import re
from enum import Enum

import msgspec

from dispatch.mail.delivery import FAILED_STATES, DeliveryState
from dispatch.store.numbers import number_at
from dispatch.store.sqlite import address_pattern, like_literal

PARTIALLY_DELIVERED = "partially delivered"
MESSAGE_STATES = frozenset({*(state.value for state in DeliveryState), PARTIALLY_DELIVERED})
FAILED_MESSAGE_STATES = frozenset({*(state.value for state in FAILED_STATES), PARTIALLY_DELIVERED})
_RECIPIENT = "EXISTS (SELECT 1 FROM delivery WHERE delivery.message = message.number"
_USUAL = frozenset({DeliveryState.DELIVERED.value, DeliveryState.CAPTURED.value})


class HistoryFilter(msgspec.Struct, frozen=True):
    """Which messages are meant: all that is set must hold."""

    since_ms: int | None = None
    """Accepted then or later."""
    before_ms: int | None = None
    """Accepted earlier."""
    states: frozenset[str] = frozenset()
    """Some of `MESSAGE_STATES`; empty: any."""
    sender: str = ""
    """An address, or a domain for all of its addresses."""
    recipient: str = ""
    """As `sender`."""
    subject: str = ""
    """Words that all occur."""
    text: str = ""
    """Words that all occur in sender, recipients, subject or Message-ID."""
    relay: str = ""
    """Some recipient was last tried there."""
    client: str = ""
    """The address that submitted it, or the login."""
    message_id: str = ""
    """The `Message-ID` header field, with or without its angle brackets."""


_COLUMNS = (
    "message.number, id, message.state, message.sender, first.address, message.recipients, first.relay, "
    "message.subject, size_bytes, settled_ms"
)


class Source(Enum):
    """Where a query begins."""

    ALL = "all"
    INDEXED = "indexed"
    LATER = "later"
    """Accepted after all that is in the index."""
    LATE = "late"
    """Accepted before, and not in the index yet."""


_FROM = {
    Source.ALL: "message",
    Source.INDEXED: "search CROSS JOIN message ON message.number = search.rowid",
    Source.LATER: "message",
    Source.LATE: "search_late CROSS JOIN message ON message.number = search_late.number",
}
_KEY = {
    Source.ALL: "message.number",
    Source.INDEXED: "search.rowid",
    Source.LATER: "message.number",
    Source.LATE: "search_late.number",
}


class Query:
    """A page as SQL. Conditions are text of this module, what is looked for is bound."""

    def __init__(
        self, wanted: HistoryFilter, after: int | None, source: Source = Source.ALL, searched: str = ""
    ) -> None:
        self.bindings: dict[str, str | int] = {}
        self._conditions: list[str] = []
        self._from, self._key = _FROM[source], _KEY[source]
        match source:
            case Source.INDEXED:
                self._where("search MATCH :searched", searched=searched)
            case Source.LATER:
                self._where("message.number > (SELECT through FROM search_progress)")
                self._words(wanted)
            case Source.LATE:
                self._words(wanted)
            case Source.ALL:
                assert not searched, "words can be looked up in the index only"
        self._range(wanted, after)
        self._exactly(wanted)

    def sql(self) -> str:
        # CROSS JOIN keeps the source outermost, which lies in the order of the pages.
        conditions = " AND ".join(self._conditions) or "TRUE"
        return (
            f"SELECT {_COLUMNS} FROM {self._from} CROSS JOIN delivery AS first"  # noqa: S608 - no mail data in it
            " ON first.message = message.number AND first.position = 0"
            f" WHERE {conditions} ORDER BY {self._key} DESC LIMIT :limit"
        )

    def _where(self, condition: str, **bindings: str | int) -> None:
        self._conditions.append(condition)
        self.bindings |= bindings

    def _range(self, wanted: HistoryFilter, after: int | None) -> None:
        ends = [] if after is None else [after]
        if wanted.before_ms is not None:
            ends.append(number_at(wanted.before_ms))
        if ends:
            self._where(f"{self._key} < :before", before=min(ends))
        if wanted.since_ms is not None:
            self._where(f"{self._key} >= :since", since=number_at(wanted.since_ms))

    def _exactly(self, wanted: HistoryFilter) -> None:
        if wanted.states:
            names = {f"state_{place}": state for place, state in enumerate(sorted(wanted.states))}
            self._where(f"message.state IN ({', '.join(':' + name for name in names)})", **names)
            if not wanted.states & _USUAL:
                # The words of the partial index, so that the planner knows that it may use it.
                self._where("message.state NOT IN ('delivered', 'captured')")
        if wanted.sender:
            self._where(r"message.sender LIKE :sender ESCAPE '\'", sender=address_pattern(wanted.sender))
        if wanted.recipient:
            self._where(
                _RECIPIENT + r" AND address LIKE :recipient ESCAPE '\')",
                recipient=address_pattern(wanted.recipient),
            )
        if wanted.relay:
            self._where(_RECIPIENT + " AND delivery.relay = :relay)", relay=wanted.relay)
        if wanted.client:
            self._where("(client_address = :client OR login = :client)", client=wanted.client)
        if wanted.message_id:
            bare = wanted.message_id.strip().strip("<>")
            self._where("message.message_id IN (:message_id, '<' || :message_id || '>')", message_id=bare)

    def _words(self, wanted: HistoryFilter) -> None:
        for place, word in enumerate(_words(wanted.subject)):
            self._where(
                rf"message.subject LIKE :subject_{place} ESCAPE '\'",
                **{f"subject_{place}": f"%{like_literal(word)}%"},
            )
        for place, word in enumerate(_words(wanted.text)):
            like = rf"LIKE :text_{place} ESCAPE '\'"
            self._where(
                f"(message.sender {like} OR message.subject {like} OR message.message_id {like}"
                f" OR {_RECIPIENT} AND address {like}))",
                **{f"text_{place}": f"%{like_literal(word)}%"},
            )


_HAS_TOKEN = re.compile(r"[^\W_]")


def _words(text: str) -> list[str]:
    """Words that the index can know: those with a letter or digit in them."""
    return [word for word in text.split() if _HAS_TOKEN.search(word)]


def match_expression(wanted: HistoryFilter) -> str | None:
    """The filter as a query of the full-text index (FTS5); None where it has nothing to look up.

    Each word is quoted, so that nothing in it is an operator; an address is a phrase of its parts.
    """
    terms = []
    for column, text in (
        ("sender", wanted.sender),
        ("recipients", wanted.recipient),
        ("message_id", wanted.message_id),
    ):
        if _HAS_TOKEN.search(text):
            terms.append(f"{column} : {_quoted(text)}")
    terms += [f"subject : {_quoted(word)} *" for word in _words(wanted.subject)]
    terms += [f"{_quoted(word)} *" for word in _words(wanted.text)]
    return " AND ".join(terms) or None


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
