"""The control process: the ledger into history, counters and log lines; settings to everybody (station 5)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from enum import Enum, auto
from functools import partial
from pathlib import Path

from dispatch.app.folders import LEDGER, Folders
from dispatch.app.machine import Machine
from dispatch.app.watch import Watch
from dispatch.observe import Reporter
from dispatch.outcomes.history import History
from dispatch.outcomes.log_lines import LogLines, LogRules
from dispatch.outcomes.service import ControlService
from dispatch.outcomes.tail import Gap, Tail
from dispatch.ports import LogReader, Lsn
from dispatch.settings import Settings, SettingsErrors, SettingsUnreadable, changes, load
from dispatch.settings.snapshot import publish
from dispatch.spool.reader import SegmentReader
from dispatch.store.damage import is_damaged, set_aside
from dispatch.store.history import HistoryStore
from dispatch.store.sqlite import StoreDamaged, StoreFault

ANEW = "made anew from the ledger"
GOES_ON = "it goes on"


async def start_control(
    machine: Machine, watch: Watch, publish: Callable[[], Settings], report: Reporter
) -> ControlService:
    """Follow the ledger. `publish` reads the settings anew and publishes them."""
    folders = machine.folders
    reader = SegmentReader(machine.disk, LEDGER, mark=machine.mark(folders.ledger_durable, False))
    following = Following(machine, reader, watch.settings.logging, report)

    def close() -> None:
        hints.close()
        following.close()
        reader.close()

    def publish_again() -> None:
        following.apply(publish().logging)

    service = ControlService(
        machine.clock,
        machine.threads.worker("outcomes"),
        following,
        followed=machine.mark(folders.followed, True),
        durable=lambda: reader.durable,
        fault=lambda error: report("history_fault", why=repr(error)),
        publish=publish_again,
        close=close,
    )
    hints = machine.neighbours.hear("control", service.wake)
    return service


class Trust(Enum):
    """What is thought of the tables."""

    SOUND = auto()
    SUSPECTED = auto()
    """They looked damaged, or a read has failed."""
    CLEARED = auto()
    """It was looked, and nothing was found; no step has succeeded since."""
    SUSPECTED_AGAIN = auto()
    """The next step met it again: if all of it can be read, it is damaged in a way that no look shows."""
    CONDEMNED = auto()
    """Damaged, and not set aside yet."""


class Following:
    """The tail with the tables that it writes; made anew where they turn out to be damaged."""

    def __init__(self, machine: Machine, reader: LogReader, rules: LogRules, report: Reporter) -> None:
        """Raises `StoreFault`, but not where the tables look damaged: then the first step sees to it."""
        self._machine = machine
        self._reader = reader
        self._rules = rules
        self._report = report
        self._lines: LogLines | None = None
        self._tail: Tail | None = None
        self.store: HistoryStore | None = None
        self._trust = Trust.SOUND
        self.cursor = Lsn(0)
        """Everything below is in the tables."""
        try:
            self._open()
        except StoreDamaged:
            self._suspect()

    def apply(self, rules: LogRules) -> None:
        """Write log lines by these rules from now on."""
        self._rules = rules
        if self._lines is not None:
            self._lines.rules = rules

    def step(self) -> bool:
        """As `Tail.step`. Raises also what opening tables raises; the next step tries it again."""
        try:
            tail = self._tail or self._begin_again()
            more = tail.step()
        except StoreDamaged:
            self._suspect()
            raise
        except StoreFault:
            if self.store is not None and self.store.doubts:
                # Opened again, it goes on from what the disk really has.
                self._let_go()
            raise
        self._trust = Trust.SOUND
        self.cursor = tail.cursor
        return more

    def close(self) -> None:
        """Raises `StoreFault`; closed it is all the same."""
        store, self.store, self._tail, self._lines = self.store, None, None, None
        if store is not None:
            store.close()

    def _open(self) -> Tail:
        machine = self._machine
        self.store = HistoryStore.open(machine.folders.history_db, vfs=machine.vfs, disk=machine.disk)
        try:
            self._lines = LogLines(self.store, self._report, self._rules)
            gaps = partial(_report_gap, self._report)
            self._tail = Tail(self._reader, self.store, History(self.store), self._lines, report=gaps)
        except Exception:
            self._let_go()
            raise
        self.cursor = self._tail.cursor
        return self._tail

    def _begin_again(self) -> Tail:
        """With the tables that there are; or, where those are damaged, with new ones at the oldest record."""
        machine, path = self._machine, self._machine.folders.history_db
        if self._trust in (Trust.SUSPECTED, Trust.SUSPECTED_AGAIN):
            damaged = is_damaged(machine.disk, path, vfs=machine.vfs)
            if damaged or self._trust is Trust.SUSPECTED_AGAIN:
                self._trust = Trust.CONDEMNED
            else:
                self._trust = Trust.CLEARED
                self._report("history_fault", why="a read had failed; nothing is damaged", then=GOES_ON)
        if self._trust is Trust.CONDEMNED:
            aside = set_aside(machine.disk, path.name)
            self._trust = Trust.SOUND
            self._report("history_fault", why="damaged", set_aside=aside, then=ANEW)
        return self._open()

    def _suspect(self) -> None:
        if self._trust is Trust.CLEARED:
            self._trust = Trust.SUSPECTED_AGAIN
        elif self._trust is Trust.SOUND:
            self._trust = Trust.SUSPECTED
        self._let_go()

    def _let_go(self) -> None:
        try:
            self.close()
        except StoreFault:
            # The fault before it is the one to tell of.
            pass


class MistakenSettings(Exception):
    """New settings were not published; each of their mistakes was reported."""


class Publisher:
    """Reads the settings from where `dispatch serve` read them, and publishes them."""

    def __init__(self, folders: Folders, sources: Sequence[str], report: Reporter) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("--config", type=Path)
        parser.add_argument("--data", type=Path)
        parser.add_argument("--set", action="append", default=[])
        self._given = parser.parse_args(list(sources))
        self._folders = folders
        self._report = report
        try:
            self._in_force: Settings | None = self._load()
        except (SettingsErrors, SettingsUnreadable):
            # The relay was started with good settings, and control again after somebody broke the file,
            # or while it cannot be read.
            self._in_force = None

    def _load(self) -> Settings:
        overrides = [*self._given.set, f"spool.directory={self._folders.data}"]
        return load(self._given.config, os.environ, overrides).settings

    def publish(self) -> Settings:
        """Raises `MistakenSettings` after each mistake was reported, and `OSError`."""
        try:
            settings = self._load()
        except SettingsErrors as errors:
            for mistake in errors.mistakes:
                self._report("reload_failed", why=str(mistake))
            raise MistakenSettings("the settings have mistakes; those in force stay") from None
        self._report("settings_published", number=publish(self._folders.settings, settings))
        if self._in_force is not None:
            # Compared with what the processes were started with: what waits for a restart goes on waiting.
            _, restart = changes(self._in_force, settings)
            if restart:
                self._report("settings_need_restart", keys=", ".join(restart))
        return settings


def _report_gap(report: Reporter, gap: Gap) -> None:
    report("ledger_corrupt", start=gap.start, resume=gap.resume, why=gap.why)
