"""What clients know of what they offered, kept so that an auditor can judge everything that arrives upstream.

An *offering* is one transaction: one try to hand over one token's message. It ends in exactly one way:

- *acknowledged*: its end of data was answered 250; the relay's id for it is known.
- *refused*: MAIL, every RCPT, DATA or the end of data was answered 4yz or 5yz. So was whatever had been said
  when 421 came, since a server executes nothing behind it.
- *cut*: it ended before its end of data had left.
- *unanswered*: its end of data had left, and no answer was read (RFC 1047). Counted from the moment at which
  it leaves, until it is answered; so mail that arrives before its 250 is judged rightly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Literal, NamedTuple

from dispatch.mail.ids import MessageId

Invitation = Literal["acknowledged", "unanswered", "uninvited"]


class Offering:
    """One transaction, and what it was answered so far."""

    __slots__ = ("accepted", "deferred", "ends_at", "recipients", "rejected", "token", "whole")

    def __init__(self, token: int, recipients: tuple[str, ...]) -> None:
        self.token = token
        self.recipients = recipients
        self.accepted: list[str] = []
        self.deferred: list[str] = []
        self.rejected: list[str] = []
        self.ends_at: int | None = None
        """Offset in what its client says behind its end of data, once that is said."""
        self.whole = False
        """Its end of data has left."""

    def answered(self, address: str, code: int) -> None:
        """To RCPT."""
        kind = self.accepted if code < 400 else self.deferred if code < 500 else self.rejected
        kind.append(address)

    @property
    def possible(self) -> frozenset[str]:
        """Whom the server may have accepted, for all that is known."""
        return frozenset(self.recipients).difference(self.deferred, self.rejected)


class Acknowledged(NamedTuple):
    token: int
    recipients: frozenset[str]
    """Those that were accepted in the transaction, exactly."""


class Refused(NamedTuple):
    token: int
    code: int
    text: str


class Books:
    """Of all clients together."""

    def __init__(self) -> None:
        self.calm = False
        """From now on clients behave, and repeat until they are answered 2yz or 5yz."""
        self.offered: dict[int, tuple[str, ...]] = {}
        """Tokens, and the recipients of each."""
        self.acknowledged: dict[MessageId, Acknowledged] = {}
        self.refused: list[Refused] = []
        self.cut: Counter[int] = Counter()
        self.unanswered: Counter[int] = Counter()
        """How many offerings of a token have no answer to their end of data, those under way included."""
        self.doubtful: dict[int, list[Offering]] = {}
        """Those offerings."""
        self.given_up: dict[int, None] = {}
        """Tokens that were repeated often enough."""
        self._strangers: dict[int, dict[MessageId, None]] = {}
        """Ids that arrived upstream before, or without, being acknowledged."""

    def left(self, offering: Offering) -> None:
        """Its end of data has left."""
        offering.whole = True
        self.unanswered[offering.token] += 1
        self.doubtful.setdefault(offering.token, []).append(offering)

    def acknowledge(self, offering: Offering, message_id: MessageId) -> None:
        assert offering.whole, "a 250 for what was not said to its end"
        assert offering.accepted, "a 250 for mail without recipients"
        assert message_id not in self.acknowledged, f"{message_id.hex()} acknowledged twice"
        self._answered(offering)
        self.acknowledged[message_id] = Acknowledged(offering.token, frozenset(offering.accepted))

    def refuse(self, offering: Offering, code: int, text: str) -> None:
        if offering.whole:
            self._answered(offering)
        self.refused.append(Refused(offering.token, code, text))

    def lose(self, offering: Offering) -> None:
        """It ended without an answer."""
        if not offering.whole:
            self.cut[offering.token] += 1

    def invitation(self, message_id: MessageId, token: int, recipients: Collection[str]) -> Invitation:
        """Why this may have arrived upstream, for all that is known now; an answer may come later."""
        acknowledged = self.acknowledged.get(message_id)
        if acknowledged is not None:
            invited = acknowledged.token == token and acknowledged.recipients.issuperset(recipients)
            return "acknowledged" if invited else "uninvited"
        strangers = self._strangers.setdefault(token, {})
        strangers[message_id] = None
        doubtful = self.doubtful.get(token, ())
        unknown = sum(stranger not in self.acknowledged for stranger in strangers)
        if unknown > len(doubtful) or not any(each.possible.issuperset(recipients) for each in doubtful):
            return "uninvited"
        return "unanswered"

    def _answered(self, offering: Offering) -> None:
        self.unanswered[offering.token] -= 1
        self.doubtful[offering.token].remove(offering)
