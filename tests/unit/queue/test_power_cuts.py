"""What a power cut may have taken out of the ledger is called *uncertain (power)*, and nothing else is."""

from __future__ import annotations

from typing import cast

import msgspec
from tests.unit.queue.bench import LATER, TAKEN, Bench, leave

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mail.ids import MessageId
from dispatch.mail.message import Message
from dispatch.policy.routing import Route
from dispatch.queue.requests import Order
from dispatch.queue.resume import LOST_POWER
from dispatch.queue.work import fresh_deliveries
from dispatch.spool.records import Accepted, Checkpoint, Claimed, Moved, Placed, Sending
from dispatch.store.changes import QueueFilter
from dispatch.store.parked import Park


def marks(bench: Bench) -> list[tuple[MessageId, tuple[int, ...]]]:
    records = cast("list[Moved]", bench.of(Moved))
    return [(record.id, record.indexes) for record in records if record.power]


def in_store(bench: Bench, recipients: int = 1, *, due_in_s: float = 0.0) -> MessageId:
    """A message that the parked store owns; nobody was told."""
    message = bench.message(recipients)
    due_ms = message.accepted_ms + int(due_in_s * 1000)
    deliveries = tuple(
        msgspec.structs.replace(row, due_ms=due_ms)
        for row in fresh_deliveries(message, tuple(range(recipients)), "relay")
    )
    bench.store.apply([Park(message, b"A: b\r\n\r\n", deliveries)], 0)
    return message.id


def claim(bench: Bench) -> None:
    bench.scheduler.look_again()
    bench.loop.settle()


def send(bench: Bench) -> None:
    """The end of data of what was started first leaves, and the ledger is not synced any more."""
    bench.ledger.by_itself = False
    transaction, _ = bench.relay.started[0]
    transaction.sending(transaction, leave)


def started(bench: Bench) -> list[MessageId]:
    return [transaction.message.id for transaction, _ in bench.relay.started]


def test_what_stood_in_the_log_is_marked_before_it_is_tried_again(bench: Bench) -> None:
    message_id = bench.offer(2)
    send(bench)
    after = bench.cut_power()
    after.ledger.by_itself = False
    after.resume(power=True)
    after.loop.advance(5.0)
    assert marks(after) == [(message_id, (0, 1))]
    assert not after.relay.started, "the mark is not durable"
    after.ledger.by_itself = True
    after.ledger.sync()
    after.loop.advance(1.0)
    assert started(after) == [message_id]
    after.relay.answer(LATER)
    after.loop.settle()
    assert all(row.uncertain and row.attempts == 1 for row in after.rows(message_id))


def test_what_is_taken_up_a_second_time_is_marked_before_it_is_tried_again(bench: Bench) -> None:
    """A second cut would take the mark with it, and a third attempt would have one excuse for two."""
    bench.scheduler._lost_power = lambda _: True
    bench.ledger.by_itself = False
    message_id = bench.offer()
    bench.loop.advance(1.0)
    assert not bench.relay.started and [record.power for record in bench.of(Accepted)] == [True]  # type: ignore[attr-defined]
    bench.ledger.sync()
    bench.loop.settle()
    assert started(bench) == [message_id]


def test_what_was_claimed_and_sent_is_marked_before_it_is_tried_again(bench: Bench) -> None:
    message_id = in_store(bench)
    claim(bench)
    send(bench)
    after = bench.cut_power()
    assert not after.of(Sending)
    after.resume(power=True)
    assert marks(after) == [(message_id, (0,))]
    (row,) = after.rows(message_id)
    assert row.uncertain and row.reason == LOST_POWER and row.state is DeliveryState.WAITING
    assert row.attempts == 0, "nobody knows of an attempt"
    after.loop.advance(2.0)
    assert started(after) == [message_id]


def test_what_only_waited_in_the_store_is_not_marked(bench: Bench) -> None:
    bench.relay.slots = 0
    later = in_store(bench, due_in_s=60.0)
    claim(bench)
    after = bench.cut_power().resume(power=True)
    assert not marks(after) and not after.rows(later)[0].uncertain


def test_a_delivery_is_not_started_before_its_claim_is_durable(bench: Bench) -> None:
    bench.ledger.by_itself = False
    message_id = in_store(bench)
    claim(bench)
    bench.loop.advance(5.0)
    assert [type(record) for record in bench.ledger.written if type(record) is not Checkpoint] == [Claimed]
    assert not bench.relay.started
    bench.ledger.sync()
    assert started(bench) == [message_id]


def test_the_death_of_the_process_alone_marks_nothing(bench: Bench) -> None:
    parked, logged = in_store(bench), bench.offer()
    claim(bench)
    assert set(started(bench)) == {parked, logged}
    after = bench.kill().resume()
    after.loop.advance(3.0)
    assert not marks(after) and set(started(after)) == {parked, logged}


def test_what_has_its_outcome_is_not_marked(bench: Bench) -> None:
    message_id = in_store(bench, 2)
    claim(bench)
    bench.relay.answer(TAKEN, LATER)
    bench.loop.settle()
    after = bench.cut_power().resume(power=True)
    assert not marks(after)
    (row,) = after.rows(message_id)
    assert row.attempts == 1 and not row.uncertain


