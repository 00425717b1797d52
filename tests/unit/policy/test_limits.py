"""How many messages pass in a time, for one bucket and for a crowd of keys."""

from __future__ import annotations

import math

import pytest

from dispatch.policy.limits import (
    COUNT_MAX,
    Bucket,
    Limits,
    Rate,
    address_key,
    parse_rate,
    parse_rates,
    written_rates,
)

NOW_S = 1000.0


def bucket(rates: str) -> Bucket:
    return Bucket(parse_rates(rates))


def passed(limited: Bucket, now_s: float, offered: int = 1000) -> int:
    """How many of a crowd that comes at once are let through."""
    return sum(limited.take(now_s) == 0.0 for _ in range(offered))


# ---------------------------------------------------------------- rates in words


@pytest.mark.parametrize(
    ("text", "rate", "written"),
    [
        ("100/minute", Rate(100, "minute"), "100/minute"),
        (" 5 / Second  BURST 20 ", Rate(5, "second", 20), "5/second burst 20"),
        ("5/second burst 5", Rate(5, "second"), "5/second"),
        ("1/day burst 1", Rate(1, "day"), "1/day"),
        (f"{COUNT_MAX}/hour", Rate(COUNT_MAX, "hour"), f"{COUNT_MAX}/hour"),
    ],
)
def test_a_rate_is_written_in_one_way(text: str, rate: Rate, written: str) -> None:
    assert parse_rate(text) == rate
    assert str(rate) == written
    assert parse_rate(written) == rate


@pytest.mark.parametrize(
    "text",
    [
        *("", "100", "100/", "/minute", "100/month", "100/minutes", "1.5/second", "-1/second", "١٠/minute"),
        *("100/minute burst", "100/minute burst x", "100 minute", "100/minute 20", "1/day\nburst 5 x"),
    ],
)
def test_what_is_no_rate_is_told_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="100/minute or 5/second burst 20"):
        parse_rate(text)


@pytest.mark.parametrize(
    "text", ["0/minute", "5/second burst 0", f"{COUNT_MAX + 1}/day", f"1/day burst {COUNT_MAX + 1}"]
)
def test_a_rate_that_lets_nothing_through_or_anything_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"from 1 to {COUNT_MAX}"):
        parse_rate(text)


def test_several_rates_are_a_comma_list_and_none_is_no_limit() -> None:
    rates = parse_rates("5/second burst 20, 1000/hour")
    assert rates == (Rate(5, "second", 20), Rate(1000, "hour"))
    assert parse_rates(written_rates(rates)) == rates
    assert parse_rates(" None ") == ()
    assert parse_rates(written_rates(())) == ()


def test_two_rates_of_one_period_are_refused() -> None:
    with pytest.raises(ValueError, match="two rates a minute"):
        parse_rates("5/minute, 1000/hour, 6/minute")


# ---------------------------------------------------------------- one bucket


@pytest.mark.parametrize(("rates", "burst"), [("100/minute", 100), ("5/second burst 20", 20), ("9/day", 9)])
def test_after_a_rest_a_burst_passes_at_once(rates: str, burst: int) -> None:
    limited = bucket(rates)
    assert passed(limited, NOW_S) == burst
    assert passed(limited, NOW_S + 10 * 86_400) == burst


def test_what_comes_too_early_is_told_how_long_to_wait() -> None:
    limited = bucket("100/minute burst 2")
    assert passed(limited, NOW_S) == 2
    assert limited.take(NOW_S) == pytest.approx(0.6, abs=2e-6)
    assert limited.take(NOW_S + 0.5) == pytest.approx(0.1, abs=2e-6)
    assert limited.take(NOW_S + 0.6) == 0.0
    assert limited.take(NOW_S + 0.6) == pytest.approx(0.6, abs=2e-6)


