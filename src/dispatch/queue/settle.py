"""What becomes of a work when its attempt has ended: outcomes to ledger records to deliveries that stay.

Pure but for the time and the chance that are handed in: `decide` makes the ledger records; the
scheduler writes them and, when they are durable, acts on the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from dispatch.mail.delivery import DeliveryState, Move, move
from dispatch.mail.ids import MessageId
from dispatch.mail.outcome import Outcome
from dispatch.mail.report import Report
from dispatch.policy.schedule import RetryPlan, next_due
from dispatch.policy.uncertain import UncertainPolicy, uncertain_move
from dispatch.queue.failover import Onward
from dispatch.queue.moves import after_move, after_result, needs_content
from dispatch.queue.work import Work
from dispatch.spool.records import Attempted, Moved, Result
from dispatch.store.parked import ParkedDelivery

NOWHERE: Mapping[int, Onward] = {}


class Decision(NamedTuple):
    """What the ledger is told, and what then becomes of the deliveries."""

    attempted: Attempted
    moved: tuple[Moved, ...]
    """What the uncertain policy did."""
    gone: tuple[int, ...]
    """Recipients whose outcome is final and who need no content any more."""
    staying: tuple[ParkedDelivery, ...]
    """Deliveries that wait on, or that failed and keep their content for its retention."""

    @property
    def set_aside(self) -> str | None:
        """Why deliveries went into quarantine, where some did."""
        results = self.attempted.results
        return next((result.reason for result in results if result.move is Move.QUARANTINE), None)


def decide(
    work: Work,
    report: Report,
    outcomes: tuple[Outcome, ...],
    *,
    plan: RetryPlan,
    uncertain: UncertainPolicy,
    now_ms: int,
    took_ms: int,
    chance: float,
    onward: Mapping[int, Onward] = NOWHERE,
) -> Decision:
    """One result for every recipient of the work, in the order of its deliveries.

    `onward`: of those whose relay failed, and have another one, where they go (`Failover.after_failure`).
    """
    results: list[Result] = []
    moved: list[Moved] = []
    gone: list[int] = []
    staying: list[ParkedDelivery] = []
    for delivery, outcome in zip(work.deliveries, outcomes, strict=True):
        there = onward.get(delivery.index) if onward else None
        if there is not None and there.at_once:
            result = _goes_on(delivery, outcome, there.relay, now_ms)
        else:
            result = _result(delivery, outcome, plan, work.started_ms, now_ms, chance, there)
        _add(results, result)
        after = after_result(delivery, result, now_ms)
        if after.state is DeliveryState.UNCERTAIN:
            policy = settle_by_policy(work.message.id, after, plan, uncertain, now_ms, chance)
            moved.append(policy)
            after = after_move(after, policy)
        if needs_content(after.state):
            staying.append(after)
        else:
            gone.append(delivery.index)
    attempted = Attempted(
        now_ms,
        work.message.id,
        work.relay,
        work.attempt,
        tuple(results),
        took_ms,
        report.peer,
        report.tls,
        report.dsn,
    )
    return Decision(attempted, tuple(moved), tuple(gone), tuple(staying))


def settle_by_policy(
    message_id: MessageId,
    delivery: ParkedDelivery,
    plan: RetryPlan,
    uncertain: UncertainPolicy,
    now_ms: int,
    chance: float,
) -> Moved:
    """What the uncertain policy does with a delivery whose final reply was lost."""
    what = uncertain_move(uncertain)
    due_ms = None
    if what is Move.RETRY:
        due_ms = next_due(plan, delivery.attempts, delivery.since_ms, now_ms, chance, None)
        if due_ms is None:
            what = Move.GIVE_UP
    return Moved(
        now_ms,
        message_id,
        (delivery.index,),
        what,
        move(DeliveryState.UNCERTAIN, what),
        "uncertain policy",
        delivery.reason,
        due_ms,
    )


def _result(
    delivery: ParkedDelivery,
    outcome: Outcome,
    plan: RetryPlan,
    begun_ms: int,
    now_ms: int,
    chance: float,
    there: Onward | None,
) -> Result:
    what = outcome.move
    relay = None
    attempts = delivery.attempts + outcome.burns_attempt
    due_ms = None
    if what is Move.DEFER:
        due_ms = next_due(plan, attempts, delivery.since_ms, now_ms, chance, outcome.retry_after_s, begun_ms)
        if due_ms is None:
            what = Move.EXPIRE
        elif there is not None and there.relay != delivery.relay:
            relay = there.relay
    return Result(
        (delivery.index,),
        what,
        move(DeliveryState.ATTEMPTING, what),
        outcome.scope,
        outcome.reply,
        outcome.reason,
        due_ms,
        attempts,
        relay,
    )


def _goes_on(delivery: ParkedDelivery, outcome: Outcome, relay: str, now_ms: int) -> Result:
    """Due at the next relay now. The round is not over: nothing counts yet, and nothing expires."""
    return Result(
        (delivery.index,),
        Move.DEFER,
        DeliveryState.WAITING,
        outcome.scope,
        outcome.reply,
        outcome.reason,
        now_ms,
        delivery.attempts,
        relay,
    )


def _add(results: list[Result], result: Result) -> None:
    """Recipients who were answered alike share one result in the ledger."""
    if results:
        together = msgspec.structs.replace(result, indexes=results[-1].indexes + result.indexes)
        if msgspec.structs.replace(results[-1], indexes=together.indexes) == together:
            results[-1] = together
            return
    results.append(result)
