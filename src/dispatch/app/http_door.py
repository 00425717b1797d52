"""The HTTP door of the intake process, from the settings (station 1)."""

from __future__ import annotations

from dispatch.app.machine import Machine
from dispatch.app.submitters import known_keys
from dispatch.intake.credentials import Credentials
from dispatch.intake.http.application import Application, HttpRules
from dispatch.intake.http.keyring import Keyring
from dispatch.intake.http.listener import HttpConnectionRules, HttpListener
from dispatch.intake.http.submission import Submitter
from dispatch.intake.smtp_session import Desk
from dispatch.observe import Reporter
from dispatch.policy.admission import RateLimits
from dispatch.policy.limits import Bucket, Limits, parse_rates
from dispatch.security.networks import Networks
from dispatch.settings import Settings


class HttpDoor:
    """What of it is exchanged when the settings change."""

    def __init__(
        self, machine: Machine, desk: Desk, credentials: Credentials, settings: Settings, report: Reporter
    ) -> None:
        """`credentials` are its own: keys, and no logins."""
        self._clock = machine.clock
        self._keyring = Keyring(credentials)
        rates = RateLimits(Limits(), Limits(), Bucket(()))
        self._submitter = Submitter(desk, machine.chance, rates, machine.threads.worker("compose"))
        self._application = Application(
            machine.clock, machine.chance, self._keyring, self._submitter, http_rules(settings), report
        )
        self.listener = HttpListener(machine.clock, self._application, http_connections(settings), report)
        self.apply(settings)

    def apply(self, settings: Settings) -> None:
        api, rates = settings.api, self._submitter.rates
        self._application.rules = http_rules(settings)
        self.listener.rules = http_connections(settings)
        # The largest body always fits, or it could never be taken.
        self._application.bodies.bytes_max = max(api.body_memory_mb << 20, api.max_body_bytes)
        rates.addresses.rates = parse_rates(api.rate_per_address)
        rates.everyone.change(parse_rates(api.rate), self._clock.monotonic())
        self._keyring.change(known_keys(settings))


def http_rules(settings: Settings) -> HttpRules:
    api = settings.api
    return HttpRules(
        Networks.parse(api.allowed_cidrs).contains,
        Networks.parse(api.trusted_proxies).contains,
        api.max_body_bytes,
        api.max_requests,
        api.request_timeout_seconds,
    )


def http_connections(settings: Settings) -> HttpConnectionRules:
    return HttpConnectionRules(settings.api.max_connections, settings.api.request_timeout_seconds)
