"""How many transactions a relay is given at once: a window that the relay's own answers move.

Halved when the relay throttles or times out, but only once for one burst: the answers to what was
already under way tell nothing new. Then one slot a second comes back while the window is in use.
From a fresh start and after a recovery the window is small and grows with every success (slow
start), so that a relay which just came back is not met by the whole queue.

Never below 1, never above `max_concurrency`. A relay whose settings changed gets a new window. `now` is
monotonic seconds.
"""

from __future__ import annotations

START_SLOTS = 4
"""Of a relay that nothing is known about yet."""
BURST_S = 1.0
"""Throttles within this time after a decrease belong to the same burst."""
GROWTH_S = 1.0
"""Above the slow-start threshold, one slot in this time."""


class Window:
    """Mutable, one for each relay. `limit` is how many transactions may be under way."""

    __slots__ = ("_grown_s", "_max", "_shrunk_s", "_threshold", "limit")

    def __init__(self, max_concurrency: int, start: int = START_SLOTS) -> None:
        assert max_concurrency >= 1 and start >= 1
        self._max = max_concurrency
        self.limit = min(start, max_concurrency)
        self._threshold = max_concurrency
        """Below it, slow start."""
        self._shrunk_s = self._grown_s = float("-inf")

    @property
    def max_concurrency(self) -> int:
        return self._max

    def succeeded(self, now: float, in_flight: int) -> None:
        """A transaction ended well; `in_flight` counts it. A window that is half idle proves nothing."""
        limit = self.limit
        if limit >= self._max or in_flight * 2 < limit:
            return
        if limit < self._threshold:
            self.limit = limit + 1
        elif now - max(self._grown_s, self._shrunk_s) >= GROWTH_S:
            self.limit = self._threshold = limit + 1
            self._grown_s = now

    def throttled(self, now: float) -> None:
        """The relay asked us to slow down, or did not answer in time."""
        if now - self._shrunk_s < BURST_S:
            return
        self.limit = self._threshold = max(1, self.limit // 2)
        self._shrunk_s = now

    def recovered(self) -> None:
        """The breaker closed again: one at first, then slow start up to half of what is allowed."""
        self.limit = 1
        self._threshold = max(1, self._max // 2)
