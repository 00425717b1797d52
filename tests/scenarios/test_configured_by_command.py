"""Logins, relays and the certificate are changed by command: at once while it runs, or for the next start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tests.scenarios.relay import Relay, until
from tests.scenarios.test_secrets_stay_secret import may_log_in, shown_certificate, starttls
from tests.scenarios.upstream import Upstream


@pytest.fixture
def bare(relay: Relay) -> Relay:
    """No relay and no login in its file."""
    return relay.configure(listener={"tls_ports": []})


def _with_password(relay: Relay, password: str, *arguments: str) -> None:
    sources = ["--config", str(relay.config), "--data", str(relay.data)]
    done = subprocess.run(
        [sys.executable, "-m", "dispatch.cli", *arguments, "--password-stdin", *sources],
        input=password.encode() + b"\n",
        capture_output=True,
        timeout=60,
        cwd=relay.folder,
        env=relay.environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_a_login_is_in_force_when_the_command_returns(bare: Relay) -> None:
    bare.start()
    _with_password(bare, "one-password", "login", "add", "scanner", "--rate", "100/minute")
    assert may_log_in(bare, "scanner", "one-password")
    _with_password(bare, "another-password", "login", "password", "scanner")
    assert not may_log_in(bare, "scanner", "one-password")
    assert may_log_in(bare, "scanner", "another-password")
    bare.cli("login", "disable", "scanner")
    assert not may_log_in(bare, "scanner", "another-password")
    assert "no mail yet" in bare.cli("login", "list")
    bare.cli("login", "enable", "scanner")
    with starttls(bare) as client:
        client.login("scanner", "another-password")
        client.sendmail("me@example.org", ["you@example.net"], b"Subject: Hello\r\n\r\nHello\r\n")
    until(lambda: bare.json("login", "list")[0]["use"]["messages"] == 1, "its mail is counted")
    bare.kill()
    bare.start()
    assert may_log_in(bare, "scanner", "another-password"), "what was confirmed survives a kill"
    # smtplib tries a wrong password with each of two mechanisms.
    until(lambda: bare.json("stats")["refused"] == {"login": 4}, "so does each wrong password's count")


def test_a_relay_takes_mail_when_the_command_returns(bare: Relay, upstream: Upstream) -> None:
    bare.start()
    changed = bare.json("relay", "add", "smart", "host=127.0.0.1", f"port={upstream.port}")
    assert changed["unconfirmed"] == []
    bare.send()
    until(lambda: upstream.delivered, "it is delivered")
    done = bare.cli_result("relay", "set", "smart", "port=0", "hots=b")
    assert done.returncode == os.EX_DATAERR
    assert b"relays.smart.port: 0 is below 1" in done.stderr
    assert b"did you mean relays.smart.host?" in done.stderr
    bare.send()
    until(lambda: len(upstream.delivered) == 2, "nothing was changed")


def test_without_a_relay_running_the_next_start_has_it(bare: Relay, upstream: Upstream) -> None:
    bare.data.mkdir(mode=0o700)
    bare.cli("relay", "add", "smart", "host=127.0.0.1", f"port={upstream.port}")
    bare.cli("rule", "add", "held", "recipient=held.example.org", "action=hold")
    assert [entry["name"] for entry in bare.json("rule", "list")] == ["held"]
    bare.start()
    bare.send()
    until(lambda: upstream.delivered, "it is delivered")


def test_a_new_certificate_is_shown_without_a_restart(bare: Relay) -> None:
    bare.start()
    first = shown_certificate(bare)
    bare.cli("cert", "generate", "--name", "mail.example.org")
    second = shown_certificate(bare)
    assert first != second
    assert "mail.example.org" in bare.json("cert", "show")["names"]
    bare.stop()
    bare.start()
    assert shown_certificate(bare) == second


def test_a_key_that_was_changed_opens_everything_and_a_lost_one_stops_the_start(bare: Relay) -> None:
    bare.start()
    _with_password(bare, "a-password", "login", "add", "scanner")
    certificate = shown_certificate(bare)
    assert bare.cli_result("vault", "rotate").returncode == os.EX_TEMPFAIL, "not while it runs"
    bare.stop()
    before = bare.json("vault", "show")["id"]
    bare.cli("vault", "rotate")
    assert bare.json("vault", "show")["id"] != before
    bare.start()
    assert may_log_in(bare, "scanner", "a-password")
    assert shown_certificate(bare) == certificate
    bare.stop()

    key = bare.data / ".dispatch-key"
    aside = key.rename(bare.folder / "key")
    since = bare.mark()
    bare.start(wait=False)
    assert bare.ended() == os.EX_CONFIG
    [refused] = bare.said("start_refused", since=since)
    assert "put the key file back" in refused["why"]
    assert not key.exists()
    aside.rename(key)
    bare.start()
    assert may_log_in(bare, "scanner", "a-password")


def test_a_relay_is_tried_out_before_it_is_made(bare: Relay, upstream: Upstream) -> None:
    bare.start()
    tried = ("relay", "test", "smart", "host=127.0.0.1")
    done = bare.cli_result(*tried, f"port={upstream.port}", "--to", "b@example.org")
    assert done.returncode == os.EX_OK, done.stderr.decode()
    assert "result: accepted by the relay" in done.stdout.decode()
    (delivered,) = upstream.delivered
    assert b"Subject: A test of the mail relay" in delivered.content
    assert bare.json("relay", "list") == [], "nothing was stored"
    failed = bare.cli_result(*tried, "port=1")
    assert failed.returncode == os.EX_UNAVAILABLE
    assert "connection refused" in failed.stdout.decode()
    refused = bare.cli_result(*tried, "--to", "nobody")
    assert (refused.returncode, b"is no address" in refused.stderr) == (os.EX_DATAERR, True)
