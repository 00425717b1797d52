"""What one login may do, and lists of addresses that are asked at every command.

A list is of patterns, as rules have them (`patterns`); its answers are remembered for the addresses
met last. An empty list is no condition: any address will do.

The null reverse-path is every login's to use, whatever senders it is kept to: notifications must have it
(RFC 5321 section 4.5.5), so that none is ever answered by another, and a host behind a login has to send
them. The list keeps a login from using another's name, and the null path is nobody's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from dispatch.policy.limits import Rates
from dispatch.policy.patterns import Aim, Pattern, Reach, glob, parse_pattern, plain_address

_REMEMBERED_MAX = 4096


class AddressList:
    """Patterns of addresses, compiled; one address and one domain cost a look-up, however many there are.

    Globs and sub-domains are tried one by one, for addresses that are not remembered.
    """

    __slots__ = ("_addresses", "_answers", "_domains", "_everybody", "_others", "_patterns")

    def __init__(self, patterns: Iterable[Pattern] = ()) -> None:
        self._patterns = tuple(patterns)
        self._everybody = False
        self._domains: set[str] = set()
        self._addresses: set[tuple[str, str]] = set()
        self._others: list[tuple[re.Pattern[str], re.Pattern[str]]] = []
        """Of local parts, of domains."""
        self._answers: dict[str, bool] = {}
        for pattern in self._patterns:
            match pattern.reach, pattern.aim:
                case Reach.ANY, Aim.ANY:
                    self._everybody = True
                case Reach.ONE, Aim.ANY:
                    self._domains.add(pattern.domain)
                case Reach.ONE, Aim.ONE:
                    self._addresses.add((pattern.local_part, pattern.domain))
                case _:
                    self._others.append((_local_parts(pattern), _domains(pattern)))

    @classmethod
    def parse(cls, texts: Iterable[str]) -> AddressList:
        """Raises `NoPattern` for the first text that is none."""
        return cls(map(parse_pattern, texts))

    def __bool__(self) -> bool:
        """Whether it is a condition at all."""
        return bool(self._patterns)

    def allows(self, address: str) -> bool:
        """An address as it stands in the envelope; the null reverse-path is empty."""
        if self._everybody or not self._patterns:
            return True
        known = self._answers.get(address)
        if known is not None:
            return known
        answer = self._search(*plain_address(address))
        # Emptied whole when full: who invents addresses costs searches, never memory.
        if len(self._answers) >= _REMEMBERED_MAX:
            self._answers.clear()
        self._answers[address] = answer
        return answer

    def _search(self, local_part: str, domain: str) -> bool:
        if domain in self._domains or (local_part, domain) in self._addresses:
            return True
        return any(
            local_parts.fullmatch(local_part) and domains.fullmatch(domain)
            for local_parts, domains in self._others
        )


def _local_parts(pattern: Pattern) -> re.Pattern[str]:
    match pattern.aim:
        case Aim.ONE:
            return re.compile(re.escape(pattern.local_part))
        case Aim.GLOB:
            return glob(pattern.local_part)
        case Aim.ANY:
            return glob("*")


def _domains(pattern: Pattern) -> re.Pattern[str]:
    match pattern.reach:
        case Reach.ONE:
            return re.compile(re.escape(pattern.domain))
        case Reach.BELOW:
            return glob(f"?*.{pattern.domain}")
        case Reach.GLOB:
            return glob(pattern.domain)
        case Reach.ANY:
            return glob("*")


ANYBODY = AddressList()
"""No condition."""


def pin_of(relay: str, may_name_relay: bool, named: Sequence[str]) -> str:
    """The relay that a message must take: of a login's rules, and what `X-Dispatch-Relay` says, which goes
    before them where it counts at all. Empty: the rules say."""
    return named[0] if may_name_relay and named else relay


class LoginRules(msgspec.Struct, frozen=True):
    """One login's, as the settings have them. Its sources are facts, looked up where networks are known."""

    name: str
    allowed_senders: AddressList = ANYBODY
    allowed_recipients: AddressList = ANYBODY
    from_anywhere: bool = False
    """It may submit from addresses that `listener.allowed_cidrs` does not name."""
    rates: Rates | None = None
    """Its own; None: what holds for every login; empty: unlimited."""
    relay: str = ""
    """The relay that all of its mail takes; empty: the rules say."""
    may_name_relay: bool = False
    """A message of it may say itself which relay it takes (`X-Dispatch-Relay`)."""

    def permits_sender(self, reverse_path: str) -> bool:
        """The reverse-path as it stands in the envelope; the null one is empty and always permitted."""
        return not reverse_path or self.allowed_senders.allows(reverse_path)
