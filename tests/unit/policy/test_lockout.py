"""Who is locked out of AUTH after wrong passwords, for how long, and who never is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.policy.lockout import HOME_S, Lockout, LockoutRules, Tried

GUESSER = "203.0.113.9"
OWNER = "192.0.2.1"
PROXY = "10.0.0.1"


def fail(lockout: Lockout, address: str, user: str, times: int, now_s: float = 0.0) -> float:
    """The lock that the last of the failures made."""
    return [lockout.failed(address, user, now_s) for _ in range(times)][-1]


def from_everywhere(lockout: Lockout, user: str, times: int, now_s: float = 0.0) -> None:
    """Each failure from another address, so that no address is locked."""
    for number in range(times):
        lockout.failed(f"198.51.100.{number}", user, now_s)


def test_five_failures_lock_an_address_for_a_minute() -> None:
    lockout = Lockout()
    for number in range(4):
        assert lockout.failed(GUESSER, f"user{number}", 0.0) == 0.0
    assert lockout.locked(GUESSER, "anybody", 0.0) == 0.0
    assert lockout.failed(GUESSER, "user4", 0.0) == 60.0
    assert lockout.locked(GUESSER, "anybody", 0.0) == 60.0
    assert lockout.locked(GUESSER, "anybody", 59.0) == pytest.approx(1.0)
    assert lockout.locked(GUESSER, "anybody", 60.0) == 0.0
    assert lockout.locked(OWNER, "anybody", 0.0) == 0.0


def test_five_failures_from_anywhere_lock_a_user_for_strangers() -> None:
    lockout = Lockout()
    from_everywhere(lockout, "alice", 5)
    assert lockout.locked(OWNER, "alice", 0.0) == 60.0
    assert lockout.locked(OWNER, "bob", 0.0) == 0.0


def test_failures_more_than_ten_minutes_apart_lock_nothing() -> None:
    lockout = Lockout()
    assert all(lockout.failed(GUESSER, "alice", 151.0 * number) == 0.0 for number in range(40))


def test_failures_just_within_ten_minutes_lock() -> None:
    lockout = Lockout()
    assert [lockout.failed(GUESSER, "alice", 150.0 * number) for number in range(5)] == [0, 0, 0, 0, 60.0]


def test_each_lock_is_twice_as_long_up_to_a_quarter_of_an_hour() -> None:
    lockout, now_s, locks = Lockout(), 0.0, []
    for _ in range(7):
        lock_s = fail(lockout, GUESSER, "alice", 5, now_s)
        locks.append(lock_s)
        now_s += lock_s
    assert locks == [60, 120, 240, 480, 900, 900, 900]


def test_after_a_quiet_time_the_first_lock_is_short_again() -> None:
    lockout = Lockout()
    now_s = fail(lockout, GUESSER, "alice", 5)
    now_s += fail(lockout, GUESSER, "alice", 5, now_s)
    assert fail(lockout, GUESSER, "alice", 5, now_s + 601.0) == 60.0


def test_what_ends_while_it_is_locked_does_not_prolong_the_lock() -> None:
    lockout = Lockout()
    fail(lockout, GUESSER, "alice", 5)
    assert fail(lockout, GUESSER, "alice", 30, 1.0) == 0.0
    assert lockout.locked(GUESSER, "alice", 60.0) == 0.0
    assert fail(lockout, GUESSER, "alice", 4, 60.0) == 0.0


def test_a_success_clears_address_and_user() -> None:
    lockout = Lockout()
    fail(lockout, OWNER, "alice", 4)
    lockout.succeeded(OWNER, "alice", 1.0)
    assert fail(lockout, OWNER, "alice", 4, 2.0) == 0.0
    assert lockout.locked(OWNER, "alice", 2.0) == 0.0
    assert lockout.locked(GUESSER, "alice", 2.0) == 0.0


def test_a_success_that_was_under_way_ends_a_lock() -> None:
    lockout = Lockout()
    fail(lockout, OWNER, "alice", 5)
    lockout.succeeded(OWNER, "alice", 1.0)
    assert lockout.locked(OWNER, "alice", 1.0) == 0.0
    assert lockout.locked(GUESSER, "alice", 1.0) == 0.0


def test_strangers_do_not_lock_the_owner_out_of_where_he_logs_in_from() -> None:
    lockout = Lockout()
    lockout.succeeded(OWNER, "alice", 0.0)
    for minute in range(0, 24 * 60, 20):
        from_everywhere(lockout, "alice", 5, 60.0 * minute)
        assert lockout.locked(GUESSER, "alice", 60.0 * minute) > 0.0
        assert lockout.locked(OWNER, "alice", 60.0 * minute) == 0.0


def test_an_application_that_logs_in_all_the_time_gives_its_guessers_no_new_tries() -> None:
    lockout, locked = Lockout(), False
    lockout.succeeded(OWNER, "alice", 0.0)
    for second in range(5):
        lockout.succeeded(OWNER, "alice", float(second))
        lockout.failed(f"198.51.100.{second}", "alice", float(second))
        locked = lockout.locked(GUESSER, "alice", float(second)) > 0.0
    assert locked


def test_an_old_password_at_home_locks_neither_strangers_nor_other_homes() -> None:
    lockout, other_home = Lockout(), "192.0.2.77"
    lockout.succeeded(OWNER, "alice", 0.0)
    lockout.succeeded(other_home, "alice", 0.0)
    assert fail(lockout, OWNER, "alice", 5) == 60.0
    assert lockout.locked(OWNER, "alice", 0.0) == 60.0
    assert lockout.locked(other_home, "alice", 0.0) == 0.0
    assert lockout.locked("192.0.2.78", "alice", 0.0) == 0.0


def test_a_neighbour_at_the_owners_address_cannot_guess_without_end() -> None:
    lockout = Lockout()
    lockout.succeeded(OWNER, "alice", 0.0)
    for second in range(5):
        lockout.failed(OWNER, "alice", float(second))
        lockout.succeeded(OWNER, "neighbour", float(second))
    assert lockout.locked(OWNER, "alice", 5.0) > 0.0
    assert lockout.locked(OWNER, "neighbour", 5.0) == 0.0


def test_a_home_is_forgotten_when_it_was_not_used_for_a_month() -> None:
    lockout = Lockout()
    lockout.succeeded(OWNER, "alice", 0.0)
    from_everywhere(lockout, "alice", 5, HOME_S - 1)
    assert lockout.locked(OWNER, "alice", HOME_S - 1) == 0.0
    assert lockout.locked(OWNER, "alice", HOME_S) > 0.0


def test_a_listed_proxy_is_never_locked_for_what_others_did_behind_it() -> None:
    lockout = Lockout(exempt=lambda address: address == PROXY)
    for number in range(50):
        lockout.failed(PROXY, f"user{number}", 0.0)
    assert lockout.locked(PROXY, "alice", 0.0) == 0.0


def test_a_user_cannot_be_guessed_at_without_end_through_a_proxy() -> None:
    lockout = Lockout(exempt=lambda address: address == PROXY)
    lockout.succeeded(PROXY, "alice", 0.0)
    assert fail(lockout, PROXY, "alice", 5) == 60.0
    assert lockout.locked(PROXY, "alice", 0.0) == 60.0
    lockout.succeeded(PROXY, "alice", 1.0)
    assert lockout.locked(PROXY, "alice", 1.0) == 0.0


def test_nobody_is_at_home_at_a_proxy_neither_before_nor_after_it_is_listed() -> None:
    listed: set[str] = set()
    lockout = Lockout(exempt=lambda address: address in listed)
    lockout.succeeded(PROXY, "alice", 0.0)
    listed.add(PROXY)
    from_everywhere(lockout, "alice", 5, 1.0)
    assert lockout.locked(PROXY, "alice", 1.0) > 0.0
    lockout.succeeded(PROXY, "bob", 2.0)
    listed.clear()
    from_everywhere(lockout, "bob", 5, 3.0)
    assert lockout.locked(PROXY, "bob", 3.0) > 0.0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("/run/dispatch.sock", "/run/dispatch.sock", True),
        ("", "x", False),
    ],
)
def test_ipv6_is_counted_by_subscriber_and_mapped_ipv4_as_ipv4(one: str, other: str, same: bool) -> None:
    lockout = Lockout()
    fail(lockout, one, "alice", 5)
    assert (lockout.locked(other, "bob", 0.0) > 0.0) == same


def test_a_flood_of_addresses_pushes_out_the_oldest_failures_and_no_lock() -> None:
    lockout = Lockout(entries_max=100)
    fail(lockout, GUESSER, "alice", 5)
    for number in range(5000):
        lockout.failed(f"10.0.{number >> 8}.{number & 255}", f"user{number}", 1.0)
    assert lockout.locked(GUESSER, "bob", 1.0) > 0.0
    assert lockout.locked(OWNER, "alice", 1.0) > 0.0


def test_a_table_full_of_locks_still_locks_newcomers() -> None:
    lockout = Lockout(entries_max=100)
    for number in range(300):
        fail(lockout, f"10.0.{number >> 8}.{number & 255}", f"user{number}", 5, float(number) / 100)
    newcomers = ("198.51.100.1", "198.51.100.2")
    for _ in range(5):
        for address in newcomers:
            lockout.failed(address, "x" + address, 4.0)
    assert all(lockout.locked(address, "anybody", 4.0) > 0.0 for address in newcomers)


def test_locks_that_are_over_make_room() -> None:
    lockout = Lockout(entries_max=8)
    for number in range(8):
        fail(lockout, f"10.0.0.{number}", f"user{number}", 5)
    for second in range(100, 105):
        for number in range(4):
            lockout.failed(f"198.51.100.{number}", f"new{number}", float(second))
    assert all(lockout.locked(f"198.51.100.{number}", "anybody", 105.0) > 0.0 for number in range(4))


@settings(max_examples=50)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("fffs"), st.integers(0, 40), st.integers(0, 40), st.integers(0, 500)),
        max_size=200,
    )
)
def test_memory_stays_within_its_bounds(steps: list[tuple[str, int, int, int]]) -> None:
    lockout, now_s = Lockout(LockoutRules(2), entries_max=8), 0.0
    for act, address, user, later_s in steps:
        now_s += later_s
        if act == "f":
            lockout.failed(f"192.0.2.{address}", f"user{user}", now_s)
        else:
            lockout.succeeded(f"192.0.2.{address}", f"user{user}", now_s)
        assert all(size <= 8 for size in lockout.sizes)


@settings(max_examples=100)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("fffffs"), st.sampled_from([0, 1, 30, 60, 119, 150, 600, 601, 1500])),
        max_size=60,
    )
)
def test_an_address_is_locked_exactly_as_the_rule_says(steps: list[tuple[str, int]]) -> None:
    """Against the rule written down as simply as it can be, with all failures kept."""
    lockout, now = Lockout(), 0
    failures: list[int] = []
    locks, until, quiet_from = 0, 0, 0
    for number, (act, later_s) in enumerate(steps):
        now += later_s
        if now - quiet_from > 600:
            failures, locks = [], 0
        expected = max(0, until - now)
        assert lockout.locked(GUESSER, "anybody", float(now)) == expected
        if act == "s":
            lockout.succeeded(GUESSER, f"user{number}", float(now))
            failures, locks, until = [], 0, 0
        elif not expected:
            lockout.failed(GUESSER, f"user{number}", float(now))
            failures.append(now)
            quiet_from = now
            if sum(now - at <= 600 for at in failures) >= 5:
                until = quiet_from = now + min(60 * 2**locks, 900)
                failures, locks = [], locks + 1


def test_names_as_long_as_a_line_cost_no_more_than_others() -> None:
    lockout = Lockout()
    from_everywhere(lockout, "x" * 10_000, 5)
    assert lockout.locked(OWNER, "x" * 10_001, 0.0) > 0.0


def begun(lockout: Lockout, address: str, *users: str) -> list[Tried]:
    """Of these, those that may be looked at."""
    return [tried for user in users if (tried := lockout.begin(address, user, 0.0)) is not None]


def test_as_many_are_looked_at_at_once_as_may_be_wrong() -> None:
    lockout = Lockout()
    lockout.failed(GUESSER, "alice", 0.0)
    lockout.failed(GUESSER, "bob", 0.0)
    first, *others = begun(lockout, GUESSER, *(f"user{number}" for number in range(9)))
    assert len(others) == 2
    lockout.end(first)
    assert len(begun(lockout, GUESSER, "x", "y")) == 1, "it came to nothing, so another one may"
    lockout.end(others[0])
    lockout.failed(GUESSER, "user1", 0.0)
    assert not begun(lockout, GUESSER, "z"), "it was wrong: three have failed and two are looked at"
    assert begun(lockout, OWNER, "z")


def test_guesses_at_one_user_from_many_places_count_together_but_for_his_home() -> None:
    lockout = Lockout()
    lockout.succeeded(OWNER, "alice", 0.0)
    tried = [lockout.begin(f"198.51.100.{number}", "alice", 0.0) for number in range(9)]
    assert len(tried) - tried.count(None) == 5
    assert lockout.begin(OWNER, "alice", 0.0) is not None
    assert lockout.begin("198.51.100.77", "bob", 0.0) is not None


def test_behind_an_exempt_address_only_the_user_counts() -> None:
    lockout = Lockout(exempt=lambda address: address == PROXY)
    assert len(begun(lockout, PROXY, *(f"user{number}" for number in range(40)))) == 40
    assert len(begun(lockout, PROXY, *["alice"] * 40)) == 5


def test_what_has_ended_leaves_nothing_behind() -> None:
    lockout = Lockout()
    for tried in begun(lockout, GUESSER, "alice", "bob"):
        lockout.end(tried)
    assert lockout.sizes == (0, 0, 0)
    assert len(begun(lockout, GUESSER, *["alice"] * 9)) == 5


def test_other_rules_hold_from_the_next_failure_on() -> None:
    lockout = Lockout()
    fail(lockout, OWNER, "alice", 4)
    lockout.change(LockoutRules(2, 300.0, 10.0, 15.0))
    assert lockout.failed(OWNER, "alice", 1.0) == 10.0
    assert [fail(lockout, GUESSER, "bob", 2, 20.0 * number) for number in (1, 2, 3)] == [10.0, 15.0, 15.0]
    lockout.change(LockoutRules(None))
    assert lockout.locked(GUESSER, "bob", 60.0) == 0.0
    assert fail(lockout, GUESSER, "bob", 100, 61.0) == 0.0
    assert len(begun(lockout, GUESSER, *["bob"] * 40)) == 40
