"""What an operator asks for meets every delivery once, and nothing that is under way."""

from __future__ import annotations

from typing import cast

import pytest
from tests.unit.queue.bench import HOLDS, LATER, TAKEN, Bench

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.queue.requests import (
    AskLanes,
    Done,
    Flush,
    Lanes,
    ListQueue,
    Order,
    QueuePage,
    Refused,
    ShowMessage,
    Shown,
)
from dispatch.spool.records import Moved
from dispatch.store.parked import QueueFilter
from dispatch.store.sqlite import StoreFault

ALL = QueueFilter()


def deferred(bench: Bench) -> bytes:
    message_id = bench.offer()
    bench.relay.answer(LATER)
    bench.loop.settle()
    return message_id


def test_a_cancelled_delivery_is_never_tried(bench: Bench) -> None:
    deferred(bench)
    assert bench.order(Order("cancel", ALL)) == Done(1, 0, 0, messages=1)
    bench.loop.advance(60.0)
    assert not bench.relay.started


def test_what_stands_ready_is_met(bench: Bench) -> None:
    bench.relay.slots = 0
    message_id = bench.offer()
    assert bench.order(Order("hold", ALL)) == Done(1, 0, 0, messages=1)
    bench.relay.slots = 4
    bench.loop.advance(60.0)
    assert not bench.relay.started and bench.rows(message_id)[0].state is DeliveryState.HELD
    assert bench.order(Order("release", ALL)) == Done(1, 0, 0, messages=1)
    bench.loop.advance(1.0)
    assert len(bench.relay.started) == 1


def test_what_is_under_way_finishes_and_is_counted(bench: Bench) -> None:
    bench.offer()
    assert bench.order(Order("cancel", ALL)) == Done(0, 1, 0)
    bench.relay.answer(TAKEN)
    assert not bench.of(Moved)


def test_what_ends_while_the_order_is_carried_out_is_left_alone(bench: Bench) -> None:
    """Its row still looks as if it waited."""
    deferred(bench)
    bench.loop.advance(12.0)
    assert len(bench.relay.started) == 1
    bench.ledger.by_itself = False

    def end() -> None:
        bench.relay.answer(TAKEN)
        bench.ledger.by_itself = True
        bench.loop.post(bench.ledger.sync)

    assert cast(Done, bench.order(Order("cancel", ALL), end)).changed == 0
    assert not bench.of(Moved)


def test_a_claim_that_is_answered_while_nothing_may_start_goes_back(bench: Bench) -> None:
    """An order would move its row beside it."""
    message_id = deferred(bench)
    bench.loop.wall_offset_s += 30
    bench.lane.backlog = True
    bench.scheduler.pump(bench.lane)
    assert bench.lane.claiming
    bench.scheduler.freeze()
    bench.loop.settle()
    assert not bench.lane.claiming and not len(bench.lane.ready) and not bench.relay.started
    bench.scheduler.thaw()
    bench.loop.settle()
    assert [transaction.message.id for transaction, _ in bench.relay.started] == [message_id]


def test_nothing_thaws_before_the_changes_stand_in_line(bench: Bench) -> None:
    """The order fails half way: the store answers its first page, and then no more."""
    message_id = deferred(bench)
    bench.loop.wall_offset_s += 30
    find = bench.store.find

    def find_and_fill(*args: object, **named: object) -> object:
        bench.store.full = True
        bench.ledger.by_itself = False
        return find(*args, **named)  # type: ignore[arg-type]

    bench.store.find = find_and_fill  # type: ignore[assignment,method-assign]
    order = bench.orders.handle(Order("cancel", ALL))
    with pytest.raises(AssertionError, match="hangs"):
        bench.order(Order("cancel", ALL))
    order.close()
    bench.store.full = False
    bench.loop.advance(5.0)
    assert not bench.relay.started, "the cancellation is not durable, and not undone either"
    bench.ledger.by_itself = True
    bench.ledger.sync()
    bench.loop.advance(5.0)
    assert not bench.relay.started and not bench.rows(message_id)


def test_an_order_to_a_store_that_fails_is_answered_with_the_fault(bench: Bench) -> None:
    bench.relay.slots = 0
    bench.offer()
    bench.store.full = True
    with pytest.raises(StoreFault):
        bench.order(Order("cancel", ALL))
    bench.store.full = False
    bench.relay.slots = 4
    bench.loop.advance(5.0)
    assert len(bench.relay.started) == 1, "it goes on as before"


def test_a_flush_makes_everything_due_and_closes_breakers(bench: Bench) -> None:
    deferred(bench)
    bench.lane.breaker.failed(bench.loop.monotonic(), 0.0, at_once=True)
    assert bench.order(Flush()) == Done(1, 0, 0, messages=1)
    assert bench.relay.told_to_try_again == 1
    bench.loop.advance(0.5)
    assert len(bench.relay.started) == 1


