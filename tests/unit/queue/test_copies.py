"""Copies for an archive: made once, whenever delivery dies, and tied to the fate of nobody's mail."""

from __future__ import annotations

from typing import cast

import pytest
from tests.unit.queue.bench import LATER, TAKEN, Bench, HandRelay, leave

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.envelope import Recipient
from dispatch.mail.ids import MessageId
from dispatch.policy.copies import joined_by
from dispatch.policy.routing import COPY, Action, Route
from dispatch.queue.requests import Order
from dispatch.queue.work import fresh_deliveries
from dispatch.spool.records import Accepted, Attempted, Checkpoint
from dispatch.store.changes import QueueFilter
from dispatch.store.parked import Park

COPIED = Route(("relay",), "kept", copies=("archive",))
HELD = Route((), "review", "the rule 'review' holds it", Action.HOLD, ("archive",))
DISCARDED = Route((), "drop", "the rule 'drop' discards it", Action.DISCARD, ("archive",))


def copying(bench: Bench, *dealt: str | Route) -> HandRelay:
    """The archive's relay; mail is dealt so, by a rule that asks for copies."""
    bench.dealt = dealt or (COPIED,)
    return bench.add_relay("archive")


def indexes(relay: HandRelay) -> list[tuple[int, ...]]:
    return [transaction.indexes for transaction, _ in relay.started]


def restarted(bench: Bench, *, power: bool = False, checkpoint: int = 0) -> tuple[Bench, HandRelay]:
    """The next life, in which no rule asks for copies any more."""
    after = bench.cut_power() if power else bench.kill()
    archive = after.add_relay("archive")
    after.dealt = ("relay",)
    return after.resume(checkpoint, power=power), archive


def test_a_copy_is_a_recipient_of_its_own_in_every_record(bench: Bench) -> None:
    archive = copying(bench)
    bench.offer(2)
    assert (indexes(bench.relay), indexes(archive)) == ([(0, 1)], [(2, 3)])
    transaction, _ = archive.started[0]
    copy = transaction.message.envelope.recipients[2]
    assert (copy.address, copy.notify, copy.copy_to) == ("r0@example.org", "NEVER", "archive")
    archive.answer(TAKEN, TAKEN)
    assert bench.scheduler.custody.live, "the mail itself is still under way"
    bench.relay.answer(TAKEN, TAKEN)
    bench.loop.settle()
    assert not bench.scheduler.custody.live
    (accepted,) = [cast(Accepted, record) for record in bench.of(Accepted)]
    assert accepted.rules == (("kept", (0, 1)), (COPY, (2, 3)))
    tried = {cast(Attempted, record).relay for record in bench.of(Attempted)}
    assert tried == {"relay", "archive"}


def test_mail_of_other_rules_has_no_copy(bench: Bench) -> None:
    archive = copying(bench, COPIED, "relay")
    bench.offer(3)
    assert indexes(archive) == [(3, 4)]
    transaction, _ = archive.started[0]
    addressed = [transaction.message.envelope.recipients[index].address for index in transaction.indexes]
    assert addressed == ["r0@example.org", "r2@example.org"]


def test_an_archive_that_is_switched_off_keeps_nobodys_mail_waiting(bench: Bench) -> None:
    bench.dealt = (COPIED,)
    message_id = bench.offer()
    bench.relay.answer(TAKEN)
    bench.loop.settle()
    (row,) = bench.rows(message_id)
    assert (row.index, row.relay, row.state) == (1, "archive", DeliveryState.WAITING)
    assert not bench.scheduler.custody.live
    archive = bench.add_relay("archive")
    bench.scheduler.look_again()
    bench.loop.settle()
    assert indexes(archive) == [(1,)]
    archive.answer(TAKEN)
    bench.loop.settle()
    assert not bench.rows(message_id)


def test_a_copy_that_fails_is_tried_again_alone(bench: Bench) -> None:
    archive = copying(bench)
    message_id = bench.offer()
    archive.answer(LATER)
    bench.relay.answer(TAKEN)
    bench.loop.settle()
    assert [row.index for row in bench.rows(message_id)] == [1]
    bench.loop.advance(3600.0)
    assert (indexes(bench.relay), indexes(archive)) == ([], [(1,)])


@pytest.mark.parametrize("checkpoint", [False, True], ids=["by its record", "by the checkpoint"])
def test_a_killed_process_makes_every_copy_all_the_same(bench: Bench, checkpoint: bool) -> None:
    copying(bench)
    message_id = bench.offer(2)
    if checkpoint:
        bench.housekeeping.write_checkpoint()
        (record,) = bench.of(Checkpoint)
        (live,) = cast(Checkpoint, record).live
        assert [copy.copy_to for copy in live.copies] == ["archive", "archive"]
        del bench.ledger.written[:-1]
    after, archive = restarted(bench)
    # Both were in hand, and are suspects: they run one after the other.
    assert indexes(after.relay) == [(0, 1)]
    after.relay.answer(TAKEN, TAKEN)
    after.loop.settle()
    assert indexes(archive) == [(2, 3)]
    archive.answer(TAKEN, TAKEN)
    after.loop.settle()
    assert not after.scheduler.custody.live and not after.rows(message_id)


