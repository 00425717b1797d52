"""An upstream goes away for a while: mail waits where everybody can see it, and is delivered afterwards."""

from __future__ import annotations

import time

from tests.scenarios.relay import Relay, until
from tests.scenarios.upstream import Upstream


def test_mail_waits_with_its_reason_and_a_flush_delivers_it(relay: Relay, upstream: Upstream) -> None:
    relay.configure(
        upstream.table(), spool={"retry_delays_seconds": [600]}, queue={"breaker_failures": 1000}
    ).start()
    upstream.stop()
    message_id = relay.send()
    until(lambda: relay.said("retrying", id=message_id), "the first attempt has failed")

    [row] = until(relay.queue, "it is parked")
    assert row["id"] == message_id
    assert row["state"] == "waiting"
    assert row["attempts"] == 1
    assert "refused" in row["reason"].lower(), row
    assert 0 < row["due_ms"] / 1000 - time.time() <= 600
    assert "due in" in relay.cli("queue", "list")

    upstream.start()
    assert relay.json("queue", "flush")["changed"] == 1
    until(lambda: upstream.delivered, "it is delivered")
    assert relay.story_in_state(message_id, "delivered")["deliveries"][0]["attempts"] == 2
    assert relay.queue() == []


def test_the_breaker_spares_a_relay_that_is_down_and_closes_when_it_is_back(
    relay: Relay, upstream: Upstream
) -> None:
    relay.configure(
        upstream.table(max_concurrency=1), queue={"breaker_failures": 2, "breaker_open_seconds": 900}
    ).start()
    upstream.stop()
    sent = [relay.send() for _ in range(6)]
    until(lambda: relay.said("breaker_opened"), "the breaker opens")
    [lane] = relay.json("queue", "relays")["lanes"]
    assert lane["breaker"] == "open"
    assert 600 < lane["opens_until_s"] <= 900
    assert {row["id"] for row in relay.queue()} == set(sent), "every message waits, none was given up"

    upstream.start()
    relay.cli("queue", "flush")
    until(lambda: len(upstream.delivered) == len(sent), "all are delivered")
    assert relay.json("queue", "relays")["lanes"][0]["breaker"] == "closed"


def test_an_open_breaker_probes_by_itself(relay: Relay, upstream: Upstream) -> None:
    relay.configure(
        upstream.table(max_concurrency=1), queue={"breaker_failures": 2, "breaker_open_seconds": 1}
    ).start()
    upstream.stop()
    sent = [relay.send() for _ in range(4)]
    until(lambda: relay.said("breaker_opened"), "the breaker opens")
    upstream.start()
    until(lambda: len(upstream.delivered) == len(sent), "all are delivered without anybody's help")
    assert relay.said("breaker_closed")


def test_mail_is_accepted_while_the_upstream_stalls(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table(max_concurrency=2)).start()
    upstream.script = lambda step, argument, count: "stall" if step == "content" else None
    sent = [relay.send() for _ in range(20)]
    upstream.release()
    until(lambda: len(upstream.delivered) == len(sent), "all are delivered")
