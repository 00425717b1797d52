"""The log: one line an event, whatever is in its fields, and whoever reads it."""

from __future__ import annotations

import io
import json
from typing import Literal

import pytest

from dispatch.observe import Level
from dispatch.operations.logs import reporter


def lines(level: Level, format_: Literal["text", "json"], event: str, **fields: object) -> list[str]:
    out = io.StringIO()
    reporter("intake", level, format_, out)(event, **fields)
    return out.getvalue().splitlines()


def test_a_line_has_time_level_event_process_and_fields() -> None:
    (line,) = lines("info", "text", "denied", client="192.0.2.1", name=None, took_s=0.25, why="not in a list")
    time, _, rest = line.partition(" ")
    assert time.endswith("Z") and len(time) == len("2026-06-01T00:00:00.000Z")
    assert rest == 'INFO    denied process=intake client=192.0.2.1 took_s=0.250 why="not in a list"'


def test_json_keeps_numbers_and_absent_values() -> None:
    (line,) = lines("info", "json", "denied", count=3, name=None, full=True, took_s=0.12345, why="x")
    fields = json.loads(line)
    assert fields.pop("time").endswith("Z")
    assert fields == {
        "level": "info",
        "event": "denied",
        "process": "intake",
        "count": 3,
        "name": None,
        "full": True,
        "took_s": 0.123,
        "why": "x",
    }


@pytest.mark.parametrize("format_", ["text", "json"])
def test_a_peer_cannot_forge_a_line_or_speak_to_a_terminal(format_: Literal["text", "json"]) -> None:
    (line,) = lines("info", format_, "denied", name='x"\r\n2026 INFO delivered id=spl_0 \x1b[2J\u202e')
    assert line.isprintable()
    if format_ == "text":
        assert r"name=\"x\"" not in line and r'name="x\"' in line, "a quote within a value is escaped"


def test_what_is_less_important_than_the_level_is_not_written() -> None:
    assert lines("warning", "text", "denied") == []
    assert len(lines("warning", "text", "disk_level")) == 1


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_log_that_nobody_reads_any_more_stops_nothing() -> None:
    reporter("intake", "info", "text", Gone())("denied", why="x")