@pytest.mark.parametrize("first", ["mail", "copy"])
def test_what_has_arrived_does_not_arrive_again(bench: Bench, first: str) -> None:
    archive = copying(bench)
    bench.offer()
    (bench.relay if first == "mail" else archive).answer(TAKEN)
    bench.loop.settle()
    after, archive = restarted(bench)
    expected = ([], [(1,)]) if first == "mail" else ([(0,)], [])
    assert (indexes(after.relay), indexes(archive)) == expected


def test_a_copy_that_may_have_left_is_uncertain_and_stays_with_its_relay(bench: Bench) -> None:
    archive = copying(bench)
    bench.offer()
    transaction, _ = archive.started[0]
    transaction.sending(transaction, leave)
    bench.loop.settle()
    after, archive = restarted(bench)
    assert after.scheduler.uncertain == 1
    assert [index for (index,) in indexes(archive)] in ([], [1])
    after.loop.advance(3600.0)
    assert [index for (index,) in indexes(archive)] == [1]


def test_what_a_power_cut_takes_from_the_ledger_is_decided_anew(bench: Bench) -> None:
    archive = copying(bench)
    bench.ledger.by_itself = False
    bench.offer()
    assert indexes(archive) == [(1,)]
    after = bench.cut_power()
    archive = after.add_relay("archive")
    after.dealt = (COPIED,)
    after.resume(power=True)
    assert (indexes(after.relay), indexes(archive)) == ([(0,)], [(1,)])


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_copy_of_an_acceptance_that_the_ledger_lost_hides_no_mail(bench: Bench, checkpoint: bool) -> None:
    """Counted as one of its recipients, it would make the message look finished."""
    second = bench.add_relay("second")
    bench.dealt = ("relay", "second")
    bench.offer(2)
    message = second.started[0][0].message
    older = joined_by(message, (Recipient("r0@example.org", "NEVER", copy_to="archive"),))
    bench.store.apply([Park(older, b"A: b\r\n\r\n", fresh_deliveries(older, (2,), "archive"))], 0)
    bench.relay.answer(TAKEN)
    bench.loop.settle()
    if checkpoint:
        bench.scheduler.checkpoint()
    after = bench.kill()
    second, archive = after.add_relay("second"), after.add_relay("archive")
    after.dealt = ("relay", "second")
    after.resume()
    after.loop.advance(1.0)
    assert (indexes(second), indexes(archive)) == ([(1,)], [(2,)])


@pytest.mark.parametrize(("route", "states"), [(HELD, [DeliveryState.HELD]), (DISCARDED, [])])
def test_what_goes_nowhere_is_copied_too(bench: Bench, route: Route, states: list[DeliveryState]) -> None:
    archive = copying(bench, route)
    message_id = bench.offer()
    assert indexes(archive) == [(1,)]
    archive.answer(TAKEN)
    bench.loop.settle()
    assert [row.state for row in bench.rows(message_id)] == states
    assert not bench.scheduler.custody.live


def test_what_is_released_has_its_copy_already(bench: Bench) -> None:
    archive = copying(bench, HELD)
    message_id = bench.offer()
    archive.answer(TAKEN)
    bench.loop.settle()
    bench.dealt = (COPIED,)
    bench.order(Order("release", QueueFilter(), (message_id,)))
    bench.loop.settle()
    assert (indexes(bench.relay), indexes(archive)) == ([(0,)], [])


def test_the_content_file_goes_when_mail_and_copy_have_gone(bench: Bench) -> None:
    archive = copying(bench)
    bench.offer(file=True)
    bench.relay.answer(TAKEN)
    bench.loop.settle()
    assert not bench.removed
    archive.answer(TAKEN)
    bench.loop.settle()
    assert len(bench.removed) == 1


def test_a_damaged_ledger_forgets_no_copy_that_it_still_tells_of(bench: Bench) -> None:
    copying(bench)
    message_id: MessageId = bench.offer()
    # A checkpoint that is named and not there: the ledger was replaced.
    after, archive = restarted(bench, checkpoint=1 << 30)
    assert indexes(after.relay) == [(0,)]
    after.relay.answer(TAKEN)
    after.loop.settle()
    assert indexes(archive) == [(1,)]
    archive.answer(TAKEN)
    after.loop.settle()
    assert not after.scheduler.custody.live and not after.rows(message_id)
