"""How much room is left, as a level that does not flutter.

Getting worse takes effect at once, getting better only with a margin above the limit: a disk that
hovers at a limit would otherwise switch intake on and off with every message. `DiskLevels` decides and is
pure; `DiskWatch` asks the disk, on a worker since even that may block (a network file system gone away).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dispatch.ports import Clock, Disk, DiskLevel, Timer, Worker

INTERVAL_S = 10.0
_MARGIN = 1.1
"""A level is left when there is a tenth more room than its limit."""


class DiskLimits(NamedTuple):
    """Below these many free bytes (`spool.disk_warn_mb`, `disk_throttle_mb`, `disk_suspend_mb`); 0 is off."""

    low_bytes: int
    throttled_bytes: int
    suspended_bytes: int


class DiskLevels:
    def __init__(self, limits: DiskLimits) -> None:
        self.limits = limits
        """May be exchanged at any time; the next observation counts."""
        self.level = DiskLevel.AMPLE

    def observe(self, free_bytes: int) -> DiskLevel:
        """The level now, given the room now and the level before."""
        worst = self._level(free_bytes, margin=1.0)
        best = self._level(free_bytes, margin=_MARGIN)
        # With the margin every level looks worse: the true one lies between the two.
        self.level = min(max(self.level, worst), best)
        return self.level

    def _level(self, free_bytes: int, margin: float) -> DiskLevel:
        if free_bytes < self.limits.suspended_bytes * margin:
            return DiskLevel.SUSPENDED
        if free_bytes < self.limits.throttled_bytes * margin:
            return DiskLevel.THROTTLED
        if free_bytes < self.limits.low_bytes * margin:
            return DiskLevel.LOW
        return DiskLevel.AMPLE


class DiskWatch:
    """Asks every ten seconds and tells of changes. A disk that cannot be asked counts as suspended."""

    def __init__(
        self,
        disk: Disk,
        levels: DiskLevels,
        *,
        clock: Clock,
        worker: Worker,
        changed: Callable[[DiskLevel], None],
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._disk = disk
        self._levels = levels
        self._clock = clock
        self._worker = worker
        self._changed = changed
        self._interval_s = interval_s
        self._timer: Timer | None = None
        self._stopped = False
        self.free_bytes: int | None = None
        """As of the last answer; None before the first, or if the disk gave none."""
        self._ask()

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def look(self) -> None:
        """Ask now: the limits have changed."""
        if self._timer is not None:
            self._timer.cancel()
            self._ask()

    def _ask(self) -> None:
        self._timer = None
        self._worker.call(self._disk.free_bytes, self._answered)

    def _answered(self, free_bytes: int | Exception) -> None:
        if self._stopped:
            return
        before = self._levels.level
        self.free_bytes = None if isinstance(free_bytes, Exception) else free_bytes
        after = self._levels.observe(self.free_bytes or 0)
        self._timer = self._clock.call_later(self._interval_s, self._ask)
        if after is not before:
            self._changed(after)
