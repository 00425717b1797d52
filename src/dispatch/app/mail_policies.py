"""What relays that deliver directly know of the policies of domains; it outlives their lanes.

A policy is worth most to whoever has known it for long: it must not be forgotten because an operator changes
another setting.
"""

from __future__ import annotations

from collections.abc import Iterable

from dispatch.app.machine import Machine
from dispatch.ports import HttpClient
from dispatch.relays.sts import StsPolicies
from dispatch.security.tls import client_context
from dispatch.settings import Relay


class MailPolicies:
    """One `StsPolicies` for all relays that see the same DNS and trust the same roots."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._made: dict[tuple[tuple[str, ...], str], StsPolicies] = {}

    def of(self, relay: Relay) -> StsPolicies | None:
        """None where it asks no domain for one."""
        if not _asks(relay):
            return None
        seen_by = _seen_by(relay)
        if seen_by not in self._made:
            machine, ca_file = self._machine, relay.ca_file
            self._made[seen_by] = StsPolicies(
                machine.clock, machine.resolver(relay.dns_servers, "none"), _Http(ca_file or None)
            )
        return self._made[seen_by]

    def keep(self, relays: Iterable[Relay]) -> None:
        """Forget what none of these asks for."""
        asking = {_seen_by(relay) for relay in relays if _asks(relay)}
        self._made = {seen_by: policies for seen_by, policies in self._made.items() if seen_by in asking}


def _asks(relay: Relay) -> bool:
    return relay.kind == "direct" and relay.mta_sts and relay.tls != "none"


def _seen_by(relay: Relay) -> tuple[tuple[str, ...], str]:
    return relay.dns_servers, relay.ca_file


class _Http:
    """The client, made when it is first needed."""

    def __init__(self, ca_file: str | None) -> None:
        self._ca_file = ca_file
        self._client: HttpClient | None = None

    def __call__(self) -> HttpClient:
        """Raises `ValueError` where the file of roots cannot be read."""
        if self._client is None:
            # Here and not above: it costs memory and a tenth of a second, which few relays need.
            from dispatch.relays.http import AiohttpClient

            self._client = AiohttpClient(client_context(ca_file=self._ca_file))
        return self._client
