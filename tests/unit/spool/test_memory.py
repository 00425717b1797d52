"""What the log in memory has beside the contract: an end to its room."""

from __future__ import annotations

from tests.simulation.loop import SimulatedLoop

from dispatch.ports import AppendFault, Lsn
from dispatch.spool.memory import MemoryLog, MemoryReader


def test_a_log_that_holds_its_bytes_takes_no_more_until_some_are_released() -> None:
    loop = SimulatedLoop()
    log = MemoryLog(clock=loop, size_bytes_max=1000)
    told: list[Lsn | AppendFault] = []
    log.append([bytes(600)], told.append)
    log.append([bytes(600)], told.append)
    assert told == []
    loop.settle()
    faults = [answer for answer in told if isinstance(answer, AppendFault)]
    assert [fault.full for fault in faults] == [True]
    log.release(log.durable)
    log.append([bytes(600)], told.append)
    loop.settle()
    assert len(MemoryReader(log).read(log.durable, 1)) == 0
    assert isinstance(told[-1], int)
