"""Rules that discard or refuse what was accepted: each says so, and nothing else is left of it."""

from __future__ import annotations

from typing import cast

import pytest
from tests.unit.queue.bench import TAKEN, Bench

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.policy.routing import DEFAULT_RULE, Action, Route
from dispatch.queue.requests import Order
from dispatch.spool.records import Accepted, Moved
from dispatch.store.changes import QueueFilter

DISCARDS = Route((), "drop", "the rule 'drop' discards it", Action.DISCARD)
REFUSES = Route((), "no", "the rule 'no' refuses it", Action.REFUSE, reply="we do not write to them")


def moved(bench: Bench) -> list[Moved]:
    return [cast(Moved, record) for record in bench.of(Moved)]


@pytest.mark.parametrize("file", [False, True], ids=["in the log", "in a file"])
def test_what_is_discarded_has_its_record_and_nothing_else(bench: Bench, file: bool) -> None:
    bench.dealt = (DISCARDS,)
    message_id = bench.offer(2, file=file)
    (record,) = moved(bench)
    assert (record.move, record.state, record.indexes) == (Move.DISCARD, DeliveryState.DISCARDED, (0, 1))
    assert (record.by, record.reason) == ("rule drop", DISCARDS.hold_reason)
    assert not bench.rows(message_id) and not bench.scheduler.custody.live
    assert len(bench.removed) == file
    assert not bench.relay.started


def test_the_content_of_what_is_discarded_goes_only_when_the_record_is_durable(bench: Bench) -> None:
    bench.dealt = (DISCARDS,)
    bench.ledger.by_itself = False
    bench.offer(file=True)
    assert not bench.removed
    bench.ledger.sync()
    assert len(bench.removed) == 1


def test_the_other_recipients_of_a_message_are_tried(bench: Bench) -> None:
    bench.dealt = (DISCARDS, "relay")
    bench.offer(3)
    assert [transaction.indexes for transaction, _ in bench.relay.started] == [(1,)]
    bench.relay.answer(TAKEN)
    bench.loop.settle()
    assert not bench.scheduler.custody.live


def test_what_is_refused_after_its_acceptance_bounces_with_the_words_of_the_rule(bench: Bench) -> None:
    bench.dealt = (REFUSES,)
    message_id = bench.offer()
    (record,) = moved(bench)
    assert (record.move, record.by, record.reason) == (Move.BOUNCE, "rule no", "we do not write to them")
    (row,) = bench.rows(message_id)
    assert row.state is DeliveryState.BOUNCED and row.reason == "we do not write to them"
    assert not bench.scheduler.custody.live and not bench.relay.started


@pytest.mark.parametrize("route", [DISCARDS, REFUSES], ids=["discarded", "refused"])
@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "only accepted"])
def test_a_restart_ends_it_once(bench: Bench, route: Route, recorded: bool) -> None:
    bench.dealt = (route,)
    bench.ledger.by_itself = False
    message_id = bench.offer()
    if not recorded:
        del bench.ledger.written[1:]
    after = bench.kill().resume()
    after.ledger.by_itself = True
    after.ledger.sync()
    after.loop.settle()
    (record,) = moved(after)
    assert record.state.final and not after.scheduler.custody.live
    assert [row.state for row in after.rows(message_id)] == [record.state] * (route is REFUSES)


def test_a_bounce_by_a_rule_can_be_retried_once_the_rule_is_gone(bench: Bench) -> None:
    bench.dealt = (REFUSES,)
    message_id = bench.offer()
    wanted = QueueFilter(id_prefix=message_id.hex(), state=DeliveryState.BOUNCED)
    assert bench.order(Order("retry", wanted)).unsuited == 1  # type: ignore[union-attr]
    bench.dealt = ("relay",)
    assert bench.order(Order("retry", wanted)).changed == 1  # type: ignore[union-attr]
    bench.loop.advance(2.0)
    assert len(bench.relay.started) == 1


def test_the_acceptance_says_which_rules_decided(bench: Bench) -> None:
    bench.dealt = (DISCARDS, Route(("relay",), DEFAULT_RULE), "relay")
    bench.offer(3)
    (record,) = bench.of(Accepted)
    assert cast(Accepted, record).rules == (("drop", (0,)), ("test", (2,)))


def test_the_default_relay_needs_no_words_in_the_acceptance(bench: Bench) -> None:
    bench.dealt = (Route(("relay",), DEFAULT_RULE),)
    bench.offer(2)
    (record,) = bench.of(Accepted)
    assert cast(Accepted, record).rules == ()
