"""The line in front of direct delivery: a domain keeps its own mail waiting, and no other."""

from __future__ import annotations

import random

import pytest

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import new_message_id
from dispatch.mail.message import ContentFile, Message, Origin, Summary
from dispatch.queue.domain_line import AGAIN_S, AGAIN_S_MAX, FIRST_PER_S, DomainLine
from dispatch.queue.work import Work, by_domain, fresh_deliveries

BYTES_MAX = 4 << 20


def work(domain: str, *, large: bool = False, size_bytes: int = 10) -> Work:
    file = ContentFile("f.content", size_bytes) if large else None
    message = Message(
        new_message_id(0, random.randbytes(10)),
        0,
        Envelope("a@a.example", (Recipient(f"r@{domain}"),)),
        Origin("smtp", "192.0.2.1"),
        Summary(),
        size_bytes,
        file,
    )
    made = Work(message, fresh_deliveries(message, (0,), "direct"), file or b"x" * size_bytes, None)
    (part,) = by_domain(made)
    return part


def line(places: int = 1, *, count_max: int = 100) -> DomainLine:
    return DomainLine(count_max, BYTES_MAX, places)


def put(into: DomainLine, *domains: str, large: bool = False) -> None:
    for domain in domains:
        assert into.push(work(domain, large=large))


def start(from_: DomainLine) -> Work | None:
    taken = from_.pop()
    if taken is not None:
        from_.began(taken)
    return taken


def started(from_: DomainLine) -> list[str]:
    """What may go now, in its order."""
    taken = []
    while (each := start(from_)) is not None:
        taken.append(each.destination)
    return taken


def test_only_so_many_of_a_domain_are_under_way() -> None:
    at = line(places=2)
    put(at, "a", "a", "a", "b")
    assert started(at) == ["a", "a", "b"]
    assert len(at) == 1


def test_what_was_set_aside_goes_when_a_place_is_free_before_what_still_stands() -> None:
    at = line()
    put(at, "a", "a")
    first = start(at)
    assert first is not None
    assert start(at) is None
    put(at, "b")
    at.ended(first)
    assert started(at) == ["a", "b"]


def test_domains_whose_places_are_free_take_turns() -> None:
    at = line(places=2)
    put(at, *("a", "b") * 4)
    under_way = [start(at) for _ in range(4)]
    assert start(at) is None
    for each in under_way:
        assert each is not None
        at.ended(each)
    assert started(at) == ["a", "b", "a", "b"]


def test_what_stands_aside_is_counted_and_seen() -> None:
    at = line()
    put(at, "a")
    assert started(at) == ["a"]
    put(at, "a", large=True)
    put(at, "a", "b")
    assert started(at) == ["b"]
    assert (len(at), at.large, sorted(each.destination for each in at)) == (2, 1, ["a", "a"])
    assert at.bytes == sum(each.size_bytes for each in at)


def test_a_large_one_aside_waits_while_only_ordinary_ones_may_go() -> None:
    at = line()
    put(at, "a")
    first = start(at)
    put(at, "a", large=True)
    put(at, "a")
    assert start(at) is None
    assert first is not None
    at.ended(first)
    ordinary = at.pop_ordinary()
    assert ordinary is not None
    assert not ordinary.large
    at.began(ordinary)
    at.ended(ordinary)
    assert at.pop_ordinary() is None
    rest = at.pop()
    assert rest is not None
    assert rest.large


def test_one_domain_gets_half_of_the_line_and_there_is_always_room_for_another() -> None:
    at = line(count_max=100)
    for domain in ("a", "b", "c"):
        while not at.crowded_out_s(each := work(domain), 0.0):
            assert at.push(each)
    counts = [sum(each.destination == domain for each in at) for domain in ("a", "b", "c")]
    assert counts == [50, 25, 13]
    assert not at.crowded_out_s(work("d"), 0.0)


def test_the_more_are_crowded_out_the_later_they_come_again() -> None:
    at = line(count_max=10)
    put(at, *("a",) * 5)
    waits = [at.crowded_out_s(work("a"), 0.0) for _ in range(200_000)]
    assert AGAIN_S < waits[0] < AGAIN_S + 0.1
    assert waits[int(20 * FIRST_PER_S) - 1] == AGAIN_S + 10, "they come twice as fast as it is thought to go"
    assert max(waits) == AGAIN_S_MAX
    assert at.crowded_out_s(work("b"), 0.0) == 0


