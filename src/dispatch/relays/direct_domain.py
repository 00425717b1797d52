"""One mail domain as an upstream: its hosts by MX, and on what terms a session with each of them is opened.

Rules:

- The order of RFC 5321 section 5.1. A domain without MX records is its own host, a null MX takes no mail, and
  where we are a host of the domain ourselves, only those that are preferred to us are left.
- Names from DNS are complete: this machine's search domains do not count.
- Where our own listener has the port that is connected to, an address of this machine's loopback is ours, and
  mail that went there would come back.
- TLS if the host offers it, whoever it is, and clear text if not or where TLS fails (RFC 7435): the sender
  of a message cannot know more of the domain than DNS says.

Deliberately not here: how many sessions there are, and for how long a domain is left alone (`direct`).
"""

from __future__ import annotations

from collections.abc import Set
from ipaddress import ip_address
from typing import NamedTuple

from dispatch.mail.report import FaultKind
from dispatch.policy.mail_domains import literal_address
from dispatch.ports import Clock, NameFault, Network
from dispatch.relays.addresses import LoopsBack, Whereabouts, family_of
from dispatch.relays.smart_host import SmartHost
from dispatch.relays.smtp_dial import Unusable, Upstream

ADDRESSES_MAX = 8
"""Of each host; DNS may name thousands."""


class Ourselves(NamedTuple):
    """What must not be taken for the host of another."""

    names: Set[str] = frozenset()
    """In small letters, without a dot at the end."""
    on_loopback: bool = False
    """Our own listener has the port that hosts are connected to."""


class DomainUpstream(Upstream):
    """An `Upstream` whose one configured host is a mail domain, or an address literal."""

    def __init__(
        self, host: SmartHost, clock: Clock, network: Network, where: Whereabouts, ourselves: Ourselves
    ) -> None:
        super().__init__(host, clock, network, where)
        self._ourselves = ourselves
        self._own_host = False
        """It has no MX records."""

    async def exchangers(self, configured: str) -> list[str]:
        if not configured:
            raise Unusable(FaultKind.NO_DOMAIN, "the address has no domain")
        try:
            address = literal_address(configured)
        except ValueError:
            raise Unusable(FaultKind.NO_DOMAIN, f"{configured} holds no IP address") from None
        if address is not None:
            self._own_host = False
            return [address]
        try:
            found = await self.where.exchangers(f"{configured}.", self._ourselves.names)
        except LoopsBack:
            raise Unusable(FaultKind.LOOP, f"the MX records of {configured} name this relay") from None
        if found.own_host and configured in self._ourselves.names:
            raise Unusable(FaultKind.LOOP, f"{configured} is this relay itself")
        self._own_host = found.own_host
        return [name.rstrip(".") for name in found.names]

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

    def _is_ours(self, address: str) -> bool:
        place = ip_address(address.partition("%")[0])
        mapped = getattr(place, "ipv4_mapped", None)
        place = mapped or place
        return place.is_unspecified or (self._ourselves.on_loopback and place.is_loopback)
