"""When mail that was deferred is tried again, and when it expires."""

import pytest

from dispatch.policy.schedule import RetryPlan, clamp, next_due

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


def plan(*delays_s: float, retries_max: int | None = None, age_max_s: float | None = None) -> RetryPlan:
    return RetryPlan(delays_s or (30.0, 300.0), retries_max, age_max_s)


def test_the_wait_grows_with_the_attempts_and_the_last_repeats() -> None:
    four_waits = plan(30.0, 300.0, 1800.0, 7200.0)
    latest_s = [
        ((next_due(four_waits, attempts, NOW_MS, NOW_MS, 1.0) or 0) - NOW_MS) / 1000
        for attempts in range(1, 7)
    ]
    assert latest_s == [30, 300, 1800, 7200, 7200, 7200]


def test_chance_spreads_the_wait_but_never_below_the_floor() -> None:
    assert next_due(plan(300.0), 1, NOW_MS, NOW_MS, 0.0) == NOW_MS + 30_000
    assert next_due(plan(300.0), 1, NOW_MS, NOW_MS, 0.5) == NOW_MS + 165_000


def test_a_delay_of_zero_does_not_spin() -> None:
    assert next_due(plan(0.0), 1, NOW_MS, NOW_MS, 0.0) == NOW_MS + 1000


def test_uncounted_attempts_wait_the_first_delay() -> None:
    assert next_due(plan(30.0, 300.0), 0, NOW_MS, NOW_MS, 1.0) == NOW_MS + 30_000


@pytest.mark.parametrize(("attempts", "expired"), [(0, False), (1, False), (2, False), (3, True)])
def test_mail_expires_after_its_retries(attempts: int, expired: bool) -> None:
    due = next_due(plan(retries_max=2), attempts, NOW_MS, NOW_MS, 0.5)
    assert (due is None) is expired


def test_no_retry_means_one_counted_attempt() -> None:
    assert next_due(plan(retries_max=0), 1, NOW_MS, NOW_MS, 0.5) is None
    assert next_due(plan(retries_max=0), 0, NOW_MS, NOW_MS, 0.5) is not None, "a throttle was no attempt"


def test_mail_expires_when_an_attempt_past_its_deadline_failed() -> None:
    assert next_due(plan(age_max_s=3600), 9, NOW_MS - HOUR_MS, NOW_MS, 0.5) is None


def test_the_last_attempt_is_made_at_the_deadline_not_given_up_before() -> None:
    since_ms = NOW_MS - HOUR_MS + 60_000
    assert next_due(plan(7200.0, age_max_s=3600), 9, since_ms, NOW_MS, 0.5) == NOW_MS + 720_000
    assert next_due(plan(300.0, age_max_s=3600), 9, since_ms, NOW_MS, 0.99) == NOW_MS + 60_000


def test_a_clock_that_jumped_during_the_attempt_expires_nothing() -> None:
    due = next_due(plan(age_max_s=3600), 1, NOW_MS - 1000, NOW_MS + 100 * HOUR_MS, 0.5, attempted_ms=NOW_MS)
    assert due is not None
    assert due > NOW_MS + 100 * HOUR_MS


def test_without_an_age_limit_mail_never_expires() -> None:
    assert next_due(plan(), 10_000, 0, NOW_MS, 0.5) is not None


def test_the_wait_that_the_peer_asked_for_is_kept() -> None:
    assert next_due(plan(30.0), 1, NOW_MS, NOW_MS, 0.0, retry_after_s=900) == NOW_MS + 900_000


def test_a_shorter_wish_does_not_hurry_us() -> None:
    assert next_due(plan(300.0), 1, NOW_MS, NOW_MS, 1.0, retry_after_s=1) == NOW_MS + 300_000


def test_those_who_were_told_the_same_wait_do_not_come_back_together() -> None:
    dues = {next_due(plan(30.0), 1, NOW_MS, NOW_MS, chance / 10, retry_after_s=900) for chance in range(10)}
    assert len(dues) == 10


def test_an_absurd_wish_is_bounded() -> None:
    due = next_due(plan(30.0), 1, NOW_MS, NOW_MS, 0.0, retry_after_s=1e12)
    assert due == NOW_MS + 24 * HOUR_MS


def test_a_clock_that_went_back_does_not_park_mail_for_days() -> None:
    due = next_due(plan(30.0, 300.0), 2, NOW_MS, NOW_MS, 1.0)
    assert due is not None
    back_ms = NOW_MS - 48 * HOUR_MS
    assert clamp(due, back_ms, plan(30.0, 300.0)) == back_ms + 300_000


def test_a_clock_that_went_forward_makes_mail_due() -> None:
    assert clamp(NOW_MS + 30_000, NOW_MS + 48 * HOUR_MS, plan()) == NOW_MS + 30_000


@pytest.mark.parametrize("delays_s", [(), (30.0, -1.0)])
def test_a_plan_without_sound_delays_is_refused(delays_s: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="retry plan"):
        RetryPlan(delays_s, None, None)
