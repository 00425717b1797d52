"""SIGTERM: no new mail, what is under way finishes, nothing is cut, nothing is sent twice afterwards."""

from __future__ import annotations

import os
import smtplib
import socket
import time
from pathlib import Path

import pytest
from tests.scenarios.load import Load
from tests.scenarios.relay import HELLO, Relay, until
from tests.scenarios.upstream import STALL, Upstream, at


def test_a_client_in_the_middle_of_its_content_is_answered(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table()).start()
    with relay.client() as client, relay.client() as idle:
        client.mail("me@example.org")
        client.rcpt("you@example.net")
        client.docmd("DATA")
        client.send(b"Subject: Slow\r\n\r\nfirst line\r\n")
        relay.terminate()
        until(lambda: relay.said("child_draining", role="intake"), "intake drains")
        assert idle.getreply()[0] == 421, "who has nothing under way is told"
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", relay.port), timeout=5).close()

        client.send(b"last line\r\n.\r\n")
        code, text = client.getreply()
        assert code == 250, text
        assert client.getreply()[0] == 421
    assert relay.ended() == os.EX_OK
    if not upstream.delivered:
        relay.start()
        until(lambda: upstream.delivered, "what was accepted last is delivered by the next run")
    assert upstream.delivered[0].content.endswith(b"first line\r\nlast line\r\n")
    assert len(upstream.received) == 1


def test_a_transaction_at_the_upstream_is_finished(relay: Relay, upstream: Upstream) -> None:
    upstream.script = at("content", STALL)
    relay.configure(upstream.table()).start()
    message_id = relay.send()
    until(lambda: upstream.received, "the upstream has it and does not answer yet")
    relay.terminate()
    until(lambda: relay.said("child_draining", role="delivery"), "delivery drains")
    upstream.release()
    assert relay.ended() == os.EX_OK
    relay.start()
    relay.story_in_state(message_id, "delivered")
    assert relay.counted("uncertain") == 0
    assert len(upstream.received) == 1, "it was not sent again"


def test_clients_that_never_pause_do_not_hold_up_the_end(relay: Relay) -> None:
    load = Load(relay.port, rate=1e6, clients=4)  # more than they can: each always pipelines
    try:
        [port] = load.start_upstreams()
        relay.configure(f'name = "upstream"\nhost = "127.0.0.1"\nport = {port}').start()
        load.start()
        until(lambda: len(load.books.acknowledged) > 200, "there is load")
        began_s = time.monotonic()
        relay.terminate()
        assert relay.ended() == os.EX_OK
        took_s = time.monotonic() - began_s
        assert took_s < 15, f"half of the 30 s after which they are cut: {took_s}"
        relay.start()
        load.stop_offering()
        until(lambda: load.all_answered, "the clients have come to their end")
        wanted = set(load.books.acknowledged.values())
        until(lambda: wanted <= set(load.books.tokens), "all is delivered")
        assert not load.books.refused
        assert relay.counted("uncertain") == 0
    finally:
        load.close()


def test_a_second_sigterm_ends_at_once(relay: Relay, upstream: Upstream) -> None:
    upstream.script = at("content", STALL)
    relay.configure(upstream.table()).start()
    message_id = relay.send()
    until(lambda: upstream.received, "the upstream has it and does not answer")
    with relay.client() as client:
        client.mail("me@example.org")
        relay.terminate()
        until(lambda: relay.said("draining"), "it drains")
        # The client never goes on: only the second signal, sent late enough to count, ends this.

        def hurried() -> bool:
            relay.terminate()
            return bool(relay.said("hurried"))

        until(hurried, "the second signal is heard", pause_s=0.3)
        relay.ended(15)
        with pytest.raises((smtplib.SMTPServerDisconnected, AssertionError)):
            assert client.noop()[0] != 421
    relay.start()
    relay.story_in_state(message_id, "delivered")
    assert relay.counted("uncertain") == 1, "the cut transaction has a name"


def test_a_stop_and_a_start_lose_and_double_nothing(relay: Relay, upstream: Upstream, tmp_path: Path) -> None:
    relay.configure(upstream.table()).start()
    sent = 0
    for _ in range(3):
        with relay.client() as client:
            for _ in range(20):
                client.sendmail("me@example.org", ["you@example.net"], HELLO)
                sent += 1
        assert relay.stop() == os.EX_OK
        relay.start()
    until(lambda: len(upstream.delivered) == sent, "all are delivered")
    assert relay.queue() == []
    assert len(upstream.received) == sent
