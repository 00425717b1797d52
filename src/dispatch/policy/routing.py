"""Which relays a recipient's mail may take, and the rule that said so.

Mail takes the default relay. Where that is disabled or missing, the mail is held and says why: it
never leaves through another relay by accident.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

DEFAULT_RULE = "default relay"


class Route(msgspec.Struct, frozen=True):
    """The way of one recipient's mail: relays in the order in which they are tried, or a hold."""

    relays: tuple[str, ...]
    """Names; empty exactly when the mail is held."""
    rule: str
    """The rule that decided, for history and for the operator's question why."""
    hold_reason: str | None = None

    @property
    def held(self) -> bool:
        return self.hold_reason is not None


def route(default_relay: str, enabled: Collection[str]) -> Route:
    """The route of every recipient; `enabled` names the relays that may be used."""
    if default_relay not in enabled:
        return Route((), DEFAULT_RULE, f"the default relay {default_relay!r} is disabled or missing")
    return Route((default_relay,), DEFAULT_RULE)
