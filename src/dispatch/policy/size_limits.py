"""How large a message may be for the relays that it is routed to.

Where a route names several relays the largest limit counts: one of them can take the message. What a rule
holds or discards has no limit here, nor has what a relay without a limit stands ready for. Of a message that
is split, each part must fit. Copies are no reason to refuse mail: what an archive does not take fails there.

At RCPT the content is not known: where a rule that asks for it might match, nothing is said before the end of
data. A rule's own size condition counts the `Received` field that is added later; at its very edge intake may
look at another relay's limit than that of the one which takes the message.
"""

from __future__ import annotations

from collections.abc import Mapping

from dispatch.mail.message import Message, Origin
from dispatch.policy.routing import Router

NONE = "", None
"""No relay, no limit."""


class SizeLimits:
    """The limits of one settings snapshot."""

    __slots__ = ("_router", "_sizes", "_smallest")

    def __init__(self, router: Router, sizes: Mapping[str, int]) -> None:
        """`sizes`: the largest message of each relay that has a limit, in bytes."""
        self._router = router
        self._sizes = sizes
        self._smallest = min(sizes.values(), default=None)

    def at_rcpt(
        self, size_bytes: int | None, sender: str, recipient: str, origin: Origin, now_ms: int, pin: str = ""
    ) -> tuple[str, int | None]:
        """The relay whose limit counts for a message that is declared to be so large, and the limit; None
        where none is known yet, or none is reached."""
        if size_bytes is None or self.fits_everywhere(size_bytes):
            return NONE
        relays = (pin,) if pin else self._router.relays_at_rcpt(sender, recipient, origin, now_ms)
        return self._most_generous(relays)

    def of_message(self, message: Message, size_bytes: int, now_ms: int) -> tuple[str, int | None]:
        """The same for a message whose content is known: of its parts, for the first that is too large."""
        if message.pin:
            return self._most_generous((message.pin,))
        for route, _ in self._router.routes(message, now_ms):
            relay, limit = self._most_generous(route.relays)
            if limit is not None and size_bytes > limit:
                return relay, limit
        return NONE

    def fits_everywhere(self, size_bytes: int) -> bool:
        """No relay's limit is reached."""
        return self._smallest is None or size_bytes <= self._smallest

    def _most_generous(self, relays: tuple[str, ...]) -> tuple[str, int | None]:
        if not relays or any(relay not in self._sizes for relay in relays):
            return NONE
        relay = max(relays, key=self._sizes.__getitem__)
        return relay, self._sizes[relay]


NO_LIMITS = SizeLimits(Router((), "", ()), {})