def test_what_is_known_to_have_been_sent_is_uncertain_and_not_marked_as_well(bench: Bench) -> None:
    in_store(bench)
    bench.offer()
    claim(bench)
    for transaction, _ in bench.relay.started:
        transaction.sending(transaction, leave)
    bench.loop.settle()
    after = bench.cut_power().resume(power=True)
    assert not marks(after)
    assert [cast(Moved, record).move for record in after.of(Moved)] == [Move.LOSE_REPLY, Move.RETRY] * 2


def test_what_no_relay_gets_now_may_have_been_tried_by_the_rules_of_before(bench: Bench) -> None:
    def held(message: Message) -> tuple[tuple[Route, tuple[int, ...]], ...]:
        return ((Route((), "test", "its relay is off"), (0,)),)

    message_id = bench.offer()
    after = bench.cut_power()
    after.seams = after.seams._replace(route=held)
    after.resume(power=True)
    assert len(marks(after)) == 1
    (row,) = after.rows(message_id)
    assert (row.state, row.uncertain) == (DeliveryState.HELD, True)


def test_what_a_rule_held_on_record_was_not_tried(bench: Bench) -> None:
    bench.dealt = ("",)
    bench.offer()
    after = bench.cut_power()
    after.resume(power=True)
    assert not marks(after)


def test_a_checkpoint_knows_what_is_claimed(bench: Bench) -> None:
    """In its relay's line, under way, and on its way there."""
    bench.relay.slots = 1
    messages = [in_store(bench) for _ in range(2)]
    claim(bench)
    assert len(bench.relay.started) == len(bench.lane.ready) == 1
    bench.lane.backlog = True
    bench.ledger.by_itself = False
    messages.append(in_store(bench))
    claim(bench)
    assert len(bench.of(Claimed)) == 2
    bench.housekeeping.write_checkpoint()
    bench.ledger.sync()
    checkpoint = bench.of(Checkpoint)[-1]
    assert isinstance(checkpoint, Checkpoint)
    assert sorted(placed.id for placed in checkpoint.claimed) == sorted(messages)
    after = bench.cut_power().resume(bench.checkpoint.load(), power=True)
    assert sorted(marks(after)) == sorted((message_id, (0,)) for message_id in messages)


def test_what_went_back_untried_is_forgotten_by_the_next_checkpoint(bench: Bench) -> None:
    bench.relay.slots = 0
    in_store(bench)
    claim(bench)
    bench.scheduler.freeze()
    bench.scheduler.unload_all()
    bench.housekeeping.write_checkpoint()
    bench.loop.settle()
    after = bench.cut_power().resume(bench.checkpoint.load(), power=True)
    assert not marks(after)


def test_a_later_checkpoint_ends_a_claim_of_an_earlier_life(bench: Bench) -> None:
    in_store(bench, 2)
    bench.book.write(Checkpoint(0, bench.scheduler.cursor, (), (), (Placed(bench.message().id, (0,)),)))
    bench.housekeeping.write_checkpoint()
    bench.loop.settle()
    after = bench.cut_power().resume(power=True)
    assert not marks(after)


def test_suspects_of_the_parked_store_are_on_record_before_they_are_tried(bench: Bench) -> None:
    message_id = in_store(bench)
    claim(bench)
    after = bench.kill()
    claims = len(after.of(Claimed))
    after.ledger.by_itself = False
    after.resume()
    after.loop.advance(1.0)
    assert len(after.of(Claimed)) == claims + 1 and not after.relay.started
    after.housekeeping.write_checkpoint()
    checkpoint = after.of(Checkpoint)[-1]
    assert isinstance(checkpoint, Checkpoint)
    assert [placed.id for placed in checkpoint.claimed] == [message_id]
    after.ledger.sync()
    after.loop.settle()
    assert started(after) == [message_id]


def test_an_order_waits_until_suspects_are_on_record(bench: Bench) -> None:
    """It would move what is certain to be tried next."""
    message_id = in_store(bench)
    claim(bench)
    after = bench.kill().resume()
    done = after.order(Order("hold", QueueFilter()))
    assert (done.changed, done.under_way) == (0, 1)  # type: ignore[union-attr]
    assert started(after) == [message_id]


def test_what_was_never_taken_up_durably_says_so_when_it_is_taken_up(bench: Bench) -> None:
    bench.ledger.by_itself = False
    message_id = bench.offer()
    after = bench.cut_power()
    after.scheduler._lost_power = lambda lsn: lsn < after.mail.durable
    after.resume(power=True)
    (accepted,) = after.of(Accepted)
    assert isinstance(accepted, Accepted) and accepted.power and accepted.message.id == message_id


def test_a_durable_mark_is_not_made_again_before_a_new_claim(bench: Bench) -> None:
    message_id = in_store(bench)
    claim(bench)
    send(bench)
    after = bench.cut_power()
    after.scheduler.lanes.clear()
    after.resume(power=True)
    again = after.cut_power().resume(power=True)
    assert marks(again) == [(message_id, (0,))]


def test_a_mark_that_another_power_cut_took_is_made_again(bench: Bench) -> None:
    message_id = in_store(bench)
    claim(bench)
    send(bench)
    after = bench.cut_power()
    after.ledger.by_itself = False
    after.resume(power=True)
    again = after.cut_power()
    assert not marks(again)
    again.resume(power=True)
    assert marks(again) == [(message_id, (0,))]