def test_what_is_refused_costs_nothing() -> None:
    limited = bucket("1/second")
    assert limited.take(NOW_S) == 0.0
    for _ in range(1000):
        assert limited.take(NOW_S + 0.5) > 0.0
    assert limited.take(NOW_S + 1.0) == 0.0


def test_the_slowest_of_several_rates_decides() -> None:
    limited = bucket("5/second, 7/hour")
    assert passed(limited, NOW_S) == 5
    assert limited.peek(NOW_S) == pytest.approx(0.2, abs=2e-6)
    assert passed(limited, NOW_S + 1.0) == 2
    assert limited.take(NOW_S + 1.0) > 500.0
    assert limited.take(NOW_S + 2.0) > 500.0


def test_what_one_rate_refuses_is_not_counted_by_the_other() -> None:
    limited = bucket("1/second burst 1, 3/hour burst 3")
    for second in range(3):
        assert limited.take(NOW_S + second) == 0.0
        assert limited.take(NOW_S + second) > 0.0


def test_what_is_no_round_number_does_not_drift() -> None:
    """7/minute is one in 8.571428… s; who asks every second for a day gets all of it, and not one more."""
    limited = bucket("7/minute")
    assert sum(limited.take(float(second)) == 0.0 for second in range(86_400)) == 7 + 86_399 * 7 // 60


def test_several_at_once_pass_whole_or_not_at_all() -> None:
    limited = bucket("10/second")
    assert limited.take(NOW_S, 7) == 0.0
    assert limited.take(NOW_S, 4) == pytest.approx(0.1, abs=2e-6)
    assert limited.take(NOW_S, 3) == 0.0


def test_more_than_any_burst_never_passes() -> None:
    limited = bucket("10/second, 1000/day")
    assert limited.take(NOW_S, 11) == math.inf
    assert limited.take(NOW_S, 10) == 0.0


def test_peeking_takes_nothing() -> None:
    limited = bucket("1/second")
    assert limited.peek(NOW_S) == limited.peek(NOW_S) == 0.0
    assert limited.take(NOW_S) == 0.0
    assert limited.peek(NOW_S) > 0.0


def test_what_was_given_back_may_be_taken_again_and_no_more() -> None:
    limited = bucket("2/second, 3/minute")
    assert limited.take(NOW_S) == limited.take(NOW_S) == 0.0
    limited.give_back()
    assert limited.take(NOW_S) == 0.0
    assert limited.take(NOW_S) > 0.0
    limited.give_back()
    limited.give_back()
    assert passed(limited, NOW_S + 3600) == 2


def test_without_rates_everything_passes() -> None:
    assert passed(bucket("none"), NOW_S) == 1000


def test_other_rates_count_what_was_spent_before() -> None:
    limited = bucket("10/minute, 5/second")
    assert passed(limited, NOW_S) == 5
    limited.change(parse_rates("7/minute, 100/hour"), NOW_S)
    assert passed(limited, NOW_S) == 2
    limited.change(parse_rates("3/minute"), NOW_S)
    # It owes 7 of 3: all of them, and not more than all.
    assert limited.take(NOW_S) == pytest.approx(20.0, abs=2e-6)


# ---------------------------------------------------------------- many keys


def test_each_key_has_its_own_burst() -> None:
    limits = Limits(parse_rates("2/minute"))
    for key in ("192.0.2.1", "192.0.2.2"):
        assert [limits.take(key, NOW_S) == 0.0 for _ in range(3)] == [True, True, False]
    assert limits.peek("192.0.2.3", NOW_S) == 0.0
    limits.give_back("192.0.2.1")
    assert limits.take("192.0.2.1", NOW_S) == 0.0
    assert limits.take("192.0.2.2", NOW_S) > 0.0


def test_a_key_with_rates_of_its_own_has_those() -> None:
    limits = Limits(parse_rates("1/minute"))
    own = parse_rates("3/minute")
    assert [limits.take("printer", NOW_S, rates=own) == 0.0 for _ in range(4)] == [True, True, True, False]
    assert all(limits.take("gateway", NOW_S, rates=()) == 0.0 for _ in range(100))


