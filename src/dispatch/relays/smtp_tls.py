"""TLS of an SMTP upstream: whose certificate is taken, and what may go in clear text when TLS fails.

Duty: one context for all connections of a relay, the handshake, and its failure in words.

Rules:

- The context is made with the first connection that needs it, because it reads files and may fail: that is
  the fault of a connection, told and tried again, and never the end of a process.
- With a fingerprint the certificate is compared before a word is said over the connection.
- Mode *auto* without credentials verifies nothing that it was not told to trust: a host that it distrusts
  would get the same mail in clear text (RFC 7435 section 1.2).

Deliberately not here: when a handshake begins (`smtp.client_opening`, `smtp_dial`). Sessions are not resumed:
the loop's `start_tls` has no way to, and connections are kept.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Protocol

from dispatch.mail.report import Fault, FaultKind
from dispatch.ports import Network
from dispatch.relays.smart_host import SmartHost, Trust
from dispatch.security.tls import client_context, describe, explain, matches_fingerprint
from dispatch.smtp.client_auth import Credentials


class TlsFailed(Exception):
    """The handshake failed; the text is for the operator."""

    @property
    def fault(self) -> Fault:
        return Fault(FaultKind.TLS, str(self))


class SessionTls(Protocol):
    """How a session becomes encrypted."""

    async def secure(
        self, transport: asyncio.Transport, protocol: asyncio.Protocol, server_name: str
    ) -> tuple[asyncio.Transport, str]:
        """The transport to use from now on, and protocol and cipher in words.

        The certificate must be for `server_name`. Raises `TlsFailed`; the transport is then of no use.
        """
        ...


def trust_of(host: SmartHost) -> Trust:
    """What its connections trust."""
    trust = host.trust
    if host.tls == "auto" and host.credentials is None and trust.ca_file is None:
        return Trust(verify=False, fingerprint=trust.fingerprint)
    return trust


class ClientTls:
    """`SessionTls` with the trust that a relay was given."""

    def __init__(self, trust: Trust, network: Network, handshake_s: float, because: str = "") -> None:
        """`because` of what it is trusted: goes behind protocol and cipher."""
        self._because = because
        self._trust = trust
        self._network = network
        self._handshake_s = handshake_s
        self._context: ssl.SSLContext | None = None

    async def secure(
        self, transport: asyncio.Transport, protocol: asyncio.Protocol, server_name: str
    ) -> tuple[asyncio.Transport, str]:
        try:
            secured = await self._network.secure(
                transport,
                protocol,
                self._shared_context(),
                server_side=False,
                server_name=server_name.rstrip("."),
                timeout_s=self._handshake_s,
            )
        except ssl.SSLError as error:
            raise TlsFailed(explain(error)) from error
        except (OSError, ValueError) as error:
            # ValueError: a server name that TLS cannot say (RFC 6066 section 3).
            raise TlsFailed(str(error) or f"no handshake within {self._handshake_s:.0f} s") from error
        session = secured.get_extra_info("ssl_object")
        self._compare(session)
        words = "TLS" if session is None else describe(session)
        return secured, f"{words} ({self._because})" if self._because else words

    def _shared_context(self) -> ssl.SSLContext:
        if self._context is None:
            trust = self._trust
            try:
                self._context = client_context(
                    verify=trust.verify, ca_file=trust.ca_file, fingerprint=trust.fingerprint
                )
            except ValueError as error:
                raise TlsFailed(str(error)) from error
        return self._context

    def _compare(self, session: ssl.SSLObject | None) -> None:
        fingerprint = self._trust.fingerprint
        if fingerprint is None:
            return
        certificate = None if session is None else session.getpeercert(binary_form=True)
        if certificate is None or not matches_fingerprint(certificate, fingerprint):
            raise TlsFailed(
                "its certificate is not the one whose fingerprint is pinned: it was renewed, or somebody "
                "stands in between"
            )


def clear_text_will_do(host: SmartHost, credentials: Credentials | None) -> bool:
    """Whether a session may go on without TLS where the handshake failed."""
    return host.tls == "auto" and (credentials is None or credentials.in_clear)
