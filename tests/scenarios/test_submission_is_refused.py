"""What is refused is told why, leaves nothing behind, and is accepted once the reason is gone."""

from __future__ import annotations

import smtplib
import socket
from functools import partial

import pytest
from tests.scenarios.relay import HELLO, Relay, until
from tests.scenarios.upstream import Upstream


def test_strangers_are_no_clients(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table(), listener={"allowed_cidrs": ["192.0.2.1/32"]}).start()
    with relay.client() as client:
        code, text = client.mail("me@example.org")
        assert (code, text[:5]) == (550, b"5.7.1")
        assert b"127.0.0.1" in text
        assert client.rcpt("you@example.net")[0] == 503
        assert client.docmd("DATA")[0] == 503


def test_nobody_is_a_client_of_an_empty_list(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table(), listener={"allowed_cidrs": []}).start()
    with relay.client() as client:
        code, text = client.mail("me@example.org")
        assert code == 550
        assert b"no source is allowed yet" in text


def greeting_of(connection: socket.socket) -> bytes:
    connection.settimeout(10)
    return connection.recv(200)


def test_more_connections_than_allowed(relay: Relay, upstream: Upstream) -> None:
    limits = {"max_connections": 4, "max_connections_per_ip": 2}
    relay.configure(upstream.table(), listener=limits).start()
    here = ("127.0.0.1", relay.port)
    taken = [socket.create_connection(here) for _ in range(2)]
    assert all(greeting_of(each).startswith(b"220 ") for each in taken)
    with socket.create_connection(here) as one_more:
        assert greeting_of(one_more).startswith(b"421 4.7.0 Too many connections from your address")
        assert one_more.recv(100) == b"", "and is closed"
    for number in (2, 3):
        taken.append(socket.create_connection(here, source_address=(f"127.0.0.{number}", 0)))
        assert greeting_of(taken[-1]).startswith(b"220 "), "another address has its own share"
    with socket.create_connection(here, source_address=("127.0.0.9", 0)) as one_more:
        assert greeting_of(one_more).startswith(b"421 4.7.0 Too many connections,")
    for each in taken:
        each.close()

    def accepted() -> bool:
        try:
            return bool(relay.send())
        except smtplib.SMTPException:
            return False

    until(accepted, "there is room again")


DISK_LIMITS = ("disk_warn_mb", "disk_throttle_mb", "disk_suspend_mb")


def test_the_disk_is_nearly_full(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table()).start()
    relay.configure(upstream.table(), spool=dict.fromkeys(DISK_LIMITS, 1 << 20)).reload()
    until(lambda: relay.said("disk_level", process="intake", level="suspended"), "it is noticed")
    with relay.client() as client:
        code, text = client.mail("me@example.org")
        assert (code, text[:5]) == (452, b"4.3.1"), "for now, not for good"
        assert client.noop()[0] == 250, "and the conversation goes on"
    relay.configure(upstream.table(), spool=dict.fromkeys(DISK_LIMITS, 0)).reload()
    until(lambda: relay.said("disk_level", process="intake")[-1]["level"] != "suspended", "it has room again")
    relay.send()
    until(lambda: upstream.delivered, "it is delivered")


def test_mail_that_goes_round_in_circles(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table()).start()
    hop = b"Received: from a.example by b.example; Fri, 20 Nov 2026 10:00:00 +0000\r\n"
    own = b"Received: from a.example ([192.0.2.1])\r\n\tby relay.test; Fri, 20 Nov 2026 10:00:00 +0000\r\n"
    with relay.client() as client:
        for looping in (hop * 31 + HELLO, own * 3 + HELLO):
            client.mail("me@example.org")
            client.rcpt("you@example.net")
            code, text = client.data(looping)
            assert (code, text[:5]) == (554, b"5.4.6"), text
        client.sendmail("me@example.org", ["you@example.net"], hop * 30 + HELLO)
    until(lambda: upstream.delivered, "thirty are not too many")
    assert len(upstream.received) == 1


