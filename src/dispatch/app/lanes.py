"""Relays as configured become lanes: adapter, breaker, window and rules, in step with the settings."""

from __future__ import annotations

from dispatch.app.folders import CAPTURED, CONTENT
from dispatch.app.machine import Machine
from dispatch.mail.message import Message
from dispatch.observe import Reporter
from dispatch.policy.breaker import Breaker
from dispatch.policy.concurrency import Window
from dispatch.policy.routing import Router, Routes
from dispatch.policy.schedule import RetryPlan
from dispatch.ports import Relay, Worker
from dispatch.queue.lane import Lane, LaneRules
from dispatch.queue.large_content import opener
from dispatch.relays.capture import BATCH_MAX, CaptureRelay
from dispatch.relays.smart_host import SmartHost, Timeouts
from dispatch.relays.smtp import SmtpRelay
from dispatch.settings import Relay as RelaySettings
from dispatch.settings import Settings, router

CAPTURES_MAX = 2 * BATCH_MAX
"""Transactions that the inbox takes at once: one batch is written while the next one gathers."""


def retry_plan(settings: Settings, relay: RelaySettings | None = None) -> RetryPlan:
    source = settings.spool if relay is None else relay
    age_s = None if source.max_age_hours is None else source.max_age_hours * 3600
    return RetryPlan(source.retry_delays_seconds, source.max_retries, age_s)


def lane_rules(settings: Settings, relay: RelaySettings) -> LaneRules:
    return LaneRules(
        relay.name,
        retry_plan(settings, relay),
        relay.uncertain_policy,
        captures=relay.kind == "capture",
        verbatim=relay.verbatim or relay.kind == "capture",
        large_max=max(1, relay.max_concurrency // 2),
        ready_bytes_max=(settings.spool.content_memory_mb << 20)
        // (4 * max(1, len(settings.effective_relays()))),
    )


def smart_host(settings: Settings, relay: RelaySettings) -> SmartHost:
    return SmartHost(
        host=relay.host,
        port=relay.port,
        helo_name=relay.helo_name or settings.listener.server_name,
        max_concurrency=relay.max_concurrency,
        messages_per_connection_max=relay.messages_per_connection,
        idle_s=relay.idle_seconds,
        pipelining=relay.pipelining,
        chunking=relay.chunking,
        timeouts=Timeouts(
            connect_s=relay.connect_timeout_seconds,
            end_of_data_s=relay.end_of_data_timeout_seconds,
        ),
    )


def _made_of(settings: Settings, relay: RelaySettings) -> tuple[object, ...]:
    """All that a lane depends on. What it inherits, a relay holds itself."""
    queue = settings.queue
    return relay, queue.breaker_failures, queue.breaker_open_seconds, settings.listener.server_name


class Lanes:
    """Makes the lanes that the settings ask for, and keeps them in step with changed settings."""

    def __init__(self, machine: Machine, report: Reporter) -> None:
        self._machine = machine
        self._report = report
        self._content_worker: Worker = machine.threads.worker("content")
        self._inbox_worker: Worker = machine.threads.worker("inbox")
        self._made: dict[str, tuple[object, ...]] = {}
        """What each lane was made of: it is made anew when any of this changes."""
        self.settings = Settings()
        self._router = Router((), "", ())

    def make(self, settings: Settings, lanes: dict[str, Lane]) -> list[Lane]:
        """Add and replace lanes in `lanes`; returns those that are no longer used."""
        self.settings = settings
        relays = {relay.name: relay for relay in settings.effective_relays() if relay.enabled}
        made = {name: _made_of(settings, relay) for name, relay in relays.items()}
        unused = [lanes.pop(name) for name in list(lanes) if made.get(name) != self._made[name]]
        for name, relay in relays.items():
            if name not in lanes:
                lanes[name] = self._lane(settings, relay)
        self._made = made
        self._router = router(settings)
        default = self._router.default
        if not settings.relays:
            self._report("no_relay", inbox="dispatch inbox list")
        elif default.held:
            self._report("relay_disabled", relay=settings.default_relay().name, why=default.hold_reason)
        for route in self._router.unusable():
            self._report("rule_holds", rule=route.rule, why=route.hold_reason)
        return unused

    def routes_of(self, message: Message) -> Routes:
        return self._router.routes(message.envelope)

    def released_routes_of(self, message: Message) -> Routes:
        """As if no rule held mail."""
        return self._router.released.routes(message.envelope)

    def _lane(self, settings: Settings, relay: RelaySettings) -> Lane:
        machine = self._machine
        open_content = opener(machine.disk, CONTENT, verbatim=relay.verbatim or relay.kind == "capture")
        adapter: Relay
        if relay.kind == "capture":
            window = Window(CAPTURES_MAX, start=CAPTURES_MAX)
            adapter = CaptureRelay(
                machine.disk,
                CAPTURED,
                self._inbox_worker,
                clock=machine.clock,
                open_content=open_content,
                max_concurrency=CAPTURES_MAX,
            )
        else:
            # Every connection may have one transaction under way and the next one behind it.
            window = Window(2 * relay.max_concurrency)
            adapter = SmtpRelay(
                smart_host(settings, relay),
                clock=machine.clock,
                network=machine.network,
                worker=self._content_worker,
                open_content=open_content,
            )
        breaker = Breaker(settings.queue.breaker_failures, settings.queue.breaker_open_seconds)
        return Lane(lane_rules(settings, relay), adapter, breaker, window)
