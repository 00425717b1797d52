"""One message for several relays, and what becomes of each part when delivery dies or the rules change."""

from __future__ import annotations

from typing import cast

import pytest
from tests.unit.queue.bench import LATER, SLOTS, TAKEN, Bench, HandRelay, leave

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mail.ids import MessageId
from dispatch.mail.reply import reply
from dispatch.ports import Lsn
from dispatch.queue.in_hand import DEATHS_ALONE_MAX
from dispatch.queue.recovery import recover
from dispatch.queue.work import fresh_deliveries
from dispatch.spool.records import Checkpoint, Moved
from dispatch.store.parked import Park


def send(relay: HandRelay) -> None:
    """The end of data leaves, and no reply comes."""
    transaction, _ = relay.started[0]
    transaction.sending(transaction, leave)


def sent_to_other(bench: Bench) -> tuple[MessageId, HandRelay]:
    """A message whose end of data went to `other`."""
    other = bench.add_relay("other")
    bench.dealt = ("other",)
    message_id = bench.offer()
    send(other)
    return message_id, other


def restarted(bench: Bench, *dealt: str, power: bool = False) -> tuple[Bench, HandRelay]:
    """The next life, with both relays and other rules."""
    after = bench.kill()
    other = after.add_relay("other")
    after.dealt = dealt
    after.resume(power=power)
    return after, other


@pytest.mark.parametrize("now", ["relay", ""], ids=["another relay", "held"])
def test_what_was_sent_is_tried_again_at_its_relay_whatever_the_rules_say_now(bench: Bench, now: str) -> None:
    message_id, _ = sent_to_other(bench)
    after, other = restarted(bench, now)
    assert not after.relay.started, "that would be a failover of an uncertain attempt"
    assert [transaction.message.id for transaction, _ in other.started] == [message_id]
    assert {cast(Moved, record).relay for record in after.of(Moved)} == {"other"}


def test_what_was_sent_keeps_its_relay_over_a_second_death(bench: Bench) -> None:
    """The policy's move is on record, the parked row is not; and the checkpoint is all that is left of it."""
    sent_to_other(bench)
    life = bench.kill()
    life.dealt = ("relay",)
    life.ledger.by_itself = False
    life.resume()
    life.housekeeping.write_checkpoint()
    del life.ledger.written[:-1]
    life.ledger.by_itself = True
    after, other = restarted(life, "relay")
    assert not after.relay.started and len(other.started) == 1


def test_a_checkpoint_names_the_relay_that_was_sent_to(bench: Bench) -> None:
    message_id, _ = sent_to_other(bench)
    bench.housekeeping.write_checkpoint()
    (checkpoint,) = bench.of(Checkpoint)
    del bench.ledger.written[:-1]
    assert [placed.relay for placed in cast(Checkpoint, checkpoint).sent] == ["other"]
    bench.ledger.killed()
    assert recover(bench.ledger, Lsn(0), bench.seams.mail, bench.store).sent == {message_id: {0: "other"}}


def test_what_was_deferred_on_its_way_into_the_store_keeps_its_relay(bench: Bench) -> None:
    other = bench.add_relay("other")
    bench.dealt = ("other",)
    message_id = bench.offer()
    bench.ledger.by_itself = False
    other.answer(LATER)
    after, _ = restarted(bench, "relay")
    after.ledger.sync()
    after.loop.settle()
    (row,) = after.rows(message_id)
    assert row.relay == "other" and row.attempts == 1


def test_an_uncertain_one_whose_policy_was_on_its_way_into_the_store_keeps_its_relay(bench: Bench) -> None:
    other = bench.add_relay("other")
    bench.dealt = ("other",)
    bench.offer()
    bench.ledger.by_itself = False
    other.answer(None)
    bench.ledger.by_itself = True
    after, again = restarted(bench, "relay")
    after.loop.advance(12.0)
    assert not after.relay.started and len(again.started) == 1


def test_what_may_have_been_sent_before_a_power_cut_stays_where_it_is_put_then(bench: Bench) -> None:
    bench.dealt = ("other",)
    bench.add_relay("other").slots = 0
    bench.offer()
    life, _ = restarted(bench, "other", power=True)
    after, other = restarted(life, "relay")
    assert not after.relay.started and len(other.started) == 1


def test_what_was_never_tried_is_routed_anew(bench: Bench) -> None:
    bench.dealt = ("other",)
    bench.add_relay("other")
    message_id = bench.offer()
    after, other = restarted(bench, "relay")
    assert [transaction.message.id for transaction, _ in after.relay.started] == [message_id]
    assert not other.started


def test_what_was_sent_to_a_relay_that_is_gone_waits_for_a_person(bench: Bench) -> None:
    message_id, _ = sent_to_other(bench)
    after = bench.kill()
    after.dealt = ("relay",)
    after.resume()
    after.loop.advance(60.0)
    (row,) = after.rows(message_id)
    assert (row.relay, row.state, row.uncertain) == ("other", DeliveryState.WAITING, True)
    assert not after.relay.started


