"""Where a smart host is: from what is configured to hosts and addresses, in the order to try them.

Rules:

- An answer is kept for its time to live, within `KEPT_S_MIN` and `KEPT_S_MAX`. When DNS fails, the last good
  answer goes on for as long as the relay lives: an upstream outlasts its name server. What DNS says is not
  there is not there.
- One question at a time for a name: whoever asks meanwhile gets the same answer.
- Hosts of MX records go in the order of `policy.mail_domains`. A domain without any is its own host. A null
  MX is no host at all (RFC 7505).
- Families take turns, IPv6 first (RFC 8305 section 4).
- Hosts and addresses that failed come last for `AVOID_S`; they are not left out, for there may be no others.

Without a resolver, names go to the network as they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence, Set
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import Generic, NamedTuple, TypeVar

from dispatch.policy.dane import Tlsa
from dispatch.policy.mail_domains import mail_hosts
from dispatch.ports import Chance, Clock, MailExchangers, NameFault, Resolved, Resolver, TlsaRecords

KEPT_S_MIN = 5.0
KEPT_S_MAX = 3600.0
AGAIN_S = 30.0
"""How long a last good answer is used before DNS is asked again."""
AVOID_S = 60.0
ANSWERS_MAX = 1000
"""Of each kind; then the oldest goes."""

Answer = TypeVar("Answer", Resolved, MailExchangers, TlsaRecords)


class NullMx(Exception):
    """The domain takes no mail, and says so."""


class LoopsBack(Exception):
    """We are the domain's host ourselves, and none is preferred to us."""


class Exchangers(NamedTuple):
    """The hosts of a domain, in the order to try them."""

    names: list[str]
    own_host: bool
    """It has no MX records, and is its own host."""
    secure: bool
    """DNSSEC vouches for them. Where a domain is its own host, that of its addresses does."""


class _Kept(Generic[Answer]):
    """Answers of one kind, by name."""

    def __init__(self, clock: Clock, ask: Callable[[str], Coroutine[object, object, Answer]]) -> None:
        self._clock = clock
        self._ask: Callable[[str], Coroutine[object, object, Answer]] = ask
        self._answers: dict[str, tuple[Answer, float]] = {}
        self._asking: dict[str, asyncio.Task[Answer]] = {}

    async def get(self, name: str) -> Answer:
        kept = self._answers.get(name)
        if kept is not None and self._clock.monotonic() < kept[1]:
            return kept[0]
        asking = self._asking.get(name)
        if asking is None:
            self._asking[name] = asking = asyncio.ensure_future(self._ask(name))
            asking.add_done_callback(lambda ended: self._asked(name, ended))
        # Who gives up waiting does not end it for the others.
        await asyncio.wait((asking,))
        try:
            return asking.result()
        except NameFault as fault:
            if kept is None or fault.confirmed:
                raise
            return kept[0]

    def _asked(self, name: str, ended: asyncio.Task[Answer]) -> None:
        del self._asking[name]
        if ended.cancelled():
            return
        now = self._clock.monotonic()
        match ended.exception():
            case None:
                answer = ended.result()
                self._answers.pop(name, None)
                if len(self._answers) >= ANSWERS_MAX:
                    del self._answers[next(iter(self._answers))]
                self._answers[name] = answer, now + min(max(answer.ttl_s, KEPT_S_MIN), KEPT_S_MAX)
            case NameFault(confirmed=True):
                self._answers.pop(name, None)
            case _ if name in self._answers:
                self._answers[name] = self._answers[name][0], now + AGAIN_S


class Whereabouts:
    """What a relay knows of where its hosts are, and of which of them failed lately."""

    def __init__(
        self, clock: Clock, resolver: Resolver | None, chance: Chance | None, source_address: str | None
    ) -> None:
        """Without `chance`, hosts of equal preference stay in the order of the answer."""
        self._clock = clock
        self._chance = chance
        self._addresses = None if resolver is None else _Kept[Resolved](clock, resolver.addresses)
        self._mx = None if resolver is None else _Kept[MailExchangers](clock, resolver.mx)
        self._tlsa = None if resolver is None else _Kept[TlsaRecords](clock, resolver.tlsa)
        self._family = None if source_address is None else ip_address(source_address).version
        self._avoided: dict[str, float] = {}

    async def hosts_of(self, domain: str) -> list[str]:
        """From its MX records. Raises `NameFault` and `NullMx`."""
        return (await self.exchangers(domain)).names

    async def exchangers(self, domain: str, own_names: Set[str] = frozenset()) -> Exchangers:
        """The same with what else is known of them. `own_names` are ours: raises `LoopsBack` as well."""
        if self._mx is None or is_address(domain):
            return Exchangers([domain], own_host=True, secure=False)
        try:
            answer = await self._mx.get(domain)
        except NameFault as fault:
            if fault.confirmed:
                return Exchangers([domain], own_host=True, secure=False)
            raise
        found = mail_hosts(answer.hosts, self._uniform, own_names)
        if found.null:
            raise NullMx
        if found.loops:
            raise LoopsBack
        return Exchangers(list(found.names), own_host=False, secure=answer.secure)

    async def addresses_of(self, host: str) -> list[str]:
        """In the order to try them. Raises `NameFault`, also where none is of the source's family."""
        if self._addresses is None or is_address(host):
            addresses: Sequence[str] = (host,)
        else:
            addresses = (await self._addresses.get(host)).values
        if self._family is not None:
            addresses = [each for each in addresses if family_of(each) in (self._family, None)]
            if not addresses:
                # It is there, for others: nothing that DNS could confirm.
                raise NameFault(f"{host} has no IPv{self._family} address", confirmed=False)
        return self.usable_first(taking_turns(addresses))

    async def tlsa_of(self, host: str, port: int) -> tuple[Tlsa, ...]:
        """The TLSA records of a host by its name with a dot at the end, where DNSSEC vouches for them and for
        its addresses (RFC 7672 section 2.1.3); none otherwise. Raises `NameFault` where nobody can say."""
        if self._addresses is None or self._tlsa is None or is_address(host):
            return ()
        if not (await self._addresses.get(host)).secure:
            # Servers of domains without DNSSEC may choke on a question for TLSA records.
            return ()
        try:
            answer = await self._tlsa.get(f"_{port}._tcp.{host}")
        except NameFault as fault:
            if fault.confirmed:
                return ()
            raise
        return answer.records if answer.secure else ()

    def usable_first(self, places: Sequence[str]) -> list[str]:
        """Those that failed lately last; otherwise in their order."""
        if not self._avoided:
            return list(places)
        now = self._clock.monotonic()
        return sorted(places, key=lambda place: self._avoided.get(place, 0.0) > now)

    def failed(self, place: str) -> None:
        now = self._clock.monotonic()
        self._avoided = {each: until for each, until in self._avoided.items() if until > now}
        self._avoided[place] = now + AVOID_S

    def works(self, place: str) -> None:
        self._avoided.pop(place, None)

    def _uniform(self) -> float:
        return 0.0 if self._chance is None else self._chance.uniform()


def family_of(address: str) -> int | None:
    """4 or 6; None for a name."""
    try:
        return ip_address(address.partition("%")[0]).version
    except ValueError:
        return None


def is_address(host: str) -> bool:
    return family_of(host) is not None


def taking_turns(addresses: Sequence[str]) -> list[str]:
    """IPv6 and IPv4 by turns, each family in its own order."""
    six = [each for each in addresses if family_of(each) == 6]
    other = [each for each in addresses if family_of(each) != 6]
    return [each for each in chain.from_iterable(zip_longest(six, other)) if each is not None]
