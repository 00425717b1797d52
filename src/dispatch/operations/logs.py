"""The log: one line an event on standard error, for people (`text`) or for machines (`json`).

Events and their levels are declared in `observe`. Values come from strangers (addresses, replies, names), so
control characters never reach the line: a peer cannot forge a line, nor speak to a terminal.

A line is written for every recipient's final outcome, so it is on the way of each message: a few
microseconds, and no logging framework (docs/decisions/0008).
"""

from __future__ import annotations

import re
import sys
import time
from functools import lru_cache
from typing import Literal, TextIO

import msgspec

from dispatch.mail.showable import showable
from dispatch.observe import EVENTS, LEVELS, Level, Reporter

_plain = re.compile(r"[^\s\"'=\\]+").fullmatch
_encode_json = msgspec.json.Encoder().encode


def reporter(
    process: str, level: Level, format_: Literal["text", "json"], out: TextIO | None = None
) -> Reporter:
    """Make the reporter of a process; `level` is the least that is written."""
    write = (sys.stderr if out is None else out).write
    flush = (sys.stderr if out is None else out).flush
    least = LEVELS.index(level)
    heads = {
        name: (event.level, f" {event.level.upper():<7} {name} process={process}")
        for name, event in EVENTS.items()
        if LEVELS.index(event.level) >= least
    }

    def report(event: str, /, **fields: object) -> None:
        head = heads.get(event)
        if head is None:
            return
        if format_ == "json":
            line = _json_line(event, head[0], process, fields)
        else:
            line = _timestamp() + head[1] + "".join([_field(key, value) for key, value in fields.items()])
        try:
            write(showable(line) + "\n")
            flush()
        except (OSError, ValueError):
            # Standard error may be a pipe whose reader is gone; a process that serves mail goes on.
            return

    return report


def _field(key: str, value: object) -> str:
    if value is None:
        return ""
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    # An identifier is plain, which is seen in a fraction of the time.
    if text.isidentifier() or _plain(text):
        return f" {key}={text}"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f' {key}="{escaped}"'


def _json_line(event: str, level: Level, process: str, fields: dict[str, object]) -> str:
    line: dict[str, object] = {"time": _timestamp(), "level": level, "event": event, "process": process}
    for key, value in fields.items():
        if isinstance(value, float):
            line[key] = round(value, 3)
        elif isinstance(value, int | None):
            line[key] = value
        else:
            line[key] = showable(str(value))
    return _encode_json(line).decode()


def _timestamp() -> str:
    """RFC 3339 in UTC, with milliseconds."""
    now_s = time.time()
    second = int(now_s)
    return f"{_second(second)}.{int((now_s - second) * 1000):03d}Z"


@lru_cache(maxsize=4)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
