"""What an operator does with mail that waits: look, hold, release, cancel, retry, flush."""

from __future__ import annotations

import json
import os

import pytest
from tests.scenarios.relay import Relay, until
from tests.scenarios.upstream import Upstream, always

SENDERS = ("ann@one.example", "bob@one.example", "eve@two.example")


@pytest.fixture
def waiting(relay: Relay, upstream: Upstream) -> dict[str, str]:
    """Three messages that wait for hours at an upstream that is down: sender to id."""
    relay.configure(upstream.table(), spool={"retry_delays_seconds": [36_000]}).start()
    upstream.stop()
    ids = {
        sender: relay.send(f"Subject: From {sender}\r\n\r\nText\r\n".encode(), sender) for sender in SENDERS
    }
    until(lambda: len(relay.said("retrying")) == len(SENDERS), "all were tried")
    until(lambda: len(relay.queue()) == len(SENDERS), "all are parked")
    return ids


def states(relay: Relay) -> dict[str, str]:
    return {row["reverse_path"]: row["state"] for row in relay.queue()}


def test_list_show_and_filters(relay: Relay, waiting: dict[str, str]) -> None:
    ann = waiting["ann@one.example"]
    listed = relay.json("queue", "list", "--sender", "one.example")
    assert listed["total"] == 2
    assert {row["reverse_path"] for row in listed["deliveries"]} == {"ann@one.example", "bob@one.example"}
    assert [row["id"] for row in relay.queue("--sender", "ann@one.example")] == [ann]
    assert len(relay.queue("--recipient", "example.net")) == 3
    assert len(relay.queue("--recipient", "example.com")) == 0
    assert len(relay.queue("--relay", "upstream")) == 3
    assert len(relay.queue("--relay", "another")) == 0
    assert len(relay.queue("--reason", "refused")) == 3
    assert len(relay.queue("--state", "held")) == 0
    assert len(relay.queue("--limit", "2")) == 2

    shown = relay.json("queue", "show", ann)
    assert shown["message"]["from"] == "ann@one.example"
    assert shown["message"]["subject"] == "From ann@one.example"
    assert [row["recipient"] for row in shown["deliveries"]] == ["you@example.net"]
    assert ann in relay.cli("queue", "show", ann)


def test_hold_by_filter_and_release_by_id(relay: Relay, upstream: Upstream, waiting: dict[str, str]) -> None:
    held = relay.json("queue", "hold", "--sender", "one.example")
    assert held == {"changed": 2, "under_way": 0, "unsuited": 0, "uncertain": 0, "messages": 2}
    assert states(relay) == {
        "ann@one.example": "held",
        "bob@one.example": "held",
        "eve@two.example": "waiting",
    }
    upstream.start()
    relay.cli("queue", "flush")
    until(lambda: upstream.delivered, "what was not held is delivered")
    assert [each.reverse_path for each in upstream.delivered] == ["eve@two.example"]
    assert relay.json("queue", "retry", "--sender", "one.example")["unsuited"] == 2, "a retry is no release"

    assert relay.json("queue", "release", waiting["ann@one.example"])["changed"] == 1
    until(lambda: len(upstream.delivered) == 2, "the released one is delivered")
    assert upstream.delivered[-1].reverse_path == "ann@one.example"
    assert states(relay) == {"bob@one.example": "held"}
    moves = [
        each["move"] for each in relay.story_in_state(waiting["ann@one.example"], "delivered")["timeline"]
    ]
    assert moves == ["defer", "hold", "release", "deliver"]


def test_held_mail_stays_held_over_a_kill(relay: Relay, upstream: Upstream, waiting: dict[str, str]) -> None:
    assert relay.json("queue", "hold", "--all")["changed"] == 3
    relay.kill()
    upstream.start()
    relay.start()
    assert set(states(relay).values()) == {"held"}
    assert relay.json("queue", "release", "--state", "held")["changed"] == 3
    until(lambda: len(upstream.delivered) == 3, "all are delivered")


def test_cancel_by_id_and_by_filter(relay: Relay, upstream: Upstream, waiting: dict[str, str]) -> None:
    eve = waiting["eve@two.example"]
    assert relay.json("queue", "cancel", eve)["changed"] == 1
    assert relay.json("queue", "cancel", "--sender", "bob@one.example")["changed"] == 1
    assert set(states(relay)) == {"ann@one.example"}
    assert relay.cli_result("queue", "show", eve).returncode == os.EX_DATAERR, "its content is gone"

    upstream.start()
    relay.cli("queue", "flush")
    until(lambda: upstream.delivered, "the one that is left is delivered")
    assert relay.story_in_state(eve, "cancelled")["timeline"][-1]["by"] == "operator"
    relay.stop()
    relay.start()
    assert relay.queue() == []
    assert [each.reverse_path for each in upstream.delivered] == ["ann@one.example"], (
        "a restart revives nothing"
    )