def test_each_part_of_a_suspect_runs_alone(bench: Bench) -> None:
    other = bench.add_relay("other")
    bench.dealt = ("relay", "other")
    split = bench.offer(2)
    bench.dealt = ("relay",)
    bench.offer()
    assert other.started and len(bench.relay.started) == 2
    after = bench.kill()
    other = after.add_relay("other")
    after.dealt = ("relay", "other")
    after.resume()
    alone = []
    for _ in range(3):
        (started,) = [*after.relay.started, *other.started]
        assert after.scheduler.trial is not None, "nobody else may begin meanwhile"
        alone.append((started[0].message.id == split, started[0].indexes))
        (after.relay if after.relay.started else other).answer(TAKEN)
        after.loop.settle()
    assert sorted(alone) == [(False, (0,)), (True, (0,)), (True, (1,))]
    assert after.scheduler.trial is None and after.in_hand.room == SLOTS


def test_each_parked_part_of_a_suspect_runs_alone(bench: Bench) -> None:
    message = bench.message(2)
    rows = fresh_deliveries(message, (0,), "relay") + fresh_deliveries(message, (1,), "other")
    other = bench.add_relay("other")
    bench.store.apply([Park(message, b"A: b\r\n\r\n", rows)], 0)
    bench.scheduler.look_again()
    bench.loop.settle()
    assert bench.relay.started and other.started
    after, other = restarted(bench, "relay", "other")
    assert len(after.relay.started) + len(other.started) == 1
    (after.relay if after.relay.started else other).answer(TAKEN)
    after.loop.settle()
    assert len(after.relay.started) + len(other.started) == 1 and after.scheduler.trial is not None
    (after.relay if after.relay.started else other).answer(TAKEN)
    after.loop.settle()
    assert after.scheduler.trial is None and after.in_hand.room == SLOTS


def test_poison_in_the_second_part_is_quarantined_and_told_of_once(bench: Bench) -> None:
    """It kills as soon as its part for `other` has begun; the part for `relay` is deferred each time."""
    bench.add_relay("other")
    bench.dealt = ("relay", "other")
    poison = bench.offer(2)
    life = bench
    for _ in range(DEATHS_ALONE_MAX):
        life, other = restarted(life, "relay", "other")
        if not other.started:
            life.relay.answer(LATER)
            life.loop.settle()
        assert other.started, "its second part runs as well, alone"
        assert not life.relay.started
    life, other = restarted(life, "relay", "other")
    assert {row.state for row in life.rows(poison)} == {DeliveryState.QUARANTINED}
    assert Move.QUARANTINE in [cast(Moved, record).move for record in life.of(Moved)]
    assert life.alarms.count("message_quarantined") == 1
    assert not life.relay.started and not other.started and life.in_hand.room == SLOTS


def test_a_poisonous_message_of_the_log_is_told_of_once(bench: Bench) -> None:
    """Neither part ever ends."""
    bench.add_relay("other")
    bench.dealt = ("relay", "other")
    poison = bench.offer(2)
    life = bench
    for _ in range(1 + DEATHS_ALONE_MAX):
        life, other = restarted(life, "relay", "other")
    assert {row.state for row in life.rows(poison)} == {DeliveryState.QUARANTINED}
    assert life.alarms.count("message_quarantined") == 1
    assert not life.relay.started and not other.started


def test_a_part_that_takes_long_gets_the_other_one_as_company(bench: Bench) -> None:
    bench.add_relay("other")
    bench.dealt = ("relay", "other")
    bench.offer(2)
    after, other = restarted(bench, "relay", "other")
    after.loop.advance(1.5)
    assert after.relay.started and other.started
    other.answer(TAKEN)
    assert after.in_hand.room == SLOTS - 1, "the first part is still in hand"
    after.relay.answer(TAKEN)
    after.loop.advance(1.5)
    assert after.in_hand.room == SLOTS


# ---------------------------------------------------------------- each reply to its own recipient


def test_parts_that_meet_at_one_relay_are_tried_in_the_order_of_the_envelope(bench: Bench) -> None:
    """Two rules lead to the same relay, and the start puts together what they kept apart."""
    bench.add_relay("other")
    bench.offer(3)
    after, _ = restarted(bench, "relay > other", "relay")
    ((transaction, _),) = after.relay.started
    assert transaction.indexes == (0, 1, 2)
    after.relay.answer(TAKEN, LATER, TAKEN)
    after.loop.settle()
    assert [row.index for row in after.rows(transaction.message.id)] == [1]


def test_what_was_due_sooner_does_not_go_before_the_others_of_its_message(bench: Bench) -> None:
    message_id = bench.offer(2)
    bench.relay.answer(reply(451, "4.7.1", "again in 90 seconds"), reply(451, "4.7.1", "again in 30 seconds"))
    bench.loop.settle()
    first, second = sorted(bench.rows(message_id), key=lambda row: row.index)
    assert second.due_ms < first.due_ms
    after = bench.kill()
    after.loop.wall_offset_s += 600
    after.resume()
    ((transaction, _),) = after.relay.started
    assert transaction.indexes == (0, 1)
    after.relay.answer(TAKEN, LATER)
    after.loop.settle()
    assert [row.index for row in after.rows(message_id)] == [1]
