"""The breaker of one relay: whether a relay that keeps failing is tried at all.

::

                 failures_max in a row, or refused credentials
      CLOSED ───────────────────────────────────────────────────▶ OPEN ◀──┐
        ▲                                                           │     │ the probe failed:
        │ the probe succeeded           its time is over, one probe ▼     │ twice as long
        └──────────────────────────────────────────────────── HALF_OPEN ──┘

Only failures of relay scope come here; a relay that refuses a recipient, or asks us to slow down
within a session, is well and *succeeded*. Exactly one of `succeeded` and `failed` follows each `started`.

Trap: transactions that were under way when the breaker opened still end, some with failures. They
must not double the time again, so nothing that ends while OPEN changes anything.

`now` is monotonic seconds.
"""

from __future__ import annotations

from enum import StrEnum

FAILURES_MAX = 5
OPEN_S = 30.0
OPEN_S_MAX = 900.0
JITTER_SHARE = 0.25
"""Up to this share is taken off the time, so that relays that failed together are not probed together."""


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    """One probe is under way; nothing else is tried."""


class Breaker:
    """Mutable, one for each relay, owned by whoever starts that relay's transactions."""

    __slots__ = ("_failures", "_failures_max", "_open_s", "_open_s_max", "_openings", "opens_until", "state")

    def __init__(
        self,
        failures_max: int = FAILURES_MAX,
        open_s: float = OPEN_S,
        open_s_max: float = OPEN_S_MAX,
    ) -> None:
        assert failures_max >= 1 and 0 < open_s <= open_s_max
        self._failures_max = failures_max
        self._open_s = open_s
        self._open_s_max = open_s_max
        self._failures = 0
        self._openings = 0
        self.state = BreakerState.CLOSED
        self.opens_until: float | None = None
        """When a probe may be tried; None unless the state is OPEN."""

    def allows(self, now: float) -> bool:
        """Whether a transaction may start now. Where it does, call `started`."""
        if self.state is BreakerState.CLOSED:
            return True
        return self.opens_until is not None and now >= self.opens_until

    def started(self, now: float) -> None:
        """A transaction starts; when the breaker was open, it is the probe."""
        assert self.allows(now), "a transaction was started although the breaker does not allow it"
        if self.state is BreakerState.OPEN:
            self.state = BreakerState.HALF_OPEN
            self.opens_until = None

    def succeeded(self, now: float) -> None:
        """The relay did its part, whatever it said about the mail."""
        if self.state is BreakerState.OPEN:
            return
        self._failures = 0
        if self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.CLOSED
            self._openings = 0

    def failed(self, now: float, chance: float, at_once: bool = False) -> None:
        """A failure of relay scope; `at_once` where trying again is known to be in vain (credentials)."""
        if self.state is BreakerState.OPEN:
            return
        self._failures += 1
        if at_once or self.state is BreakerState.HALF_OPEN or self._failures >= self._failures_max:
            # The exponent is bounded so that a relay that is down for months cannot overflow a float.
            open_s = min(self._open_s * 2.0 ** min(self._openings, 32), self._open_s_max)
            self.state = BreakerState.OPEN
            self.opens_until = now + open_s * (1.0 - JITTER_SHARE * chance)
            self._openings += 1
            self._failures = 0

    def reset(self) -> None:
        """Close it: an operator's order, or the relay's settings have changed."""
        self.state = BreakerState.CLOSED
        self.opens_until = None
        self._failures = 0
        self._openings = 0