def test_a_message_above_the_limit(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table(), listener={"max_message_bytes": 3_000_000}).start()
    with relay.client() as client:
        assert client.esmtp_features["size"] == "3000000"
        code, text = client.mail("me@example.org", ["SIZE=3000001"])
        assert (code, text[:5]) == (552, b"5.3.4"), "as declared"
        client.mail("me@example.org")
        client.rcpt("you@example.net")
        code, text = client.data(HELLO + (b"x" * 76 + b"\r\n") * 50_000)
        assert (code, text[:5]) == (552, b"5.3.4"), "as sent"
        lines = (b"z" * 98 + b"\r\n") * 29_999
        exactly = HELLO + b"y" * (3_000_000 - len(HELLO) - len(lines) - 2) + b"\r\n" + lines
        assert len(exactly) == 3_000_000
        client.sendmail("me@example.org", ["you@example.net"], exactly)
    until(lambda: upstream.delivered, "what is within the limit is delivered")
    assert len(upstream.received) == 1
    assert not list((relay.data / "content" / "0").glob("*.part")), "nothing is left of the refused one"


SMUGGLED = (
    b"MAIL FROM:<smuggled@example.org>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\nSubject: Smuggled\r\n\r\nx"
)
ENDS_THAT_ARE_NONE = {
    "LF . LF": b"\n.\n",
    "LF . CRLF": b"\n.\r\n",
    "CRLF . LF": b"\r\n.\n",
    "CR . CR": b"\r.\r",
    "CRLF . CR": b"\r\n.\r",
    "CR . CRLF": b"\r.\r\n",
    "CR . LF": b"\r.\n",
    "LF . CR": b"\n.\r",
    "CRLF NUL . CRLF": b"\r\n\x00.\r\n",
    "CRLF . NUL CRLF": b"\r\n.\x00\r\n",
    "CR CR LF . CR CR LF": b"\r\r\n.\r\r\n",
    "CRLF .. CRLF": b"\r\n..\r\n",
    "CRLF . SP CRLF": b"\r\n. \r\n",
}


@pytest.mark.parametrize("bare_newline", ["reject", "normalise"])
def test_nothing_is_smuggled(relay: Relay, upstream: Upstream, bare_newline: str) -> None:
    relay.configure(upstream.table(), listener={"bare_newline": bare_newline}).start()
    accepted = 0

    def arrived(count: int) -> bool:
        return len(upstream.received) >= count

    for name, end in ENDS_THAT_ARE_NONE.items():
        with socket.create_connection(("127.0.0.1", relay.port), timeout=10) as connection:
            replies = connection.makefile("rb")
            connection.sendall(
                b"HELO client.test\r\nMAIL FROM:<me@example.org>\r\nRCPT TO:<you@example.net>\r\nDATA\r\n"
            )
            assert [replies.readline()[:3] for _ in range(5)] == [b"220", b"250", b"250", b"250", b"354"]
            connection.sendall(b"Subject: Outer\r\n\r\nbefore" + end + SMUGGLED + b"\r\n.\r\nQUIT\r\n")
            answers = [line[:3] for line in replies]
        assert answers in ([b"250", b"221"], [b"554", b"221"], [b"550", b"221"]), (name, answers)
        accepted += answers[0] == b"250"
        until(partial(arrived, accepted), f"{name}: what was accepted is delivered")
    assert accepted >= 1, "a doubled dot is no attack"
    relay.send(sender="last@example.org")
    until(
        lambda: any(each.reverse_path == "last@example.org" for each in upstream.received),
        "the last one comes",
    )
    assert len(upstream.received) == accepted + 1
    for each in upstream.received[:-1]:
        assert each.reverse_path == "me@example.org"
        assert b"smuggled@example.org" in each.content, "it is text of the one message"
    if bare_newline == "reject":
        assert accepted < len(ENDS_THAT_ARE_NONE), "bare newlines are refused"
