"""`kill -9`: of each process alone, of the supervisor alone, of everything."""

from __future__ import annotations

import os
import signal

import pytest
from tests.scenarios.relay import HELLO, ROLES, Relay, lives, until
from tests.scenarios.upstream import Upstream


@pytest.mark.parametrize("victim", ROLES)
def test_one_process_is_replaced_and_the_others_go_on(relay: Relay, upstream: Upstream, victim: str) -> None:
    relay.configure(upstream.table()).start()
    before = {role: relay.pid_of(role) for role in ROLES}
    relay.send()
    since = relay.mark()
    os.kill(before[victim], signal.SIGKILL)
    until(lambda: relay.said("child_died", since=since, role=victim), "its death is noticed")
    message_id = relay.send()  # with intake dead: the port is open, and its successor answers
    until(lambda: relay.said("child_ready", since=since, role=victim), "it is replaced")
    relay.story_in_state(message_id, "delivered")
    after = {role: relay.pid_of(role) for role in ROLES}
    assert {role for role in ROLES if after[role] != before[role]} == {victim}
    assert len(upstream.delivered) == 2
    assert relay.stop() == os.EX_OK


def test_without_its_supervisor_every_process_ends(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table()).start()
    pids = [relay.pid_of(role) for role in ROLES]
    with relay.client() as client:
        client.mail("me@example.org")  # a transaction that would hold up a drain
        relay.kill_supervisor()
        until(lambda: not any(map(lives, pids)), "every process has ended", 15)


def test_a_start_right_after_the_supervisor_was_killed(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table()).start()
    first = relay.send()
    relay.kill_supervisor()
    relay.start()
    second = relay.send()
    for message_id in (first, second):
        relay.story_in_state(message_id, "delivered")
    assert len(upstream.received) == 2


def test_everything_at_once_with_mail_in_every_place(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table(), spool={"retry_delays_seconds": [36_000]}).start()
    upstream.stop()
    parked = [relay.send() for _ in range(5)]
    until(lambda: len(relay.said("retrying")) == len(parked), "these are parked")
    held = relay.send(sender="held@example.org")
    until(lambda: len(relay.said("retrying")) == len(parked) + 1, "this one, too")
    assert relay.json("queue", "hold", held)["changed"] == 1
    with relay.client() as client:
        for _ in range(20):
            client.sendmail("me@example.org", ["you@example.net"], HELLO)
        relay.kill()  # these are anywhere
    relay.start()
    upstream.start()
    until(lambda: relay.cli("queue", "flush") and len(upstream.delivered) >= 25, "all are delivered")
    assert {row["id"]: row["state"] for row in relay.queue()} == {held: "held"}
    assert len(upstream.received) == 25, "each once: no end of data had left when it was killed"


def test_everything_is_killed_before_mail_was_taken_up(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table()).start()
    relay.freeze("delivery")
    for number in range(3):
        relay.send(f"Subject: {number}\r\n\r\nHello\r\n".encode())
    relay.kill()
    assert relay.json("ledger", "verify")["not_taken_up"] == 3

    relay.start()
    until(lambda: len(upstream.delivered) == 3, "all are delivered")
    relay.stop()
    audit = relay.json("ledger", "verify")
    assert (audit["settled"], audit["lost"], audit["not_taken_up"]) == (3, 0, 0)
