"""When a child that ended is started again, and when its supervisor gives up: pure, time is an argument.

The rule behind the rules: a set that has never worked is better stopped with a reason (a person
is watching), a set that has worked is kept alive (nobody is). So a supervisor gives up only on a
role that was never ready since the supervisor began:

- exit 78 (EX_CONFIG): at once, for a configuration does not mend itself;
- any other failure: after `failures_max` in a row;
- exit 75 (EX_TEMPFAIL, its lock is held): when `lock_wait_s` is over, for an older set may still finish.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class RestartLimits:
    first_s: float = 0.1
    longest_s: float = 5.0
    settled_s: float = 30.0
    """A child that lived as long is no longer starting: the back-off begins anew."""
    failures_max: int = 5
    lock_wait_s: float = 15.0


class StartAgain(NamedTuple):
    at_s: float
    """Monotonic."""


class GiveUp(NamedTuple):
    code: int
    """The exit code of the whole."""
    why: str


class Restarts:
    """One role's history of ends."""

    def __init__(self, limits: RestartLimits) -> None:
        self._limits = limits
        self._delay_s = limits.first_s
        self._failures = 0
        self._lock_held_since_s: float | None = None
        self._was_ready = False

    def ready(self) -> None:
        self._was_ready = True
        self._lock_held_since_s = None

    def ended(self, code: int, started_s: float, now_s: float) -> StartAgain | GiveUp:
        """`code` as `Popen.returncode` has it: below zero, the signal that killed it."""
        if now_s - started_s >= self._limits.settled_s:
            self._delay_s = self._limits.first_s
            self._failures = 0
            self._lock_held_since_s = None
        if code == os.EX_TEMPFAIL:
            if self._lock_held_since_s is None:
                self._lock_held_since_s = now_s
            held_s = now_s - self._lock_held_since_s
            if held_s >= self._limits.lock_wait_s and not self._was_ready:
                return GiveUp(code, f"its lock has been held by another process for {held_s:.0f} s")
        else:
            self._lock_held_since_s = None
            self._failures += 1
            if not self._was_ready:
                if code == os.EX_CONFIG:
                    return GiveUp(code, "its configuration is wrong")
                if self._failures >= self._limits.failures_max:
                    whole = code if code > 0 else os.EX_SOFTWARE
                    return GiveUp(whole, f"it ended {self._failures} times in a row before it was ready")
        at_s = now_s + self._delay_s
        self._delay_s = min(self._delay_s * 2, self._limits.longest_s)
        return StartAgain(at_s)
