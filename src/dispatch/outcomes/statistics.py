"""Statistics: the counters of history as people ask for them.

Counters are written with the rows that they count, and outlive them: how long messages are
kept does not change what these say. A day is a day of UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta

import msgspec

from dispatch.outcomes.history import UNCERTAIN_POWER
from dispatch.outcomes.refusals import KIND_PREFIX
from dispatch.store.history_reader import Count, HistoryReader

_EPOCH = date(1970, 1, 1)


class Counts(msgspec.Struct, frozen=True):
    """Of some days: messages received; deliveries by what became of them."""

    received: int = 0
    delivered: int = 0
    captured: int = 0
    failed: int = 0
    """Bounced, expired, given up."""
    deferred: int = 0
    """Attempts after which a delivery had to wait: one delivery may be deferred many times."""
    uncertain: int = 0
    quarantined: int = 0
    """Set aside until a person looks: one delivery may be released and set aside again."""
    cancelled: int = 0
    discarded: int = 0
    suppressed: int = 0
    uncertain_power: int = 0
    """On their way when the machine lost power, perhaps delivered without a trace."""
    dsn_sent: int = 0
    """Senders told what became of their mail."""
    dsn_given_up: int = 0


class Statistics(msgspec.Struct, frozen=True):
    first_day: date
    last_day: date
    """Included."""
    total: Counts
    relays: dict[str, Counts]
    """By relay, without those that counted nothing."""
    refused: dict[str, int]
    """How often clients were turned away, by kind (`policy.admission.RefusalKind`)."""


def between(reader: HistoryReader, first_day: date, last_day: date) -> Statistics:
    """The sums of some days, both included. Raises `StoreFault`."""
    counts = reader.counts(_day_number(first_day), _day_number(last_day))
    return Statistics(first_day, last_day, _sum(counts), _by_relay(counts), _refused(counts))


def by_day(reader: HistoryReader, first_day: date, last_day: date) -> list[Statistics]:
    """Each of some days, both included, without those on which nothing was counted. Raises `StoreFault`."""
    days: dict[int, list[Count]] = {}
    for count in reader.counts(_day_number(first_day), _day_number(last_day)):
        days.setdefault(count.day, []).append(count)
    statistics = []
    for number, counts in days.items():
        day = _EPOCH + timedelta(days=number)
        statistics.append(Statistics(day, day, _sum(counts), _by_relay(counts), _refused(counts)))
    return statistics


def _by_relay(counts: Iterable[Count]) -> dict[str, Counts]:
    relays: dict[str, list[Count]] = {}
    for count in counts:
        if count.relay:
            relays.setdefault(count.relay, []).append(count)
    return {relay: _sum(relays[relay]) for relay in sorted(relays)}


def _refused(counts: Iterable[Count]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for count in counts:
        if count.kind.startswith(KIND_PREFIX):
            kind = count.kind.removeprefix(KIND_PREFIX)
            sums[kind] = sums.get(kind, 0) + count.count
    return dict(sorted(sums.items()))


def _sum(counts: Iterable[Count]) -> Counts:
    """Of everything but refusals."""
    sums: dict[str, int] = {}
    for count in counts:
        if count.kind.startswith(KIND_PREFIX):
            continue
        name = "uncertain_power" if count.kind == UNCERTAIN_POWER else count.kind
        sums[name] = sums.get(name, 0) + count.count
    return msgspec.convert(sums, Counts)


def _day_number(day: date) -> int:
    return (day - _EPOCH).days
