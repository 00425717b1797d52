"""Refusals: each is counted once, whatever dies between intake's mark and the counters of history."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import pytest

from dispatch.outcomes.refusals import Refusals
from dispatch.outcomes.statistics import Counts, between, by_day
from dispatch.policy.admission import RefusalKind
from dispatch.store.history import HistoryStore
from dispatch.store.history_reader import HistoryReader

DAY_MS = 86_400_000
FIRST = date(2026, 6, 1)
FIRST_MS = (FIRST - date(1970, 1, 1)).days * DAY_MS


class Count:
    """`ports.Mark`."""

    def __init__(self) -> None:
        self.value = 0

    def load(self) -> int:
        return self.value

    def store(self, value: int) -> None:
        self.value = value


class Place:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.now_ms = FIRST_MS
        self.marks: dict[RefusalKind, Count] = {"login": Count(), "lockout": Count()}
        self.store = HistoryStore.open(path)
        self.refusals = self.follow()

    def follow(self) -> Refusals:
        return Refusals(self.store, self.marks, lambda: self.now_ms)

    def refuse(self, kind: RefusalKind, times: int = 1) -> None:
        self.marks[kind].value += times

    def counted(self, days: int = 1) -> dict[str, int]:
        with closing(HistoryReader.open(self.path)) as reader:
            statistics = between(reader, FIRST, FIRST + timedelta(days=days - 1))
        assert statistics.total == Counts()
        return statistics.refused


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "history.db")
    yield made
    made.store.close()


def test_each_kind_is_counted_beside_the_ledger_and_without_it(place: Place) -> None:
    assert place.counted() == {}
    place.refuse("login", 3)
    assert place.refusals.idle() is False
    place.refuse("login", 2)
    place.refuse("lockout")
    with place.store.transaction():
        place.refusals.react([])
    assert place.counted() == {"lockout": 1, "login": 5}


def test_a_new_process_counts_nothing_twice_and_misses_nothing(place: Place) -> None:
    place.refuse("login", 3)
    place.refusals.idle()
    place.refuse("login", 4)
    place.refusals = place.follow()
    for _ in range(2):
        place.refusals.idle()
    assert place.counted() == {"login": 7}


def test_what_was_not_kept_is_counted_with_the_next(place: Place) -> None:
    place.refuse("login", 3)
    with pytest.raises(InterruptedError), place.store.transaction():
        place.refusals.react([])
        raise InterruptedError
    assert place.counted() == {}
    place.refuse("login")
    place.refusals.idle()
    assert place.counted() == {"login": 4}


def test_a_mark_that_a_power_cut_set_back_goes_on_from_there(place: Place) -> None:
    place.refuse("login", 10)
    place.refusals.idle()
    place.marks["login"].value = 6
    place.refusals.idle()
    place.refuse("login", 2)
    place.refusals.idle()
    assert place.counted() == {"login": 12}


def test_a_history_that_is_made_anew_does_not_count_the_past_again(place: Place) -> None:
    place.refuse("login", 10)
    place.refusals.idle()
    place.store.close()
    place.path.unlink()
    place.store = HistoryStore.open(place.path)
    place.refusals = place.follow()
    place.refuse("login")
    place.refusals.idle()
    place.refusals.idle()
    assert place.counted() == {"login": 1}


def test_a_day_has_its_own(place: Place) -> None:
    for _ in range(2):
        place.refuse("login")
        place.refusals.idle()
        place.now_ms += DAY_MS
    assert place.counted() == {"login": 1}
    assert place.counted(days=2) == {"login": 2}
    with closing(HistoryReader.open(place.path)) as reader:
        assert [day.refused for day in by_day(reader, FIRST, FIRST + timedelta(days=9))] == [{"login": 1}] * 2


def test_an_idle_relay_writes_nothing(place: Place) -> None:
    place.refuse("login")
    place.refusals.idle()
    before = place.path.with_name("history.db-wal").read_bytes()
    place.refusals.idle()
    assert place.path.with_name("history.db-wal").read_bytes() == before