def test_new_rates_hold_from_the_next_message_on() -> None:
    limits = Limits(parse_rates("2/minute"))
    assert limits.take("a", NOW_S) == limits.take("a", NOW_S) == 0.0
    limits.rates = parse_rates("3/minute")
    assert limits.take("a", NOW_S) == 0.0
    assert limits.take("a", NOW_S) > 0.0
    limits.rates = ()
    assert limits.take("a", NOW_S) == 0.0


def test_without_rates_nothing_is_remembered() -> None:
    limits = Limits()
    assert all(limits.take(str(key), NOW_S) == 0.0 for key in range(100))
    assert len(limits) == 0


def test_keys_that_rest_are_forgotten_when_others_come() -> None:
    limits = Limits(parse_rates("1/second"), entries_max=100)
    for second in range(1000):
        limits.take(str(second), NOW_S + second)
    assert len(limits) <= 4
    assert limits.forgotten == 0


def test_a_crowd_of_strangers_costs_no_memory_and_keeps_nobody_out() -> None:
    limits = Limits(parse_rates("1/day"), entries_max=100)
    assert all(limits.take(str(stranger), NOW_S) == 0.0 for stranger in range(1000))
    assert len(limits) == 100
    assert limits.forgotten == 900


def test_who_goes_on_asking_is_not_forgotten_in_a_crowd() -> None:
    limits = Limits(parse_rates("1/day"), entries_max=100)
    assert limits.take("offender", NOW_S) == 0.0
    for stranger in range(1000):
        limits.take(str(stranger), NOW_S)
        if stranger % 50 == 0:
            assert limits.take("offender", NOW_S) > 0.0


def test_full_buckets_are_forgotten_before_those_that_owe() -> None:
    limits = Limits(parse_rates("1/day"), entries_max=3)
    limits.take("owes", NOW_S)
    limits.peek("full", NOW_S)
    limits.take("owes too", NOW_S)
    limits.take("new", NOW_S)
    assert limits.forgotten == 0
    assert all(limits.take(key, NOW_S) > 0.0 for key in ("owes", "owes too", "new"))


def test_a_restart_forgets_nothing_and_counts_the_time_that_passed() -> None:
    limits = Limits(parse_rates("2/second, 10/minute"))
    own = parse_rates("1/hour")
    for _ in range(2):
        limits.take("192.0.2.1", NOW_S)
    limits.take("192.0.2.2", NOW_S)
    limits.take("printer", NOW_S, rates=own)
    limits.peek("resting", NOW_S)
    state = limits.export(NOW_S + 0.25)
    assert sorted(state) == ["192.0.2.1", "192.0.2.2", "printer"]
    later = Limits(parse_rates("2/second, 10/minute"))
    later.restore(state, 5.0, 0.25, lambda key: own if key == "printer" else None)
    for key, rates in (("192.0.2.1", None), ("192.0.2.2", None), ("printer", own)):
        assert later.peek(key, 5.0, rates=rates) == limits.peek(key, NOW_S + 0.5, rates=rates)
    assert later.export(5.0) == limits.export(NOW_S + 0.5)


def test_a_state_from_a_clock_that_ran_backwards_locks_nobody_out() -> None:
    limits = Limits(parse_rates("1/minute"))
    limits.restore({"a": {"minute": 10**30}, "b": {"minute": -(10**30)}, "c": {"day": 5}}, NOW_S, -3600.0)
    assert limits.take("a", NOW_S) == pytest.approx(60.0, abs=2e-6)
    assert limits.take("b", NOW_S) == limits.take("c", NOW_S) == 0.0


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("unknown", "unknown"),
        ("no:address", "no:address"),
    ],
)
def test_addresses_of_one_customer_are_counted_together(address: str, key: str) -> None:
    assert address_key(address) == key
