"""What a start makes of what the last run left."""

from __future__ import annotations

from typing import cast

from tests.unit.queue.bench import LATER, NEVER, SLOTS, TAKEN, Bench, leave

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.ports import Lsn
from dispatch.queue.in_hand import DEATHS_ALONE_MAX
from dispatch.queue.recovery import recover
from dispatch.queue.work import fresh_deliveries
from dispatch.spool.records import Checkpoint, Moved, Placed
from dispatch.store.parked import Park


def moves(bench: Bench) -> list[Move]:
    return [cast(Moved, record).move for record in bench.of(Moved)]


def park(bench: Bench, recipients: int = 1) -> Park:
    """A message that the parked store owns, due now."""
    message = bench.message(recipients)
    change = Park(message, b"A: b\r\n\r\n", fresh_deliveries(message, tuple(range(recipients)), "relay"))
    bench.store.apply([change], 0)
    bench.scheduler.look_again()
    bench.loop.settle()
    return change


def test_what_was_not_sent_is_tried_again_without_a_word(bench: Bench) -> None:
    message_id = bench.offer()
    after = bench.kill().resume()
    assert [transaction.message.id for transaction, _ in after.relay.started] == [message_id]
    assert not after.of(Moved)


def test_what_was_sent_and_parked_is_uncertain_and_held_where_the_policy_says_so(bench: Bench) -> None:
    change = park(bench)
    transaction, _ = bench.relay.started[0]
    transaction.sending(transaction, leave)
    after = bench.kill("hold").resume()
    after.loop.advance(30.0)
    assert moves(after) == [Move.LOSE_REPLY, Move.HOLD]
    assert not after.relay.started, "nobody but the policy moves it"
    (row,) = after.rows(change.id)
    assert row.state is DeliveryState.HELD and row.attempts == 1 and row.uncertain
    assert after.in_hand.room == SLOTS


def test_what_was_sent_from_the_log_is_uncertain_and_held_where_the_policy_says_so(bench: Bench) -> None:
    message_id = bench.offer(2)
    transaction, _ = bench.relay.started[0]
    transaction.sending(transaction, leave)
    after = bench.kill("hold").resume()
    after.loop.advance(30.0)
    assert moves(after) == [Move.LOSE_REPLY, Move.HOLD] * 2
    assert {row.state for row in after.rows(message_id)} == {DeliveryState.HELD}
    assert not after.relay.started and not after.scheduler.custody.live


def test_nothing_starts_before_what_became_uncertain_is_durable(bench: Bench) -> None:
    park(bench)
    transaction, _ = bench.relay.started[0]
    transaction.sending(transaction, leave)
    after = bench.kill()
    after.ledger.by_itself = False
    after.resume()
    after.loop.advance(10.0)
    assert not after.relay.started
    after.ledger.by_itself = True
    after.ledger.sync()
    after.loop.advance(1.0)
    assert len(after.relay.started) == 1


def test_two_transactions_of_one_message_are_both_uncertain(bench: Bench) -> None:
    """The checkpoint names the message twice; the first part an earlier version wrote, without its relay."""
    change = park(bench, 2)
    placed = (Placed(change.id, (0,)), Placed(change.id, (1,), "relay"))
    bench.book.write(Checkpoint(0, bench.scheduler.cursor, (), placed))
    bench.ledger.sync()
    recovered = recover(bench.ledger, Lsn(0), bench.seams.mail, bench.store)
    assert recovered.sent == {change.id: {0: "", 1: "relay"}}


def test_an_uncertain_outcome_without_its_policy_is_completed(bench: Bench) -> None:
    """The process died between two records."""
    bench.offer()
    bench.relay.answer(None)
    assert isinstance(bench.ledger.written.pop(), Moved)
    bench.ledger._done.pop()
    after = bench.kill("hold").resume()
    assert moves(after) == [Move.HOLD]


def test_a_settled_delivery_whose_row_is_still_there_loses_it(bench: Bench) -> None:
    change = park(bench)
    bench.ledger.by_itself = False
    bench.relay.answer(TAKEN)
    after = bench.kill()
    assert after.rows(change.id)
    after.resume()
    assert not after.rows(change.id) and not after.relay.started


def test_a_deferral_that_was_on_its_way_into_the_store_arrives_there(bench: Bench) -> None:
    message_id = bench.offer()
    bench.ledger.by_itself = False
    bench.relay.answer(LATER)
    after = bench.kill()
    assert not after.rows(message_id)
    after.resume()
    after.ledger.sync()
    after.loop.settle()
    (row,) = after.rows(message_id)
    assert row.attempts == 1 and row.due_ms > row.since_ms


