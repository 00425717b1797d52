"""What holds for every rate and every crowd: never more than the rate, never less, and no wait in vain."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.policy.limits import Bucket, Limits, Rate, Rates, parse_rates, written_rates

EXAMPLES = settings(max_examples=200, deadline=None)
PERIOD_US = {"second": 10**6, "minute": 60 * 10**6, "hour": 3600 * 10**6, "day": 86_400 * 10**6}

counts = st.integers(1, 50) | st.integers(1, 10**8)
rates = st.lists(
    st.builds(Rate, counts, st.sampled_from(["second", "minute", "hour", "day"]), st.none() | counts),
    min_size=1,
    max_size=3,
    unique_by=lambda rate: rate.period,
).map(tuple)
moments_us = st.lists(st.integers(0, 10**7) | st.integers(0, 10**12), min_size=1, max_size=60).map(sorted)
amounts = st.integers(1, 5)


class Model:
    """Token buckets in fractions: the definition, as one would explain it."""

    def __init__(self, rates: Rates) -> None:
        self.rates = rates
        self.tokens = [Fraction(rate.burst_or_count) for rate in rates]
        self.last_us = 0

    def take(self, now_us: int, amount: int) -> bool:
        for place, rate in enumerate(self.rates):
            gained = Fraction((now_us - self.last_us) * rate.count, PERIOD_US[rate.period])
            self.tokens[place] = min(self.tokens[place] + gained, Fraction(rate.burst_or_count))
        self.last_us = now_us
        if min(self.tokens) < amount:
            return False
        self.tokens = [tokens - amount for tokens in self.tokens]
        return True


@EXAMPLES
@given(rates, moments_us, st.data())
def test_a_bucket_is_a_bucket_of_tokens_to_the_last_fraction(
    rates: Rates, moments: list[int], data: st.DataObject
) -> None:
    limited, model = Bucket(rates), Model(rates)
    for moment_us in moments:
        amount = data.draw(amounts)
        # Half a microsecond on, so that no division by a million lands on the one before.
        assert (limited.take((moment_us + 0.5) / 1e6, amount) == 0.0) == model.take(moment_us, amount)


@EXAMPLES
@given(rates, st.floats(0, 10**9), st.lists(st.floats(0, 100) | st.just(0.0), max_size=30), amounts)
def test_who_comes_back_when_told_is_let_through_and_not_much_earlier(
    rates: Rates, now_s: float, pauses: list[float], amount: int
) -> None:
    limited = Bucket(rates)
    if limited.peek(now_s, amount) == float("inf"):
        return
    for pause_s in pauses:
        now_s += pause_s
        wait_s = limited.take(now_s, amount)
        if wait_s:
            assert limited.peek(now_s + max(0.0, wait_s - 5e-6), amount) > 0.0
            now_s += wait_s
            assert limited.take(now_s, amount) == 0.0


@EXAMPLES
@given(rates, moments_us)
def test_giving_back_undoes_taking(rates: Rates, moments: list[int]) -> None:
    limited, undone = Bucket(rates), Bucket(rates)
    for moment_us in moments:
        now_s = (moment_us + 0.5) / 1e6
        if undone.take(now_s) == 0.0:
            undone.give_back()
        assert undone.peek(now_s) == limited.peek(now_s) == 0.0
        assert undone.is_full(now_s)


@EXAMPLES
@given(rates, st.lists(st.sampled_from("abcdef"), max_size=40), st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_restart_changes_nothing(rates: Rates, keys: list[str], moment_us: int, age_us: int) -> None:
    now_s, age_s = (moment_us + 0.5) / 1e6, (age_us + 0.5) / 1e6
    before = Limits(rates)
    for key in keys:
        before.take(key, now_s)
    after = Limits(rates)
    after.restore(before.export(now_s), 77.5, age_s)
    then_s = (moment_us + age_us + 0.5) / 1e6
    assert after.export(77.5) == before.export(then_s)


@EXAMPLES
@given(rates, st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10**6)), max_size=60), st.integers(1, 5))
def test_memory_is_bounded_whoever_comes(
    rates: Rates, visits: list[tuple[int, int]], entries_max: int
) -> None:
    limits = Limits(rates, entries_max)
    now_us = 0
    for key, pause_us in visits:
        now_us += pause_us
        limits.take(str(key), now_us / 1e6)
        assert len(limits) <= entries_max


@EXAMPLES
@given(rates)
def test_rates_are_read_as_they_are_written(rates: Rates) -> None:
    again = parse_rates(written_rates(rates))
    assert [(r.count, r.period, r.burst_or_count) for r in again] == [
        (r.count, r.period, r.burst_or_count) for r in rates
    ]
