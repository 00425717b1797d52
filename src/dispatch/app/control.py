"""The control process: the ledger into history, counters and log lines; settings to everybody (station 5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from enum import Enum, auto
from functools import partial

import msgspec

from dispatch.app.bounces import Bouncing
from dispatch.app.checkups import Checkups
from dispatch.app.configuring import Configuring
from dispatch.app.folders import LEDGER
from dispatch.app.machine import Machine, Serving
from dispatch.app.watch import Watch
from dispatch.observe import Reporter
from dispatch.outcomes.history import History
from dispatch.outcomes.log_lines import LogLines, LogRules
from dispatch.outcomes.refusals import Refusals
from dispatch.outcomes.service import ControlService
from dispatch.outcomes.tail import Gap, Reactor, Tail
from dispatch.policy.admission import REFUSAL_KINDS
from dispatch.ports import LogReader, Lsn, Mark, Timer
from dispatch.settings import Role, Settings
from dispatch.settings.requests import Answer, Changed, Request, TestRelay
from dispatch.spool.reader import SegmentReader
from dispatch.store.damage import is_damaged, set_aside
from dispatch.store.history import HistoryStore
from dispatch.store.sqlite import StoreDamaged, StoreFault

ANEW = "made anew from the ledger"
GOES_ON = "it goes on"
CONFIRMS: tuple[Role, ...] = ("intake", "delivery")
"""Who works by the settings besides control itself."""
CONFIRM_S = 5.0
"""How long a change waits for them; they look once a second."""
CONFIRM_PACE_S = 0.05
CERTIFICATE_S = 3600.0
"""How often the certificate is looked after."""


async def start_control(
    machine: Machine,
    watch: Watch,
    publish: Callable[[], Settings],
    report: Reporter,
    configuring: Configuring | None = None,
    bouncing: Bouncing | None = None,
) -> ControlService:
    """Follow the ledger. `publish` reads the settings anew and publishes them; `configuring` carries out what
    operators order, without which control takes no orders; `bouncing` tells senders, who are told nothing
    without it."""
    folders = machine.folders
    reader = SegmentReader(machine.disk, LEDGER, mark=machine.mark(folders.ledger_durable, False))
    first = None if bouncing is None else bouncing.reactor
    following = Following(machine, reader, watch.settings.logging, report, first)

    def apply(settings: Settings) -> None:
        following.apply(settings.logging)
        if bouncing is not None:
            bouncing.apply(settings)

    def close() -> None:
        if orders is not None:
            orders.close()
        hints.close()
        following.close()
        reader.close()

    def publish_again() -> None:
        apply(publish())

    orders: Orders | None = None
    bus: Serving | None = None
    if configuring is not None:
        configuring.published = apply
        orders = Orders(machine, configuring, Checkups(machine, configuring, report))
        bus = machine.neighbours.serve("control", _REQUESTS, orders.handle, report)

    service = ControlService(
        machine.clock,
        machine.threads.worker("outcomes"),
        following,
        followed=machine.mark(folders.followed, True),
        durable=lambda: reader.durable,
        fault=lambda error: report("history_fault", why=repr(error)),
        publish=publish_again,
        close=close,
        bus=bus,
    )
    hints = machine.neighbours.hear("control", service.wake)
    await service.start()
    return service


_REQUESTS = msgspec.msgpack.Decoder(Request)


class Orders:
    """What operators ask for over control's socket, one after the other, confirmed by whom it concerns."""

    def __init__(self, machine: Machine, configuring: Configuring, checkups: Checkups) -> None:
        self._machine = machine
        self._configuring = configuring
        self._checkups = checkups
        self._applied: dict[Role, Mark] = {
            role: machine.mark(machine.folders.applied(role), False) for role in CONFIRMS
        }
        self._timer: Timer = machine.clock.call_later(0, self._look_after_certificate)

    def close(self) -> None:
        self._timer.cancel()
        self._configuring.close()

    async def handle(self, request: Request) -> Answer | AsyncIterator[Answer]:
        if isinstance(request, TestRelay):
            return self._checkups.steps(request)
        answer = self._configuring.handle(request)
        if not isinstance(answer, Changed):
            return answer
        return msgspec.structs.replace(answer, unconfirmed=await self._unconfirmed(answer.number))

    async def _unconfirmed(self, number: int) -> tuple[Role, ...]:
        """Who does not work by these settings, or later ones, when time is up."""
        give_up_s = self._machine.clock.monotonic() + CONFIRM_S
        while True:
            late = tuple(role for role, mark in self._applied.items() if mark.load() < number)
            if not late or self._machine.clock.monotonic() >= give_up_s:
                return late
            await asyncio.sleep(CONFIRM_PACE_S)

    def _look_after_certificate(self) -> None:
        self._timer = self._machine.clock.call_later(CERTIFICATE_S, self._look_after_certificate)
        self._configuring.look_after_certificate()


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

    def __init__(
        self,
        machine: Machine,
        reader: LogReader,
        rules: LogRules,
        report: Reporter,
        first: Callable[[HistoryStore], Reactor] | None = None,
    ) -> None:
        """Raises `StoreFault`, but not where the tables look damaged: then the first step sees to it.

        `first` makes a reactor that stands before those of history.
        """
        self._machine = machine
        self._reader = reader
        self._rules = rules
        self._report = report
        self._first = first
        self._refusals = {kind: machine.mark(machine.folders.refused(kind), False) for kind in REFUSAL_KINDS}
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
            first = () if self._first is None else (self._first(self.store),)
            refusals = Refusals(self.store, self._refusals, lambda: int(machine.clock.wall() * 1000))
            reactors = (*first, History(self.store), refusals, self._lines)
            self._tail = Tail(self._reader, self.store, *reactors, report=gaps)
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


def _report_gap(report: Reporter, gap: Gap) -> None:
    report("ledger_corrupt", start=gap.start, resume=gap.resume, why=gap.why)
