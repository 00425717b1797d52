"""What an operator is told of a log that is unwell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from tests.simulation.loop import SimulatedLoop

from dispatch.app.logs import LOOK_S, LogHealth
from dispatch.ports import AppendFault
from dispatch.spool.log import SegmentLog


def test_what_a_log_suffers_from_is_said_once_and_so_is_its_end() -> None:
    loop = SimulatedLoop()
    log = SimpleNamespace(unwell=None, upkeep_error=None)
    said: list[tuple[str, object]] = []

    def report(event: str, /, **fields: object) -> None:
        said.append((event, fields.get("why")))

    health = LogHealth(loop, cast(SegmentLog, log), "ledger", report)
    log.unwell = AppendFault(full=True, detail="no space left")
    loop.advance(5 * LOOK_S)
    log.unwell = None
    log.upkeep_error = OSError("cannot be renamed")
    loop.advance(5 * LOOK_S)
    health.stop()
    log.upkeep_error = None
    loop.advance(5 * LOOK_S)
    assert said == [
        ("log_fault", "no space left"),
        ("log_well", None),
        ("log_upkeep_fault", "cannot be renamed"),
    ]
