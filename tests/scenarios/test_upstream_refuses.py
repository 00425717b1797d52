"""Refusals of an upstream: for good, for now, for one recipient of three, for ever."""

from __future__ import annotations

import pytest
from tests.scenarios.relay import Relay, until
from tests.scenarios.upstream import Upstream, always, at

THREE = ("first@example.net", "nobody@example.net", "third@example.net")


def test_rcpt_refused_for_one_of_three(relay: Relay, upstream: Upstream) -> None:
    upstream.script = always("RCPT", "550 5.1.1 No such user here", containing="nobody")
    relay.configure(upstream.table()).start()
    message_id = relay.send(to=THREE)

    story = relay.story_in_state(message_id, "partially delivered")
    [received] = upstream.delivered
    assert received.recipients == ["first@example.net", "third@example.net"]
    assert {each["address"]: each["state"] for each in story["deliveries"]} == {
        "first@example.net": "delivered",
        "nobody@example.net": "bounced",
        "third@example.net": "delivered",
    }
    assert any("No such user here" in (each.get("reply") or "") for each in story["timeline"])
    [kept] = relay.queue("--state", "bounced")
    assert kept["recipient"] == "nobody@example.net", "only what failed is kept"


def test_rcpt_deferred_for_one_of_three(relay: Relay, upstream: Upstream) -> None:
    upstream.script = lambda step, argument, count: (
        "451 4.7.1 Greylisted" if step == "RCPT" and "nobody" in argument and count <= 3 else None
    )
    relay.configure(upstream.table()).start()
    message_id = relay.send(to=THREE)
    relay.story_in_state(message_id, "delivered")
    assert [each.recipients for each in upstream.delivered] == [
        ["first@example.net", "third@example.net"],
        ["nobody@example.net"],
    ], "who was delivered is not tried again"


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "content"])
def test_relay_returns_452_twice(relay: Relay, upstream: Upstream, step: str) -> None:
    upstream.script = at(step, "452 4.3.1 Mailbox full", "452 4.3.1 Mailbox full")
    relay.configure(upstream.table()).start()
    message_id = relay.send()
    story = relay.story_in_state(message_id, "delivered")
    assert story["deliveries"][0]["attempts"] == 3
    assert [each["state"] for each in story["timeline"]] == ["waiting", "waiting", "delivered"]
    assert len(upstream.delivered) == 1
    assert relay.counted("deferred") == 2


@pytest.mark.parametrize("step", ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "content"])
def test_relay_says_421(relay: Relay, upstream: Upstream, step: str) -> None:
    upstream.script = at(step, "421 4.3.2 Going down")
    relay.configure(upstream.table()).start()
    message_id = relay.send()
    relay.story_in_state(message_id, "delivered")
    assert len(upstream.delivered) == 1
    assert upstream.connections == 2, "it closed the first one"
    assert relay.counted("uncertain") == 0, "it was answered"


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "content"])
def test_relay_refuses_for_good(relay: Relay, upstream: Upstream, step: str) -> None:
    upstream.script = always(step, "554 5.6.0 Not wanted here")
    relay.configure(upstream.table()).start()
    message_id = relay.send()
    story = relay.story_in_state(message_id, "bounced")
    assert [each["reply"] for each in story["timeline"]] == ["554 5.6.0 Not wanted here"]
    assert upstream.count(step) == 1, "it was not asked again"
    assert relay.said("failed", id=message_id)


def test_relay_does_not_let_us_in(relay: Relay, upstream: Upstream) -> None:
    upstream.script = at("MAIL", "550 5.7.1 Your address is not welcome here")
    relay.configure(upstream.table()).start()
    message_id = relay.send()
    story = relay.story_in_state(message_id, "delivered")
    assert [each["move"] for each in story["timeline"]] == ["defer", "deliver"], (
        "it says nothing about the mail"
    )


def test_bounced_content_is_kept_and_retried(relay: Relay, upstream: Upstream) -> None:
    upstream.script = at("RCPT", "550 5.1.1 No such user here")
    relay.configure(upstream.table()).start()
    message_id = relay.send(b"Subject: Kept\r\n\r\nFor a second chance.\r\n")
    relay.story_in_state(message_id, "bounced")
    stored = relay.cli_result("queue", "show", message_id, "--eml").stdout
    assert stored.endswith(b"Subject: Kept\r\n\r\nFor a second chance.\r\n")

    assert relay.json("queue", "retry", message_id)["changed"] == 1
    until(lambda: upstream.delivered, "it is delivered")
    assert upstream.delivered[0].content == stored
    story = relay.story_in_state(message_id, "delivered")
    moves = [each["move"] for each in story["timeline"]]
    assert moves == ["bounce", "reopen", "deliver"]
    assert relay.queue() == []


def test_message_expires(relay: Relay, upstream: Upstream) -> None:
    upstream.script = always("RCPT", "451 4.2.1 Not now")
    relay.configure(upstream.table(), spool={"max_age_hours": 0.0005}).start()
    message_id = relay.send()
    story = relay.story_in_state(message_id, "expired")
    assert story["timeline"][-1]["at_ms"] - story["accepted_ms"] >= 1800, "not before its time"
    assert [each["move"] for each in story["timeline"]][-1] == "expire"
    assert relay.queue("--state", "expired")[0]["id"] == message_id, "its content is kept"


def test_max_retries_zero(relay: Relay, upstream: Upstream) -> None:
    upstream.script = always("RCPT", "451 4.2.1 Not now")
    relay.configure(upstream.table(), spool={"max_retries": 0}).start()
    message_id = relay.send()
    story = relay.story_in_state(message_id, "expired")
    assert len(story["timeline"]) == 1
    assert upstream.count("RCPT") == 1
