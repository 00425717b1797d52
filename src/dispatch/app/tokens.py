"""Relays that log in with access tokens get their source of them: settings become a request.

A source outlives its lane: a relay whose other settings change keeps its token. Only what the token depends
on makes it a new one; and that one, too, begins with the refresh token that a server gave in place of the
configured one, as long as the consent is the same (`settings.renewed_tokens`).

The HTTP client is imported when the first relay needs it; most machines have none that does.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from functools import partial
from typing import NamedTuple

from dispatch.app.machine import Machine
from dispatch.observe import Reporter
from dispatch.ports import HttpClient
from dispatch.relays.oauth import ClientCredentials, Grant, RefreshToken, ServiceStatement
from dispatch.relays.tokens import RelayTokens, TokenRequest
from dispatch.security.jwt import read_service_account
from dispatch.settings import Relay
from dispatch.settings.relay_checks import OAUTH_KEYS
from dispatch.settings.relay_keys import token_mechanisms, token_scope, token_url
from dispatch.settings.renewed_tokens import RenewedToken, RenewedTokens, consent_of


def token_request(relay: Relay, refresh_token: str = "") -> TokenRequest:
    """`refresh_token`: in place of the configured one."""
    scope = token_scope(relay)
    grant: Grant
    if relay.oauth_service_account:
        grant = ServiceStatement(read_service_account(relay.oauth_service_account), relay.username, scope)
    elif relay.oauth_refresh_token:
        refresh_token = refresh_token or relay.oauth_refresh_token
        grant = RefreshToken(relay.oauth_client_id, relay.oauth_client_secret, refresh_token, scope)
    else:
        grant = ClientCredentials(relay.oauth_client_id, relay.oauth_client_secret, scope)
    mechanisms = tuple(name.upper() for name in token_mechanisms(relay))
    return TokenRequest(token_url(relay), grant, relay.username, mechanisms, relay.allow_unsecure_auth)


class _Source(NamedTuple):
    made_of: tuple[object, ...]
    consent: bytes
    tokens: RelayTokens


class TokenSources:
    """One for each relay that needs it, by the relay's name."""

    def __init__(
        self,
        machine: Machine,
        report: Reporter,
        renewed: RenewedTokens,
        keep: Callable[[str, RenewedToken], None],
        http: HttpClient | None = None,
    ) -> None:
        """`renewed`: what a life before was given in place of configured refresh tokens. `keep` is told each
        that comes, with the relay's name."""
        self._machine = machine
        self._report = report
        self._newest = dict(renewed)
        """Also of relays that have no source now: one that was switched off may come back."""
        self._keep = keep
        self._http = http
        self._sources: dict[str, _Source] = {}

    def source(self, relay: Relay) -> RelayTokens:
        made_of = (
            relay.username,
            relay.auth,
            relay.allow_unsecure_auth,
            *(getattr(relay, key) for key in OAUTH_KEYS),
        )
        kept = self._sources.get(relay.name)
        if kept is not None and kept.made_of == made_of:
            return kept.tokens
        consent = consent_of(relay)
        newest = self._newest.get(relay.name)
        refresh_token = newest.token if newest is not None and newest.consent == consent else ""
        made = RelayTokens(
            relay.name,
            token_request(relay, refresh_token),
            http=self._client(),
            clock=self._machine.clock,
            chance=self._machine.chance,
            report=self._report,
            rotated=partial(self._rotated, relay.name, consent),
        )
        self._sources[relay.name] = _Source(made_of, consent, made)
        return made

    def _rotated(self, relay: str, consent: bytes, refresh_token: str) -> None:
        before, source = self._newest.get(relay), self._sources.get(relay)
        if source is not None and source.consent != consent:
            # Of a lane that ends, while the one in its place goes by a fresh consent.
            return
        if before is None or before.consent != consent:
            # Once, for some servers replace it each time.
            self._report("token_rotated", relay=relay)
        self._newest[relay] = renewed = RenewedToken(consent, refresh_token)
        self._keep(relay, renewed)

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
