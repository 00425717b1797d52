"""Mail for a relay with a rate, or with a flush interval: when it goes, and where it waits."""

from __future__ import annotations

import pytest
from tests.unit.queue.bench import LATER, PLAN, TAKEN, Bench

from dispatch.mail.delivery import DeliveryState
from dispatch.policy.breaker import Breaker, BreakerState
from dispatch.policy.concurrency import Window
from dispatch.policy.limits import Rates, parse_rates
from dispatch.queue.lane import Lane, LaneRules
from dispatch.queue.pace import Pace
from dispatch.queue.requests import Flush, ListQueue, QueuePage
from dispatch.spool.records import Attempted
from dispatch.store.parked import QueueFilter


def paced(bench: Bench, rates: Rates = (), flush_interval_s: float = 0.0) -> Lane:
    rules = LaneRules("relay", PLAN, rates=rates, flush_interval_s=flush_interval_s)
    lane = Lane(rules, bench.relay, Breaker(), Window(8))
    bench.scheduler.lanes["relay"] = bench.lane = lane
    bench.loop.settle()
    return lane


def take_all(bench: Bench) -> int:
    """Answer until nothing starts any more; how many there were."""
    count = 0
    while bench.relay.started:
        bench.relay.answer(TAKEN)
        bench.loop.settle()
        count += 1
    return count


# ---------------------------------------------------------------- rates


def test_no_more_start_than_the_rate_allows_and_none_starts_late(bench: Bench) -> None:
    paced(bench, parse_rates("2/second burst 1"))
    for _ in range(6):
        bench.offer()
    started = [take_all(bench)]
    for _ in range(12):
        bench.loop.advance(0.3)
        started.append(take_all(bench))
    assert sum(started) == 6 and max(started) == 1
    assert sum(started[:5]) == 3, "the first at once, then one in half a second"


def test_what_waits_for_a_rate_counts_no_attempt_and_is_said_to_wait(bench: Bench) -> None:
    paced(bench, parse_rates("1/minute burst 1"))
    bench.offer()
    take_all(bench)
    message_id = bench.offer()
    page = bench.order(ListQueue(QueueFilter()))
    assert isinstance(page, QueuePage) and "its rate allows" in page.deliveries[0].reason
    bench.loop.advance(61.0)
    assert take_all(bench) == 1
    second = [r for r in bench.of(Attempted) if isinstance(r, Attempted) and r.id == message_id]
    assert [record.attempt for record in second] == [1]


def test_what_would_wait_long_for_a_rate_is_parked_and_lets_the_log_go(bench: Bench) -> None:
    paced(bench, parse_rates("1/hour burst 1"))
    bench.offer()
    message_id = bench.offer()
    assert take_all(bench) == 1
    bench.loop.advance(2.0)
    assert not bench.lane.ready and not bench.scheduler.custody.live
    assert bench.rows(message_id)[0].state is DeliveryState.WAITING
    bench.loop.advance(3600.0)
    assert take_all(bench) == 1


def test_a_lane_that_waits_for_a_rate_is_not_turned_again_and_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = paced(bench, parse_rates("1/minute burst 1"))
    for _ in range(3):
        bench.offer()
    take_all(bench)
    turned = 0
    pump = bench.scheduler.pump

    def counting(one: Lane) -> None:
        nonlocal turned
        turned += one is lane
        pump(one)

    monkeypatch.setattr(bench.scheduler, "pump", counting)
    bench.loop.advance(50.0)
    assert turned < 70, "each second's look, and little more"


def test_other_settings_give_no_new_burst() -> None:
    before, after = Pace(parse_rates("2/minute"), 0.0), Pace(parse_rates("3/minute"), 0.0)
    before.started(100.0)
    before.started(100.0)
    after.follow(before, 100.0)
    assert not after.wait_s(100.0)
    after.started(100.0)
    assert after.wait_s(100.0) > 19


# ---------------------------------------------------------------- flushes


