"""SIGHUP: what may change changes at once, what may not is said, and a broken file changes nothing."""

from __future__ import annotations

import os
import signal

from tests.scenarios.relay import Relay, free_port, until
from tests.scenarios.upstream import Upstream


def test_a_source_is_allowed_no_more(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table()).start()
    with relay.client() as client:
        assert client.mail("me@example.org")[0] == 250
        client.rset()
        relay.configure(upstream.table(), listener={"allowed_cidrs": ["192.0.2.0/24"]}).reload()
        code, text = client.mail("me@example.org")
        assert code == 550
        assert text.startswith(b"5.7.1 127.0.0.1 "), text
        assert b"listener.allowed_cidrs" in text, "it says what to change"
    [denied] = relay.said("denied")
    assert denied["client"] == "127.0.0.1"

    relay.configure(upstream.table(), listener={"allowed_cidrs": ["127.0.0.0/8"]}).reload()
    relay.send()
    until(lambda: upstream.delivered, "it is delivered")


def test_waiting_mail_goes_where_the_relay_is_now(relay: Relay, upstream: Upstream) -> None:
    wrong = upstream.table(port=free_port())
    relay.configure(wrong, spool={"retry_delays_seconds": [36_000]}).start()
    message_id = relay.send()
    until(lambda: relay.said("retrying"), "it could not be delivered")
    relay.configure(upstream.table(), spool={"retry_delays_seconds": [36_000]}).reload()
    relay.cli("queue", "retry", message_id)
    until(lambda: upstream.delivered, "it is delivered")


def test_mail_is_captured_until_there_is_a_relay(relay: Relay, upstream: Upstream) -> None:
    relay.configure().start()
    first = relay.send()
    relay.story_in_state(first, "captured")
    assert relay.json("inbox", "list")["messages"][0]["id"] == first
    relay.configure(upstream.table()).reload()
    relay.send()
    until(lambda: upstream.delivered, "the next one leaves")
    assert len(upstream.delivered) == 1, "what was captured does not"


def test_a_broken_file_changes_nothing_and_every_mistake_is_told(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table()).start()
    good = relay.config.read_text()
    relay.config.write_text(
        good.replace('"relay.test"', '"no host name!"').replace("[1]", "[-1]") + "max_concurency = 3\n"
    )
    os.kill(relay.pid, signal.SIGHUP)
    until(lambda: len(relay.said("reload_failed", process="control")) >= 3, "the mistakes are told")
    told = " ".join(str(line.get("why")) for line in relay.said("reload_failed"))
    for key in ("listener.server_name", "spool.retry_delays_seconds", "max_concurency"):
        assert key in told, told
    with relay.client() as client:
        assert b"relay.test" in client.ehlo()[1], "the old settings hold"
    relay.send()
    until(lambda: upstream.delivered, "it is delivered")

    relay.config.write_text("this is no TOML")
    since = relay.mark()
    os.kill(relay.pid, signal.SIGHUP)
    until(lambda: relay.said("reload_failed", since=since), "that is told, too")
    relay.config.write_text(good.replace("relay.test", "other.test"))
    relay.reload()
    with relay.client() as client:
        assert b"other.test" in client.ehlo()[1], "a good file is taken afterwards"
    assert relay.running


def test_what_needs_a_restart_is_said(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table()).start()
    relay.configure(
        upstream.table(),
        listener={"ports": [free_port()], "server_name": "other.test"},
        spool={"segment_mb": 8, "retry_delays_seconds": [1]},
    ).reload()
    [said] = until(lambda: relay.said("settings_need_restart"), "it is said")
    assert set(said["keys"].split(", ")) == {"listener.ports", "spool.segment_mb"}
    with relay.client() as client:
        assert b"other.test" in client.ehlo()[1], "the rest is in force"
