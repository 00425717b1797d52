"""When a child is started again, and when the supervisor gives up."""

from __future__ import annotations

import os

from dispatch.runtime.restarts import GiveUp, RestartLimits, Restarts, StartAgain

LIMITS = RestartLimits(first_s=0.1, longest_s=5.0, settled_s=30.0, failures_max=5, lock_wait_s=15.0)


def ready_role() -> Restarts:
    restarts = Restarts(LIMITS)
    restarts.ready()
    return restarts


def test_the_wait_doubles_up_to_its_limit_and_begins_anew_after_a_long_life() -> None:
    restarts = ready_role()
    now_s, waits = 100.0, []
    for _ in range(8):
        again = restarts.ended(-9, started_s=now_s, now_s=now_s)
        assert isinstance(again, StartAgain)
        waits.append(round(again.at_s - now_s, 3))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert restarts.ended(-9, started_s=now_s, now_s=now_s + 30) == StartAgain(now_s + 30.1)


def test_a_bad_configuration_is_final_only_before_the_role_ever_worked() -> None:
    assert isinstance(Restarts(LIMITS).ended(os.EX_CONFIG, 0.0, 0.1), GiveUp)
    restarts = ready_role()
    assert all(isinstance(restarts.ended(os.EX_CONFIG, 0.0, 0.1), StartAgain) for _ in range(20))


def test_five_failures_in_a_row_at_the_start_are_final() -> None:
    restarts = Restarts(LIMITS)
    ends = [restarts.ended(1, 0.0, 0.1) for _ in range(5)]
    assert [isinstance(end, GiveUp) for end in ends] == [False] * 4 + [True]
    assert ends[-1] == GiveUp(1, "it ended 5 times in a row before it was ready")


def test_death_by_a_signal_gives_the_whole_a_code_of_its_own() -> None:
    restarts = Restarts(LIMITS)
    ends = [restarts.ended(-11, 0.0, 0.1) for _ in range(5)]
    assert isinstance(ends[-1], GiveUp) and ends[-1].code == os.EX_SOFTWARE


def test_a_held_lock_is_waited_for_and_does_not_count_as_a_failure() -> None:
    restarts = Restarts(LIMITS)
    assert all(
        isinstance(restarts.ended(os.EX_TEMPFAIL, now_s, now_s), StartAgain)
        for now_s in (0.0, 1.0, 5.0, 10.0, 14.9)
    )
    end = restarts.ended(os.EX_TEMPFAIL, 15.0, 15.0)
    assert isinstance(end, GiveUp) and end.code == os.EX_TEMPFAIL


def test_a_lock_that_became_free_in_time_starts_the_wait_anew() -> None:
    restarts = Restarts(LIMITS)
    restarts.ended(os.EX_TEMPFAIL, 0.0, 0.0)
    restarts.ended(1, 14.0, 14.0)
    assert isinstance(restarts.ended(os.EX_TEMPFAIL, 20.0, 20.0), StartAgain)
