"""`dispatch send`: a message out of options is composed, taken and delivered, and its id is printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import pytest
from tests.scenarios.relay import Relay, until
from tests.scenarios.upstream import Upstream


def send(relay: Relay, *words: str, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "dispatch.cli", "send", "--host", f"127.0.0.1:{relay.port}", *words]
    return subprocess.run(command, input=text, capture_output=True, timeout=60, check=False)


def sent(relay: Relay, *words: str, text: bytes = b"") -> str:
    done = send(relay, *words, text=text)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def arrived(upstream: Upstream, count: int = 1) -> EmailMessage:
    until(lambda: len(upstream.delivered) == count, "it is delivered")
    message = message_from_bytes(upstream.delivered[-1].content, policy=default)
    assert isinstance(message, EmailMessage)
    return message


def test_everything_that_the_options_say_arrives(relay: Relay, upstream: Upstream, tmp_path: Path) -> None:
    relay.configure(upstream.table()).start()
    (tmp_path / "page.html").write_text("<p>Grüße <img src='cid:logo'></p>")
    (tmp_path / "logo.png").write_bytes(b"\x89PNG")
    (tmp_path / "Überblick.pdf").write_bytes(bytes(range(256)) * 5000)
    words = [
        *("--from", "Žofie <me@example.org>", "--to", "a@example.net, Bé <b@example.net>"),
        *("--cc", "c@example.net", "--bcc", "secret@example.net", "--reply-to", "answers@example.org"),
        *("--subject", "Žluťoučký kůň", "--html", str(tmp_path / "page.html")),
        *("--attach", str(tmp_path / "Überblick.pdf"), "--inline", f"{tmp_path / 'logo.png'}=logo"),
        *("--header", "X-Order: 12", "--tag", "orders"),
    ]
    message_id = sent(relay, *words, text="Grüße\n".encode())
    message = arrived(upstream)
    assert upstream.delivered[0].reverse_path == "me@example.org"
    assert upstream.delivered[0].recipients == [f"{name}@example.net" for name in ("a", "b", "c", "secret")]
    assert message["From"] == "Žofie <me@example.org>"
    assert message["To"] == "a@example.net, Bé <b@example.net>"
    assert (message["Cc"], message["Reply-To"]) == ("c@example.net", "answers@example.org")
    assert (message["Subject"], message["X-Order"]) == ("Žluťoučký kůň", "12")
    assert b"secret" not in upstream.delivered[0].content
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().strip() == "Grüße"
    assert "cid:logo" in html.get_content()
    files = {part.get_filename(): part.get_content() for part in message.walk() if part.get_filename()}
    assert files == {"Überblick.pdf": bytes(range(256)) * 5000, "logo.png": b"\x89PNG"}
    assert message["Message-ID"]
    assert message["Date"]
    shown = json.loads(relay.cli("history", "show", message_id, "--json"))
    assert shown["tags"] == ["orders"]


def test_a_script_gets_ids_as_json_and_needs_no_text(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table()).start()
    said = json.loads(sent(relay, "--to", "a@example.net", "--from", "me@example.org", "--json"))
    assert [each[:4] for each in said["ids"]] == ["spl_"]
    message = arrived(upstream)
    assert message["Subject"] == ""
    assert message.get_content() == ""


WRONG: dict[str, tuple[Sequence[str], str]] = {
    "nobody": ([], "name somebody with --to"),
    "no address": (["--to", "a b@example.net"], "is no address"),
    "two senders": (["--to", "a@b.example", "--from", "a@b.example,c@d.example"], "one address, please"),
    "line break": (["--to", "a@b.example", "--subject", "x\r\nBcc: y@z.example"], "U+000D"),
    "line break in a field": (["--to", "a@b.example", "--header", "X-A: x\nBcc: y@z.example"], "U+000A"),
    "a field of ours": (["--to", "a@b.example", "--header", "bcc: y@z.example"], "written by the other"),
    "no field": (["--to", "a@b.example", "--header", "nonsense"], "NAME: VALUE"),
    "unknown priority": (["--to", "a@b.example", "--priority", "urgent"], "none of high, normal, bulk"),
    "not inline": (["--to", "a@b.example", "--inline", "logo.png"], "FILE=ID"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_what_cannot_be_sent_is_said_before_anything_is(relay: Relay, name: str) -> None:
    words, said = WRONG[name]
    done = send(relay, "--from", "me@example.org", *words)
    assert done.returncode == os.EX_USAGE, done.stderr
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_file_that_is_not_there_and_a_relay_that_is_not(relay: Relay, tmp_path: Path) -> None:
    to = ["--from", "me@example.org", "--to", "a@b.example"]
    missing = send(relay, *to, "--attach", str(tmp_path / "none.pdf"))
    assert missing.returncode == os.EX_IOERR
    assert b"none.pdf" in missing.stderr
    nobody = send(relay, *to)
    assert nobody.returncode == os.EX_TEMPFAIL, nobody.stderr
    assert send(relay, *to, text=b"\xff").returncode == os.EX_USAGE


def test_what_the_relay_refuses_is_told_with_its_code(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table(), listener={"max_message_bytes": 10_000}).start()
    done = send(relay, "--from", "me@example.org", "--to", "a@b.example", text=b"x\n" * 10_000)
    assert done.returncode == os.EX_DATAERR
    assert b"552" in done.stderr
