"""Windows of the week: when a rule is in force.

Written as               contains
`Mon-Fri 08:00-18:00`    from eight until just before six in the evening, on five days
`Fri-Mon`                four whole days; days may run over the end of the week
`22:00-06:00`            every night: what runs over midnight belongs to the day on which it began
`Sat 00:00-24:00`        a whole day, like `Sat`

Times are those that a clock on the wall shows, to the minute. So a window can be an hour shorter or longer
on the day on which the clocks are changed. Which wall it is, and what time it is, is known to the caller.
"""

from __future__ import annotations

import re
from typing import NoReturn

import msgspec

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
"""As `datetime.weekday` counts them."""
_HOURS = re.compile(r"([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})", re.ASCII)
_DAY_MINUTES = 1440


class NoWindow(ValueError):
    """The text is no window; says what to write instead."""


class Window(msgspec.Struct, frozen=True):
    """Some minutes of each week. Made by `parse_window`."""

    written: str
    days: frozenset[int]
    """On which it begins, 0 is Monday."""
    first: int = 0
    """Minute of the day."""
    end: int = _DAY_MINUTES
    """The minute behind its last one; where it is not above `first`, it is one of the next day."""

    def contains(self, day: int, minute: int) -> bool:
        """`day` of the week, 0 is Monday, and `minute` of that day."""
        if self.first < self.end:
            return day in self.days and self.first <= minute < self.end
        if minute >= self.first:
            return day in self.days
        return minute < self.end and (day - 1) % 7 in self.days


def parse_window(written: str) -> Window:
    """Raises `NoWindow`."""
    words = written.split()
    hours = words.pop() if words and ":" in words[-1] else ""
    if len(words) > 1 or not (words or hours):
        _refuse()
    days = _days(words[0]) if words else frozenset(range(7))
    return Window(" ".join([*words, hours]).strip(), days, *_hours(hours))


def _days(text: str) -> frozenset[int]:
    names = [name.capitalize() for name in text.split("-")]
    if len(names) > 2 or not set(names) <= set(DAYS):
        _refuse()
    first, last = DAYS.index(names[0]), DAYS.index(names[-1])
    return frozenset((first + step) % 7 for step in range((last - first) % 7 + 1))


def _hours(text: str) -> tuple[int, int]:
    if not text:
        return 0, _DAY_MINUTES
    found = _HOURS.fullmatch(text)
    if found is None:
        _refuse()
    hour, minute, end_hour, end_minute = map(int, found.groups())
    first, end = hour * 60 + minute, end_hour * 60 + end_minute
    if minute > 59 or end_minute > 59 or first >= _DAY_MINUTES or end > _DAY_MINUTES:
        raise NoWindow("write hours from 00:00 to 24:00")
    if first == end:
        raise NoWindow("it ends when it begins; leave the hours out for whole days")
    return first, end


def _refuse() -> NoReturn:
    raise NoWindow("write days, hours or both, like Mon-Fri 08:00-18:00")
