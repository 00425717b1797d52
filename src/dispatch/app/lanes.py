"""Relays as configured become lanes: adapter, breaker, window and rules, in step with the settings."""

from __future__ import annotations

import msgspec

from dispatch.app.folders import CAPTURED, CONTENT
from dispatch.app.machine import Machine
from dispatch.app.mail_policies import MailPolicies
from dispatch.app.token_keeping import TokenKeeping
from dispatch.app.tokens import TokenSources
from dispatch.mail.message import Message
from dispatch.mime.departure import Departure, Signing
from dispatch.mime.dkim import SigningKey
from dispatch.mime.rewrite import SenderRewrite
from dispatch.observe import Reporter
from dispatch.policy.breaker import Breaker
from dispatch.policy.concurrency import Window
from dispatch.policy.limits import PERIOD_S, Rates, parse_rates
from dispatch.policy.routing import Route, Router, Routes
from dispatch.policy.schedule import RetryPlan
from dispatch.policy.suppression import SuppressionList, without_suppressed
from dispatch.ports import DnssecFrom, Relay, Worker
from dispatch.queue.lane import READY_MAX, Lane, LaneRules
from dispatch.queue.large_content import opener
from dispatch.relays.capture import BATCH_MAX, CaptureRelay
from dispatch.relays.direct import DirectRelay
from dispatch.relays.direct_domain import Ourselves
from dispatch.relays.smart_host import SmartHost, Timeouts, TokenSource, Trust
from dispatch.relays.smtp import SmtpRelay
from dispatch.security.dkim_keys import load
from dispatch.settings import Relay as RelaySettings
from dispatch.settings import Settings, router
from dispatch.settings.relay_keys import connections_max, hosts_of, idle_s, tls_mode
from dispatch.settings.renewed_tokens import RenewedTokens
from dispatch.smtp.client_auth import Credentials

CAPTURES_MAX = 2 * BATCH_MAX
"""Transactions that the inbox takes at once: one batch is written while the next one gathers."""
PINS_TOLD_MAX = 100
"""Relays of which it is told that they cannot be used: an import may bring any name."""
LINE_S = 10.0
"""How long what stands ready for a relay with a rate may wait for it, as a rule."""


def retry_plan(settings: Settings, relay: RelaySettings | None = None) -> RetryPlan:
    source = settings.spool if relay is None else relay
    age_s = None if source.max_age_hours is None else source.max_age_hours * 3600
    return RetryPlan(source.retry_delays_seconds, source.max_retries, age_s)


def _ready_max(rates: Rates) -> int:
    """So many works as leave within some seconds: what stands in line keeps its part of the mail log."""
    leaving = [int(LINE_S * rate.count / PERIOD_S[rate.period]) + 2 for rate in rates]
    return min([READY_MAX, *leaving])


def departure(settings: Settings, relay: RelaySettings) -> Departure:
    """What is done to a message before the relay gets it; the inbox keeps what came."""
    if relay.kind == "capture":
        return Departure(verbatim=True)
    rewrite = None
    if relay.envelope_from or relay.header_from or relay.reply_to:
        rewrite = SenderRewrite(
            relay.envelope_from or None,
            relay.header_from or None,
            relay.reply_to or None,
            keep_display_name=relay.keep_display_name,
            keep_from_as_reply_to=relay.keep_from_as_reply_to,
        )
    append_domain = "" if relay.verbatim else settings.mail.append_domain
    return Departure(relay.verbatim, append_domain, rewrite, _signing(relay))


def _signing(relay: RelaySettings) -> Signing | None:
    # Without a domain the keys are not looked at: they may be withheld.
    if not relay.dkim_domain:
        return None
    given = relay.private_keys()
    keys = tuple(SigningKey(relay.dkim_domain, selector, load(pem)) for selector, pem in given)
    return Signing(keys, relay.dkim_canonicalization)


