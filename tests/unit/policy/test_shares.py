"""Who is served next when many wait."""

from dispatch.policy.shares import TURNS, FairQueue


def queue(count_max: int = 1_000_000, bytes_max: int = 1_000_000) -> FairQueue[str]:
    return FairQueue(count_max, bytes_max)


def drain(fair: FairQueue[str]) -> list[str]:
    items: list[str] = []
    while (item := fair.pop()) is not None:
        items.append(item)
    return items


def test_nothing_waiting_gives_nothing() -> None:
    assert queue().pop() is None


def test_one_senders_million_does_not_delay_anothers_one() -> None:
    fair = queue()
    for number in range(10_000):
        fair.push("normal", "loud", f"loud {number}", 1)
    fair.push("normal", "quiet", "quiet", 1)
    assert "quiet" in [fair.pop(), fair.pop()]


def test_senders_take_turns() -> None:
    fair = queue()
    for key in "abc":
        for number in range(3):
            fair.push("normal", key, f"{key}{number}", 1)
    assert drain(fair) == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]


def test_a_sender_that_comes_back_waits_its_turn() -> None:
    fair = queue()
    fair.push("normal", "a", "a0", 1)
    fair.push("normal", "b", "b0", 1)
    assert fair.pop() == "a0"
    fair.push("normal", "a", "a1", 1)
    assert drain(fair) == ["b0", "a1"]


def test_high_priority_goes_first() -> None:
    fair = queue()
    for priority in ("bulk", "normal", "high"):
        fair.push(priority, "k", priority, 1)
    assert drain(fair) == ["high", "normal", "bulk"]


def test_nothing_starves_under_an_endless_stream_of_high_priority() -> None:
    fair = queue()
    for _ in range(TURNS):
        fair.push("high", "k", "high", 1)
        fair.push("normal", "k", "normal", 1)
        fair.push("bulk", "k", "bulk", 1)
    served = [fair.pop() for _ in range(TURNS)]
    assert {name: served.count(name) for name in ("high", "normal", "bulk")} == {
        "high": 12,
        "normal": 3,
        "bulk": 1,
    }


def test_no_turn_is_wasted_on_a_priority_that_has_nothing() -> None:
    fair = queue()
    for number in range(100):
        fair.push("bulk", "k", str(number), 1)
    assert drain(fair) == [str(number) for number in range(100)]


def test_a_full_queue_refuses_and_changes_nothing() -> None:
    fair = queue(count_max=2)
    assert fair.push("normal", "a", "1", 1)
    assert fair.push("normal", "b", "2", 1)
    assert not fair.push("high", "c", "3", 1)
    assert len(fair) == 2
    assert drain(fair) == ["1", "2"]


def test_bytes_are_bounded_and_given_back() -> None:
    fair = queue(bytes_max=10)
    assert fair.push("normal", "a", "1", 6)
    assert not fair.push("normal", "a", "2", 5)
    assert fair.bytes == 6
    assert fair.pop() == "1"
    assert fair.bytes == 0
    assert fair.push("normal", "a", "2", 10)
