"""Large content holds a connection for long: it gets at most half of a lane, and keeps nobody waiting."""

from __future__ import annotations

from tests.unit.queue.bench import LATER, TAKEN, Bench

from dispatch.policy.concurrency import Window
from dispatch.ports import Transaction
from dispatch.queue.lane import Lane
from dispatch.queue.work import fresh_deliveries
from dispatch.store.parked import Park


def is_large(transaction: Transaction) -> bool:
    return transaction.message.content_file is not None


def under_way(bench: Bench) -> tuple[int, int]:
    """Large and ordinary."""
    large = sum(is_large(transaction) for transaction, _ in bench.relay.started)
    return large, len(bench.relay.started) - large


def answer(bench: Bench, *, large: bool) -> None:
    """The oldest of its kind ends well."""
    place = next(n for n, (each, _) in enumerate(bench.relay.started) if is_large(each) is large)
    bench.relay.started.insert(0, bench.relay.started.pop(place))
    bench.relay.answer(TAKEN)
    bench.loop.settle()


def test_large_ones_take_half_of_the_window_and_ordinary_ones_behind_them_start(bench: Bench) -> None:
    for _ in range(6):
        bench.offer(file=True)
    assert under_way(bench) == (2, 0), "the window is four"
    for _ in range(3):
        bench.offer()
    assert under_way(bench) == (2, 2)
    assert len(bench.lane.ready) == 5


def test_ordinary_ones_may_have_the_whole_window(bench: Bench) -> None:
    for _ in range(6):
        bench.offer()
    assert under_way(bench) == (0, 4)


def test_one_large_one_may_start_where_the_window_is_one_and_both_kinds_take_turns(bench: Bench) -> None:
    lane = Lane(bench.lane.rules, bench.relay, bench.lane.breaker, Window(1))
    bench.scheduler.lanes["relay"] = lane
    bench.relay.slots = 0
    for _ in range(3):
        bench.offer(file=True)
        bench.offer()
    bench.relay.slots = 1
    kinds = []
    for _ in range(6):
        bench.loop.advance(1.0)
        ((transaction, _),) = bench.relay.started
        kinds.append(is_large(transaction))
        bench.relay.answer(TAKEN)
    assert kinds == [True, False] * 3


def test_a_large_one_does_not_starve_behind_ordinary_mail_that_never_ends(bench: Bench) -> None:
    for _ in range(8):
        bench.offer()
    bench.offer(file=True)
    for _ in range(4):
        bench.offer()
        answer(bench, large=False)
    assert under_way(bench)[0] == 1


def test_the_end_of_a_large_one_starts_the_next(bench: Bench) -> None:
    ids = [bench.offer(file=True) for _ in range(12)]
    for _ in range(12):
        assert under_way(bench)[0] >= 2 or len(bench.lane.ready) == 0
        answer(bench, large=True)
    assert not bench.scheduler.custody.live and len(bench.removed) == len(ids)
    assert bench.lane.in_flight == bench.lane.large_in_flight == 0


def test_large_mail_alone_widens_the_window(bench: Bench) -> None:
    bench.relay.slots = 8
    for _ in range(30):
        bench.offer(file=True)
    for _ in range(10):
        answer(bench, large=True)
    assert bench.lane.window.limit == 8 and under_way(bench) == (4, 0)


def test_a_relay_with_few_connections_has_a_bound_of_its_own(bench: Bench) -> None:
    rules = bench.make_lane("relay", bench.relay, large_max=1).rules
    bench.scheduler.lanes["relay"] = Lane(rules, bench.relay, bench.lane.breaker, Window(8, start=8))
    for _ in range(3):
        bench.offer(file=True)
    assert under_way(bench) == (1, 0)


def test_parked_large_mail_keeps_no_parked_ordinary_mail_waiting(bench: Bench) -> None:
    """They are due behind a crowd of large ones."""
    rules = bench.make_lane("relay", bench.relay, ready_max=40, large_max=2).rules
    bench.scheduler.lanes["relay"] = lane = Lane(rules, bench.relay, bench.lane.breaker, Window(8))
    parks = []
    for number in range(18):
        message = bench.message(file=number < 9)
        content = None if number < 9 else b"A: b\r\n\r\n"
        parks.append(Park(message, content, fresh_deliveries(message, (0,), "relay")))
        bench.loop.wall_offset_s += 0.01
    bench.store.apply(parks, 0)
    bench.scheduler.look_again()
    bench.loop.settle()
    assert under_way(bench) == (2, 2)
    for _ in range(9):
        answer(bench, large=False)
    assert under_way(bench)[1] == 0 and lane.ready.large + under_way(bench)[0] == 9


def test_large_ones_that_are_deferred_are_counted_out(bench: Bench) -> None:
    for _ in range(2):
        bench.offer(file=True)
    for _ in range(2):
        bench.relay.answer(LATER)
        bench.loop.settle()
    assert bench.lane.large_in_flight == 0


def test_large_ones_fill_at_most_half_of_a_line(bench: Bench) -> None:
    bench.relay.slots = 0
    bench.scheduler.lanes["relay"] = lane = bench.make_lane("relay", bench.relay, ready_max=8)
    ids = [bench.offer(file=True) for _ in range(6)]
    assert lane.ready.large == 4 and sum(bool(bench.rows(message_id)) for message_id in ids) == 2
    for _ in range(6):
        bench.offer()
    assert len(lane.ready) == 8, "and both together no more than the line"
