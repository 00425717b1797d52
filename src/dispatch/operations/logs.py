"""The log: one line an event on standard error, for people (`text`) or for machines (`json`).

Events and their levels are declared in `observe`. Values come from strangers (addresses, replies, names),
so control characters never reach the line: a peer cannot forge a line, nor speak to a terminal.
"""

from __future__ import annotations

import re
import sys
from collections.abc import MutableMapping
from typing import Literal, TextIO

import structlog

from dispatch.observe import EVENTS, LEVELS, Level, Reporter

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_PLAIN = re.compile(r"[^\s\"'=\\]+")


class _Line(structlog.BoundLoggerBase):
    """A logger with one method: levels are a matter of the event, not of the call."""

    def write(self, event: str, **fields: object) -> None:
        self._proxy_to_logger("msg", event, **fields)


def reporter(
    process: str, level: Level, format_: Literal["text", "json"], out: TextIO | None = None
) -> Reporter:
    """Make the reporter of a process; `level` is the least that is written."""
    stream = sys.stderr if out is None else out
    least = LEVELS.index(level)
    written = frozenset(name for name, event in EVENTS.items() if LEVELS.index(event.level) >= least)
    render = structlog.processors.JSONRenderer() if format_ == "json" else _render_text
    logger = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[structlog.processors.TimeStamper(fmt="iso", utc=True), _scrub, render],
        wrapper_class=_Line,
    )

    def report(event: str, /, **fields: object) -> None:
        if event not in written:
            return
        try:
            logger.write(event, level=EVENTS[event].level, process=process, **fields)
        except (OSError, ValueError):
            # Standard error may be a pipe whose reader is gone; a process that serves mail goes on.
            return

    return report


def _scrub(_: object, __: str, line: MutableMapping[str, object]) -> MutableMapping[str, object]:
    for key, value in line.items():
        if isinstance(value, float):
            line[key] = round(value, 3)
        elif not isinstance(value, int | None):
            line[key] = _UNPRINTABLE.sub(" ", str(value))
    return line


def _render_text(_: object, __: str, line: MutableMapping[str, object]) -> str:
    fields = dict(line)
    head = f"{fields.pop('timestamp')} {str(fields.pop('level')).upper():<7} {fields.pop('event')}"
    return head + "".join(f" {key}={_quoted(value)}" for key, value in fields.items() if value is not None)


def _quoted(value: object) -> str:
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
