"""What intake and delivery do alike with their logs: open them, hint when the mark moves, look after them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dispatch.app.machine import Machine, SegmentFiles
from dispatch.observe import Reporter
from dispatch.ports import AppendFault, Clock, Entry, Lsn, Mark
from dispatch.settings import Settings
from dispatch.spool.faults import cause
from dispatch.spool.log import SegmentLog, Told
from dispatch.spool.reader import SegmentReader
from dispatch.spool.recovery import RecoveryReport

LOOK_S = 1.0
SPARES = 4
"""Segment files that are written ahead, at most."""


def open_log(
    machine: Machine,
    folder: str,
    durable: Path,
    *,
    wakes: str,
    name: str,
    settings: Settings,
    report: Reporter,
    sync_interval_s: float = 0.0,
    chained: bool = False,
    told: Told | None = None,
) -> SegmentLog:
    """Open or make a log whose readers in the process `wakes` are told when its durable mark moves."""
    files = machine.segment_files or SegmentFiles(settings.spool.segment_mb << 20, SPARES)
    log = SegmentLog(
        machine.disk,
        folder,
        clock=machine.clock,
        chance=machine.chance,
        threads=machine.threads,
        mark=HintingMark(machine.mark(durable, True), machine.neighbours.hint(wakes)),
        soon=machine.soon,
        sync_interval_s=sync_interval_s,
        segment_bytes=files.size_bytes,
        spares=files.spares,
        chained=chained,
        told=told,
    )
    report_recovery(report, name, log.recovery)
    return log


class HintingMark:
    """A mark whose reader in another process is told that it moved."""

    def __init__(self, mark: Mark, hint: Callable[[], None]) -> None:
        self._mark = mark
        self._hint = hint

    def load(self) -> int:
        return self._mark.load()

    def store(self, value: int) -> None:
        self._mark.store(value)
        self._hint()


class Doubt:
    """Whether the ledger may have lost what was written: its sync failed, and the process died of it or not.

    The mark is memory that outlives the process: it needs no disk that works.
    """

    def __init__(self, mark: Mark) -> None:
        self._mark = mark
        self.found = mark.load() > 0
        """As the last process left it."""
        self._unsettled = self.found
        self._doubted = False

    def __call__(self, doubted: bool) -> None:
        """From the log: a sync failed, or all is durable again."""
        self._doubted = doubted
        self._store()

    def settle(self) -> None:
        """What was found has been accounted for, durably."""
        self._unsettled = False
        self._store()

    def _store(self) -> None:
        self._mark.store(int(self._doubted or self._unsettled))


class HealthyReader:
    """A log as who only goes on reading it sees it: where it cannot be read, nothing is there for now.

    It is told of once, and again when the cause is another. Whoever must know what stands in a log, as
    recovery does, reads without this.
    """

    def __init__(self, reader: SegmentReader, name: str, report: Reporter) -> None:
        self._reader = reader
        self._name = name
        self._report = report
        self._faults: dict[str, str] = {}
        """By what cannot be done."""

    @property
    def durable(self) -> Lsn:
        return self._reader.durable

    @property
    def oldest(self) -> Lsn:
        return self._reader.oldest

    def vouch(self, below: Lsn) -> None:
        self._reader.vouch(below)

    def read(self, cursor: Lsn, size_bytes_max: int) -> list[Entry]:
        """As `ports.LogReader`; nothing while the disk lets nothing be read."""
        try:
            entries = self._reader.read(cursor, size_bytes_max)
        except OSError as error:
            self._unwell("read", error)
            return []
        if entries:
            # Without, the disk may not have been asked.
            self._well("read")
        return entries

    def incarnation(self, cursor: Lsn) -> int:
        """As `SegmentReader.incarnation`; unknown while the disk lets nothing be read."""
        try:
            incarnation = self._reader.incarnation(cursor)
        except OSError as error:
            self._unwell("looked through", error)
            return 0
        self._well("looked through")
        return incarnation

    def _unwell(self, doing: str, error: OSError) -> None:
        why = f"cannot be {doing}: {cause(error)}"
        if why != self._faults.get(doing):
            self._faults[doing] = why
            self._report("log_fault", log=self._name, why=why)

    def _well(self, doing: str) -> None:
        if self._faults.pop(doing, None) is not None and not self._faults:
            self._report("log_well", log=self._name)


class LogHealth:
    """Looks once a second whether a log can be written and its files be looked after; says what changes."""

    def __init__(self, clock: Clock, log: SegmentLog, name: str, report: Reporter) -> None:
        self._clock = clock
        self._log = log
        self._name = name
        self._report = report
        self._fault: AppendFault | None = None
        """As it was told last."""
        self._upkept = True
        self._timer = clock.call_later(LOOK_S, self._look)

    def stop(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._clock.call_later(LOOK_S, self._look)
        fault = self._log.unwell
        if fault is not None and fault != self._fault:
            self._report("log_fault", log=self._name, full=fault.full, why=fault.detail)
        elif fault is None and self._fault is not None:
            self._report("log_well", log=self._name)
        self._fault = fault
        neglect = self._log.upkeep_error
        if neglect is not None and self._upkept:
            self._report("log_upkeep_fault", log=self._name, why=str(neglect))
        self._upkept = neglect is None


def report_recovery(report: Reporter, log: str, recovery: RecoveryReport) -> None:
    report(
        "log_recovered",
        log=log,
        end=recovery.end,
        unanswered_bytes=recovery.unanswered_to - recovery.unanswered_from,
        torn_bytes=recovery.torn_bytes,
        damaged=len(recovery.damage),
        copied=recovery.copied_segments,
        took_s=recovery.elapsed_s,
    )
    for damage in recovery.damage:
        report("log_damaged", log=log, start=damage.start, resume=damage.resume)
    if recovery.disbelieved_mark is not None:
        report("mark_disbelieved", log=log, mark=recovery.disbelieved_mark, end=recovery.end)
