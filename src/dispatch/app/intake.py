"""The intake process: listeners over the mail log (station 1)."""

from __future__ import annotations

import socket
from functools import partial

from dispatch.app.folders import CONTENT, MAIL
from dispatch.app.logs import LogHealth, open_log
from dispatch.app.machine import Machine
from dispatch.app.starts import Starts
from dispatch.app.watch import Watch
from dispatch.intake.acceptance import Acceptance, AcceptanceRules
from dispatch.intake.incoming import Budget, Incoming
from dispatch.intake.listener import ConnectionRules, SmtpListener
from dispatch.intake.service import IntakeService
from dispatch.intake.smtp_session import Desk, SessionRules
from dispatch.mail.message import Origin
from dispatch.observe import Reporter
from dispatch.policy.admission import Refusal
from dispatch.ports import DiskLevel
from dispatch.security.networks import Networks
from dispatch.settings import Settings
from dispatch.smtp.server import ServerSettings
from dispatch.spool.content import ContentFolder
from dispatch.spool.levels import DiskLevels, DiskLimits, DiskWatch
from dispatch.spool.log import SegmentLog, Told


def session_rules(settings: Settings) -> SessionRules:
    listener = settings.listener
    return SessionRules(
        ServerSettings(
            server_name=listener.server_name,
            size_bytes_max=listener.max_message_bytes,
            recipients_max=listener.max_recipients,
            bare_newline=listener.bare_newline,
        ),
        listener.max_recipients,
        not listener.allowed_cidrs,
    )


def acceptance_rules(settings: Settings) -> AcceptanceRules:
    listener = settings.listener
    relay = settings.default_relay()
    return AcceptanceRules(
        listener.server_name,
        listener.max_message_bytes or None,
        listener.max_received,
        listener.max_own_received,
        relay.name,
        relay.max_message_bytes or None,
    )


def disk_limits(settings: Settings) -> DiskLimits:
    spool = settings.spool
    return DiskLimits(spool.disk_warn_mb << 20, spool.disk_throttle_mb << 20, spool.disk_suspend_mb << 20)


def connection_rules(settings: Settings) -> ConnectionRules:
    listener = settings.listener
    return ConnectionRules(
        listener.max_connections, listener.max_connections_per_ip, listener.connection_timeout_seconds
    )


class InForce:
    """The settings as the sessions see them; `apply` puts new ones in force for the next command."""

    def __init__(
        self, watch: Watch, machine: Machine, log: SegmentLog, starts: Starts, report: Reporter
    ) -> None:
        settings = watch.settings
        self._watch = watch
        self._starts = starts
        self._start_fault = False
        self._report = report
        self.acceptance = Acceptance(machine.clock, machine.chance, log, acceptance_rules(settings))
        self.levels = DiskLevels(disk_limits(settings))
        self.disk = DiskWatch(
            machine.disk,
            self.levels,
            clock=machine.clock,
            worker=machine.threads.worker("disk"),
            changed=self._level_changed,
        )
        content = ContentFolder(
            machine.disk, CONTENT, worker=machine.threads.worker("content"), incarnation=log.incarnation
        )
        budget = Budget(settings.spool.content_memory_mb << 20)
        self.desk = Desk(
            clock=machine.clock,
            acceptance=self.acceptance,
            incoming=partial(Incoming, self.acceptance, content, budget),
            rules=session_rules(settings),
            source_allowed=Networks.parse(settings.listener.allowed_cidrs).contains,
            disk_level=self._level,
            refused=self._refused,
        )
        self.listener = SmtpListener(self.desk, connection_rules(settings))

    def apply(self) -> None:
        new = self._watch.take()
        if new is None:
            return
        self.desk.rules = session_rules(new)
        self.desk.source_allowed = Networks.parse(new.listener.allowed_cidrs).contains
        self.acceptance.rules = acceptance_rules(new)
        self.listener.rules = connection_rules(new)
        self.levels.limits = disk_limits(new)
        self.disk.look()

    def _level(self) -> DiskLevel:
        if self._starts.remember():
            self._start_fault = False
            return self.levels.level
        if not self._start_fault:
            self._start_fault = True
            self._report("start_fault", meanwhile="nothing is accepted")
        return DiskLevel.SUSPENDED

    def _level_changed(self, level: DiskLevel) -> None:
        free = self.disk.free_bytes
        free_mb = "unknown: the disk cannot be asked" if free is None else free >> 20
        self._report("disk_level", level=level.name.lower(), free_mb=free_mb)

    def _refused(self, refusal: Refusal, origin: Origin) -> None:
        if self._watch.settings.logging.log_denied:
            self._report(
                "denied",
                kind=refusal.kind,
                client=origin.client_address,
                name=origin.client_name or None,
                reply=str(refusal.reply),
                why=refusal.reason,
            )


async def start_intake(
    machine: Machine, watch: Watch, sockets: tuple[socket.socket, ...], report: Reporter
) -> IntakeService:
    """Open the log, then listen. The caller holds the lock of the folder."""
    folders = machine.folders
    starts = Starts(machine.disk, machine.start_id, MAIL)
    cut = machine.mark(folders.mail_cut, True)
    log = open_log(
        machine,
        MAIL,
        folders.mail_durable,
        wakes="delivery",
        name="mail log",
        settings=watch.settings,
        report=report,
        told=Told(ended=cut.store) if starts.power_was_cut else None,
    )
    in_force = InForce(watch, machine, log, starts, report)
    service = IntakeService(
        machine.clock,
        in_force.listener,
        log,
        released=machine.mark(folders.released, False),
        watches=(in_force.disk, LogHealth(machine.clock, log, "mail log", report)),
        changed=watch.changed,
        apply=in_force.apply,
        closed=starts.forget,
    )
    in_force.listener.listen(sockets, report)
    return service