def test_a_crowd_that_comes_into_line_is_one_no_longer() -> None:
    at = line(places=1000, count_max=10)
    put(at, *("a",) * 5)
    assert at.crowded_out_s(work("a"), 0.0)
    wait_s = at.crowded_out_s(work("a"), 0.0)
    assert at.pop() is not None
    put(at, "a")
    assert at.crowded_out_s(work("a"), 0.0) == wait_s, "one came in, and one more did not"


@pytest.mark.parametrize(("each_s", "per_s"), [(0.01, 100.0), (1.0, 1.0), (5.0, 0.2)])
def test_they_come_again_twice_as_fast_as_the_domain_takes_mail(each_s: float, per_s: float) -> None:
    at = line(count_max=100)
    put(at, *("a",) * 50)
    at.crowded_out_s(work("a"), 0.0)
    for _ in range(round(10 / each_s)):
        taken = start(at)
        assert taken is not None
        at.ended(taken)
        put(at, "a")
    first_s = at.crowded_out_s(work("a"), 10.0)
    assert first_s == AGAIN_S + 1 / (2 * per_s)


def test_a_domain_that_takes_nothing_sees_its_crowd_seldom() -> None:
    at = line(count_max=10)
    put(at, *("a",) * 5)
    assert start(at) is not None
    put(at, "a")
    assert at.crowded_out_s(work("a"), 0.0)
    assert at.crowded_out_s(work("a"), AGAIN_S) == AGAIN_S_MAX


def test_a_domain_with_large_content_is_crowded_by_bytes_too() -> None:
    at = line()
    big = 1 << 20
    assert at.push(work("a", size_bytes=big))
    assert at.push(work("a", size_bytes=big))
    assert at.crowded_out_s(work("a", size_bytes=big), 0.0)
    assert not at.crowded_out_s(work("b", size_bytes=big), 0.0)


def test_a_full_line_takes_nothing_even_where_it_stands_aside() -> None:
    at = line(count_max=4)
    put(at, "a", "a", "b")
    assert started(at) == ["a", "b"]
    put(at, "c", "d", "e")
    assert not at.push(work("f"))


def test_what_is_aside_does_not_keep_the_line_from_being_filled_up() -> None:
    at = line(count_max=100)
    put(at, *("a",) * 40)
    assert started(at) == ["a"]
    assert len(at) == 39
    assert at.low


def test_drained_it_forgets_all_but_what_is_under_way() -> None:
    at = line()
    put(at, "a", "a", "b", "c")
    put(at, "a", large=True)
    first = start(at)
    assert first is not None
    start(at)
    drained = sorted(each.destination for each in at.drain())
    assert drained == ["a", "a", "c"]
    assert (len(at), at.large, at.bytes, at.pop()) == (0, 0, 0, None)
    put(at, "a")
    assert at.pop() is None, "its place is in use"
    at.ended(first)
    assert started(at) == ["a"]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_the_books_are_right(seed: int) -> None:
    chance = random.Random(seed)
    at = line(places=2, count_max=30)
    standing: set[Work] = set()
    under_way: list[Work] = []
    for _ in range(400):
        match chance.randrange(4):
            case 0 | 1:
                each = work(chance.choice("abcdefg"), large=chance.random() < 0.2)
                if not at.crowded_out_s(each, 0.0) and at.push(each):
                    standing.add(each)
            case 2:
                taken = at.pop() if chance.random() < 0.7 else at.pop_ordinary()
                if taken is not None:
                    standing.remove(taken)
                    at.began(taken)
                    under_way.append(taken)
                    assert sum(each.destination == taken.destination for each in under_way) <= 2
            case _ if under_way:
                at.ended(under_way.pop(chance.randrange(len(under_way))))
        assert set(at) == standing
        assert len(at) == len(standing) <= 30
        assert at.bytes == sum(each.size_bytes for each in standing)
        assert at.large == sum(each.large for each in standing)
    for each in under_way:
        at.ended(each)
    while (each := at.pop()) is not None:
        standing.remove(each)
        at.began(each)
        at.ended(each)
    assert not standing
    assert at.domains == 0, "no domain is kept for ever"
