"""What sendmail says on the wire, to relays that take mail, refuse it, or are none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.scenarios.upstream import DROP, Script, Upstream, always, usual

GREETING = "220 relay.test ESMTP Dispatch"
OFFERED = "250-relay.test\r\n250-SIZE\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 DSN"


def scripted(*more: Script) -> Script:
    def script(step: str, argument: str, count: int) -> str | None:
        for one in more:
            if (said := one(step, argument, count)) is not None:
                return said
        return {"greeting": GREETING, "EHLO": OFFERED}.get(step)

    return script


@pytest.fixture
def relay() -> Iterator[Upstream]:
    one = Upstream()
    one.script = scripted()
    yield one
    one.close()


def sendmail(
    content: bytes, *words: str, port: int, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    named = [f"--port={port}"] if port else []
    return subprocess.run(
        [sys.executable, "-m", "dispatch.cli", "sendmail", *named, *words],
        input=content,
        capture_output=True,
        timeout=60,
        check=False,
        env={key: value for key, value in os.environ.items() if not key.startswith("DISPATCH_")}
        | (environment or {}),
    )


def test_the_message_goes_out_as_it_was_meant(relay: Upstream) -> None:
    done = sendmail(
        b"From: me@x.y\nTo: You <you@example.net>, root\nBcc: hidden@example.net\n\n.dot\n..\n.\nmore\n",
        *("-t", "-i", "-f", "me@example.org", "also@example.net,you@example.net"),
        port=relay.port,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    (received,) = relay.delivered
    assert received.reverse_path == "me@example.org"
    assert received.recipients == ["also@example.net", "you@example.net", "root", "hidden@example.net"]
    assert received.content == (
        b"From: me@x.y\r\nTo: You <you@example.net>, root\r\nBcc: hidden@example.net\r\n\r\n"
        b".dot\r\n..\r\n.\r\nmore\r\n"
    )


def test_envelope_parameters_say_what_the_options_said(relay: Upstream) -> None:
    said: list[str] = []
    relay.script = scripted(lambda step, argument, count: said.append(f"{step} {argument}"))
    content = b"From: me@x.y\n\nna\xc3\xafve\n"
    done = sendmail(
        content, *("-f", "<>", "-N", "success,failure", "-R", "hdrs", "-V", "id 7", "ü@x.y"), port=relay.port
    )
    assert done.returncode == 0, done.stderr
    size_bytes = len(content) + 3
    assert f"MAIL FROM:<> SIZE={size_bytes} BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=id+207" in said
    assert "RCPT TO:<ü@x.y> NOTIFY=SUCCESS,FAILURE" in said


def test_a_server_that_offers_nothing_is_asked_for_nothing(relay: Upstream) -> None:
    said: list[str] = []
    relay.script = scripted(
        lambda step, argument, count: said.append(f"{step} {argument}"), always("EHLO", "250 plain.test")
    )
    assert sendmail(b"\xff\n", "-N", "never", "-fa@b.c", "x@y.z", port=relay.port).returncode == 0
    assert {"MAIL FROM:<a@b.c>", "RCPT TO:<x@y.z>"} <= set(said)


def test_from_is_added_where_it_is_missing(relay: Upstream) -> None:
    sendmail(b"Subject: x\n\nbody\n", "-f", "me@x.y", "-F", "Me Too", "a@b.c", port=relay.port)
    sendmail(b"body\n", "a@b.c", port=relay.port, environment={"DISPATCH_MAIL__APPEND_DOMAIN": "example.org"})
    first, second = relay.delivered
    assert first.content == b'Subject: x\r\nFrom: "Me Too" <me@x.y>\r\n\r\nbody\r\n'
    assert second.content.startswith(b"From: ") and b"@example.org" in second.content.splitlines()[0]
    assert "@" not in second.reverse_path, "the relay completes it"


@pytest.mark.parametrize(
    ("step", "answer", "code"),
    [
        ("MAIL", "550 5.7.1 192.0.2.1 may not submit mail here", os.EX_NOPERM),
        ("MAIL", "530 5.7.0 Authentication required", os.EX_NOPERM),
        ("MAIL", "552 5.3.4 Message size exceeds the limit", os.EX_DATAERR),
        ("MAIL", "452 4.3.1 Insufficient storage", os.EX_TEMPFAIL),
        ("RCPT", "550 5.1.1 No such user", os.EX_NOUSER),
        ("RCPT", "550 5.1.2 No such host", os.EX_NOHOST),
        ("RCPT", "553 5.1.3 Syntax", os.EX_DATAERR),
        ("RCPT", "452 4.5.3 Too many recipients", os.EX_TEMPFAIL),
        ("RCPT", "550 without a status", os.EX_UNAVAILABLE),
        ("DATA", "451 4.3.0 Later", os.EX_TEMPFAIL),
        ("content", "554 5.4.6 Routing loop", os.EX_UNAVAILABLE),
        ("content", "451 4.3.0 Could not store the message", os.EX_TEMPFAIL),
        ("content", DROP, os.EX_TEMPFAIL),
        ("greeting", "421 4.7.0 Too many connections", os.EX_TEMPFAIL),
        ("greeting", "hello", os.EX_TEMPFAIL),
    ],
)
def test_what_the_relay_refuses_is_told_by_sysexits(
    relay: Upstream, step: str, answer: str, code: int
) -> None:
    relay.script = scripted(always(step, answer))
    done = sendmail(b"x\n", "a@b.c", port=relay.port)
    assert (done.returncode, done.stdout) == (code, b"")
    assert done.stderr.startswith(b"sendmail: ") and done.stderr.count(b"\n") == 1
    assert answer == DROP or answer.encode() in done.stderr
    assert not relay.delivered


def test_one_recipient_that_is_refused_stops_the_message(relay: Upstream) -> None:
    relay.script = scripted(always("RCPT", "550 5.1.1 Nobody", containing="<bad@b.c>"))
    done = sendmail(b"x\n", "good@b.c", "bad@b.c", port=relay.port)
    assert done.returncode == os.EX_NOUSER and b"<bad@b.c>" in done.stderr
    assert not relay.received and relay.count("DATA") == 0


def test_recipients_beyond_the_limit_follow_in_a_further_transaction(relay: Upstream) -> None:
    def three(step: str, argument: str, count: int) -> str | None:
        return "452 4.5.3 Too many recipients" if step == "RCPT" and count in (4, 8) else None

    relay.script = scripted(three)
    people = [f"p{number}@b.c" for number in range(7)]
    assert sendmail(b"x\n", *people, port=relay.port).returncode == 0
    assert [each.recipients for each in relay.delivered] == [people[:3], people[3:6], people[6:]]


@pytest.mark.parametrize(
    ("content", "words", "code"),
    [
        (b"x\n", [], os.EX_USAGE),
        (b"x\n", ["-z", "a@b.c"], os.EX_USAGE),
        (b"Subject: nobody\n\nx\n", ["-t"], os.EX_DATAERR),
        (b"To: undisclosed-recipients:;\n\nx\n", ["-t"], os.EX_DATAERR),
        (b"To: John Doe\n\nx\n", ["-t"], os.EX_DATAERR),
        (b"x\n", ["a@b.c>\r\nRCPT TO:<x@y.z"], os.EX_DATAERR),
    ],
)
def test_without_good_recipients_nobody_is_asked(
    relay: Upstream, content: bytes, words: list[str], code: int
) -> None:
    done = sendmail(content, *words, port=relay.port)
    assert done.returncode == code and done.stderr.startswith(b"sendmail: ")
    assert relay.connections == 0


def test_another_mail_server_is_not_spoken_to(relay: Upstream, tmp_path: os.PathLike[str]) -> None:
    """While an old server still has the port that the settings name."""
    relay.script = usual
    config = os.path.join(tmp_path, "dispatch.toml")
    with open(config, "w") as file:
        file.write(f'[listener]\nports = [{relay.port}]\nbind = ["127.0.0.1"]\n')
    done = sendmail(b"x\n", f"--config={config}", "a@b.c", port=0)
    assert done.returncode == os.EX_TEMPFAIL
    assert b"another mail server" in done.stderr and b"nothing is kept here" in done.stderr
    assert relay.count("MAIL") == 0
    relay.script = scripted()
    assert sendmail(b"x\n", f"--config={config}", "a@b.c", port=0).returncode == 0


def test_the_environment_names_the_relay(relay: Upstream) -> None:
    named = {"DISPATCH_SENDMAIL_HOST": f"127.0.0.1:{relay.port}"}
    assert sendmail(b"x\n", "a@b.c", port=0, environment=named).returncode == 0


def test_where_nobody_listens_it_is_for_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = sendmail(b"x\n", "a@b.c", port=port)
    assert (done.returncode, done.stdout) == (os.EX_TEMPFAIL, b"")
    assert b"does not run" in done.stderr and b"try again later" in done.stderr


def test_a_caller_without_standard_streams_gets_the_code() -> None:
    program = f"{sys.executable} -m dispatch.cli sendmail --port 1 a@b.c <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", program], check=False, timeout=60).returncode == os.EX_IOERR


def test_with_v_the_conversation_is_shown(relay: Upstream) -> None:
    done = sendmail(b"x\n", "-v", "-fa@b.c", "x@y.z", port=relay.port)
    assert done.stdout == b"" and b">>> MAIL FROM:<a@b.c>" in done.stderr and b"<<< 250" in done.stderr


def test_with_bs_it_is_a_wire_to_the_relay(relay: Upstream) -> None:
    speech = (
        b"EHLO me\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<x@y.z>\r\nDATA\r\nSubject: x\r\n\r\n..\r\n.\r\nQUIT\r\n"
    )
    done = sendmail(speech, "-bs", port=relay.port)
    assert done.returncode == 0
    assert done.stdout.startswith(b"220 relay.test ESMTP Dispatch\r\n250-relay.test\r\n")
    assert done.stdout.endswith(b"221 2.0.0 Bye\r\n")
    assert relay.delivered[0].content == b"Subject: x\r\n\r\n.\r\n"


def test_it_starts_without_what_it_does_not_need() -> None:
    program = "import sys; sys.argv = ['/usr/sbin/sendmail', '--help']; from dispatch.cli import main\n"
    program += "try: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    slow = {"typer", "msgspec", "asyncio", "email", "tempfile", "tomllib", "argparse", "dataclasses", "ssl"}
    assert "Usage: dispatch sendmail" in done.stdout
    assert not set(done.stderr.split()) & slow
