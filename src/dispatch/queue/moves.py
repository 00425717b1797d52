"""What a ledger record does to a delivery that stays: one function for each kind of record.

The scheduler uses them when it settles, the orders when an operator moves deliveries, and the recovery
when it follows the ledger: so what a restart finds is what a run would have made.
"""

from __future__ import annotations

import msgspec

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.spool.records import Moved, Result
from dispatch.store.parked import ParkedDelivery


def after_result(delivery: ParkedDelivery, result: Result, at_ms: int) -> ParkedDelivery:
    """It was tried; `result` is about it."""
    return ParkedDelivery(
        index=delivery.index,
        state=result.state,
        relay=delivery.relay if result.relay is None else result.relay,
        due_ms=at_ms if result.due_ms is None else result.due_ms,
        attempts=result.attempts,
        family=delivery.family,
        since_ms=delivery.since_ms,
        reason=result.reason,
        uncertain=delivery.uncertain or result.state is DeliveryState.UNCERTAIN,
    )


def after_move(delivery: ParkedDelivery, moved: Moved) -> ParkedDelivery:
    """A person or a policy moved it. Reopened, it begins a new family of attempts.

    Recovery's *lose reply* is an attempt that nobody else counts. What a power cut may have made is none:
    nearly all of those that are marked were never tried.
    """
    reopened = moved.move is Move.REOPEN
    attempts = delivery.attempts + (moved.move is Move.LOSE_REPLY)
    return msgspec.structs.replace(
        delivery,
        state=moved.state,
        relay=moved.relay or delivery.relay,
        due_ms=moved.at_ms if moved.due_ms is None else moved.due_ms,
        attempts=0 if reopened else attempts,
        family=delivery.family + reopened,
        since_ms=moved.at_ms if reopened else delivery.since_ms,
        reason=moved.reason or delivery.reason,
        uncertain=delivery.uncertain or moved.state is DeliveryState.UNCERTAIN or moved.power,
    )


def needs_content(state: DeliveryState) -> bool:
    """Not final, or failed: its content is kept. Otherwise the delivery needs nothing any more."""
    return not state.final or state.failed
