"""The intake process: listeners over the mail log (station 1)."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from functools import partial

import msgspec

from dispatch.app.folders import CONTENT, MAIL
from dispatch.app.http_door import HttpDoor
from dispatch.app.logs import LogHealth, open_log
from dispatch.app.machine import Machine
from dispatch.app.starts import Starts
from dispatch.app.submitters import known_logins
from dispatch.app.watch import Watch
from dispatch.intake.acceptance import Acceptance, AcceptanceRules
from dispatch.intake.credentials import Credentials
from dispatch.intake.doors import DoorKeeper
from dispatch.intake.incoming import Budget, Incoming
from dispatch.intake.listener import ConnectionRules, SmtpListener
from dispatch.intake.requests import DoorRequest, Doors
from dispatch.intake.service import IntakeService
from dispatch.intake.smtp_session import Desk, SessionRules
from dispatch.intake.submit import Answer, Request, Submit, Submitting
from dispatch.mail.address import mask_address
from dispatch.mail.message import Origin
from dispatch.observe import Reporter
from dispatch.policy.admission import REFUSAL_KINDS, RateLimits, Refusal
from dispatch.policy.limits import Bucket, Limits, parse_rates
from dispatch.policy.local_names import LocalNames
from dispatch.policy.lockout import Lockout, LockoutRules
from dispatch.policy.logins import AddressList
from dispatch.policy.routing import Route, Router
from dispatch.policy.size_limits import SizeLimits
from dispatch.ports import DiskLevel
from dispatch.security.credential_cache import CredentialCache
from dispatch.security.networks import Networks
from dispatch.security.tls import server_context
from dispatch.security.verifying import Verifier
from dispatch.settings import Settings, intake_router
from dispatch.settings.model import Logging
from dispatch.smtp.sasl import MECHANISMS
from dispatch.smtp.server import ServerSettings
from dispatch.spool.content import ContentFolder
from dispatch.spool.levels import DiskLevels, DiskLimits, DiskWatch
from dispatch.spool.log import SegmentLog, Told
from dispatch.spool.reader import SegmentReader

CACHE_KEY_BYTES = 32


def session_rules(settings: Settings, *, tls: bool) -> SessionRules:
    """`tls`: there is a certificate to show."""
    listener = settings.listener
    return SessionRules(
        ServerSettings(
            server_name=listener.server_name,
            size_bytes_max=listener.max_message_bytes,
            recipients_max=listener.max_recipients,
            bare_newline=listener.bare_newline,
            commands_bad_max=listener.max_bad_commands,
            transactions_max=listener.max_transactions,
            starttls=tls,
            auth_mechanisms=tuple(MECHANISMS) if settings.logins else (),
            auth_in_clear=listener.allow_unsecure_auth,
        ),
        listener.max_recipients,
        not listener.allowed_cidrs,
        listener.require_auth,
        AddressList.parse(listener.allowed_recipients),
        LocalNames(
            append_domain=settings.mail.append_domain,
            server_name=listener.server_name,
            aliases=settings.mail.aliases,
        ),
    )


def acceptance_rules(settings: Settings, router: Router) -> AcceptanceRules:
    listener, relays = settings.listener, settings.effective_relays()
    sizes = {relay.name: relay.max_message_bytes for relay in relays if relay.max_message_bytes}
    return AcceptanceRules(
        listener.server_name,
        listener.max_message_bytes or None,
        listener.max_received,
        listener.max_own_received,
        SizeLimits(router, sizes),
        router.header_names,
        {relay.name: relay.enabled for relay in relays},
    )


def lockout_rules(settings: Settings) -> LockoutRules:
    listener = settings.listener
    return LockoutRules(
        listener.lockout_failures,
        listener.lockout_window_seconds,
        listener.lockout_seconds,
        listener.lockout_max_seconds,
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
        self._refusals = {kind: machine.mark(machine.folders.refused(kind), True) for kind in REFUSAL_KINDS}
        self._clock = machine.clock
        self._router = intake_router(settings)
        rules = acceptance_rules(settings, self._router)
        self.acceptance = Acceptance(machine.clock, machine.chance, log, rules)
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
        cache = CredentialCache(machine.chance.token(CACHE_KEY_BYTES))
        verifier = Verifier(machine.threads.worker("passwords"), machine.clock, cache)
        self._lockout = Lockout(exempt=lambda address: self.listener.proxied(address))
        self.desk = Desk(
            clock=machine.clock,
            acceptance=self.acceptance,
            incoming=partial(Incoming, self.acceptance, content, budget),
            rules=session_rules(settings, tls=False),
            source_allowed=Networks.parse(settings.listener.allowed_cidrs).contains,
            disk_level=self._level,
            refused=self._refused,
            credentials=Credentials(machine.clock, verifier, self._lockout, known_logins(settings)),
            rates=RateLimits(Limits(), Limits(), Bucket(())),
            refused_by=self._refused_by,
            suppressed=self._suppressed,
        )
        self.listener = SmtpListener(self.desk, connection_rules(settings), machine.network, report)
        keys = Credentials(machine.clock, verifier, self._lockout, {})
        self.http = HttpDoor(machine, self.desk, keys, settings, report)
        self._certificate: bytes | None = None
        self._put_in_force(settings)

    def apply(self) -> None:
        new = self._watch.take()
        if new is not None:
            self._router = intake_router(new)
            self.acceptance.rules = acceptance_rules(new, self._router)
            self.desk.source_allowed = Networks.parse(new.listener.allowed_cidrs).contains
            self.desk.credentials.logins = known_logins(new)
            self.listener.rules = connection_rules(new)
            self.levels.limits = disk_limits(new)
            self.http.apply(new)
            self._put_in_force(new)
            self.disk.look()

    def _put_in_force(self, settings: Settings) -> None:
        listener, rates = settings.listener, self.desk.rates
        rates.addresses.rates = parse_rates(listener.rate_per_address)
        rates.everyone.change(parse_rates(listener.rate), self._clock.monotonic())
        self._lockout.change(lockout_rules(settings))
        self.listener.proxied = Networks.parse(listener.proxy_protocol_from).contains
        self._show_certificate(settings)
        self.desk.rules = session_rules(settings, tls=self.listener.tls is not None)

    def _show_certificate(self, settings: Settings) -> None:
        """To connections that begin from now on. One that cannot be used changes nothing."""
        certificate = settings.certificate
        if certificate is None:
            self.listener.tls, self._certificate = None, None
            self.http.listener.tls = None
        elif certificate.chain_pem != self._certificate:
            try:
                self.listener.tls = server_context(certificate.chain_pem, certificate.key_pem)
                self.http.listener.tls = self.listener.tls
            except OSError as error:  # OpenSSL's, or no descriptor to hand it the key through
                self._report("certificate_unusable", why=str(error))
            else:
                self._certificate = certificate.chain_pem

    def _refused_by(self, sender: str, recipient: str, origin: Origin) -> Route | None:
        return self._router.refusal(sender, recipient, origin, int(self._clock.wall() * 1000))

    def _suppressed(self, recipient: str) -> bool:
        return self._watch.settings.listener.reject_suppressed and self._watch.suppressed.holds(recipient)

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

    def _refused(self, refusal: Refusal, origin: Origin, sender: str | None, recipient: str) -> None:
        count = self._refusals[refusal.kind]
        count.store(count.load() + 1)
        if self._watch.settings.logging.log_denied:
            self._report(
                "denied",
                kind=refusal.kind,
                client=origin.client_address,
                name=origin.client_name or None,
                login=origin.login,
                **_parties(self._watch.settings.logging, sender, recipient),
                reply=str(refusal.reply),
                why=refusal.reason,
            )


def _parties(rules: Logging, sender: str | None, recipient: str) -> dict[str, str | None]:
    """Sender and recipient as the log has them."""
    if rules.mask_recipient and recipient:
        recipient = mask_address(recipient)
    return {
        "from": None if sender is None else f"<{sender}>",
        "to": f"<{recipient}>" if recipient else None,
    }


async def start_intake(
    machine: Machine, watch: Watch, sockets: Iterable[tuple[str, socket.socket]], report: Reporter
) -> IntakeService:
    """Open the log, then listen. The caller holds the lock of the folder.

    `sockets` are bound, each with its purpose: `smtp`, `smtps`, `http` or `https`.
    """
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
    starts.remember()  # or, where that fails, with the first message
    in_force = InForce(watch, machine, log, starts, report)
    submitting = Submitting(
        in_force.acceptance,
        in_force.desk.incoming,
        in_force.desk.disk_level,
        SegmentReader(machine.disk, MAIL, mark=machine.mark(folders.mail_durable, False)),
        partial(machine.threads.worker, "keys"),
        lambda: in_force.desk.rules.local_names,
    )
    doors = DoorKeeper(machine.disk, (in_force.listener, in_force.http.listener), report)

    async def handle(request: Request | DoorRequest) -> Answer | Doors:
        return await submitting.handle(request) if isinstance(request, Submit) else doors.handle(request)

    requests = msgspec.msgpack.Decoder(Request | DoorRequest)
    bus = machine.neighbours.serve("intake", requests, handle, report)
    service = IntakeService(
        machine.clock,
        in_force.listener,
        log,
        released=machine.mark(folders.released, False),
        watches=(in_force.disk, LogHealth(machine.clock, log, "mail log", report)),
        changed=watch.changed,
        apply=in_force.apply,
        closed=starts.forget,
        bus=bus,
        other_doors=(in_force.http.listener,),
    )
    bound = list(sockets)
    in_force.listener.listen(each for each in bound if each[0] in ("smtp", "smtps"))
    in_force.http.listener.listen(each for each in bound if each[0] in ("http", "https"))
    await bus.start()
    return service
