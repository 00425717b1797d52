"""What the two ends of the load saw, its clients and its upstream: an auditor holds it against the ledger."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple


class Copy(NamedTuple):
    """What is to arrive once: a message for one of its recipients."""

    message_id: str
    address: str


@dataclass
class Books:
    """Tokens are the clients' names of messages, ids the relay's."""

    offered: int = 0
    """Tokens so far."""
    acknowledged: dict[int, str] = field(default_factory=dict)
    """Token to the id in the 250."""
    acknowledged_by_tls: int = 0
    refused: dict[int, str] = field(default_factory=dict)
    """Token to the reply after the end of data."""
    unanswered: Counter[int] = field(default_factory=Counter)
    """How often the connection broke between the token's end of data and the reply."""
    offered_whole: int = 0
    """Ends of data that were written."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Id to token, of all that the upstream took."""
    taken: dict[Copy, list[int]] = field(default_factory=dict)
    """An upstream's, whether or not its answer arrived: how many power cuts had been, each time."""
    places: dict[Copy, list[int]] = field(default_factory=dict)
    """Of the same copies: which upstream, each time."""
    cuts_ms: list[int] = field(default_factory=list)
    """When the power was cut, milliseconds since 1970: after all had ended, before anything began anew."""

    damaged: list[str] = field(default_factory=list)
    """What an upstream was sent and nobody had offered: how it began."""

    def take(self, token: int, message_id: str, addresses: list[str], place: int) -> None:
        self.tokens[message_id] = token
        for address in addresses:
            copy = Copy(message_id, address)
            self.taken.setdefault(copy, []).append(len(self.cuts_ms))
            self.places.setdefault(copy, []).append(place)
