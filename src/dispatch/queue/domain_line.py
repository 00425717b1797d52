"""The line in front of direct delivery: only so many works of one mail domain are under way at once.

A work whose turn comes while its domain has all its places in use is *set aside*, and goes as soon as one of
them is free, before what still stands in line. So a domain that is slow, or dead, keeps its own mail waiting.

Nor can it fill the line: of the room that is left a domain may have as much again as it has already, so a
single one gets half of the line, two a third each, and there is always room for one more. What is refused for
that is *crowded out*; it has to be due later, since the parked store would hand it out again at once. How
much later follows from how many there are and from how fast the domain takes mail: they come again twice as
fast, so that it does not wait for them, and as many are refused once more as go at most.
"""

from __future__ import annotations

from collections.abc import Iterator

from dispatch.policy.shares import FairQueue
from dispatch.queue.line import Line
from dispatch.queue.work import Work

AGAIN_S = 5.0
AGAIN_S_MAX = 600.0
FIRST_PER_S = 100.0
"""So many works a domain is taken to do until it was seen for `AGAIN_S`."""

_NOTHING: FairQueue[Work] = FairQueue(0, 0)
"""Stands for nothing set aside, which is the usual case."""


class _Domain:
    """Of one mail domain: what is under way, and what stands in line."""

    __slots__ = (
        "bytes",
        "crowd",
        "ended",
        "large",
        "large_aside",
        "ordinary_aside",
        "per_s",
        "seen_since_s",
        "standing",
        "under_way",
    )

    def __init__(self) -> None:
        self.under_way = 0
        self.standing = 0
        self.large = 0
        """Of those that stand in line."""
        self.bytes = 0
        self.crowd = 0
        """How many more were crowded out than came into line, while any stood here."""
        self.per_s = FIRST_PER_S
        self.ended = 0
        self.seen_since_s: float | None = None
        """When `ended` was 0."""
        self.ordinary_aside = _NOTHING
        self.large_aside = _NOTHING

    @property
    def aside(self) -> int:
        return len(self.ordinary_aside) + len(self.large_aside)

    def crowded_out_s(self, now_s: float) -> float:
        """One more is; when it should come again."""
        self.crowd += 1
        if self.seen_since_s is None:
            self.seen_since_s, self.ended = now_s, 0
        elif (seen_s := now_s - self.seen_since_s) >= AGAIN_S:
            self.per_s = self.ended / seen_s
            self.seen_since_s, self.ended = now_s, 0
        if not self.per_s:
            return AGAIN_S_MAX
        return min(AGAIN_S + self.crowd / (2 * self.per_s), AGAIN_S_MAX)