def lane_rules(settings: Settings, relay: RelaySettings) -> LaneRules:
    rates = parse_rates(relay.rate)
    return LaneRules(
        relay.name,
        retry_plan(settings, relay),
        relay.uncertain_policy,
        captures=relay.kind == "capture",
        per_domain_max=relay.max_concurrency_per_domain if relay.kind == "direct" else 0,
        departure=departure(settings, relay),
        rates=rates,
        flush_interval_s=relay.flush_interval_seconds,
        ready_max=_ready_max(rates),
        large_max=max(1, connections_max(relay) // 2),
        ready_bytes_max=(settings.spool.content_memory_mb << 20)
        // (4 * max(1, len(settings.effective_relays()))),
    )


def smart_host(settings: Settings, relay: RelaySettings, tokens: TokenSource | None = None) -> SmartHost:
    """`tokens`: for a relay that logs in with access tokens."""
    credentials: Credentials | TokenSource | None = tokens
    # Without a user name the password is not looked at: it may be withheld.
    if relay.username and tokens is None:
        mechanisms = tuple(name.upper() for name in relay.auth)
        credentials = Credentials(
            relay.username, relay.password, mechanisms, in_clear=relay.allow_unsecure_auth
        )
    return SmartHost(
        hosts=hosts_of(relay),
        port=relay.port,
        lookup=relay.lookup,
        source_address=relay.source_address or None,
        tls=tls_mode(relay),
        trust=Trust(relay.verify, relay.ca_file or None, relay.fingerprint or None),
        credentials=credentials,
        helo_name=relay.helo_name or settings.listener.server_name,
        max_concurrency=connections_max(relay),
        messages_per_connection_max=relay.messages_per_connection,
        idle_s=idle_s(relay),
        pipelining=relay.pipelining,
        chunking=relay.chunking,
        timeouts=Timeouts(
            connect_s=relay.connect_timeout_seconds,
            end_of_data_s=relay.end_of_data_timeout_seconds,
        ),
    )


def direct_template(settings: Settings, relay: RelaySettings) -> SmartHost:
    """What direct delivery says to every host."""
    per_domain = min(relay.max_concurrency_per_domain, relay.max_concurrency)
    return msgspec.structs.replace(smart_host(settings, relay), max_concurrency=per_domain)


def dnssec_from(relay: RelaySettings) -> DnssecFrom:
    return "none" if relay.tls == "none" else relay.dnssec_from


def ourselves(settings: Settings, relay: RelaySettings) -> Ourselves:
    listener = settings.listener
    names = frozenset(name.lower().rstrip(".") for name in (listener.server_name, relay.helo_name) if name)
    return Ourselves(names, on_loopback=relay.port in (*listener.ports, *listener.tls_ports))


def _made_of(settings: Settings, relay: RelaySettings) -> tuple[object, ...]:
    """All that a lane depends on. What it inherits, a relay holds itself."""
    queue = settings.queue
    names = settings.listener.server_name, settings.mail.append_domain
    own = ourselves(settings, relay) if relay.kind == "direct" else None
    return relay, queue.breaker_failures, queue.breaker_open_seconds, *names, own


def deputies(settings: Settings, name: str) -> frozenset[str]:
    """The relays that share a rule with this one, switched off or not."""
    together = [rule.relays for rule in settings.rules if rule.enabled and name in rule.relays]
    return frozenset(relay for relays in together for relay in relays if relay != name)


class Lanes:
    """Makes the lanes that the settings ask for, and keeps them in step with changed settings."""

    def __init__(self, machine: Machine, report: Reporter, tokens: RenewedTokens | None = None) -> None:
        """`tokens`: the refresh tokens that stand in place of configured ones."""
        self._machine = machine
        self._report = report
        self._tokens = TokenSources(machine, report, tokens or {}, TokenKeeping(machine, report).keep)
        self._policies = MailPolicies(machine)
        self._content_worker: Worker = machine.threads.worker("content")
        self._inbox_worker: Worker = machine.threads.worker("inbox")
        self._made: dict[str, tuple[object, ...]] = {}
        """What each lane was made of: it is made anew when any of this changes."""
        self.settings = Settings()
        self._router = Router((), "", ())
        self.suppressed = SuppressionList()
        self._pins_told: set[str] = set()
        """Relays that mail must take and that cannot be used: told once, until the settings change."""

    def make(self, settings: Settings, lanes: dict[str, Lane]) -> list[Lane]:
        """Add and replace lanes in `lanes`; returns those that are no longer used."""
        self.settings = settings
        relays = {relay.name: relay for relay in settings.effective_relays() if relay.enabled}
        made = {name: _made_of(settings, relay) for name, relay in relays.items()}
        unused = [lanes.pop(name) for name in list(lanes) if made.get(name) != self._made[name]]
        before = {lane.rules.name: lane.pace for lane in unused}
        for lane in unused:
            if lane.timer is not None:
                lane.timer.cancel()
        for name, relay in relays.items():
            if name not in lanes:
                lane = lanes[name] = self._lane(settings, relay)
                if lane.pace is not None and (old := before.get(name)) is not None:
                    lane.pace.follow(old, self._machine.clock.monotonic())
        self._made = made
        self._tokens.keep(relays.keys())
        self._policies.keep(relays.values())
        for name, lane in lanes.items():
            lane.deputies = deputies(settings, name)
        self._router = router(settings)
        self._pins_told.clear()
        default = self._router.default
        if not settings.relays:
            self._report("no_relay", inbox="dispatch inbox list")
        elif default.held:
            self._report("relay_disabled", relay=settings.default_relay().name, why=default.hold_reason)
        for route in self._router.unusable():
            self._report("rule_holds", rule=route.rule, why=route.hold_reason)
        return unused

    def routes_of(self, message: Message) -> Routes:
        routes = self._router.routes(message, self._now_ms())
        if message.pin and routes[0][0].held:
            self._tell_of_pin(message.pin, routes[0][0])
        return without_suppressed(routes, self.suppressed_of(message))

    def suppressed_of(self, message: Message) -> frozenset[int]:
        """The indexes of its recipients that must not be tried."""
        return self.suppressed.among(message.envelope.recipients)

    def _tell_of_pin(self, relay: str, route: Route) -> None:
        if relay not in self._pins_told and len(self._pins_told) < PINS_TOLD_MAX:
            self._pins_told.add(relay)
            self._report("pin_holds", relay=relay, why=route.hold_reason)

    def released_routes_of(self, message: Message) -> Routes:
        """As if no rule held mail."""
        return self._router.released.routes(message, self._now_ms())

    def _now_ms(self) -> int:
        return int(self._machine.clock.wall() * 1000)

    def _lane(self, settings: Settings, relay: RelaySettings) -> Lane:
        machine = self._machine
        open_content = opener(machine.disk, CONTENT)
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
        elif relay.kind == "direct":
            # No domain's answer moves it: each has few connections of its own.
            window = Window(relay.max_concurrency, start=relay.max_concurrency)
            adapter = DirectRelay(
                direct_template(settings, relay),
                max_concurrency=relay.max_concurrency,
                rest_s=min(relay.retry_delays_seconds),
                ourselves=ourselves(settings, relay),
                clock=machine.clock,
                network=machine.network,
                worker=self._content_worker,
                open_content=open_content,
                resolver=machine.resolver(relay.dns_servers, dnssec_from(relay)),
                chance=machine.chance,
                policies=self._policies.of(relay),
            )
        else:
            # Every connection may have one transaction under way and the next one behind it.
            window = Window(2 * connections_max(relay))
            adapter = SmtpRelay(
                smart_host(settings, relay, self._tokens.source(relay) if relay.oauth_provider else None),
                clock=machine.clock,
                network=machine.network,
                worker=self._content_worker,
                open_content=open_content,
                resolver=machine.resolver((), "none"),
                chance=machine.chance,
            )
        breaker = Breaker(settings.queue.breaker_failures, settings.queue.breaker_open_seconds)
        return Lane(lane_rules(settings, relay), adapter, breaker, window)
