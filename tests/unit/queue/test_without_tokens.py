"""A relay whose access token cannot be had: it rests, its mail waits with all its attempts, and goes on."""

from __future__ import annotations

from typing import cast

import pytest
from tests.unit.queue.bench import TAKEN, Bench

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.report import FaultKind, Stage
from dispatch.policy.breaker import BreakerState
from dispatch.spool.records import Attempted


@pytest.mark.parametrize(
    "kind",
    [FaultKind.AUTHENTICATION, FaultKind.CREDENTIALS_ABSENT],
    ids=["refused", "endpoint down"],
)
def test_the_relay_rests_and_no_attempt_is_burnt(bench: Bench, kind: FaultKind) -> None:
    message_id = bench.offer()
    later = bench.offer()
    while bench.relay.started:
        bench.relay.fail(Stage.AUTH, kind)
    bench.loop.settle()
    assert bench.lane.breaker.state is BreakerState.OPEN
    assert [bench.rows(each)[0].attempts for each in (message_id, later)] == [0, 0]
    assert not bench.relay.started, "tried although there is no token"

    bench.loop.advance(30.0)
    assert len(bench.relay.started) == 1, "one message finds out whether there is a token now"
    bench.relay.answer(TAKEN)
    bench.loop.settle()
    assert bench.lane.breaker.state is BreakerState.CLOSED
    bench.loop.advance(600.0)
    while bench.relay.started:
        bench.relay.answer(TAKEN)
        bench.loop.settle()
    results = [result for record in bench.of(Attempted) for result in cast(Attempted, record).results]
    assert [result.state for result in results].count(DeliveryState.DELIVERED) == 2
    assert all(not bench.rows(each) for each in (message_id, later))
