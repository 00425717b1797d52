"""How many messages may come, or go, in a time: rates, the buckets that hold them, a bucket for each key.

A *rate* is a count a period and a burst: how many may come at once after a rest (the count itself, where
nothing is said). Within any time T no more than `burst + count * T / period` pass. So `100/minute` lets a
hundred through at once and then one every 0.6 s: two hundred in its first minute. Where that is too much,
a smaller burst is written: `100/minute burst 1` never lets more than a hundred through in a minute.

A *bucket* holds several rates at once (`5/second, 1000/hour`), and what passes must pass them all. It is
the generic cell rate algorithm (ITU-T I.371 annex A): of each rate it keeps only the moment at which it would
be full again, so there is nothing to refill and no timer.

Rules:
- Exact: a moment is counted in integers, microseconds times the rate's count, where a message weighs the
  period's microseconds. Nothing is rounded but the clock, so nothing drifts, however long it runs.
- A wait is never too short: who comes back after it, and finds that nobody else did, is let through.
- `now_s` is monotonic seconds, never below 0.
- Memory is bounded (`Limits`): see there what happens beyond the bound.

It deliberately counts nothing that was refused, and knows neither addresses nor logins: a key is a text.
`address_key` makes one of an address.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from itertools import islice
from typing import Literal, NamedTuple, cast, get_args

import msgspec

Period = Literal["second", "minute", "hour", "day"]

_PERIOD_US: dict[Period, int] = {
    "second": 1_000_000,
    "minute": 60_000_000,
    "hour": 3_600_000_000,
    "day": 86_400_000_000,
}
PERIOD_S: dict[Period, int] = {period: us // 1_000_000 for period, us in _PERIOD_US.items()}
COUNT_MAX = 100_000_000
"""Of a count and of a burst: what a bucket owes then always fits a signed 64-bit number."""
ENTRIES_MAX = 65_536
"""Keys that `Limits` remembers, where its maker says nothing: some 30 MB."""
_LOOKED_AT = 4
"""How many of the keys that were not asked for longest are looked at when a new one comes."""
_WRITTEN = re.compile(r"(\d{1,12})\s*/\s*([a-z]+)(?:\s+burst\s+(\d{1,12}))?", re.IGNORECASE | re.ASCII)


class Rate(msgspec.Struct, frozen=True):
    """So many in a period. Raises `ValueError` where it lets nothing through, or is beyond `COUNT_MAX`."""

    count: int
    period: Period
    burst: int | None = None
    """How many may come at once after a rest; None: as many as `count`."""

    def __post_init__(self) -> None:
        for what, number in (("count", self.count), ("burst", self.burst)):
            if number is not None and not 1 <= number <= COUNT_MAX:
                raise ValueError(f"the {what} of a rate must be from 1 to {COUNT_MAX}, not {number}")

    @property
    def burst_or_count(self) -> int:
        return self.count if self.burst is None else self.burst

    def __str__(self) -> str:
        """As `parse_rate` reads it."""
        burst = "" if self.burst is None else f" burst {self.burst}"
        return f"{self.count}/{self.period}{burst}"


Rates = tuple[Rate, ...]
"""All of them hold, each of another period; empty: unlimited."""


def parse_rate(text: str) -> Rate:
    """`100/minute` or `5/second burst 20`. Raises `ValueError` that says what to write instead."""
    written = _WRITTEN.fullmatch(text.strip())
    period = written[2].lower() if written else ""
    if not written or period not in get_args(Period):
        raise ValueError(
            f"{text!r} is no rate: write it like 100/minute or 5/second burst 20;"
            f" the periods are {', '.join(get_args(Period))}"
        )
    count, burst = int(written[1]), int(written[3]) if written[3] else None
    # One writing for one meaning, so that equal rates are equal.
    return Rate(count, cast("Period", period), None if burst == count else burst)


def parse_rates(text: str) -> Rates:
    """A comma list, or `none` for no limit. Raises `ValueError`."""
    if text.strip().lower() == "none":
        return ()
    rates = tuple(parse_rate(word) for word in text.split(","))
    for place, rate in enumerate(rates):
        if any(rate.period == other.period for other in rates[:place]):
            raise ValueError(f"{text!r} has two rates a {rate.period}: one is enough")
    return rates


def written_rates(rates: Rates) -> str:
    """As `parse_rates` reads them."""
    return ", ".join(map(str, rates)) or "none"


class _Scale(NamedTuple):
    """A rate in the integers of its bucket: a microsecond brings `speed` units, a message costs `cost`."""

    speed: int
    cost: int
    capacity: int
    period: Period


@lru_cache(1024)
def _scales(rates: Rates) -> tuple[_Scale, ...]:
    return tuple(
        _Scale(
            rate.count, _PERIOD_US[rate.period], rate.burst_or_count * _PERIOD_US[rate.period], rate.period
        )
        for rate in rates
    )


Spent = dict[Period, int]
"""What a bucket lacks to be full, by period: messages times the period's microseconds. It may be stored."""


