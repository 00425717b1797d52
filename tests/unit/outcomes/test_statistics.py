"""Counters as people ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest
from tests.unit.outcomes.ledger import LedgerInList, accepted, attempted, project, result
from tests.unit.store.messages import DAY_ONE_MS, message

from dispatch.mail.delivery import DeliveryState
from dispatch.outcomes.bounce import GIVEN_UP, SENT
from dispatch.outcomes.history import COUNTED_STATES, DEFERRED, RECEIVED, UNCERTAIN_POWER
from dispatch.outcomes.statistics import Counts, between, by_day
from dispatch.store.history_reader import HistoryReader

S = DeliveryState
DAY_MS = 86_400_000
FIRST, SECOND = date(2026, 6, 1), date(2026, 6, 2)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[HistoryReader]:
    one = message(1, "a@example.com", "b@example.com", at_ms=DAY_ONE_MS + DAY_MS - 1)
    two = message(2, at_ms=DAY_ONE_MS + DAY_MS)
    ledger = LedgerInList(
        accepted(one),
        attempted(one.id, result(S.WAITING, 0, 1), at_ms=DAY_ONE_MS + DAY_MS - 1),
        attempted(
            one.id, result(S.DELIVERED, 0), result(S.BOUNCED, 1), at_ms=DAY_ONE_MS + DAY_MS, relay="other"
        ),
        accepted(two, power=True),
        attempted(two.id, S.UNCERTAIN, at_ms=DAY_ONE_MS + DAY_MS),
    )
    with closing(project(tmp_path / "history.db", ledger)) as reader:
        yield reader


def test_a_day_is_a_day_of_utc(reader: HistoryReader) -> None:
    assert between(reader, FIRST, FIRST).total == Counts(received=1, deferred=2)
    assert between(reader, SECOND, SECOND).total == Counts(
        received=1, delivered=1, failed=1, uncertain=1, uncertain_power=1
    )
    assert between(reader, date(2026, 6, 3), date(2026, 6, 3)).total == Counts()


def test_relays_are_told_apart(reader: HistoryReader) -> None:
    statistics = between(reader, FIRST, SECOND)
    assert statistics.relays == {
        "other": Counts(delivered=1, failed=1),
        "smarthost": Counts(deferred=2, uncertain=1),
    }
    assert statistics.total.received == 2


def test_each_day_has_its_own_sums(reader: HistoryReader) -> None:
    days = by_day(reader, FIRST, date(2026, 6, 30))
    assert [(day.first_day, day.total.received, day.total.deferred) for day in days] == [
        (FIRST, 1, 2),
        (SECOND, 1, 0),
    ]


def test_everything_that_is_counted_can_be_shown() -> None:
    shown = {name.replace("uncertain_power", "uncertain (power)") for name in Counts.__struct_fields__}
    assert shown == {RECEIVED, DEFERRED, UNCERTAIN_POWER, SENT, GIVEN_UP, *COUNTED_STATES.values()}
