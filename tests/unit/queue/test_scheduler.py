"""What is started, what is not, and what it costs."""

from __future__ import annotations

import pytest
from tests.unit.queue.bench import LATER, SLOTS, TAKEN, Bench, HandRelay

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mime import departure as departure_module
from dispatch.queue import scheduler as scheduler_module
from dispatch.queue.custody import Custody
from dispatch.spool.records import Attempted, Moved, Sending


def attempted(bench: Bench) -> list[Attempted]:
    return [record for record in bench.ledger.written if isinstance(record, Attempted)]


def test_mail_that_can_start_at_once_is_never_parked(bench: Bench) -> None:
    message_id = bench.offer()
    bench.relay.answer(TAKEN)
    bench.loop.settle()
    assert [type(record).__name__ for record in bench.ledger.written] == ["Accepted", "Sending", "Attempted"]
    assert not bench.rows(message_id) and not bench.scheduler.custody.live
    assert bench.in_hand.room == SLOTS


def test_deferred_mail_is_tried_again_when_it_is_due(bench: Bench) -> None:
    message_id = bench.offer()
    bench.relay.answer(LATER)
    bench.loop.settle()
    assert bench.rows(message_id)[0].attempts == 1
    bench.loop.advance(12.0)
    bench.relay.answer(TAKEN)
    bench.loop.settle()
    assert not bench.rows(message_id)


def test_a_lost_reply_is_uncertain_and_only_its_policy_moves_it(bench: Bench) -> None:
    message_id = bench.offer()
    bench.relay.answer(None)
    bench.loop.settle()
    (moved,) = bench.of(Moved)
    assert isinstance(moved, Moved) and moved.move is Move.RETRY and moved.by == "uncertain policy"
    assert bench.rows(message_id)[0].uncertain
    bench.loop.advance(12.0)
    bench.relay.answer(LATER)
    bench.loop.settle()
    assert bench.rows(message_id)[0].uncertain, "it may have been delivered, whatever came later"
    assert bench.scheduler.uncertain == 1


def test_a_lane_that_was_replaced_takes_nothing_into_its_line(bench: Bench) -> None:
    message_id = bench.offer()
    old, new = bench.lane, HandRelay()
    bench.scheduler.lanes["relay"] = bench.make_lane("relay", new)
    bench.relay.answer(LATER)
    bench.loop.advance(12.0)
    assert not len(old.ready) and not old.claiming
    assert [transaction.message.id for transaction, _ in new.started] == [message_id]


def test_a_claim_of_a_lane_that_was_replaced_meanwhile_goes_to_the_new_one(bench: Bench) -> None:
    message_id = bench.offer()
    bench.relay.answer(LATER)
    bench.loop.advance(0.5)
    new = HandRelay()
    bench.lane.backlog = True
    bench.loop.wall_offset_s += 12
    bench.scheduler.pump(bench.lane)
    assert bench.lane.claiming
    bench.scheduler.lanes["relay"] = bench.make_lane("relay", new)
    bench.loop.advance(2.0)
    assert [transaction.message.id for transaction, _ in new.started] == [message_id]
    assert not len(bench.lane.ready)


def test_a_relay_that_we_close_costs_its_mail_no_attempt(bench: Bench) -> None:
    message_id = bench.offer()
    new = HandRelay()
    bench.scheduler.lanes["relay"] = bench.make_lane("relay", new)
    bench.relay.fail()
    bench.loop.advance(2.0)
    assert not attempted(bench)
    assert [transaction.message.id for transaction, _ in new.started] == [message_id]
    assert bench.in_hand.room == SLOTS - 1


def test_a_stop_costs_no_attempt_either(bench: Bench) -> None:
    bench.offer()
    bench.scheduler.stopping = True
    bench.relay.fail()
    bench.loop.advance(2.0)
    assert not attempted(bench) and not bench.scheduler.under_way
    assert bench.scheduler.custody.standing(), "the log still owns it"


def test_a_stop_does_not_hide_what_was_sent(bench: Bench) -> None:
    bench.offer()
    bench.scheduler.stopping = True
    bench.relay.answer(None)
    (record,) = attempted(bench)
    assert record.results[0].state is DeliveryState.UNCERTAIN


def test_content_that_cannot_be_handed_over_is_tried_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(content: bytes, *, verbatim: bool) -> bytes:
        raise RuntimeError("simulated")

    monkeypatch.setattr(departure_module, "for_relay", broken)
    message_id = bench.offer()
    assert not bench.relay.started and bench.lane.in_flight == 0 and not bench.scheduler.under_way
    (row,) = bench.rows(message_id)
    assert row.state is DeliveryState.WAITING and row.attempts == 0 and "simulated" in row.reason


def test_content_that_is_larger_than_a_line_is_started_all_the_same(bench: Bench) -> None:
    relay = HandRelay()
    bench.scheduler.lanes["relay"] = bench.make_lane("relay", relay, ready_bytes_max=1000)
    relay.slots = 0
    message_id = bench.offer(content=b"A: b\r\n\r\n" + b"x" * (1 << 20))
    relay.slots = 1
    bench.loop.advance(2.0)
    assert [transaction.message.id for transaction, _ in relay.started] == [message_id]


def test_nothing_starts_while_the_ledger_is_far_behind(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.relay.slots = 0
    bench.offer()
    monkeypatch.setattr(scheduler_module, "UNDURABLE_MAX", 1)
    bench.ledger.by_itself = False
    bench.relay.slots = 4
    bench.book.write(Sending(0, bytes(16), (0,), "relay"))  # type: ignore[arg-type]
    bench.loop.advance(3.0)
    assert not bench.relay.started
    bench.ledger.sync()
    bench.loop.advance(2.0)
    assert bench.relay.started


def test_what_is_ready_when_a_breaker_opens_is_parked_and_comes_back(bench: Bench) -> None:
    bench.relay.slots = 1
    ids = [bench.offer() for _ in range(3)]
    bench.lane.breaker.failed(bench.loop.monotonic(), 0.0, at_once=True)
    bench.relay.fail()
    bench.loop.advance(2.0)
    assert all(bench.rows(message_id) for message_id in ids)
    for _ in range(6):
        bench.loop.advance(60.0)
        while bench.relay.started:
            bench.relay.answer(TAKEN)
            bench.loop.settle()
    assert not any(bench.rows(message_id) for message_id in ids)


def test_a_content_file_goes_with_its_last_owner(bench: Bench) -> None:
    """One recipient is delivered from the log, the other one from the parked store."""
    message_id = bench.offer(2, file=True)
    bench.relay.answer(TAKEN, LATER)
    bench.loop.settle()
    assert not bench.scheduler.custody.live and not bench.removed
    bench.loop.advance(12.0)
    bench.relay.answer(TAKEN)
    bench.loop.settle()
    assert not bench.rows(message_id) and len(bench.removed) == 1


def test_custody_counts_nobody_twice(bench: Bench) -> None:
    owner = Custody.own(bench.scheduler.custody, bench.seams.mail.durable, bench.message(2), (1,))
    assert owner.let_go((0,))
    with pytest.raises(AssertionError):
        owner.let_go((0,))
