"""What an operator is told of a log that is unwell."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import cast

from tests.simulation.disk import Operation, io_error
from tests.simulation.loop import SimulatedLoop
from tests.simulation.spool import FOLDER, SimulatedSpool

from dispatch.app.logs import LOOK_S, HealthyReader, LogHealth
from dispatch.ports import AppendFault
from dispatch.spool.log import SegmentLog


def test_what_a_log_suffers_from_is_said_once_until_it_is_something_else_or_over() -> None:
    loop = SimulatedLoop()
    log = SimpleNamespace(unwell=None, upkeep_error=None)
    said: list[tuple[str, object]] = []

    def report(event: str, /, **fields: object) -> None:
        said.append((event, fields.get("why")))

    health = LogHealth(loop, cast(SegmentLog, log), "ledger", report)
    log.unwell = AppendFault(full=True, detail="no space left")
    loop.advance(5 * LOOK_S)
    log.unwell = AppendFault(full=False, detail="read-only")
    loop.advance(5 * LOOK_S)
    log.unwell = None
    log.upkeep_error = OSError("cannot be renamed")
    loop.advance(5 * LOOK_S)
    health.stop()
    log.upkeep_error = None
    loop.advance(5 * LOOK_S)
    assert said == [
        ("log_fault", "no space left"),
        ("log_fault", "read-only"),
        ("log_well", None),
        ("log_upkeep_fault", "cannot be renamed"),
    ]


def test_a_log_that_cannot_be_read_is_told_of_once_for_each_cause_and_mail_waits() -> None:
    spool = SimulatedSpool()
    spool.put(b"one")
    said: list[tuple[str, object]] = []

    def report(event: str, /, **fields: object) -> None:
        said.append((event, fields.get("why")))

    reader = HealthyReader(spool.reader(), "mail log", report)
    cursor = reader.oldest
    for operation, error in (("open", io_error), ("open", no_descriptor), ("read", io_error)):
        spool.fail(cast(Operation, operation), times=10_000, error=error, path=FOLDER)
        assert [reader.read(cursor, 1) for _ in range(5)] == [[]] * 5
    spool.fail("names", times=10_000)
    assert [reader.incarnation(cursor) for _ in range(5)] == [0] * 5
    spool.disk.fault = None
    assert [entry.payload for entry in reader.read(cursor, 1)] == [b"one"]
    assert reader.incarnation(reader.durable) > 0
    assert [event for event, _ in said] == ["log_fault"] * 4 + ["log_well"]
    assert [str(why)[:23] for _, why in said[:4]] == [
        "cannot be read: Input/o",
        "cannot be read: Too man",
        "cannot be read: Input/o",
        "cannot be looked throug",
    ]


def no_descriptor() -> OSError:
    return OSError(errno.EMFILE, "Too many open files")
