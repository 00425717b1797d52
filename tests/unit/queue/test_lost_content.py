"""A content file that is gone: its deliveries are set aside, loudly, until a person has seen to it."""

from __future__ import annotations

from tests.unit.queue.bench import LATER, NEVER, TAKEN, Bench, leave

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mail.report import Fault, FaultKind, Report, Stage
from dispatch.queue.requests import Order
from dispatch.spool.records import Attempted
from dispatch.store.changes import QueueFilter

LOST = FaultKind.CONTENT_LOST


def test_the_first_finding_sets_the_message_aside_and_says_so(bench: Bench) -> None:
    message_id = bench.offer(2, file=True)
    bench.relay.fail(Stage.CONTENT, LOST)
    bench.loop.advance(60.0)
    assert {row.state for row in bench.rows(message_id)} == {DeliveryState.QUARANTINED}
    assert "message_quarantined" in bench.alarms
    assert not bench.relay.started, "it is not tried again by itself"
    assert not bench.removed
    (attempted,) = bench.of(Attempted)
    assert isinstance(attempted, Attempted)
    (result,) = attempted.results
    assert (result.indexes, result.move, result.attempts) == ((0, 1), Move.QUARANTINE, 0)


def test_it_is_delivered_when_the_file_is_back_and_a_person_releases_it(bench: Bench) -> None:
    message_id = bench.offer(file=True)
    bench.relay.fail(Stage.CONTENT, LOST)
    bench.loop.settle()
    bench.order(Order("release", QueueFilter(state=DeliveryState.QUARANTINED)))
    bench.loop.advance(2.0)
    bench.relay.answer(TAKEN)
    bench.loop.settle()
    assert not bench.rows(message_id) and len(bench.removed) == 1


def test_it_is_still_set_aside_after_a_restart(bench: Bench) -> None:
    message_id = bench.offer(file=True)
    bench.ledger.by_itself = False
    bench.relay.fail(Stage.CONTENT, LOST)
    after = bench.kill()
    after.ledger.by_itself = True
    after.resume()
    after.loop.advance(5.0)
    assert [row.state for row in after.rows(message_id)] == [DeliveryState.QUARANTINED]
    assert not after.relay.started


def test_what_the_relay_has_answered_stands(bench: Bench) -> None:
    message_id = bench.offer(3, file=True)
    transaction, done = bench.relay.started.pop(0)
    stages = (Stage.RCPT, Stage.RCPT, Stage.CONTENT)
    done(transaction, Report(Stage.CONTENT, (NEVER, LATER, None), Fault(LOST, "gone"), reply_stage=stages))
    bench.loop.settle()
    assert [row.state for row in bench.rows(message_id)] == [
        DeliveryState.BOUNCED,
        DeliveryState.WAITING,
        DeliveryState.QUARANTINED,
    ]


def test_a_relay_that_reads_the_file_behind_sending_sets_it_aside_as_well(bench: Bench) -> None:
    """As the local inbox does."""
    message_id = bench.offer(file=True)
    transaction, _ = bench.relay.started[0]
    transaction.sending(transaction, leave)
    bench.relay.fail(Stage.CONTENT, LOST)
    bench.loop.settle()
    assert [row.state for row in bench.rows(message_id)] == [DeliveryState.QUARANTINED]
    after = bench.kill("hold").resume()
    assert [row.state for row in after.rows(message_id)] == [DeliveryState.QUARANTINED]


def test_content_that_is_out_of_reach_for_now_is_tried_again(bench: Bench) -> None:
    message_id = bench.offer(file=True)
    bench.relay.fail(Stage.CONTENT, FaultKind.CONTENT_UNREADABLE)
    bench.loop.settle()
    assert [row.state for row in bench.rows(message_id)] == [DeliveryState.WAITING]
    assert "message_quarantined" not in bench.alarms
