"""Files were damaged while the relay was stopped: it says so, and repeats nothing that it knows of."""

from __future__ import annotations

from tests.scenarios.relay import Relay, until
from tests.scenarios.upstream import Upstream

from dispatch.app.folders import LEDGER, MAIL
from dispatch.ports import Entry
from dispatch.runtime.machine import SystemDisk
from dispatch.spool.verify import iterate


def damage_last_record(relay: Relay, log: str) -> None:
    """Flip a byte within the last record of a log."""
    last = [each for each in iterate(SystemDisk(relay.data), log) if isinstance(each, Entry)][-1]
    for path in (relay.data / log).glob("*.segment"):
        content = bytearray(path.read_bytes())
        at = content.rfind(last.payload)
        if at >= 0:
            content[at + len(last.payload) // 2] ^= 0xFF
            path.write_bytes(content)
            return
    raise AssertionError("no segment holds the last record")


def test_last_record_of_the_ledger_is_damaged(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table(), spool={"retry_delays_seconds": [36_000]})
    relay.start()
    for number in range(5):
        relay.send(f"Subject: {number}\r\n\r\nHello\r\n".encode())
    until(lambda: len(upstream.delivered) == 5, "all are delivered")
    upstream.stop()
    relay.send(b"Subject: waits\r\n\r\nHello\r\n")
    until(lambda: relay.json("queue", "list")["total"] == 1, "it is parked")
    relay.stop()
    damage_last_record(relay, LEDGER)

    upstream.start()
    relay.start()
    assert relay.said("ledger_incomplete"), relay.log_text()
    assert len(relay.json("queue", "list")["deliveries"]) == 1
    relay.cli("queue", "flush")
    until(lambda: len(upstream.delivered) == 6, "the one that waited is delivered")
    relay.stop()
    assert len(upstream.received) == 6, "what had been delivered was delivered again"


def test_mail_log_is_removed_before_it_was_taken_up(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table(), spool={"retry_delays_seconds": [36_000]})
    relay.start()
    relay.send()
    until(lambda: len(upstream.delivered) == 1, "the first is delivered")
    relay.freeze("delivery")
    relay.send(b"Subject: never taken up\r\n\r\nHello\r\n")
    relay.kill()
    for path in (relay.data / MAIL).glob("*.segment"):
        path.unlink()

    relay.start()
    assert relay.said("mail_missing"), relay.log_text()


def test_flush_without_the_relay_it_waits_for_captures_nothing(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table(), spool={"retry_delays_seconds": [36_000]})
    upstream.stop()
    relay.start()
    relay.send()
    until(lambda: relay.json("queue", "list")["total"] == 1, "it is parked")
    relay.stop()
    relay.configure()
    relay.start()

    assert relay.json("queue", "flush")["unsuited"] == 1
    assert relay.json("inbox", "list")["total"] == 0
    upstream.start()
    relay.stop()
    relay.configure(upstream.table(), spool={"retry_delays_seconds": [36_000]})
    relay.start()
    relay.cli("queue", "flush")
    until(lambda: len(upstream.delivered) == 1, "it goes where it was meant to")
