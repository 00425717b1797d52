"""When a deferred delivery is tried again, and when it has expired.

The wait is drawn between a floor and the plan's delay (full jitter), so that what failed together
does not come back together; the last delay of the plan repeats. A peer's own wish (`Retry-After`,
"try again in …") only ever lengthens the wait.

A delivery expires only after an attempt made past its deadline has failed. Time alone expires
nothing: a machine that slept for a week, or a clock that jumped, gives every delivery one more
attempt. So the last attempt is placed at the deadline, not given up before it.

Times are wall-clock milliseconds, because they are stored and must survive a restart; `clamp`
mends what a jump of that clock did to them.
"""

from __future__ import annotations

import msgspec

from dispatch.policy.verdict import RETRY_AFTER_S_MAX

WAIT_S_MIN = 1.0
"""No delivery is due again sooner, whatever the plan says."""
FLOOR_SHARE = 0.1
"""The jitter leaves at least this share of the plan's delay."""
RETRY_AFTER_SPREAD = 0.1
"""A peer tells all of us the same number; each adds up to this share of it."""


class RetryPlan(msgspec.Struct, frozen=True):
    """`spool.retry_delays_seconds`, `.max_retries`, `.max_age_hours`, or a relay's own.

    Raises `ValueError` where no delay, or a negative one, is given.
    """

    delays_s: tuple[float, ...]
    """At least one; the last repeats."""
    retries_max: int | None
    """Counted attempts after the first; None: no limit; 0: none."""
    age_max_s: float | None
    """From acceptance to the deadline; None: no limit."""

    def __post_init__(self) -> None:
        if not self.delays_s or min(self.delays_s) < 0:
            raise ValueError("a retry plan needs at least one delay, and none below zero")


def next_due(
    plan: RetryPlan,
    attempts: int,
    since_ms: int,
    now_ms: int,
    chance: float,
    retry_after_s: float | None = None,
    attempted_ms: int | None = None,
) -> int | None:
    """The wall-clock millisecond from which to try again; None: the delivery has expired.

    `attempts` counts the attempts that burnt one, the one that just failed included. `since_ms` is
    the acceptance (or the last reopening). `attempted_ms` is when the failed attempt began, where it
    may have been long ago: a clock that jumped *during* the attempt then expires nothing.
    """
    if plan.retries_max is not None and attempts > plan.retries_max:
        return None
    deadline_ms = None if plan.age_max_s is None else since_ms + round(plan.age_max_s * 1000)
    if deadline_ms is not None:
        begun_ms = now_ms if attempted_ms is None else min(attempted_ms, now_ms)
        if begun_ms >= deadline_ms:
            return None

    delay_s = plan.delays_s[min(max(attempts, 1), len(plan.delays_s)) - 1]
    floor_s = max(WAIT_S_MIN, delay_s * FLOOR_SHARE)
    wait_s = floor_s + chance * max(0.0, delay_s - floor_s)
    due_ms = now_ms + round(wait_s * 1000)
    if deadline_ms is not None and due_ms > deadline_ms:
        due_ms = max(deadline_ms, now_ms + round(floor_s * 1000))
    if retry_after_s is not None:
        wished_s = min(max(retry_after_s, 0.0), RETRY_AFTER_S_MAX) * (1.0 + RETRY_AFTER_SPREAD * chance)
        due_ms = max(due_ms, now_ms + round(wished_s * 1000))
    return due_ms


def clamp(due_ms: int, now_ms: int, plan: RetryPlan) -> int:
    """A stored due time after the wall clock jumped: never further off than the plan's longest wait.

    After a jump forward it may lie in the past, which means due. A peer's longer wish may be cut
    short: trying early costs one attempt that is not counted, waiting for a wrong clock costs days.
    """
    return min(due_ms, now_ms + round(max(WAIT_S_MIN, *plan.delays_s) * 1000))
