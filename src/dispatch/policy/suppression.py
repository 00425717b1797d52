"""Addresses that must not be tried, as the processes that ask have them, and what becomes of their mail.

Control keeps the list, with reasons (`store.suppressions`). Who admits and who delivers has of each address a
digest of eight bytes and nothing more: a million addresses are eight megabytes, and no process holds
addresses that it has no mail for. An address that is not on a list of a million has a digest that is there
once in ten million million times.

An address is compared without regard to case, also in front of the @: two people whose addresses differ by
nothing else are not to be expected, and who asked for no more mail meant all writings.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from dispatch.mail.envelope import Recipient
from dispatch.policy.patterns import plain_address
from dispatch.policy.routing import Action, Route, Routes

DIGEST_BYTES = 8
SUPPRESSION = "suppression list"
"""What stands for a rule where the list decided."""
REASON = "the recipient is on the suppression list"
SUPPRESSED_ROUTE = Route((), SUPPRESSION, REASON, Action.SUPPRESS)


def suppression_key(address: str) -> str:
    """The one writing of an address under which it is listed."""
    local_part, domain = plain_address(address)
    return f"{local_part.lower()}@{domain}"


def digest(key: str) -> int:
    """Of an address as `suppression_key` writes it."""
    return int.from_bytes(blake2b(key.encode(), digest_size=DIGEST_BYTES).digest(), "big")


class SuppressionList:
    """Which addresses are suppressed. Immutable."""

    __slots__ = ("_digests",)

    def __init__(self, digests: Iterable[int] = ()) -> None:
        """`digests` are ascending."""
        self._digests = array("Q", digests)

    @classmethod
    def of(cls, addresses: Iterable[str]) -> SuppressionList:
        return cls(sorted({digest(suppression_key(address)) for address in addresses}))

    def __len__(self) -> int:
        return len(self._digests)

    def holds(self, address: str) -> bool:
        """An address as it stands in an envelope."""
        digests = self._digests
        if not digests:
            return False
        wanted = digest(suppression_key(address))
        place = bisect_left(digests, wanted)
        return place < len(digests) and digests[place] == wanted

    def among(self, recipients: Sequence[Recipient]) -> frozenset[int]:
        """The indexes of those recipients that are suppressed. A copy is for an archive, and is none."""
        if not self._digests:
            return frozenset()
        return frozenset(
            index
            for index, recipient in enumerate(recipients)
            if not recipient.copy_to and self.holds(recipient.address)
        )


def without_suppressed(routes: Routes, suppressed: frozenset[int]) -> Routes:
    """The routes of a message whose recipients with these indexes must not be tried."""
    if not suppressed:
        return routes
    left = [
        (route, tuple([index for index in indexes if index not in suppressed])) for route, indexes in routes
    ]
    return (*[each for each in left if each[1]], (SUPPRESSED_ROUTE, tuple(sorted(suppressed))))
