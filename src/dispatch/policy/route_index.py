"""From the facts of a message to the rules that they satisfy, as sets.

A set of *cases* (`dispatch.policy.routing`) is an integer with one bit for each. An index has one kind of
condition of all rules and answers with the set of cases whose condition holds, so that a message costs
a few look-ups for each kind in use, and not one for each rule.

Rules:
- Everything is added before the first question.
- What may be remembered is bounded, in number and in size: addresses, logins and tags come from outside.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from dispatch.mail.address import split_address
from dispatch.policy.conditions import Condition, Facts
from dispatch.policy.patterns import Aim, Pattern, Reach, glob, plain_domain, plain_local_part

DOMAINS_REMEMBERED = 4096
SUBJECTS_REMEMBERED = 1024


class _Found:
    """What is said of the addresses of a domain: sets of cases."""

    __slots__ = ("any", "globs", "ones")

    def __init__(self) -> None:
        self.any = 0
        self.ones: dict[str, int] = {}
        """By local part."""
        self.globs: dict[str, tuple[re.Pattern[str], int]] = {}
        """By the glob of the local part."""

    def add(self, pattern: Pattern, cases: int) -> None:
        match pattern.aim:
            case Aim.ANY:
                self.any |= cases
            case Aim.ONE:
                self.ones[pattern.local_part] = self.ones.get(pattern.local_part, 0) | cases
            case Aim.GLOB:
                compiled, others = self.globs.get(pattern.local_part) or (glob(pattern.local_part), 0)
                self.globs[pattern.local_part] = compiled, others | cases


class _Domain(NamedTuple):
    """All of it together, for one domain that was met."""

    any: int
    ones: tuple[dict[str, int], ...]
    globs: tuple[tuple[re.Pattern[str], int], ...]


class AddressIndex:
    """From an address to the set of cases whose patterns, all of one side, match it."""

    def __init__(self) -> None:
        self._everybody = 0
        self._conditions = False
        self._by_reach: dict[Reach, dict[str, _Found]] = {reach: {} for reach in Reach}
        self._globs: list[tuple[re.Pattern[str], _Found]] = []
        self._domain = lru_cache(DOMAINS_REMEMBERED)(self._look_up)

    def add(self, patterns: Sequence[Pattern] | None, cases: int) -> None:
        """None: every address matches. Before the first question."""
        if patterns is None:
            self._everybody |= cases
            return
        self._conditions = True
        for pattern in patterns:
            by_domain = self._by_reach[pattern.reach]
            found = by_domain.get(pattern.domain)
            if found is None:
                found = by_domain[pattern.domain] = _Found()
                if pattern.reach is Reach.GLOB:
                    self._globs.append((glob(pattern.domain), found))
            found.add(pattern, cases)

    def cases(self, address: str) -> int:
        if not self._conditions:
            return self._everybody
        local_part, domain = split_address(address)
        matching, ones, globs = self._domain(domain)
        if ones or globs:
            local_part = plain_local_part(local_part)
            for by_local_part in ones:
                matching |= by_local_part.get(local_part, 0)
            for pattern, cases in globs:
                if pattern.fullmatch(local_part):
                    matching |= cases
        return matching

    def _look_up(self, domain: str) -> _Domain:
        found = list(self._at(plain_domain(domain)))
        matching = self._everybody
        for each in found:
            matching |= each.any
        return _Domain(
            matching,
            tuple(each.ones for each in found if each.ones),
            tuple(each_glob for each in found for each_glob in each.globs.values()),
        )

    def _at(self, domain: str) -> Iterator[_Found]:
        yield from self._by_reach[Reach.ANY].values()
        if one := self._by_reach[Reach.ONE].get(domain):
            yield one
        dot = domain.find(".", 1)
        while dot >= 0:
            if below := self._by_reach[Reach.BELOW].get(domain[dot + 1 :]):
                yield below
            dot = domain.find(".", dot + 1)
        yield from (found for pattern, found in self._globs if pattern.fullmatch(domain))


class ConditionIndex:
    """The same for conditions of one other kind. Answers are remembered by what the conditions look at."""

    def __init__(self, kind: type[Condition]) -> None:
        self.of_content = kind.of_content
        self._subject = kind.subject
        self._everybody = 0
        self._conditions: dict[Condition, int] = {}
        self._remembered: dict[Hashable, int] = {}

    def add(self, condition: Condition | None, cases: int) -> None:
        """None: it holds for every message. Before the first question."""
        if condition is None:
            self._everybody |= cases
        else:
            self._conditions[condition] = self._conditions.get(condition, 0) | cases

    def cases(self, facts: Facts) -> int:
        subject = self._subject(facts)
        if subject is None:
            return self._judge(facts)
        matching = self._remembered.get(subject)
        if matching is None:
            matching = self._judge(facts)
            if len(self._remembered) >= SUBJECTS_REMEMBERED:
                self._remembered.clear()
            self._remembered[subject] = matching
        return matching

    def _judge(self, facts: Facts) -> int:
        matching = self._everybody
        for condition, cases in self._conditions.items():
            if condition.holds(facts):
                matching |= cases
        return matching
