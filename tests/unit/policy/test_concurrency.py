"""How many transactions a relay gets at once, as it throttles, recovers and returns."""

from dispatch.policy.concurrency import BURST_S, GROWTH_S, START_SLOTS, Window


def grown(window: Window, successes: int = 1000, now: float = 0.0) -> Window:
    for _ in range(successes):
        window.succeeded(now, window.limit)
    return window


def test_a_new_relay_starts_small_and_grows_with_every_success() -> None:
    window = Window(20)
    assert window.limit == START_SLOTS
    grown(window, 3)
    assert window.limit == START_SLOTS + 3


def test_it_never_exceeds_what_is_allowed() -> None:
    assert grown(Window(20)).limit == 20
    assert Window(2).limit == 2


def test_a_throttle_halves_it() -> None:
    window = grown(Window(20))
    window.throttled(0.0)
    assert window.limit == 10


def test_a_burst_of_throttles_halves_it_once() -> None:
    window = grown(Window(20))
    for _ in range(10):
        window.throttled(0.0)
    assert window.limit == 10
    window.throttled(BURST_S)
    assert window.limit == 5


def test_it_never_falls_below_one() -> None:
    window = Window(20)
    for second in range(100):
        window.throttled(float(second * 2))
    assert window.limit == 1


def test_after_a_throttle_slots_come_back_one_a_time() -> None:
    window = grown(Window(20))
    window.throttled(0.0)
    grown(window, now=GROWTH_S / 2)
    assert window.limit == 10
    for second in range(1, 4):
        grown(window, now=second * GROWTH_S)
    assert window.limit == 13


def test_a_throttle_right_after_growth_counts() -> None:
    window = grown(Window(20))
    window.throttled(0.0)
    grown(window, now=5.0)
    window.throttled(5.0)
    assert window.limit == 5


def test_an_idle_relay_proves_nothing() -> None:
    window = Window(100, start=10)
    for _ in range(100):
        window.succeeded(0.0, 1)
    assert window.limit == 10


def test_a_relay_that_came_back_is_not_met_by_the_whole_queue() -> None:
    window = grown(Window(20))
    window.recovered()
    assert window.limit == 1
    grown(window)
    assert window.limit == 11, "slow start to half, from there one a second"
    grown(window, now=GROWTH_S)
    assert window.limit == 12
