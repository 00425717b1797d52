"""A relay fails or rests, and its route names another one: who is tried next, and who never is."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
from tests.unit.queue.bench import LATER, NEVER, TAKEN, Bench, HandRelay, leave

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mail.reply import reply
from dispatch.mail.report import Fault, FaultKind, Report, Stage
from dispatch.policy.breaker import FAILURES_MAX, BreakerState
from dispatch.spool.records import Attempted, Moved, Result

NO_SERVICE = reply(554, "5.7.1", "no service for you")
NO_CREDENTIALS = reply(535, "5.7.8", "who are you")


def refuse_session(relay: HandRelay, answer: object = NO_SERVICE, stage: Stage = Stage.GREETING) -> None:
    transaction, done = relay.started.pop(0)
    done(transaction, Report(stage, (answer,) * len(transaction.indexes)))  # type: ignore[arg-type]


def results(bench: Bench) -> list[Result]:
    return [result for record in bench.of(Attempted) for result in cast(Attempted, record).results]


def tried(bench: Bench) -> list[str]:
    return [cast(Attempted, record).relay for record in bench.of(Attempted)]


def open_breaker(bench: Bench, name: str = "relay") -> None:
    """For half a minute."""
    breaker = bench.scheduler.lanes[name].breaker
    breaker.failed(bench.loop.monotonic(), 0.0, at_once=True)
    assert breaker.opens_until == bench.loop.monotonic() + 30.0


def restart(bench: Bench, *names: str, power: bool = False) -> tuple[Bench, tuple[HandRelay, ...]]:
    after = bench.kill()
    relays = after.fail_over(*names)
    after.resume(power=power)
    return after, relays


# ---------------------------------------------------------------- after a failure


@pytest.mark.parametrize(
    "fail",
    [
        HandRelay.fail,
        lambda relay: relay.fail(Stage.CONTENT),
        refuse_session,
        lambda relay: refuse_session(relay, NO_CREDENTIALS, Stage.AUTH),
    ],
    ids=["no connection", "lost within the content", "554 greeting", "credentials refused"],
)
def test_the_next_relay_is_tried_at_once(bench: Bench, fail: Callable[[HandRelay], None]) -> None:
    first, second = bench.fail_over("relay", "second")
    message_id = bench.offer()
    fail(first)
    bench.loop.settle()
    assert [transaction.message.id for transaction, _ in second.started] == [message_id]
    (result,) = results(bench)
    assert (result.move, result.relay, result.attempts) == (Move.DEFER, "second", 0)
    second.answer(TAKEN)
    bench.loop.settle()
    assert results(bench)[-1].state is DeliveryState.DELIVERED
    assert not bench.rows(message_id) and not bench.scheduler.custody.live


@pytest.mark.parametrize(
    "answer",
    [
        lambda relay: refuse_session(relay, NEVER, Stage.RCPT),
        lambda relay: refuse_session(relay, LATER, Stage.RCPT),
        lambda relay: relay.answer(NEVER),
        lambda relay: relay.answer(LATER),
        lambda relay: relay.answer(reply(421, "4.3.2", "closing")),
        lambda relay: relay.fail(Stage.CONNECT, FaultKind.UNSUITED),
        lambda relay: relay.fail(Stage.CONTENT, FaultKind.CONTENT_UNREADABLE),
        lambda relay: relay.answer(None),
    ],
    ids=["5yz to RCPT", "4yz to RCPT", "5yz at the end", "4yz at the end", "421", "unsuited", "ours", "lost"],
)
def test_what_is_no_failure_of_the_relay_stays_with_it(
    bench: Bench, answer: Callable[[HandRelay], None]
) -> None:
    first, second = bench.fail_over("relay", "second")
    bench.offer()
    answer(first)
    bench.loop.advance(60.0)
    assert not second.started, "another relay was asked what has been answered"
    assert all(result.relay is None for result in results(bench))


def test_only_the_recipients_whose_relay_failed_go_on(bench: Bench) -> None:
    first, second = bench.fail_over("relay", "second")
    bench.offer(3)
    transaction, done = first.started.pop(0)
    fault = Fault(FaultKind.DROPPED, "cut")
    done(transaction, Report(Stage.CONTENT, (None, NEVER, None), fault, reply_stage=(Stage.RCPT,) * 3))
    bench.loop.settle()
    assert [transaction.indexes for transaction, _ in second.started] == [(0, 2)]


def test_a_round_through_all_relays_is_one_attempt_and_begins_again_at_the_first(bench: Bench) -> None:
    first, second, third = bench.fail_over("relay", "second", "third")
    message_id = bench.offer()
    for relay in (first, second, third):
        relay.fail()
        bench.loop.settle()
    (row,) = bench.rows(message_id)
    assert tried(bench) == ["relay", "second", "third"]
    assert (row.relay, row.attempts) == ("relay", 1)
    assert row.due_ms > int(bench.loop.wall() * 1000), "due by the plan"
    assert not first.started
    bench.loop.advance(12.0)
    assert len(first.started) == 1 and not second.started


def test_a_round_past_the_deadline_expires_with_its_last_relay(bench: Bench) -> None:
    first, second = bench.fail_over("relay", "second")
    message_id = bench.offer()
    bench.loop.advance(3700.0)
    first.fail()
    bench.loop.settle()
    second.fail()
    bench.loop.settle()
    assert [result.state for result in results(bench)] == [DeliveryState.WAITING, DeliveryState.EXPIRED]
    (row,) = bench.rows(message_id)
    assert row.state is DeliveryState.EXPIRED


def test_what_was_deferred_by_the_second_relay_comes_back_to_it(bench: Bench) -> None:
    first, second = bench.fail_over("relay", "second")
    message_id = bench.offer()
    first.fail()
    bench.loop.settle()
    refuse_session(second, LATER, Stage.RCPT)
    bench.loop.settle()
    assert bench.rows(message_id)[0].relay == "second"
    bench.loop.advance(12.0)
    assert len(second.started) == 1 and not first.started


def test_an_uncertain_delivery_stays_with_its_relay_also_when_that_fails(bench: Bench) -> None:
    first, second = bench.fail_over("relay", "second")
    message_id = bench.offer()
    first.answer(None)
    bench.loop.advance(12.0)
    first.fail()
    bench.loop.advance(12.0)
    assert not second.started and len(first.started) == 1
    assert bench.rows(message_id)[0].relay == "relay"


def test_a_route_that_names_the_relay_no_more_leaves_its_mail_there(bench: Bench) -> None:
    first, second = bench.fail_over("relay", "second")
    message_id = bench.offer()
    bench.dealt = ("second",)
    first.fail()
    bench.loop.settle()
    assert not second.started and bench.rows(message_id)[0].relay == "relay"


# ---------------------------------------------------------------- past a relay that rests


def test_new_mail_passes_a_relay_that_rests(bench: Bench) -> None:
    first, second = bench.fail_over("relay", "second")
    open_breaker(bench)
    message_id = bench.offer()
    assert [transaction.message.id for transaction, _ in second.started] == [message_id]
    assert not bench.rows(message_id), "it need not be parked for that"
    second.answer(TAKEN)
    bench.loop.settle()
    assert tried(bench) == ["second"] and not first.started


def test_one_message_probes_the_relay_when_its_rest_is_over(bench: Bench) -> None:
    first, second = bench.fail_over("relay", "second")
    open_breaker(bench)
    bench.loop.advance(31.0)
    bench.offer()
    bench.offer()
    assert len(first.started) == 1 and len(second.started) == 1
    first.answer(TAKEN)
    bench.loop.settle()
    bench.offer()
    assert len(first.started) == 1, "it is well again, and the first of the route"


def test_where_all_rest_mail_waits_for_the_one_that_is_tried_first(bench: Bench) -> None:
    first, second = bench.fail_over("relay", "second")
    open_breaker(bench, "relay")
    bench.loop.advance(10.0)
    open_breaker(bench, "second")
    message_id = bench.offer()
    assert bench.rows(message_id)[0].relay == "relay" and not first.started and not second.started
    bench.loop.advance(21.0)
    assert len(first.started) == 1


def test_what_stands_ready_goes_elsewhere_when_the_relay_begins_to_rest(bench: Bench) -> None:
    first, second = bench.fail_over("relay", "second")
    first.slots = FAILURES_MAX
    ids = {bench.offer() for _ in range(3 * FAILURES_MAX)}
    while first.started:
        first.fail()
    assert bench.lane.breaker.state is BreakerState.OPEN and len(bench.lane.ready)
    second.slots = 20
    bench.loop.advance(2.0)
    arrived = set()
    while second.started:
        arrived.add(second.started[0][0].message.id)
        second.answer(TAKEN)
        bench.loop.settle()
    assert arrived == ids


def test_what_is_parked_at_a_relay_that_rests_goes_elsewhere(bench: Bench) -> None:
    first, second = bench.fail_over("relay", "second")
    message_id = bench.offer()
    refuse_session(first, LATER, Stage.RCPT)
    bench.loop.settle()
    open_breaker(bench)
    bench.loop.advance(12.0)
    assert [transaction.message.id for transaction, _ in second.started] == [message_id]
    moved = cast(Moved, bench.of(Moved)[-1])
    assert (moved.by, moved.relay, moved.state) == ("failover", "second", DeliveryState.WAITING)
    assert not first.started


def test_what_has_no_other_relay_waits_and_keeps_nobody_behind_it(bench: Bench) -> None:
    first, second = bench.fail_over("relay", "second")
    both, bench.dealt = bench.dealt, ("relay",)
    alone = bench.offer()
    refuse_session(first, LATER, Stage.RCPT)
    bench.dealt = both
    bench.loop.settle()
    open_breaker(bench)
    bench.dealt = ("relay",)
    bench.loop.advance(12.0)
    assert not second.started
    (row,) = bench.rows(alone)
    assert row.relay == "relay" and row.due_ms > int(bench.loop.wall() * 1000)
    assert not bench.of(Moved), "nothing happened to it"
    bench.loop.advance(31.0)
    assert [transaction.message.id for transaction, _ in first.started] == [alone]


def test_an_uncertain_delivery_waits_for_its_relay_to_recover(bench: Bench) -> None:
    first, second = bench.fail_over("relay", "second")
    bench.offer()
    first.answer(None)
    bench.loop.settle()
    open_breaker(bench)
    bench.loop.advance(20.0)
    assert not second.started and not first.started
    bench.loop.advance(30.0)
    assert len(first.started) == 1


def test_a_relay_that_is_switched_off_is_passed_over(bench: Bench) -> None:
    first, second = bench.fail_over("relay", "second")
    message_id = bench.offer()
    refuse_session(first, LATER, Stage.RCPT)
    bench.loop.settle()
    del bench.scheduler.lanes["relay"]
    bench.dealt = ("second",)
    bench.loop.advance(20.0)
    assert [transaction.message.id for transaction, _ in second.started] == [message_id]


def test_what_no_rule_sent_there_waits_for_the_relay_that_is_switched_off(bench: Bench) -> None:
    second = bench.add_relay("second")
    message_id = bench.offer()
    refuse_session(bench.relay, LATER, Stage.RCPT)
    bench.loop.settle()
    del bench.scheduler.lanes["relay"]
    bench.dealt = ("second",)
    bench.loop.advance(20.0)
    assert not second.started and bench.rows(message_id)[0].relay == "relay"


# ---------------------------------------------------------------- restarts


def test_a_restart_goes_on_where_the_round_stood(bench: Bench) -> None:
    first, _, _ = bench.fail_over("relay", "second", "third")
    message_id = bench.offer()
    bench.ledger.by_itself = False
    first.fail()
    after, (first, second, third) = restart(bench, "relay", "second", "third")
    after.ledger.sync()
    after.loop.settle()
    assert not first.started and not third.started
    after.ledger.by_itself = True
    second.fail()
    after.loop.settle()
    assert [transaction.message.id for transaction, _ in third.started] == [message_id]


def test_a_checkpoint_keeps_where_the_round_stood(bench: Bench) -> None:
    first, _ = bench.fail_over("relay", "second")
    bench.offer()
    bench.ledger.by_itself = False
    first.fail()
    bench.housekeeping.write_checkpoint()
    del bench.ledger.written[:-1]
    after, (first, second) = restart(bench, "relay", "second")
    after.ledger.by_itself = True
    after.loop.settle()
    assert not first.started and len(second.started) == 1


def test_what_was_sent_past_a_relay_that_rested_stays_where_it_was_sent(bench: Bench) -> None:
    _, second = bench.fail_over("relay", "second")
    open_breaker(bench)
    message_id = bench.offer()
    transaction, _ = second.started[0]
    transaction.sending(transaction, leave)
    after, (first, second) = restart(bench, "relay", "second")
    after.loop.advance(12.0)
    assert not first.started
    assert [transaction.message.id for transaction, _ in second.started] == [message_id]


def test_what_failed_over_and_was_sent_is_uncertain_at_the_second_relay(bench: Bench) -> None:
    first, second = bench.fail_over("relay", "second")
    bench.offer()
    first.fail()
    bench.loop.settle()
    transaction, _ = second.started[0]
    transaction.sending(transaction, leave)
    after, (first, second) = restart(bench, "relay", "second")
    after.loop.advance(12.0)
    assert not first.started and len(second.started) == 1
    assert [record.relay for record in after.of(Moved)] == ["second", "second"]  # type: ignore[union-attr]


def test_what_was_passed_on_from_the_store_is_there_after_a_restart(bench: Bench) -> None:
    first, second = bench.fail_over("relay", "second")
    second.slots = 0
    message_id = bench.offer()
    refuse_session(first, LATER, Stage.RCPT)
    bench.loop.settle()
    open_breaker(bench)
    bench.loop.advance(12.0)
    assert bench.rows(message_id)[0].relay == "second"
    _, (first, second) = restart(bench, "relay", "second")
    assert not first.started and len(second.started) == 1


def test_a_power_cut_takes_no_failover_that_was_tried(bench: Bench) -> None:
    """It is tried at the second relay only when the ledger says durably that it stands there."""
    first, second = bench.fail_over("relay", "second")
    bench.offer()
    bench.ledger.by_itself = False
    first.fail()
    bench.loop.advance(3.0)
    assert not second.started


def test_what_a_power_cut_left_doubtful_goes_to_no_other_relay(bench: Bench) -> None:
    first, _ = bench.fail_over("relay", "second")
    bench.offer()
    after = bench.cut_power()
    first, second = after.fail_over("relay", "second")
    after.scheduler._lost_power = lambda _: True
    after.resume(power=True)
    assert len(first.started) == 1
    first.fail()
    after.loop.advance(12.0)
    assert not second.started
