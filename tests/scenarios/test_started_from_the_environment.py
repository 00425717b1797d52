"""A handful of variables and nothing else: an authenticated relay that flushes into one upstream."""

from __future__ import annotations

import smtplib
from pathlib import Path

import pytest
from tests.scenarios.relay import Relay, until
from tests.scenarios.upstream import Upstream

from dispatch.security.passwords import hash_password

PASSWORD = "Correct, horse: battery"
CONTENT = (
    b"From: App <app@example.org>\r\n"
    b"To: you@example.net\r\n"
    b"Bcc: hidden@example.net\r\n"
    b"Reply-To: somebody@example.org,\r\n"
    b" another@example.org\r\n"
    b"Subject: verbatim\r\n"
    b"Date: Fri, 20 Nov 2026 12:00:00 +0100\r\n"
    b"Message-ID: <1@app.example.org>\r\n"
    b"X-Dispatch-Tag: kept\r\n"
    b"\r\n"
    b".A line with a dot, \xc3\xa9 and  spaces \r\n"
)
REWRITTEN = CONTENT.replace(
    b"Reply-To: somebody@example.org,\r\n another@example.org\r\n", b"Reply-To: help@example.org\r\n"
)


def asks_for_login(step: str, argument: str, count: int) -> str | None:
    """An upstream that offers no TLS, and takes mail after AUTH PLAIN only."""
    match step, argument.split():
        case "EHLO", _:
            return "250-upstream.test\r\n250-AUTH PLAIN\r\n250-8BITMIME\r\n250 SIZE 100000000"
        # The user is "me" and the password "secret" (RFC 4616).
        case "AUTH", ["PLAIN", "AG1lAHNlY3JldA=="]:
            return "235 2.7.0 Welcome"
        case "AUTH", _:
            return "535 5.7.8 No"
        case _:
            return None


@pytest.fixture
def house(tmp_path: Path, relay: Relay, upstream: Upstream) -> Relay:
    upstream.script = asks_for_login
    relay.environment |= {
        "RELAY_HOST": "127.0.0.1",
        "RELAY_PORT": str(relay.port),
        "RELAY_USERNAME": "app",
        "RELAY_PASSWORD": hash_password(PASSWORD),
        "UPSTREAM_HOST": "127.0.0.1",
        "UPSTREAM_PORT": str(upstream.port),
        "UPSTREAM_USER": "me",
        "UPSTREAM_PASS": "secret",
        "UPSTREAM_FROM": "noreply@example.org",
        "UPSTREAM_REPLYTO": "help@example.org",
        "DISPATCH_INTERVAL": "3600",
        # What the harness reads.
        "DISPATCH_LOGGING__FORMAT": "json",
        "DISPATCH_LOGGING__LEVEL": "debug",
    }
    assert not relay.config.exists()
    return relay


def send(relay: Relay, sender: str = "app@example.org") -> None:
    with relay.client() as client:
        client.login("app", PASSWORD)
        code, text = client.mail(sender, ["BODY=8BITMIME"])
        assert code == 250, text
        assert client.rcpt("you@example.net")[0] == client.rcpt("hidden@example.net")[0] == 250
        code, text = client.data(CONTENT)
        assert code == 250, text


def waiting(relay: Relay, count: int) -> None:
    """So many deliveries wait for the next flush."""

    def wait_there() -> bool:
        rows = relay.queue()
        return len(rows) == count and all("flushed every" in row["reason"] for row in rows)

    until(wait_there, f"{count} deliveries wait for a flush", pause_s=0.2)


def test_mail_is_collected_and_goes_on_verbatim_in_one_session(house: Relay, upstream: Upstream) -> None:
    house.start()
    assert house.said("settings_remark"), "it says loudly that passwords go over clear text"
    with house.client() as client:
        code, text = client.mail("app@example.org")
        assert code == 530, text
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("app", "something else")
    send(house)
    send(house)
    send(house, sender="")
    waiting(house, 6)
    assert not upstream.connections
    house.cli("queue", "flush")
    until(lambda: len(upstream.delivered) == 3, "the flush delivers all")
    assert upstream.connections == 1 and upstream.count("AUTH") == 1
    assert sorted(each.reverse_path for each in upstream.delivered) == [
        "",
        "noreply@example.org",
        "noreply@example.org",
    ]
    for each in upstream.delivered:
        assert sorted(each.recipients) == ["hidden@example.net", "you@example.net"]
        trace, _, content = each.content.partition(b"From:")
        assert b"From:" + content == REWRITTEN
        assert trace.startswith(b"Received: ") and trace.count(b"\n") == trace.count(b"\n\t") + 1
    until(lambda: len(house.said("delivered")) == 6, "history knows")
    send(house)
    waiting(house, 2)
    assert upstream.connections == 1, "the flush is over, and so is its session"
    assert {each["sender"] for each in house.history()} == {"app@example.org", ""}


def test_every_interval_has_one_session_and_none_where_nothing_waits(
    house: Relay, upstream: Upstream
) -> None:
    house.environment["DISPATCH_INTERVAL"] = "4"
    house.start()
    for session in (1, 2):
        send(house)
        until(lambda n=8 * session - 6: len(house.said("delivered")) == n, "a flush has been")
        assert upstream.connections == 2 * session - 1
        # All of it within the interval that has just begun.
        for _ in range(3):
            send(house)
        until(lambda n=4 * session: len(upstream.delivered) == n, "the next flush delivers them together")
        assert upstream.connections == 2 * session
        until(lambda n=8 * session: len(house.said("delivered")) == n, "history knows")


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_restart_between_two_flushes_loses_nothing(house: Relay, upstream: Upstream, how: str) -> None:
    house.start()
    for _ in range(5):
        send(house)
    waiting(house, 10)
    if how == "stopped":
        assert house.stop() == 0
    else:
        house.kill()
    assert not upstream.connections
    house.start()
    until(lambda: len(upstream.delivered) == 5, "the start is a flush")
    assert upstream.connections == 1
    until(lambda: not house.queue(), "nothing is left", pause_s=0.2)
    assert len(upstream.received) == 5


def test_passwords_are_not_in_the_environment_of_who_has_no_use_for_them(house: Relay) -> None:
    house.start()
    for role in ("intake", "delivery"):
        environ = Path(f"/proc/{house.pid_of(role)}/environ").read_bytes()
        assert b"UPSTREAM_PASS" not in environ and b"RELAY_PASSWORD" not in environ, role


def test_all_that_is_wrong_is_told_at_once(house: Relay) -> None:
    del house.environment["UPSTREAM_HOST"]
    house.environment |= {
        "RELAY_PORT": "tcp://10.0.0.1:25",
        "RELAY_PASSWORD": "b$12$what-compose-left-of-it",
        "UPSTREAM_FROM": "nobody",
        "UPSTREAM_REPLYTO": "Help <help@example.org>",
        "DISPATCH_INTERVAL": "often",
    }
    house.start(wait=False)
    assert house.ended() == 78
    told = house.log_text()
    for variable, remedy in {
        "RELAY_PORT": "service",
        "RELAY_PASSWORD": "$$",
        "UPSTREAM_HOST": "is missing",
        "UPSTREAM_FROM": "name@example.org",
        "UPSTREAM_REPLYTO": "name@example.org",
        "DISPATCH_INTERVAL": "seconds",
    }.items():
        (line,) = [line["text"] for line in house.said("unstructured") if variable in line["text"]]
        assert remedy in line, told
    assert not house.data.exists()