def test_mail_is_collected_and_goes_with_the_next_flush(bench: Bench) -> None:
    paced(bench, flush_interval_s=60.0)
    bench.loop.advance(2.0)
    ids = [bench.offer() for _ in range(10)]
    bench.loop.advance(50.0)
    assert not bench.relay.started and all(bench.rows(message_id) for message_id in ids)
    assert not bench.scheduler.custody.live, "it is parked, the log may go"
    bench.loop.advance(10.0)
    assert take_all(bench) == 10
    bench.offer()
    bench.loop.advance(50.0)
    assert not bench.relay.started
    bench.loop.advance(10.0)
    assert take_all(bench) == 1


def test_the_start_is_a_flush(bench: Bench) -> None:
    paced(bench, flush_interval_s=60.0)
    bench.offer()
    assert take_all(bench) == 1


def test_what_comes_while_a_flush_lasts_goes_with_it(bench: Bench) -> None:
    paced(bench, flush_interval_s=60.0)
    bench.offer()
    bench.loop.advance(20.0)
    assert len(bench.relay.started) == 1
    bench.offer()
    assert take_all(bench) == 2
    bench.offer()
    assert not bench.relay.started


def test_a_flush_that_takes_longer_than_its_interval_keeps_the_rhythm(bench: Bench) -> None:
    paced(bench, flush_interval_s=10.0)
    bench.offer()
    bench.loop.advance(25.0)
    take_all(bench)
    bench.offer()
    bench.loop.advance(4.0)
    assert not bench.relay.started
    bench.loop.advance(2.0)
    assert take_all(bench) == 1


def test_deferred_mail_waits_for_the_flush_behind_its_due_time(bench: Bench) -> None:
    paced(bench, flush_interval_s=60.0)
    bench.offer()
    bench.relay.answer(LATER)
    bench.loop.advance(58.0)
    assert not bench.relay.started, "it was due after ten seconds"
    bench.loop.advance(3.0)
    assert take_all(bench) == 1


def test_an_operator_flushes_at_once(bench: Bench) -> None:
    paced(bench, flush_interval_s=3600.0)
    bench.loop.advance(2.0)
    bench.offer()
    bench.offer()
    page = bench.order(ListQueue(QueueFilter()))
    assert isinstance(page, QueuePage) and "flushed every 3600 s" in page.deliveries[0].reason
    bench.order(Flush())
    bench.loop.settle()
    assert take_all(bench) == 2
    bench.offer()
    bench.loop.advance(60.0)
    assert not bench.relay.started, "and only that once"


def test_a_relay_that_fails_in_a_flush_is_tried_in_a_later_one(bench: Bench) -> None:
    lane = paced(bench, flush_interval_s=600.0)
    for _ in range(4):
        bench.offer()
    for _ in range(20):
        while bench.relay.started:
            bench.relay.fail()
            bench.loop.settle()
        bench.loop.advance(5.0)
    assert not bench.relay.started and lane.in_flight == 0
    bench.loop.advance(600.0)
    while bench.relay.started or lane.breaker.state is not BreakerState.CLOSED:
        assert take_all(bench), "the flush tries it"
    bench.loop.advance(1.0)
    assert not bench.relay.started and not bench.store.counts()


def test_mail_of_a_flush_goes_to_no_other_relay(bench: Bench) -> None:
    _, other = bench.fail_over("relay", "other")
    lane = paced(bench, flush_interval_s=60.0)
    lane.deputies = frozenset({"other"})
    bench.loop.advance(2.0)
    bench.offer()
    bench.loop.advance(30.0)
    assert not bench.relay.started and not other.started


def test_a_restart_in_between_loses_nothing_and_flushes(bench: Bench) -> None:
    paced(bench, flush_interval_s=600.0)
    bench.loop.advance(2.0)
    for _ in range(3):
        bench.offer()
    after = bench.kill()
    paced(after, flush_interval_s=600.0)
    after.resume()
    assert take_all(after) == 3
