"""The connection breaks under a transaction: before the end of data, when nothing is lost or doubled, and
after it, when nobody can know (RFC 1047) and the uncertain policy decides."""

from __future__ import annotations

import pytest
from tests.scenarios.relay import Relay, until
from tests.scenarios.upstream import DROP, STALL, Upstream, at


@pytest.mark.parametrize("step", ["greeting", "EHLO", "MAIL", "RCPT", "DATA"])
def test_relay_drops_before_end_of_data(relay: Relay, upstream: Upstream, step: str) -> None:
    upstream.script = at(step, DROP)
    relay.configure(upstream.table()).start()
    message_id = relay.send()
    relay.story_in_state(message_id, "delivered")
    assert len(upstream.received) == 1
    assert relay.counted("uncertain") == 0


def test_relay_drops_in_the_middle_of_a_large_content(relay: Relay, upstream: Upstream) -> None:
    upstream.script = at("lines", DROP)
    relay.configure(upstream.table()).start()
    content = b"Subject: Large\r\n\r\n" + b"x" * 76 + b"\r\n" + (b"y" * 76 + b"\r\n") * 100_000
    message_id = relay.send(content)
    relay.story_in_state(message_id, "delivered")
    assert len(upstream.received) == 1
    assert upstream.received[0].content.endswith(content)
    assert relay.counted("uncertain") == 0, "its end had not left us"


def test_final_reply_lost_and_tried_again(relay: Relay, upstream: Upstream) -> None:
    upstream.script = at("content", DROP)
    relay.configure(upstream.table()).start()
    message_id = relay.send()
    story = relay.story_in_state(message_id, "delivered")
    assert [each["move"] for each in story["timeline"]] == ["lose reply", "retry", "deliver"]
    assert len(upstream.received) == 2, "the duplicate that the policy accepts"
    assert upstream.received[0].content == upstream.received[1].content
    assert relay.counted("uncertain") == 1, "and counts"
    assert relay.said("uncertain", id=message_id), "and tells"


def test_final_reply_lost_and_held_for_a_person(relay: Relay, upstream: Upstream) -> None:
    upstream.script = at("content", DROP)
    relay.configure(upstream.table(), queue={"uncertain_policy": "hold"}).start()
    message_id = relay.send()
    relay.story_in_state(message_id, "held")
    [row] = relay.queue("--state", "held")
    assert row["id"] == message_id
    relay.cli("queue", "flush")
    assert len(upstream.received) == 1, "a flush does not decide what is a person's decision"

    assert relay.json("queue", "release", message_id)["changed"] == 1
    relay.story_in_state(message_id, "delivered")
    assert len(upstream.received) == 2


def test_final_reply_lost_and_given_up(relay: Relay, upstream: Upstream) -> None:
    upstream.script = at("content", DROP)
    relay.configure(upstream.table(uncertain_policy="give_up")).start()
    message_id = relay.send()
    story = relay.story_in_state(message_id, "gave up")
    assert [each["move"] for each in story["timeline"]] == ["lose reply", "give up"]
    assert len(upstream.received) == 1
    assert relay.queue("--state", "gave up")[0]["id"] == message_id, "its content is kept"


def test_final_reply_too_late(relay: Relay, upstream: Upstream) -> None:
    upstream.script = at("content", STALL)
    relay.configure(upstream.table(end_of_data_timeout_seconds=1)).start()
    message_id = relay.send()
    story = relay.story_in_state(message_id, "delivered")
    assert [each["move"] for each in story["timeline"]] == ["lose reply", "retry", "deliver"]


def test_killed_before_the_final_reply(relay: Relay, upstream: Upstream) -> None:
    upstream.script = at("content", STALL)
    relay.configure(upstream.table()).start()
    message_id = relay.send()
    until(lambda: upstream.received, "the upstream has the message and does not answer")
    relay.kill()
    relay.start()
    story = relay.story_in_state(message_id, "delivered")
    assert story["timeline"][0]["move"] == "lose reply"
    assert story["timeline"][0]["by"] == "recovery"
    assert relay.counted("uncertain") == 1
