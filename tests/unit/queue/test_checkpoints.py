"""A checkpoint says what the records before it say, and lets nothing go before it is durable."""

from __future__ import annotations

from tests.unit.queue.bench import LATER, TAKEN, Bench, leave

from dispatch.ports import Lsn
from dispatch.spool.records import Attempted, Checkpoint, Parked


def last(bench: Bench) -> Checkpoint:
    bench.housekeeping.write_checkpoint()
    checkpoint = bench.of(Checkpoint)[-1]
    assert isinstance(checkpoint, Checkpoint)
    return checkpoint


def test_an_outcome_that_is_written_and_not_durable_is_decided(bench: Bench) -> None:
    """A restart that begins behind the outcome would deliver again otherwise."""
    bench.offer(2)
    bench.ledger.by_itself = False
    bench.relay.answer(TAKEN, LATER)
    assert bench.of(Attempted) and bench.ledger.kept < len(bench.ledger.written)
    (live,) = last(bench).live
    assert live.gone == (0,)
    assert [type(record) for record in live.history] == [Attempted]


def test_a_message_whose_last_outcome_is_not_durable_needs_no_look_at_a_restart(bench: Bench) -> None:
    bench.offer()
    bench.ledger.by_itself = False
    bench.relay.answer(TAKEN)
    checkpoint = last(bench)
    assert not checkpoint.live and checkpoint.mail_cursor == bench.mail.durable


def test_what_was_parked_is_decided_as_soon_as_its_record_is_written(bench: Bench) -> None:
    bench.scheduler.lanes.clear()
    message_id = bench.offer()
    assert bench.of(Parked) and bench.rows(message_id)
    bench.ledger.by_itself = False
    bench.scheduler.lanes["relay"] = bench.lane
    bench.scheduler.lanes.clear()
    other = bench.offer()
    bench.ledger.sync()
    bench.loop.settle()
    assert bench.rows(other) and len(bench.of(Parked)) == 2
    assert bench.ledger.kept < len(bench.ledger.written), "the second record is not durable"
    assert not last(bench).live


def test_what_was_sent_and_not_answered_is_in_the_checkpoint(bench: Bench) -> None:
    message_id = bench.offer()
    transaction, _ = bench.relay.started[0]
    assert not last(bench).sent
    transaction.sending(transaction, leave)
    assert [(placed.id, placed.indexes) for placed in last(bench).sent] == [(message_id, (0,))]


def test_the_log_is_released_only_when_the_checkpoint_is_durable(bench: Bench) -> None:
    bench.offer()
    bench.relay.answer(TAKEN)
    bench.loop.settle()
    bench.ledger.by_itself = False
    bench.housekeeping.write_checkpoint()
    bench.loop.settle()
    assert bench.released.load() == 0 and bench.checkpoint.load() == 0
    bench.ledger.sync()
    bench.loop.settle()
    assert bench.released.load() == bench.mail.durable
    assert bench.checkpoint.load() == bench.ledger.durable


def test_a_checkpoint_counts_when_the_parked_store_has_followed_it(bench: Bench) -> None:
    bench.offer()
    bench.relay.answer(TAKEN)
    bench.store.full = True
    bench.housekeeping.write_checkpoint()
    bench.loop.settle()
    assert bench.of(Checkpoint)
    assert bench.checkpoint.load() == 0 and bench.ledger.released == 0
    bench.store.full = False
    bench.loop.advance(2.0)
    assert bench.store.ledger_lsn == bench.checkpoint.load() > 0
    assert bench.ledger.released > Lsn(0)


def test_a_record_that_cannot_be_read_stays_in_the_log(bench: Bench) -> None:
    bench.mail.append([b"\xff written by a later version"], lambda _: None)
    bench.loop.settle()
    bench.scheduler.wake()
    bench.offer()
    bench.relay.answer(TAKEN)
    bench.loop.advance(10.0)
    assert "mail_unreadable" in bench.alarms
    assert bench.released.load() == 0, "it would be gone"
    (live,) = last(bench).live
    assert live.mail_lsn == 0