def test_who_is_in_hand_alone_at_three_deaths_is_quarantined_and_its_neighbour_is_not(bench: Bench) -> None:
    poison, neighbour = bench.offer(), bench.offer()
    life = bench
    for _ in range(1 + DEATHS_ALONE_MAX):
        life = life.kill().resume()
        if any(transaction.message.id == neighbour for transaction, _ in life.relay.started):
            while life.relay.started and life.relay.started[0][0].message.id != poison:
                life.relay.answer(TAKEN)
                life.loop.settle()
    assert Move.QUARANTINE in moves(life) and "message_quarantined" in life.alarms
    assert {row.state for row in life.rows(poison)} == {DeliveryState.QUARANTINED}
    assert not life.rows(neighbour)
    assert life.in_hand.room == SLOTS


def test_suspects_run_alone(bench: Bench) -> None:
    for _ in range(3):
        bench.offer()
    after = bench.kill().resume()
    for _ in range(3):
        assert len(after.relay.started) == 1
        after.relay.answer(TAKEN)
        after.loop.settle()
    assert not after.relay.started and after.scheduler.trial is None and after.in_hand.room == SLOTS


def test_a_suspect_that_takes_long_gets_company(bench: Bench) -> None:
    for _ in range(2):
        bench.offer()
    after = bench.kill().resume()
    after.loop.advance(1.5)
    assert len(after.relay.started) == 2


def test_what_the_ledger_calls_parked_is_not_the_logs_even_when_its_row_is_gone(bench: Bench) -> None:
    """A bounced one, whose retention is over: no record tells of that. No checkpoint comes between."""
    bench.housekeeping.write_checkpoint = lambda: None  # type: ignore[method-assign]
    message_id = bench.offer()
    bench.relay.answer(NEVER)
    bench.loop.settle()
    assert bench.rows(message_id)
    bench.retention_s = 1.0
    bench.loop.advance(200.0)
    assert not bench.rows(message_id)
    after = bench.kill().resume()
    assert not after.rows(message_id) and not after.scheduler.custody.live


def test_nobody_is_charged_with_a_death_beside_a_slow_suspect(bench: Bench) -> None:
    bench.offer()
    bench.offer()
    life = bench
    for _ in range(2 + DEATHS_ALONE_MAX):
        life = life.kill().resume()
        life.loop.advance(1.5)
        assert len(life.relay.started) == 2, "one after the other, and now side by side"
    assert Move.QUARANTINE not in moves(life)
    assert all(suspect.deaths_alone == 0 for suspect in life.in_hand.suspects())


def test_a_content_file_that_the_store_needs_outlives_its_place_in_the_log(bench: Bench) -> None:
    bench.relay.slots = 1
    message_id = bench.offer(2, file=True)
    bench.relay.answer(TAKEN, LATER)
    after = bench.kill().resume()
    after.loop.advance(1.0)
    assert after.rows(message_id) and not after.removed


def test_a_record_that_a_later_version_wrote_is_taken_up_when_it_can_be_read(bench: Bench) -> None:
    bench.mail.append([b"\xff of a later version"], lambda _: None)
    bench.loop.settle()
    bench.scheduler.wake()
    bench.offer()
    bench.relay.answer(TAKEN)
    bench.loop.advance(10.0)
    checkpoint = bench.checkpoint.load()
    after = bench.kill().resume(checkpoint)
    assert after.alarms.count("mail_unreadable") == 1
    assert after.scheduler.unreadable == [Lsn(0)]


def test_a_ledger_record_that_cannot_be_read_does_not_stop_the_start(bench: Bench) -> None:
    message_id = bench.offer()
    alarms: list[str] = []
    read = bench.ledger.read

    def damaged(cursor: Lsn, size_bytes_max: int) -> list[object]:
        entries = read(cursor, size_bytes_max)
        return [entries[0]._replace(payload=b"\xff"), *entries] if entries else []

    bench.ledger.read = damaged  # type: ignore[assignment,method-assign]
    recovered = recover(
        bench.ledger, Lsn(0), bench.seams.mail, bench.store, lambda event, **_: alarms.append(event)
    )
    assert "ledger_corrupt" in alarms
    assert [standing.message.id for standing in recovered.standing] == [message_id]
