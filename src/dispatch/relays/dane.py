"""TLS with a mail host whose TLSA records say which certificates it has (DANE, RFC 7672)."""

from __future__ import annotations

import asyncio

from dispatch.policy.dane import Tlsa
from dispatch.ports import Clock
from dispatch.relays.smtp_tls import SessionTls, TlsFailed
from dispatch.security.dane import NotAuthentic, authenticate
from dispatch.security.tls import chain_of


class DaneTls:
    """`SessionTls` that compares what the host shows before a word is said."""

    def __init__(self, any_tls: SessionTls, records: tuple[Tlsa, ...], domain: str, clock: Clock) -> None:
        """`any_tls` verifies nothing. `records` are usable ones (`policy.dane`). What an authority has signed
        may be for the host or for the `domain` (RFC 7672 section 3.2.2)."""
        self._any_tls = any_tls
        self._records = records
        self._domain = domain
        self._clock = clock

    async def secure(
        self, transport: asyncio.Transport, protocol: asyncio.Protocol, server_name: str
    ) -> tuple[asyncio.Transport, str]:
        secured, words = await self._any_tls.secure(transport, protocol, server_name)
        session = secured.get_extra_info("ssl_object")
        chain = [] if session is None else chain_of(session)
        names = (server_name.rstrip("."), self._domain)
        try:
            authenticate(self._records, chain, names, self._clock.wall())
        except NotAuthentic as refusal:
            secured.abort()
            raise TlsFailed(str(refusal)) from None
        return secured, f"{words} (DANE)"