class DomainLine(Line):
    """A `Line` of works that have a `destination`."""

    __slots__ = ("_aside", "_bytes_aside", "_domains", "_freed", "_large_aside", "_places")

    def __init__(self, count_max: int, bytes_max: int, places: int) -> None:
        """`places`: how many works of one domain may be under way."""
        super().__init__(count_max, bytes_max)
        self._places = places
        self._domains: dict[str, _Domain] = {}
        self._freed: dict[str, None] = {}
        """Domains that have works aside, and had a place free when they were last looked at."""
        self._aside = 0
        self._large_aside = 0
        self._bytes_aside = 0

    def __len__(self) -> int:
        return super().__len__() + self._aside

    def __iter__(self) -> Iterator[Work]:
        yield from super().__iter__()
        for domain in self._domains.values():
            yield from domain.ordinary_aside
            yield from domain.large_aside

    @property
    def large(self) -> int:
        return super().large + self._large_aside

    @property
    def bytes(self) -> int:
        return super().bytes + self._bytes_aside

    @property
    def domains(self) -> int:
        """How many are remembered: those that have works here or under way."""
        return len(self._domains)

    @property
    def low(self) -> bool:
        """As of `Line`; what is set aside takes room, and no part in the rest."""
        large = super().large
        return (
            super().__len__() * 2 <= self._count_max - self._aside
            and large * 2 <= self._large_max - self._large_aside
            and super().bytes * 2 <= self._bytes_max - self._bytes_aside
            and self._large.bytes * 4 <= self._bytes_max
        )

    def crowded_out_s(self, work: Work, now_s: float) -> float:
        """0 where its domain may stand here with one more; otherwise after how long it should come again."""
        domain = self._domains.get(work.destination)
        if domain is None or not domain.standing or not self._crowded(work, domain):
            return 0.0
        return domain.crowded_out_s(now_s)

    def _crowded(self, work: Work, domain: _Domain) -> bool:
        """It stands in line with as much as there is room left."""
        return (
            domain.standing >= self._count_max - len(self)
            or (work.large and domain.large >= self._large_max - self.large)
            or domain.bytes + work.size_bytes > self._bytes_max - self.bytes
        )

    def push(self, work: Work) -> bool:
        if len(self) >= self._count_max or self.bytes + work.size_bytes > self._bytes_max:
            return False
        if work.large and self.large >= self._large_max:
            return False
        if not super().push(work):
            return False
        domain = self._of(work)
        domain.standing += 1
        domain.crowd = max(0, domain.crowd - 1)
        domain.large += work.large
        domain.bytes += work.size_bytes
        return True

    def pop(self) -> Work | None:
        """The next work whose domain has a place free."""
        return self._next(large=True)

    def pop_ordinary(self) -> Work | None:
        return self._next(large=False)

    def drain(self) -> Iterator[Work]:
        for domain in self._domains.values():
            while (aside := self._take_back(domain, large=True)) is not None:
                yield aside
        self._freed.clear()
        while (work := super().pop()) is not None:
            yield work
        self._domains = {name: domain for name, domain in self._domains.items() if domain.under_way}
        for domain in self._domains.values():
            domain.standing = domain.large = domain.bytes = 0

    def began(self, work: Work) -> None:
        """It is under way, until `ended`."""
        self._of(work).under_way += 1

    def ended(self, work: Work) -> None:
        domain = self._domains[work.destination]
        domain.under_way -= 1
        domain.ended += 1
        if domain.aside:
            self._freed[work.destination] = None
        self._forget(work.destination, domain)

    def _next(self, *, large: bool) -> Work | None:
        work = self._freed_next(large=large)
        while work is None:
            work = super().pop() if large else super().pop_ordinary()
            if work is None:
                return None
            domain = self._domains[work.destination]
            if domain.under_way >= self._places:
                self._set_aside(work, domain)
                work = None
        domain = self._domains[work.destination]
        domain.standing -= 1
        domain.large -= work.large
        domain.bytes -= work.size_bytes
        self._forget(work.destination, domain)
        return work

    def _freed_next(self, *, large: bool) -> Work | None:
        for name in list(self._freed):
            domain = self._domains.get(name)
            if domain is None or not domain.aside or domain.under_way >= self._places:
                del self._freed[name]
            elif (work := self._take_back(domain, large=large)) is not None:
                # The others come first the next time.
                del self._freed[name]
                self._freed[name] = None
                return work
        return None

    def _set_aside(self, work: Work, domain: _Domain) -> None:
        queue = domain.large_aside if work.large else domain.ordinary_aside
        if queue is _NOTHING:
            queue = FairQueue(self._count_max, self._bytes_max)
            if work.large:
                domain.large_aside = queue
            else:
                domain.ordinary_aside = queue
        message = work.message
        pushed = queue.push(message.priority, message.origin.fair_share_key, work, work.size_bytes)
        assert pushed, "what stood in line has room beside it"
        self._aside += 1
        self._large_aside += work.large
        self._bytes_aside += work.size_bytes

    def _take_back(self, domain: _Domain, *, large: bool) -> Work | None:
        work = domain.ordinary_aside.pop() or (domain.large_aside.pop() if large else None)
        if work is not None:
            self._aside -= 1
            self._large_aside -= work.large
            self._bytes_aside -= work.size_bytes
        return work

    def _of(self, work: Work) -> _Domain:
        domain = self._domains.get(work.destination)
        if domain is None:
            domain = self._domains[work.destination] = _Domain()
        return domain

    def _forget(self, name: str, domain: _Domain) -> None:
        if not domain.under_way and not domain.standing:
            del self._domains[name]
