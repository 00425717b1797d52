"""The system's resolver behind the port: `/etc/hosts` first, then the name servers of `/etc/resolv.conf`,
or those that the settings name.

Asked over the loop, so a name server that is silent holds up nobody but who waits for it. Both files are
looked at again when they have changed. Search domains count for the addresses of hosts, as everywhere on the
machine; a domain whose MX records are asked for is taken as it is.

Deliberately not here: caching (`relays.addresses` keeps answers, because it knows what to do with old ones),
the other sources of nsswitch, and DNSSEC itself: a name server has done it, or nobody (the AD bit, RFC 6840
section 5.7, RFC 4035 section 4.9.3). Whose word is taken for that is a setting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from dns.asyncresolver import Resolver as DnsResolver
from dns.exception import DNSException
from dns.flags import Flag
from dns.name import EmptyLabel, LabelTooLong, NameTooLong
from dns.nameserver import Do53Nameserver
from dns.rdatatype import RdataType
from dns.resolver import NXDOMAIN, Answer, NoAnswer, NoResolverConfiguration

from dispatch.policy.dane import Tlsa
from dispatch.ports import DnssecFrom, MailExchangers, NameFault, Resolved, TlsaRecords
from dispatch.security.networks import parse_server

ANSWER_S = 10.0
"""How long all name servers together may take."""
HOSTS_TTL_S = 60.0
FOR_EVER_S = 86_400.0
EDNS_BYTES = 1232
"""Of an answer over UDP: what passes every network in one piece."""

_HOSTS = Path("/etc/hosts")
_CONFIGURATION = Path("/etc/resolv.conf")
_UNSAYABLE = (EmptyLabel, LabelTooLong, NameTooLong, UnicodeError)


class SystemResolver:
    """`ports.Resolver`."""

    def __init__(
        self,
        hosts: Path = _HOSTS,
        configuration: Path = _CONFIGURATION,
        port: int = 53,
        servers: Sequence[str] = (),
        dnssec_from: DnssecFrom = "none",
    ) -> None:
        """`servers` are asked in place of those of the configuration, each at the port that it names itself
        (`security.networks.parse_server`)."""
        self._servers = [parse_server(server) for server in servers]
        self._dnssec_from = dnssec_from
        self._hosts = hosts
        self._configuration = configuration
        self._port = port
        self._local: dict[str, tuple[str, ...]] = {}
        self._local_stamp: object = None
        self._dns: DnsResolver | None = None
        self._dns_stamp: object = None

    async def addresses(self, host: str) -> Resolved:
        if _is_address(host):
            return Resolved((host,), FOR_EVER_S)
        local = self._local_addresses(host.rstrip(".").lower())
        if local:
            return Resolved(local, HOSTS_TTL_S)
        answers = await asyncio.gather(
            self._ask(host, RdataType.AAAA, search=True),
            self._ask(host, RdataType.A, search=True),
            return_exceptions=True,
        )
        found = [answer for answer in answers if isinstance(answer, Answer)]
        values = tuple(str(record.address) for answer in found for record in answer)
        if values:
            secure = all(map(self._secure, found))
            return Resolved(values, min(map(_ttl_s, found)), secure)
        faults = [answer for answer in answers if isinstance(answer, BaseException)]
        for fault in faults:
            if not isinstance(fault, NameFault):
                raise fault
        # Confirmed by both families, or by none.
        raise next((each for each in faults if not getattr(each, "confirmed", False)), faults[0])

    async def mx(self, domain: str) -> MailExchangers:
        answer = await self._ask(domain, RdataType.MX, search=False)
        hosts = tuple(
            (int(record.preference), record.exchange.to_text(omit_final_dot=True).rstrip("."))
            for record in answer
        )
        return MailExchangers(hosts, _ttl_s(answer), self._secure(answer))

    async def txt(self, name: str) -> Resolved:
        answer = await self._ask(name, RdataType.TXT, search=False)
        # What no text is stands for nothing that anybody asks for.
        texts = tuple(b"".join(record.strings).decode("ascii", "replace") for record in answer)
        return Resolved(texts, _ttl_s(answer), self._secure(answer))

    async def tlsa(self, name: str) -> TlsaRecords:
        answer = await self._ask(name, RdataType.TLSA, search=False)
        records = tuple(
            Tlsa(int(record.usage), int(record.selector), int(record.mtype), bytes(record.cert))
            for record in answer
        )
        return TlsaRecords(records, _ttl_s(answer), self._secure(answer))

    async def _ask(self, name: str, kind: RdataType, *, search: bool) -> Answer:
        try:
            return await self._resolver().resolve(name, kind, search=search, lifetime=ANSWER_S)
        except NXDOMAIN:
            raise NameFault(f"there is no name {name} in DNS", confirmed=True) from None
        except NoAnswer:
            raise NameFault(f"{name} has no {kind.name} record", confirmed=True) from None
        except _UNSAYABLE as error:
            raise NameFault(f"{name!r} is no name for DNS: {error}", confirmed=True) from None
        except NoResolverConfiguration:
            raise NameFault(f"{self._configuration} names no server", confirmed=False) from None
        except (DNSException, OSError) as error:
            raise NameFault(f"DNS has no answer for {name}: {error}", confirmed=False) from error

    def _resolver(self) -> DnsResolver:
        stamp = _stamp(self._configuration)
        if self._dns is None or stamp != self._dns_stamp:
            # With servers of its own it needs no configuration, and has no search domains.
            self._dns = DnsResolver(str(self._configuration), configure=not self._servers)
            self._dns_stamp = stamp
            self._dns.port = self._port
            if self._servers:
                self._dns.nameservers = [Do53Nameserver(at, port or self._port) for at, port in self._servers]
            asked = [at for at, _ in self._servers] or map(str, self._dns.nameservers)
            if any(map(self._trusts, asked)):
                # A server says what it knows only to those who show that they understand it.
                self._dns.set_flags(Flag.RD | Flag.AD)
                self._dns.use_edns(0, 0, EDNS_BYTES)
        return self._dns

    def _secure(self, answer: Answer) -> bool:
        server = answer.nameserver
        return bool(answer.response.flags & Flag.AD) and server is not None and self._trusts(server)

    def _trusts(self, server: str) -> bool:
        """Takes its word that an answer is authentic."""
        if self._dnssec_from == "loopback":
            return ip_address(server.partition("%")[0]).is_loopback
        return self._dnssec_from == "all"

    def _local_addresses(self, host: str) -> tuple[str, ...]:
        stamp = _stamp(self._hosts)
        if stamp != self._local_stamp:
            self._local, self._local_stamp = _read_hosts(self._hosts), stamp
        return self._local.get(host, ())


def _read_hosts(path: Path) -> dict[str, tuple[str, ...]]:
    """By name, in small letters; none where the file cannot be read."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        if _is_address(address):
            for name in names:
                key = name.rstrip(".").lower()
                found[key] = tuple(dict.fromkeys((*found.get(key, ()), address)))
    return found


def _stamp(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _ttl_s(answer: Answer) -> float:
    return float(answer.rrset.ttl) if answer.rrset is not None else 0.0


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
