"""A host's own mail goes through sendmail and the real relay: cron, PHP, mail(1), mailq."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.scenarios.relay import Relay, until
from tests.scenarios.upstream import Received, Upstream, always

MAIL = """
[mail]
append_domain = "example.org"
[mail.aliases]
root = ["admin", "archive@example.net"]
admin = "ops@example.com"
"""
LARGE_BYTES = 20 << 20


@pytest.fixture
def running(relay: Relay, upstream: Upstream) -> Relay:
    relay.configure(upstream.table())
    with relay.config.open("a") as file:
        file.write(MAIL)
    return relay.start()


def sendmail(
    relay: Relay, content: bytes, *words: str, program: str = "sendmail"
) -> subprocess.CompletedProcess[bytes]:
    """By the name that it is installed as; it finds the relay by its settings."""
    link = relay.folder / program
    if not link.exists():
        link.symlink_to(Path(sys.executable).with_name("dispatch"))
    return subprocess.run(
        [str(link), "--config", str(relay.config), *words],
        input=content,
        capture_output=True,
        timeout=120,
        check=False,
        env=relay.environment,
    )


def sent(relay: Relay, upstream: Upstream, content: bytes, *words: str, copies: int = 1) -> list[Received]:
    before = len(upstream.delivered)
    done = sendmail(relay, content, *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    until(lambda: len(upstream.delivered) >= before + copies, "the message has arrived")
    return upstream.delivered[before:]


def test_cron_writes_to_root(running: Relay, upstream: Upstream) -> None:
    (received,) = sent(
        running,
        upstream,
        b'From: "(Cron Daemon)" <root>\nTo: root\nSubject: Cron <root@host> backup\n'
        b"X-Cron-Env: <LOGNAME=root>\n\n10%\r50%\r100%\ndone\n",
        *("-i", "-FCronDaemon", "-B8BITMIME", "-oem", "-f", "root", "--", "root"),
    )
    assert received.reverse_path == "root@example.org"
    assert received.recipients == ["ops@example.com", "archive@example.net"]
    assert received.content.endswith(b"\r\n\r\n10%\r\n50%\r\n100%\r\ndone\r\n")
    assert b'\r\nFrom: "(Cron Daemon)" <root@example.org>\r\nTo: root@example.org\r\n' in received.content
    assert b"\r\nMessage-ID: <" in received.content and b"\r\nDate: " in received.content
    assert b"from localhost ([127.0.0.1])" in received.content.splitlines()[0]


def test_php_sends_with_recipients_in_the_header(running: Relay, upstream: Upstream) -> None:
    (received,) = sent(
        running,
        upstream,
        b"To: you@example.net\r\nSubject: Hello\r\nFrom: shop@example.org\r\nBcc: boss@example.org\r\n"
        b"X-PHP-Originating-Script: 33:x.php\r\n\r\nbody\r\n",
        *("-t", "-i", "-f", "bounces@example.org"),
    )
    assert received.reverse_path == "bounces@example.org"
    assert received.recipients == ["you@example.net", "boss@example.org"]
    assert b"\r\nBcc:" not in received.content and b"boss" not in received.content


def test_mail_sends_a_bare_body(running: Relay, upstream: Upstream) -> None:
    (received,) = sent(running, upstream, b"just words\n", "www-data,admin")
    assert received.recipients == ["www-data@example.org", "ops@example.com"]
    header, _, body = received.content.partition(b"\r\n\r\n")
    assert body == b"just words\r\n" and b"@example.org" in header.partition(b"\r\nFrom: ")[2]


def test_reports_are_asked_for(running: Relay) -> None:
    assert sendmail(running, b"x\n", "-Nsuccess,delay", "-Rhdrs", "-Vq1", "you@example.net").returncode == 0


def test_twenty_mebibytes_and_garbage_arrive_as_they_were(running: Relay, upstream: Upstream) -> None:
    line = bytes(range(256)).replace(b"\n", b"").replace(b"\r", b"") * 3 + b"\n"
    body = line * (LARGE_BYTES // len(line))
    (received,) = sent(running, upstream, b"From: a@b.c\nTo: x@y.z\n\n" + body, "-t", "-i")
    assert received.content.endswith(b"\r\n\r\n" + body.replace(b"\n", b"\r\n"))


def test_mailq_and_flush_ask_the_relay(running: Relay, upstream: Upstream) -> None:
    upstream.script = always("RCPT", "451 4.3.0 Later")
    assert sendmail(running, b"x\n", "-f", "me@example.org", "you@example.net").returncode == 0
    until(lambda: upstream.count("RCPT") >= 1, "it was tried")
    where = ["--data", str(running.data)]

    def listed() -> bytes:
        done = sendmail(running, b"", *where, program="mailq")
        assert done.returncode == 0, done.stderr
        return done.stdout

    until(lambda: b"<me@example.org> to <you@example.net>" in listed(), "it is in the queue", pause_s=0.1)
    assert sendmail(running, b"", "-bp", *where).stdout
    flushed = sendmail(running, b"", "-q", *where)
    assert flushed.returncode == 0 and flushed.stdout.startswith(b"flush: ")
    assert sendmail(running, b"", program="newaliases").returncode == 0


def test_a_refused_message_and_a_relay_that_is_down_are_told_to_the_caller(running: Relay) -> None:
    refused = sendmail(running, b"Received: by relay.test; x\n" * 40 + b"\nx\n", "you@example.net")
    assert refused.returncode == os.EX_UNAVAILABLE and b"5.4.6" in refused.stderr
    bad = sendmail(running, b"x\n", "a@-@b")
    assert bad.returncode == os.EX_DATAERR, bad.stderr
    assert running.stop() == 0
    down = sendmail(running, b"x\n", "you@example.net")
    assert (down.returncode, down.stdout) == (os.EX_TEMPFAIL, b"")
    assert b"does not run" in down.stderr
    assert running.history() == []


def test_a_circle_of_aliases_does_not_start(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table())
    with relay.config.open("a") as file:
        file.write('[mail.aliases]\nroot = ["bob", "x@y.z"]\nbob = "root"\n')
    done = relay.cli_result("config", "check")
    assert done.returncode == os.EX_CONFIG and b"mail.aliases" in done.stderr + done.stdout
    assert b"circle" in done.stderr + done.stdout
