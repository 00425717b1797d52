"""When a lane may start anything: no faster than its rates allow, and only while a flush is on.

A relay with *rates* is given so many transactions in a time. What waits for the next one stands in line where
that comes soon, and is parked where it does not: a line that stands still would keep the mail log from being
released.

A relay with a *flush interval* is given nothing between two flushes: its mail is parked. A flush takes all
that is due, also what becomes due while it lasts, and ends when nothing more is. The first one begins with
the lane: what a restart left waits no longer. The next begins an interval after the last one began, or
several, where that took longer.

Rules:
- Moments come by argument, in monotonic seconds; here is no timer. Whoever turns the lane comes back after
  `wait_s`.
- What a person or a crash has started all the same is counted, and never refused here.
- What was spent of a rate is remembered while the process lives, also over changed settings; a restart begins
  with a full burst.
"""

from __future__ import annotations

import math

from dispatch.policy.limits import Bucket, Rates

IN_LINE_S = 5.0
"""Who would wait longer than this for a rate does so in the parked store."""


class Pace:
    """Of one lane that has rates, a flush interval, or both."""

    __slots__ = ("_began_s", "_bucket", "_interval_s", "_next_s", "flushing")

    def __init__(self, rates: Rates, flush_interval_s: float) -> None:
        self._bucket = Bucket(rates)
        self._interval_s = flush_interval_s
        self.flushing = True
        """Without an interval always."""
        self._began_s: float | None = None
        self._next_s = 0.0
        """When the next flush begins; meaningful while none is on."""

    def look(self, now_s: float) -> None:
        """Time has passed: begin the flush that is due."""
        if not self.flushing and now_s >= self._next_s:
            self.flush(now_s)
        elif self._began_s is None:
            self._began_s = now_s

    def flush(self, now_s: float) -> None:
        """Begin one now."""
        self.flushing = True
        self._began_s = now_s

    def over(self, now_s: float) -> None:
        """Nothing that is due is left: the flush, if one is on, has ended."""
        if self.flushing and self._interval_s:
            self.flushing = False
            began_s = now_s if self._began_s is None else self._began_s
            intervals = max(1, math.ceil((now_s - began_s) / self._interval_s))
            self._next_s = began_s + intervals * self._interval_s

    def wait_s(self, now_s: float) -> float:
        """How long nothing may start; 0.0: something may now."""
        if not self.flushing:
            # Never 0: it begins by `look`.
            return max(self._next_s - now_s, 0.001)
        return self._bucket.peek(now_s)

    def rests(self, now_s: float) -> bool:
        """Nothing may start for a while: what stands in line should be parked."""
        return not self.flushing or self._bucket.peek(now_s) > IN_LINE_S

    def started(self, now_s: float) -> None:
        """One more was given to the relay."""
        self._bucket.take(now_s)

    def follow(self, before: Pace, now_s: float) -> None:
        """It takes the place of another one, whose settings were changed: what that spent stays spent."""
        self._bucket.spend(before._bucket.spent(now_s), now_s)

    def why(self, now_s: float) -> str | None:
        """What keeps a delivery that is due, for a person; None where this does not."""
        wait_s = self.wait_s(now_s)
        if not wait_s:
            return None
        if not self.flushing:
            return f"its relay is flushed every {self._interval_s:g} s, next in {wait_s:.0f} s"
        return f"its relay has had all that its rate allows; the next one goes in {wait_s:.0f} s"