def test_a_failed_message_is_reopened_by_its_id_and_begins_a_new_family(bench: Bench) -> None:
    message_id = bench.offer()
    bench.loop.wall_offset_s += 4000
    bench.relay.answer(LATER)
    bench.loop.settle()
    assert bench.rows(message_id)[0].state is DeliveryState.WAITING, "begun before its deadline"
    bench.loop.advance(12.0)
    bench.relay.answer(LATER)
    bench.loop.settle()
    assert bench.rows(message_id)[0].state is DeliveryState.EXPIRED
    assert bench.order(Order("retry", QueueFilter(id_prefix=message_id.hex()))) == Done(1, 0, 0, messages=1)
    (record,) = bench.of(Moved)
    assert cast(Moved, record).move is Move.REOPEN
    row = bench.rows(message_id)[0]
    assert (row.family, row.attempts, row.state) == (2, 0, DeliveryState.WAITING)


def test_a_delivery_under_way_is_listed_once(bench: Bench) -> None:
    message_id = deferred(bench)
    bench.loop.advance(12.0)
    page = cast(QueuePage, bench.order(ListQueue(ALL)))
    assert [(row.id, row.state) for row in page.deliveries] == [(message_id, "attempting")]
    shown = cast(Shown, bench.order(ShowMessage(message_id, content=True)))  # type: ignore[arg-type]
    assert [row.state for row in shown.deliveries] == ["waiting"] or shown.content


def test_what_a_rule_holds_goes_when_a_person_releases_it_though_the_rule_stands(bench: Bench) -> None:
    bench.dealt = ("",)
    message_id = bench.offer()
    (row,) = bench.rows(message_id)
    assert (row.state, row.relay, row.reason) == (DeliveryState.HELD, "", HOLDS)
    assert bench.order(Order("release", ALL)) == Done(1, 0, 0, messages=1)
    bench.loop.advance(1.0)
    assert [transaction.message.id for transaction, _ in bench.relay.started] == [message_id]
    held, released = cast(list[Moved], bench.of(Moved))
    assert (held.move, held.state, held.by) == (Move.HOLD, DeliveryState.HELD, "rule test"), "history"
    assert (released.move, released.by, released.relay) == (Move.RELEASE, "operator", "relay")
    bench.relay.answer(LATER)
    bench.loop.advance(12.0)
    assert len(bench.relay.started) == 1, "it was released for good"


def test_what_a_rule_holds_is_not_let_go_by_a_retry(bench: Bench) -> None:
    bench.dealt = ("",)
    message_id = bench.offer()
    assert bench.order(Order("retry", ALL)) == Done(0, 0, 1)
    bench.loop.advance(1.0)
    assert not bench.relay.started and bench.rows(message_id)[0].state is DeliveryState.HELD


def test_what_no_relay_can_take_stays_held_when_it_is_released(bench: Bench) -> None:
    bench.dealt = ("",)
    held = bench.route
    bench.orders._s = bench.seams._replace(route_released=held)
    bench.offer()
    assert bench.order(Order("release", ALL)) == Done(0, 0, 1)


# ---------------------------------------------------------------- bounced by a person


def test_what_a_person_bounces_has_failed_and_keeps_its_content(bench: Bench) -> None:
    message_id = deferred(bench)
    assert bench.order(Order("bounce", ALL, reason="gone away")) == Done(1, 0, 0, messages=1)
    (record,) = bench.of(Moved)
    assert isinstance(record, Moved)
    assert (record.move, record.state) == (Move.BOUNCE, DeliveryState.BOUNCED)
    assert (record.by, record.reason) == ("operator", "gone away")
    bench.loop.advance(60.0)
    assert not bench.relay.started
    after = bench.kill().resume()
    after.loop.advance(60.0)
    (row,) = after.rows(message_id)
    assert (row.state, row.reason, after.relay.started) == (DeliveryState.BOUNCED, "gone away", [])
    again = after.order(Order("retry", QueueFilter(state=DeliveryState.BOUNCED)))
    assert again == Done(1, 0, 0, messages=1), "it may begin again"
    after.loop.advance(1.0)
    assert len(after.relay.started) == 1


def test_what_is_held_can_be_bounced(bench: Bench) -> None:
    bench.dealt = ("",)
    message_id = bench.offer()
    assert bench.order(Order("bounce", ALL)) == Done(1, 0, 0, messages=1)
    (row,) = bench.rows(message_id)
    assert row.state is DeliveryState.BOUNCED and "operator" in row.reason


