"""What becomes of mail that goes to no relay, because a rule, or the suppression list, says so."""

from __future__ import annotations

from dispatch.mail.delivery import DeliveryState, Move, move
from dispatch.mail.ids import MessageId
from dispatch.policy.routing import DEFAULT_RULE, PIN, Action, Route
from dispatch.policy.suppression import SUPPRESSION
from dispatch.spool.records import Moved


def kept_from_relays(route: Route, message_id: MessageId, indexes: tuple[int, ...], now_ms: int) -> Moved:
    """The record that deliveries which wait are held, or end here.

    What would have been refused at RCPT, had the rule been in force then, bounces with the words of that.
    """
    reason = route.hold_reason or ""
    match route.action:
        case Action.DISCARD:
            what = Move.DISCARD
        case Action.SUPPRESS:
            what = Move.SUPPRESS
        case Action.REFUSE:
            what, reason = Move.BOUNCE, route.reply or reason
        case _:
            what = Move.HOLD
    return Moved(
        now_ms, message_id, indexes, what, move(DeliveryState.WAITING, what), _decided_by(route), reason
    )


def _decided_by(route: Route) -> str:
    if route.rule in (PIN, SUPPRESSION):
        return route.rule
    return "routing" if route.rule in ("", DEFAULT_RULE) else f"rule {route.rule}"
