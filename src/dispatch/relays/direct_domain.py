"""One mail domain as an upstream: its hosts by MX, and on what terms a session with each of them is opened.

Rules:

- The order of RFC 5321 section 5.1. A domain without MX records is its own host, a null MX takes no mail, and
  where we are a host of the domain ourselves, only those that are preferred to us are left.
- Names from DNS are complete: this machine's search domains do not count.
- Where our own listener has the port that is connected to, an address of this machine's loopback is ours, and
  mail that went there would come back.
- TLS if the host offers it, whoever it is, and clear text if not or where TLS fails (RFC 7435): the sender
  of a message cannot know more of the domain than DNS says.
- Unless the domain says more. TLSA records that DNSSEC vouches for say which certificates a host has (DANE,
  RFC 7672), and a policy that is to be enforced (MTA-STS, RFC 8461) which hosts may be used: with these
  there is TLS as it is demanded, or no session. Where a host has both, the records count for its certificate.

Deliberately not here: how many sessions there are, and for how long a domain is left alone (`direct`).
"""

from __future__ import annotations

from collections.abc import Set
from ipaddress import ip_address
from typing import NamedTuple

from dispatch.mail.report import FaultKind
from dispatch.policy.dane import usable
from dispatch.policy.mail_domains import literal_address
from dispatch.policy.mta_sts import Policy
from dispatch.ports import Clock, NameFault, Network
from dispatch.relays.addresses import LoopsBack, Whereabouts, family_of
from dispatch.relays.dane import DaneTls
from dispatch.relays.smart_host import SmartHost, Trust
from dispatch.relays.smtp_connection import Terms
from dispatch.relays.smtp_dial import Unusable, Upstream
from dispatch.relays.smtp_tls import ClientTls, SessionTls
from dispatch.relays.sts import StsPolicies
from dispatch.smtp.client_auth import Credentials

ADDRESSES_MAX = 8
"""Of each host; DNS may name thousands."""


class Ourselves(NamedTuple):
    """What must not be taken for the host of another."""

    names: Set[str] = frozenset()
    """In small letters, without a dot at the end."""
    on_loopback: bool = False
    """Our own listener has the port that hosts are connected to."""


class Demands(NamedTuple):
    """What domains may demand of a session, and how it is met."""

    any_tls: SessionTls
    """Of those that demand nothing."""
    verified_tls: SessionTls
    policies: StsPolicies | None
    """None: no domain is asked for one."""


def demands_of(template: SmartHost, network: Network, policies: StsPolicies | None) -> Demands:
    """With the trust of `template` for what a policy wants verified."""
    handshake_s = template.timeouts.handshake_s
    return Demands(
        ClientTls(Trust(verify=False), network, handshake_s),
        ClientTls(template.trust, network, handshake_s, "MTA-STS"),
        policies,
    )


class DomainUpstream(Upstream):
    """An `Upstream` whose one configured host is a mail domain, or an address literal."""

    def __init__(
        self,
        host: SmartHost,
        clock: Clock,
        network: Network,
        where: Whereabouts,
        ourselves: Ourselves,
        demands: Demands,
    ) -> None:
        super().__init__(host, clock, network, where)
        self.tls = demands.any_tls
        self._ourselves = ourselves
        self._demands = demands
        self._policy: Policy | None = None
        """That is to be enforced."""
        self._domain = ""
        self._own_host = False
        """It has no MX records."""
        self._secure = False
        """DNSSEC vouches for the names of its hosts."""

    async def exchangers(self, configured: str) -> list[str]:
        if not configured:
            raise Unusable(FaultKind.NO_DOMAIN, "the address has no domain")
        try:
            address = literal_address(configured)
        except ValueError:
            raise Unusable(FaultKind.NO_DOMAIN, f"{configured} holds no IP address") from None
        if address is not None:
            self._own_host, self._secure, self._policy = False, False, None
            return [address]
        try:
            found = await self.where.exchangers(f"{configured}.", self._ourselves.names)
        except LoopsBack:
            raise Unusable(FaultKind.LOOP, f"the MX records of {configured} name this relay") from None
        if found.own_host and configured in self._ourselves.names:
            raise Unusable(FaultKind.LOOP, f"{configured} is this relay itself")
        self._domain, self._own_host = configured, found.own_host
        self._secure = found.secure or found.own_host
        return await self._allowed(configured, [name.rstrip(".") for name in found.names])

    async def _allowed(self, domain: str, names: list[str]) -> list[str]:
        """Those of its hosts that the domain's policy allows (RFC 8461 section 5)."""
        policies = self._demands.policies
        policy = None if policies is None else await policies.policy_of(domain)
        self._policy = policy if policy is not None and policy.enforced else None
        if self._policy is None:
            return names
        allowed = list(filter(self._policy.allows, names))
        if not allowed:
            what = f"the MTA-STS policy of {domain} allows none of its mail hosts ({', '.join(names)})"
            raise Unusable(FaultKind.POLICY, what)
        return allowed

    async def addresses(self, server_name: str) -> list[str]:
        name = server_name if family_of(server_name) else f"{server_name}."
        try:
            addresses = await self.where.addresses_of(name)
        except NameFault as fault:
            if fault.confirmed and self._own_host:
                what = f"{server_name} has neither a mail host nor an address in DNS"
                raise Unusable(FaultKind.NO_DOMAIN, what) from fault
            raise
        others = [each for each in addresses if not self._is_ours(each)]
        if not others:
            what = f"{server_name} is {addresses[0]}, where this relay itself listens"
            raise Unusable(FaultKind.LOOP, what)
        return others[:ADDRESSES_MAX]

    async def terms(self, server_name: str, credentials: Credentials | None) -> Terms:
        demanded = await self._demanded_of(server_name)
        terms = await super().terms(server_name, credentials)
        if demanded is None:
            return terms
        why, tls = demanded
        return terms._replace(tls=tls, security="starttls_required", demanded=why)

    async def _demanded_of(self, host: str) -> tuple[str, SessionTls] | None:
        """Why a session must be encrypted, and how; None where it need not. Raises `NameFault`: without an
        answer nobody knows, and who would have it so could keep it back (RFC 7672 section 2.1.1)."""
        demands = self._demands
        records = await self.where.tlsa_of(f"{host}.", self.host.port) if self._secure else ()
        if able := usable(records):
            tls = DaneTls(demands.any_tls, able, self._domain, self.clock)
            return "its TLSA records demand the TLS that they name", tls
        if self._policy is not None:
            return "its MTA-STS policy demands verified TLS", demands.verified_tls
        if records:
            return "it has TLSA records, which demand TLS", demands.any_tls
        return None

    def _is_ours(self, address: str) -> bool:
        place = ip_address(address.partition("%")[0])
        mapped = getattr(place, "ipv4_mapped", None)
        place = mapped or place
        return place.is_unspecified or (self._ourselves.on_loopback and place.is_loopback)
