"""An operator returns mail that cannot go where it should, sends it elsewhere, stops it, moves it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.scenarios.relay import Relay, until
from tests.scenarios.test_operator import SENDERS, states
from tests.scenarios.upstream import Upstream


@pytest.fixture
def other() -> Iterator[Upstream]:
    one = Upstream()
    yield one
    one.close()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Relay]:
    """Another host."""
    one = Relay(tmp_path / "elsewhere")
    yield one
    one.kill()


def waiting(relay: Relay, upstream: Upstream, *more: str) -> dict[str, str]:
    """Three messages that wait for hours at an upstream that is down: sender to id."""
    relay.configure(
        upstream.table(default=True),
        *more,
        spool={"retry_delays_seconds": [36_000]},
        bounce={"gather_seconds": 0},
    ).start()
    upstream.stop()
    ids = {
        sender: relay.send(f"Subject: From {sender}\r\n\r\nText\r\n".encode(), sender) for sender in SENDERS
    }
    until(lambda: len(relay.said("retrying")) == len(SENDERS), "all were tried")
    until(lambda: len(relay.queue()) == len(SENDERS), "all are parked")
    return ids


def test_what_is_bounced_is_told_to_its_sender_and_kept(relay: Relay, upstream: Upstream) -> None:
    ids = waiting(relay, upstream)
    would = relay.json("queue", "bounce", "--sender", "two.example", "--dry-run")
    assert (would["changed"], would["messages"]) == (1, 1)
    assert set(states(relay).values()) == {"waiting"}
    bounced = ("queue", "bounce", ids["eve@two.example"], "--because", "The address is wrong")
    # What was deferred before waits for hours all the same.
    upstream.start()
    assert relay.json(*bounced)["changed"] == 1
    until(lambda: upstream.delivered, "the notice is delivered")
    notice = upstream.delivered[0]
    assert notice.reverse_path == "" and b"The administrator of the mail relay returned it" in notice.content
    assert notice.recipients == ["eve@two.example"]
    relay.story_in_state(ids["eve@two.example"], "bounced")
    assert [row["id"] for row in relay.queue("--state", "bounced")] == [ids["eve@two.example"]]
    relay.cli("ledger", "verify")


def test_what_is_rerouted_goes_to_the_other_relay(relay: Relay, upstream: Upstream, other: Upstream) -> None:
    waiting(relay, upstream, other.table(name="other"))
    assert relay.cli_result("queue", "reroute", "--all", "--to", "nowhere").returncode == os.EX_DATAERR
    moved = relay.json("queue", "reroute", "--sender", "one.example", "--to", "other")
    assert (moved["changed"], moved["relay"]) == (2, "other")
    until(lambda: len(other.delivered) == 2, "they are delivered there")
    assert states(relay) == {"eve@two.example": "waiting"}


def test_a_paused_queue_stands_still_over_a_kill(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table()).start()
    assert relay.json("queue", "pause")["everything"]
    message_id = relay.send()
    until(lambda: relay.queue(), "it is taken up")
    relay.kill()
    relay.start()
    assert relay.said("queue_paused", relay="all")
    assert "paused" in relay.cli("queue", "list")
    (lane,) = relay.json("queue", "relays")["lanes"]
    assert (lane["paused"], lane["waiting"]) == (True, 1)
    assert not upstream.delivered
    assert not relay.json("queue", "resume")["everything"]
    relay.story_in_state(message_id, "delivered")


def test_a_queue_moves_to_another_host(relay: Relay, upstream: Upstream, elsewhere: Relay) -> None:
    ids = waiting(relay, upstream)
    large = b"Subject: large\r\n\r\n" + (b"z" * 62 + b"\r\n") * 40_000
    ids["large@one.example"] = relay.send(large, "large@one.example")
    until(lambda: len(relay.queue()) == 4, "it waits, too")
    file = str(relay.folder / "queue.tar")
    unpaused = relay.cli_result("queue", "export", file, "--remove")
    assert unpaused.returncode == os.EX_TEMPFAIL and not Path(file).exists()
    relay.cli("queue", "pause")
    until(
        lambda: all(lane["in_flight"] == 0 for lane in relay.json("queue", "relays")["lanes"]),
        "nothing is under way",
    )
    exported = relay.json("queue", "export", file, "--remove")
    assert exported == {"messages": 4, "deliveries": 4, "removed": 4}
    assert relay.queue() == []
    relay.story_in_state(ids["eve@two.example"], "cancelled")
    relay.cli("ledger", "verify")

    elsewhere.configure(upstream.table(name="another")).start()
    upstream.start()
    assert elsewhere.json("queue", "import", file, "--dry-run")["messages"] == 4
    assert elsewhere.json("queue", "import", file) == {"messages": 4, "taken": 4, "known": 0}
    assert elsewhere.json("queue", "import", file) == {"messages": 4, "taken": 0, "known": 4}
    elsewhere.cli("queue", "retry", "--all")
    until(lambda: len(upstream.delivered) == 4, "all are delivered")
    assert {each.reverse_path for each in upstream.delivered} == {*SENDERS, "large@one.example"}
    whole = next(each for each in upstream.delivered if each.reverse_path == "large@one.example")
    assert whole.content.endswith(large)
    for message_id in ids.values():
        elsewhere.story_in_state(message_id, "delivered")
    elsewhere.cli("ledger", "verify")
    assert elsewhere.json("queue", "import", file)["known"] == 4, "history knows what is over"
    assert not list((elsewhere.data / "content" / "0").glob("*.content")), "nothing is left of the large one"