def test_retry_by_id_tries_that_one_now(relay: Relay, upstream: Upstream, waiting: dict[str, str]) -> None:
    upstream.start()
    assert relay.json("queue", "retry", waiting["bob@one.example"])["changed"] == 1
    until(lambda: upstream.delivered, "it is delivered")
    assert [each.reverse_path for each in upstream.delivered] == ["bob@one.example"]
    assert set(states(relay)) == {"ann@one.example", "eve@two.example"}


def test_retry_by_state_reopens_what_failed(relay: Relay, upstream: Upstream) -> None:
    upstream.script = always("RCPT", "550 5.1.1 No such user")
    relay.configure(upstream.table()).start()
    ids = [relay.send() for _ in range(3)]
    until(lambda: len(relay.said("failed")) == 3, "all bounced")
    until(lambda: len(relay.queue("--state", "bounced")) == 3, "all are kept")
    upstream.script = always("never", "")
    assert relay.json("queue", "retry", "--state", "bounced")["changed"] == 3
    until(lambda: len(upstream.delivered) == 3, "all are delivered")
    for message_id in ids:
        relay.story_in_state(message_id, "delivered")


def test_orders_need_a_target(relay: Relay, waiting: dict[str, str]) -> None:
    for verb in ("hold", "release", "retry", "cancel"):
        assert relay.cli_result("queue", verb).returncode == os.EX_USAGE
    assert set(states(relay).values()) == {"waiting"}, "nothing was done"
    assert relay.cli_result("queue", "show", "spl_nonsense").returncode == os.EX_USAGE
    assert relay.cli_result("queue", "list", "--state", "nonsense").returncode == os.EX_USAGE
    unknown = "spl_" + "0" * 32
    assert relay.cli_result("queue", "show", unknown).returncode == os.EX_DATAERR
    assert set(relay.json("queue", "retry", unknown).values()) == {0}


@pytest.mark.parametrize("size", [0, 3 << 20])
def test_show_eml_is_what_will_be_delivered(relay: Relay, upstream: Upstream, size: int) -> None:
    relay.configure(upstream.table(), spool={"retry_delays_seconds": [36_000]}).start()
    upstream.stop()
    content = b"Subject: \xc3\xa4\r\n\r\n.\r\n..two\r\n\xff\x00\r\n" + (b"z" * 62 + b"\r\n") * (size >> 6)
    with relay.client() as client:
        client.mail("me@example.org", ["BODY=8BITMIME"])
        client.rcpt("you@example.net")
        code, text = client.data(content)
    assert code == 250, text
    message_id = text.decode().split()[-1]
    until(lambda: relay.said("retrying"), "it waits")
    shown = relay.cli_result("queue", "show", message_id, "--eml").stdout
    assert shown.endswith(content)
    upstream.start()
    relay.cli("queue", "flush")
    until(lambda: upstream.delivered, "it is delivered")
    same = upstream.delivered[0].content == shown
    assert same, "the bytes that were shown"


def test_json_of_every_list(relay: Relay, waiting: dict[str, str]) -> None:
    for command in (
        ("queue", "list"),
        ("queue", "show", waiting["ann@one.example"]),
        ("queue", "relays"),
        ("queue", "flush"),
        ("history",),
        ("history", "show", waiting["ann@one.example"]),
        ("stats",),
        ("spool", "verify"),
        ("ledger", "verify"),
        ("config", "list"),
        ("config", "check"),
        ("inbox", "list"),
    ):
        json.loads(relay.cli(*command, "--json"))


def test_exit_codes_while_the_relay_does_not_run(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table()).start()
    message_id = relay.send()
    until(lambda: relay.said("delivered", id=message_id), "it is delivered")
    assert relay.stop() == os.EX_OK
    for command in (["list"], ["show", message_id], ["flush"], ["hold", "--all"], ["relays"]):
        done = relay.cli_result("queue", *command)
        assert done.returncode == os.EX_UNAVAILABLE, (command, done)
        assert done.stdout == b""
        assert b"Is the relay running" in done.stderr, "it says what to do"
    assert relay.history()[0]["id"] == message_id, "history is read without it"
    assert relay.counted("delivered") == 1
    relay.cli("spool", "verify")
    relay.cli("ledger", "verify")
