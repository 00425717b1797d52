"""Relays that log in with access tokens get their source of them: settings become a request.

A source outlives its lane: a relay whose other settings change keeps its token, and the refresh token that a
server may have given in place of the configured one. Only what the token depends on makes it a new one.

The HTTP client is imported when the first relay needs it; most machines have none that does.
"""

from __future__ import annotations

from collections.abc import Set

from dispatch.app.machine import Machine
from dispatch.observe import Reporter
from dispatch.ports import HttpClient
from dispatch.relays.oauth import ClientCredentials, Grant, RefreshToken, ServiceStatement
from dispatch.relays.tokens import RelayTokens, TokenRequest
from dispatch.security.jwt import read_service_account
from dispatch.settings import Relay
from dispatch.settings.relay_checks import OAUTH_KEYS
from dispatch.settings.relay_keys import token_mechanisms, token_scope, token_url


def token_request(relay: Relay) -> TokenRequest:
    scope = token_scope(relay)
    grant: Grant
    if relay.oauth_service_account:
        grant = ServiceStatement(read_service_account(relay.oauth_service_account), relay.username, scope)
    elif relay.oauth_refresh_token:
        grant = RefreshToken(
            relay.oauth_client_id, relay.oauth_client_secret, relay.oauth_refresh_token, scope
        )
    else:
        grant = ClientCredentials(relay.oauth_client_id, relay.oauth_client_secret, scope)
    mechanisms = tuple(name.upper() for name in token_mechanisms(relay))
    return TokenRequest(token_url(relay), grant, relay.username, mechanisms, relay.allow_unsecure_auth)


class TokenSources:
    """One for each relay that needs it, by the relay's name."""

    def __init__(self, machine: Machine, report: Reporter, http: HttpClient | None = None) -> None:
        self._machine = machine
        self._report = report
        self._http = http
        self._sources: dict[str, tuple[tuple[object, ...], RelayTokens]] = {}
        """With what each was made of."""

    def source(self, relay: Relay) -> RelayTokens:
        made_of = (
            relay.username,
            relay.auth,
            relay.allow_unsecure_auth,
            *(getattr(relay, key) for key in OAUTH_KEYS),
        )
        kept = self._sources.get(relay.name)
        if kept is not None and kept[0] == made_of:
            return kept[1]
        made = RelayTokens(
            relay.name,
            token_request(relay),
            http=self._client(),
            clock=self._machine.clock,
            chance=self._machine.chance,
            report=self._report,
            rotated=_Rotated(relay.name, self._report),
        )
        self._sources[relay.name] = (made_of, made)
        return made

    def keep(self, names: Set[str]) -> None:
        """Forget those of all other relays."""
        for name in self._sources.keys() - names:
            del self._sources[name]

    def _client(self) -> HttpClient:
        if self._http is None:
            # Here and not above: it costs memory and a tenth of a second, which few relays need.
            from dispatch.relays.http import AiohttpClient

            self._http = AiohttpClient()
        return self._http


class _Rotated:
    """Says that a configured refresh token has been replaced; once, for some servers do it each time."""

    def __init__(self, relay: str, report: Reporter) -> None:
        self._relay = relay
        self._report = report
        self._said = False

    def __call__(self, refresh_token: str) -> None:
        # Delivery may not write settings, so the new one is kept in memory only, by its source.
        if not self._said:
            self._said = True
            self._report("token_rotated", relay=self._relay)