def test_a_bounce_that_only_the_ledger_knows_is_one_after_a_restart(bench: Bench) -> None:
    message_id = deferred(bench)
    with pytest.raises(AssertionError, match="hangs"):
        bench.order(Order("bounce", ALL), lambda: setattr(bench.store, "full", True))
    bench.store.full = False
    assert bench.of(Moved) and bench.rows(message_id)[0].state is DeliveryState.WAITING
    after = bench.kill().resume()
    assert after.rows(message_id)[0].state is DeliveryState.BOUNCED


# ---------------------------------------------------------------- rerouted by a person


def test_what_is_rerouted_goes_to_the_other_relay_now_and_after_a_restart(bench: Bench) -> None:
    other = bench.add_relay("other")
    other.slots = 0
    message_id = deferred(bench)
    assert bench.order(Order("reroute", ALL, relay="other")) == Done(1, 0, 0, messages=1)
    (record,) = bench.of(Moved)
    assert isinstance(record, Moved)
    assert (record.move, record.relay, record.by) == (Move.RETRY, "other", "operator")
    after = bench.kill()
    there = after.add_relay("other")
    after.resume()
    after.loop.advance(20.0)
    assert [transaction.message.id for transaction, _ in there.started] == [message_id]
    assert not after.relay.started
    there.answer(LATER)
    after.loop.advance(12.0)
    assert len(there.started) == 1 and not after.relay.started, "it stays there"


def test_mail_is_rerouted_to_no_relay_that_is_not_there(bench: Bench) -> None:
    message_id = deferred(bench)
    refused = bench.order(Order("reroute", ALL, relay="nowhere"))
    assert isinstance(refused, Refused) and "relay" in refused.why
    assert not bench.of(Moved) and bench.rows(message_id)[0].relay == "relay"


def test_what_may_have_been_delivered_is_rerouted_only_on_request(bench: Bench) -> None:
    bench.add_relay("other").slots = 0
    message_id = bench.offer()
    bench.relay.answer(None)
    bench.loop.settle()
    assert bench.rows(message_id)[0].uncertain
    moved = len(bench.of(Moved))
    assert bench.order(Order("reroute", ALL, relay="other")) == Done(0, 0, 0, uncertain=1)
    assert len(bench.of(Moved)) == moved and bench.rows(message_id)[0].relay == "relay"
    assert bench.order(Order("reroute", ALL, relay="other", uncertain=True)) == Done(1, 0, 0, messages=1)
    (row,) = bench.rows(message_id)
    assert row.relay == "other" and row.uncertain, "a repeat may still be a duplicate"


def test_what_is_held_is_rerouted_only_where_the_order_is_for_it(bench: Bench) -> None:
    other = bench.add_relay("other")
    message_id = deferred(bench)
    bench.order(Order("hold", ALL))
    assert bench.order(Order("reroute", ALL, relay="other")) == Done(0, 0, 1)
    assert bench.rows(message_id)[0].state is DeliveryState.HELD
    wanted = QueueFilter(state=DeliveryState.HELD)
    assert bench.order(Order("reroute", wanted, relay="other")) == Done(1, 0, 0, messages=1)
    bench.loop.advance(1.0)
    assert len(other.started) == 1


def test_a_dry_run_counts_what_the_order_then_does(bench: Bench) -> None:
    bench.relay.slots = 2
    deferred(bench)
    bench.offer()
    bench.offer(recipients=2)
    bench.relay.slots = 2
    bench.offer(recipients=3)
    bench.loop.settle()
    would = bench.order(Order("cancel", ALL, dry_run=True))
    assert not bench.of(Moved)
    assert isinstance(would, Done) and would.changed == 4 and would.under_way == 3
    assert bench.order(Order("cancel", ALL)) == would


def test_the_relays_tell_what_waits_for_them(bench: Bench) -> None:
    deferred(bench)
    began_ms = int(bench.loop.wall() * 1000)
    bench.add_relay("other")
    lanes = bench.order(AskLanes())
    assert isinstance(lanes, Lanes)
    one, other = lanes.lanes
    assert (one.relay, one.waiting, one.held) == ("relay", 1, 0)
    assert one.oldest_ms is not None and one.oldest_ms <= began_ms
    assert (other.relay, other.waiting, other.oldest_ms) == ("other", 0, None)


def test_an_order_for_many_by_their_ids_meets_each_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatch.queue.orders.PAGE", 2)
    bench.relay.slots = 0
    ids = [bench.offer() for _ in range(6)]
    named = (*ids[:5], ids[0], ids[1])
    assert bench.order(Order("hold", ALL, ids=named)) == Done(5, 0, 0, messages=5)
    assert bench.order(Order("cancel", QueueFilter(sender="nobody.example"), ids=named)) == Done(0, 0, 0)
    assert bench.order(Order("cancel", ALL)) == Done(6, 0, 0, messages=6)
