"""Mail to who is on the suppression list is never tried, whenever he came there, and says why."""

from __future__ import annotations

from typing import cast

from tests.unit.queue.bench import LATER, TAKEN, Bench

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mail.ids import MessageId
from dispatch.policy.routing import DEFAULT_RULE, PIN, Action, Route
from dispatch.policy.suppression import REASON, SUPPRESSED_ROUTE, SUPPRESSION, SuppressionList
from dispatch.queue.replay import NO_ID
from dispatch.queue.turned_away import kept_from_relays
from dispatch.spool.records import Moved


def moved(bench: Bench) -> list[Moved]:
    return [cast(Moved, record) for record in bench.of(Moved)]


def suppress(bench: Bench, message_id: MessageId, *indexes: int) -> None:
    parked = bench.store.get(message_id, content=False)
    assert parked is not None
    recipients = parked.message.envelope.recipients
    bench.suppressed = SuppressionList.of(recipients[index].address for index in indexes)


def test_what_comes_for_him_ends_with_its_record(bench: Bench) -> None:
    bench.dealt = (SUPPRESSED_ROUTE, "relay")
    bench.offer(2)
    (record,) = moved(bench)
    assert (record.move, record.state) == (Move.SUPPRESS, DeliveryState.SUPPRESSED)
    assert (record.by, record.reason, record.indexes) == (SUPPRESSION, REASON, (0,))
    assert [transaction.indexes for transaction, _ in bench.relay.started] == [(1,)]
    bench.relay.answer(TAKEN)
    bench.loop.settle()
    assert not bench.scheduler.custody.live


def test_what_waits_for_him_is_not_tried_again(bench: Bench) -> None:
    bench.dealt = ("relay",)
    message_id = bench.offer(2)
    bench.relay.answer(LATER, LATER)
    bench.loop.settle()
    suppress(bench, message_id, 1)
    bench.loop.advance(3600.0)
    (record,) = moved(bench)
    assert (record.indexes, record.state, record.by) == ((1,), DeliveryState.SUPPRESSED, SUPPRESSION)
    assert [transaction.indexes for transaction, _ in bench.relay.started] == [(0,)]
    assert [row.index for row in bench.rows(message_id)] == [0], "the other one waits for his answer"


def test_a_message_of_whom_nobody_is_left_leaves_nothing(bench: Bench) -> None:
    message_id = bench.offer(file=True)
    bench.relay.answer(LATER)
    bench.loop.settle()
    suppress(bench, message_id, 0)
    bench.loop.advance(3600.0)
    assert not bench.relay.started and not bench.rows(message_id) and len(bench.removed) == 1


def test_a_killed_process_does_not_try_him_either(bench: Bench) -> None:
    message_id = bench.offer()
    bench.relay.answer(LATER)
    bench.loop.settle()
    suppress(bench, message_id, 0)
    bench.ledger.by_itself = False
    bench.loop.advance(3600.0)
    assert len(moved(bench)) == 1 and bench.rows(message_id), "its record is not durable yet"
    listed = bench.suppressed
    again = bench.kill()
    again.suppressed = listed
    again.ledger.by_itself = True
    again.resume()
    again.loop.advance(7200.0)
    assert not again.relay.started and not again.rows(message_id)


def test_what_stands_in_line_for_him_is_not_tried_once_it_is_looked_at_again(bench: Bench) -> None:
    bench.relay.slots = 0
    message_id = bench.offer(2)
    assert len(bench.lane.ready) == 1
    bench.suppressed = SuppressionList.of(["r0@example.org"])
    bench.scheduler.unload_all()
    bench.relay.slots = 8
    bench.loop.advance(2.0)
    assert [transaction.indexes for transaction, _ in bench.relay.started] == [(1,)]
    assert [record.indexes for record in moved(bench)] == [(0,)]
    bench.relay.answer(TAKEN)
    bench.loop.settle()
    assert not bench.rows(message_id) and not bench.scheduler.custody.live


def test_what_was_tried_and_is_still_the_logs_is_not_tried_by_the_next_process(bench: Bench) -> None:
    bench.store.full = True
    message_id = bench.offer()
    bench.relay.answer(LATER)
    bench.loop.settle()
    after = bench.kill()
    after.dealt = (SUPPRESSED_ROUTE,)
    after.resume()
    after.loop.advance(3600.0)
    assert not after.relay.started and not after.rows(message_id)
    assert [(record.by, record.indexes) for record in moved(after)] == [(SUPPRESSION, (0,))]
    assert not after.scheduler.custody.live


def test_a_rule_is_named_and_the_default_relay_is_none() -> None:
    told = {DEFAULT_RULE: "routing", PIN: PIN, "drop": "rule drop", SUPPRESSION: SUPPRESSION}
    for rule, by in told.items():
        assert kept_from_relays(Route((), rule, "why", Action.HOLD), NO_ID, (0,), 1).by == by
