"""The control process: the ledger into history, counters and log lines; settings to everybody (station 5)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from dispatch.app.folders import LEDGER, Folders
from dispatch.app.machine import Machine
from dispatch.app.watch import Watch
from dispatch.observe import Reporter
from dispatch.outcomes.history import History
from dispatch.outcomes.log_lines import LogLines
from dispatch.outcomes.service import ControlService
from dispatch.outcomes.tail import Gap, Tail
from dispatch.settings import Settings, SettingsErrors, changes, load
from dispatch.settings.snapshot import publish
from dispatch.spool.reader import SegmentReader
from dispatch.store.history import HistoryStore
from dispatch.store.sqlite import StoreDamaged, set_aside

ANEW = "made anew from the ledger"


async def start_control(
    machine: Machine, watch: Watch, publish: Callable[[], Settings], report: Reporter
) -> ControlService:
    """Follow the ledger. `publish` reads the settings anew and publishes them."""
    folders = machine.folders
    reader = SegmentReader(machine.disk, LEDGER, mark=machine.mark(folders.ledger_durable, False))
    following = _Following(machine, reader, watch.settings, report)

    def close() -> None:
        hints.close()
        following.store.close()
        reader.close()

    def publish_again() -> None:
        following.lines.rules = publish().logging

    service = ControlService(
        machine.clock,
        machine.threads.worker("outcomes"),
        following.tail,
        followed=machine.mark(folders.followed, True),
        durable=lambda: reader.durable,
        fault=lambda error: report("history_fault", why=repr(error)),
        renew=following.renew,
        publish=publish_again,
        close=close,
    )
    hints = machine.neighbours.hear("control", service.wake)
    return service


class _Following:
    """The tail with what it writes to; made anew where the tables turn out to be damaged."""

    def __init__(self, machine: Machine, reader: SegmentReader, settings: Settings, report: Reporter) -> None:
        self._machine = machine
        self._reader = reader
        self._report = report
        self.store = _open_history(machine, report)
        self.lines = LogLines(self.store, report, settings.logging)
        self.tail = self._tail()

    def _tail(self) -> Tail:
        gaps = partial(_report_gap, self._report)
        return Tail(self._reader, self.store, History(self.store), self.lines, report=gaps)

    def renew(self) -> Tail:
        """Set the tables aside, and begin with new ones at the oldest record kept. May raise `StoreFault`."""
        self.store.close()
        aside = set_aside(self._machine.disk, self._machine.folders.history_db.name)
        self._report("history_fault", why="damaged", set_aside=aside, then=ANEW)
        self.store = _open_history(self._machine, self._report)
        self.lines = LogLines(self.store, self._report, self.lines.rules)
        self.tail = self._tail()
        return self.tail


def _open_history(machine: Machine, report: Reporter) -> HistoryStore:
    """Open it. One that is damaged is set aside and made anew from the ledger that is kept: mail goes on."""
    path, vfs = machine.folders.history_db, machine.vfs
    try:
        return HistoryStore.open(path, vfs=vfs)
    except StoreDamaged as damage:
        aside = set_aside(machine.disk, path.name)
        report("history_fault", why=str(damage), set_aside=aside, then=ANEW)
    return HistoryStore.open(path, vfs=vfs)


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
        except SettingsErrors:
            # The relay was started with good settings, and control again after somebody broke the file.
            self._in_force = None

    def _load(self) -> Settings:
        overrides = [*self._given.set, f"spool.directory={self._folders.data}"]
        return load(self._given.config, os.environ, overrides).settings

    def publish(self) -> Settings:
        """Raises `MistakenSettings` after each mistake was reported."""
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