class Bucket:
    """What several rates still let through. Mutable; new ones are full."""

    __slots__ = ("_full", "_scales", "rates")

    def __init__(self, rates: Rates) -> None:
        self.rates = rates
        self._scales = _scales(rates)
        self._full = [0] * len(rates)
        """When each is full again, in microseconds since 0 times its count; what is past means now."""

    def take(self, now_s: float, amount: int = 1) -> float:
        """0.0: taken. Else nothing was, and it is the seconds until it would be; `inf` where no burst is
        ever so large. `amount` is at least 1."""
        wait_s = self.peek(now_s, amount)
        if not wait_s:
            now_us = int(now_s * 1e6)
            full = self._full
            for place, (speed, cost, _, _) in enumerate(self._scales):
                now = now_us * speed
                before = full[place]
                full[place] = (before if before > now else now) + cost * amount
        return wait_s

    def peek(self, now_s: float, amount: int = 1) -> float:
        """What `take` would say, and nothing taken."""
        now_us = int(now_s * 1e6)
        wait_s = 0.0
        for (speed, cost, capacity, _), full in zip(self._scales, self._full, strict=True):
            now = now_us * speed
            lacking = (full if full > now else now) + cost * amount - capacity - now
            if lacking > 0:
                if cost * amount > capacity:
                    return math.inf
                # One more, because the clock was cut down to whole microseconds, and will be again.
                wait_s = max(wait_s, (-(-lacking // speed) + 1) / 1e6)
        return wait_s

    def give_back(self, amount: int = 1) -> None:
        """What was taken did not happen. A bucket that is full again meanwhile stays full."""
        for place, scale in enumerate(self._scales):
            self._full[place] -= scale.cost * amount

    def is_full(self, now_s: float) -> bool:
        """Whether it says no more than a new one."""
        now_us = int(now_s * 1e6)
        return all(self._full[place] <= now_us * scale.speed for place, scale in enumerate(self._scales))

    def spent(self, now_s: float) -> Spent:
        now_us = int(now_s * 1e6)
        lacks = zip(self._scales, self._full, strict=True)
        return {s.period: full - now_us * s.speed for s, full in lacks if full > now_us * s.speed}

    def spend(self, spent: Mapping[Period, int], now_s: float, age_s: float = 0.0) -> None:
        """Be as one that lacked `spent` for `age_s` seconds: never more than all, nor less than nothing.

        A period that no rate has is passed over; one that has another count now still owes its messages.
        """
        now_us, age_us = int(now_s * 1e6), max(0, int(age_s * 1e6))
        for place, (speed, _, capacity, period) in enumerate(self._scales):
            lacks = spent.get(period, 0) - age_us * speed
            self._full[place] = now_us * speed + min(max(lacks, 0), capacity)

    def change(self, rates: Rates, now_s: float) -> None:
        """Other rates hold from now on; what was spent of a period stays spent."""
        spent = self.spent(now_s)
        self.rates = rates
        self._scales = _scales(rates)
        self._full = [0] * len(rates)
        self.spend(spent, now_s)


_UNLIMITED = Bucket(())


class Limits:
    """A bucket for each key, bounded in number.

    A bucket that is full again says no more than a new one, so it is forgotten: whenever a new key comes,
    those among the few that were not asked for longest. Where `entries_max` keys are here and none of these
    few is full, the one not asked for longest is forgotten all the same, and begins anew with a full burst.
    So a crowd of strangers costs no memory and keeps no newcomer out; to hold it is for the rate over all,
    and `forgotten` counts what it did here. A key that goes on asking, also in vain, is not among those few.
    """

    __slots__ = ("_buckets", "_entries_max", "forgotten", "rates")

    def __init__(self, rates: Rates = (), entries_max: int = ENTRIES_MAX) -> None:
        assert entries_max >= 1
        self.rates = rates
        """What holds for a key without rates of its own; may be exchanged at any time."""
        self._entries_max = entries_max
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        """In the order in which they were asked for last."""
        self.forgotten = 0
        """How many buckets were forgotten that were not full."""

    def __len__(self) -> int:
        return len(self._buckets)

    def bucket(self, key: str, now_s: float, rates: Rates | None = None) -> Bucket:
        """The key's own, to be used at once and not kept; `rates` are the key's own where it has some."""
        if rates is None:
            rates = self.rates
        if not rates:
            return _UNLIMITED
        buckets = self._buckets
        bucket = buckets.get(key)
        if bucket is None:
            self._make_room(now_s)
            bucket = buckets[key] = Bucket(rates)
            return bucket
        buckets.move_to_end(key)
        if bucket.rates is not rates and bucket.rates != rates:
            bucket.change(rates, now_s)
        return bucket

    def take(self, key: str, now_s: float, amount: int = 1, rates: Rates | None = None) -> float:
        """As `Bucket.take`."""
        return self.bucket(key, now_s, rates).take(now_s, amount)

    def peek(self, key: str, now_s: float, amount: int = 1, rates: Rates | None = None) -> float:
        """As `Bucket.peek`."""
        return self.bucket(key, now_s, rates).peek(now_s, amount)

    def give_back(self, key: str, amount: int = 1) -> None:
        """As `Bucket.give_back`; to a key that was forgotten there is nothing to give."""
        bucket = self._buckets.get(key)
        if bucket is not None:
            bucket.give_back(amount)

    def _make_room(self, now_s: float) -> None:
        buckets = self._buckets
        for key in list(islice(buckets, _LOOKED_AT)):
            if buckets[key].is_full(now_s):
                del buckets[key]
        if len(buckets) >= self._entries_max:
            buckets.popitem(last=False)
            self.forgotten += 1

    def export(self, now_s: float) -> dict[str, Spent]:
        """What every key has spent, as plain values that may be stored; full buckets are left out."""
        return {key: spent for key, bucket in self._buckets.items() if (spent := bucket.spent(now_s))}

    def restore(
        self,
        state: Mapping[str, Mapping[Period, int]],
        now_s: float,
        age_s: float = 0.0,
        rates_of: Callable[[str], Rates | None] = lambda key: None,
    ) -> None:
        """Go on from an `export` that is `age_s` seconds old by the wall clock (one that ran backwards counts
        as 0). `rates_of` names the rates of keys that have their own."""
        for key, spent in state.items():
            self.bucket(key, now_s, rates_of(key)).spend(spent, now_s, age_s)


@lru_cache(4096)
def address_key(address: str) -> str:
    """The key under which a client's address is counted: of IPv6 its /64, because no customer is given less
    (RFC 6177), and each may take a new address for every connection. An IPv4-mapped one is the IPv4 address
    that it is (RFC 4291 section 2.5.5.2); what is no address is its own key."""
    if ":" not in address:
        return address
    try:
        parsed = IPv6Address(address.partition("%")[0])
    except AddressValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
