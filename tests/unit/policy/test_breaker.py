"""When a failing relay is left alone, and how it is tried again."""

import pytest

from dispatch.policy.breaker import JITTER_SHARE, Breaker, BreakerState


def opened(breaker: Breaker, now: float = 0.0) -> Breaker:
    breaker.failed(now, 0.0, at_once=True)
    return breaker


def probe(breaker: Breaker) -> float:
    """Start the probe as soon as it is allowed; the time at which it started."""
    assert breaker.opens_until is not None
    now = breaker.opens_until
    breaker.started(now)
    return now


def test_failures_in_a_row_open_it() -> None:
    breaker = Breaker(failures_max=3)
    for _ in range(2):
        breaker.failed(0.0, 0.0)
    assert breaker.allows(0.0)
    breaker.failed(0.0, 0.0)
    assert not breaker.allows(0.0)
    assert breaker.state is BreakerState.OPEN


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker = Breaker(failures_max=2)
    for _ in range(10):
        breaker.failed(0.0, 0.0)
        breaker.succeeded(0.0)
    assert breaker.state is BreakerState.CLOSED


def test_refused_credentials_open_it_at_once() -> None:
    assert opened(Breaker(failures_max=5)).state is BreakerState.OPEN


def test_one_probe_is_let_through_when_its_time_is_over() -> None:
    breaker = opened(Breaker(open_s=30))
    assert not breaker.allows(29.9)
    assert breaker.allows(30.0)
    breaker.started(30.0)
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.allows(1e9)


def test_a_probe_that_succeeds_closes_it() -> None:
    breaker = opened(Breaker())
    breaker.succeeded(probe(breaker))
    assert breaker.state is BreakerState.CLOSED
    assert breaker.allows(0.0)
    assert breaker.opens_until is None


def test_each_probe_that_fails_doubles_the_time_up_to_the_maximum() -> None:
    breaker = opened(Breaker(open_s=10, open_s_max=60))
    times = []
    for _ in range(5):
        now = probe(breaker)
        breaker.failed(now, 0.0)
        assert breaker.opens_until is not None
        times.append(breaker.opens_until - now)
    assert times == [20, 40, 60, 60, 60]


def test_after_a_recovery_the_time_starts_small_again() -> None:
    breaker = opened(Breaker(open_s=10, open_s_max=600))
    for _ in range(4):
        breaker.failed(probe(breaker), 0.0)
    now = probe(breaker)
    breaker.succeeded(now)
    opened(breaker, now)
    assert breaker.opens_until == now + 10


def test_chance_only_shortens_the_time() -> None:
    breaker = Breaker(open_s=100)
    breaker.failed(0.0, 0.999999, at_once=True)
    assert breaker.opens_until == pytest.approx(100 * (1 - JITTER_SHARE), rel=1e-3)


def test_failures_of_what_was_under_way_do_not_prolong_it() -> None:
    breaker = opened(Breaker(failures_max=1, open_s=30))
    for second in range(20):
        breaker.failed(float(second), 0.0)
    assert breaker.opens_until == 30


def test_a_late_success_of_what_was_under_way_does_not_close_it() -> None:
    breaker = opened(Breaker())
    breaker.succeeded(1.0)
    assert breaker.state is BreakerState.OPEN


def test_nothing_may_start_while_it_is_open() -> None:
    with pytest.raises(AssertionError):
        opened(Breaker()).started(0.0)


def test_an_operator_can_close_it() -> None:
    breaker = opened(Breaker())
    breaker.reset()
    assert breaker.allows(0.0)


def test_a_relay_that_is_down_for_months_is_still_probed() -> None:
    breaker = opened(Breaker(open_s=30, open_s_max=900))
    for _ in range(5000):
        now = probe(breaker)
        breaker.failed(now, 0.0)
    assert breaker.opens_until == now + 900
