"""What the upstream gets is rewritten and signed, and others verify it; what is stored stays as it came."""

from __future__ import annotations

import pytest
from tests.scenarios.relay import Relay, until
from tests.scenarios.signatures import verified
from tests.scenarios.upstream import Received, Upstream

from dispatch.security.dkim_keys import dns_record, generate, load

KEYS = {"rsa": generate("rsa"), "ed": generate("ed25519")}
RECORDS = {f"{selector}._domainkey.example.org": dns_record(load(pem)) for selector, pem in KEYS.items()}
HEADER = (
    b'From: "Ann, the first" <ann@elsewhere.example>\r\n'
    b"To: you@example.net\r\n"
    b"Bcc: hidden@example.net\r\n"
    b"Subject: A  long\r\n story\r\n"
    b"Message-ID: <1@elsewhere.example>\r\n"
    b"\r\n"
)
SMALL = HEADER + b"Hello.\r\n.dots\r\n\r\n\r\n"
INLINE = HEADER + b"It goes on  and on. \r\n" * 20_000
"""Content that is no file, and too much to be signed on the loop."""
LARGE = HEADER + b".A line among many, with  white space \t at its end \r\n" * 50_000
assert len(INLINE) < 1 << 20 < len(LARGE)
SETTINGS = {
    "envelope_from": "bounces@example.org",
    "header_from": "news@example.org",
    "keep_from_as_reply_to": True,
    "dkim_domain": "example.org",
    "dkim_selector": "rsa",
    "dkim_key": KEYS["rsa"],
    "dkim_second_selector": "ed",
    "dkim_second_key": KEYS["ed"],
}


def arrived(upstream: Upstream) -> Received:
    until(lambda: upstream.delivered, "it is delivered")
    (one,) = upstream.delivered
    return one


@pytest.mark.parametrize("content", [SMALL, INLINE, LARGE], ids=["small", "inline", "large"])
@pytest.mark.parametrize("canonicalization", ["relaxed/relaxed", "relaxed/simple", "simple/simple"])
def test_both_signatures_verify_over_what_was_rewritten(
    relay: Relay, upstream: Upstream, content: bytes, canonicalization: str
) -> None:
    relay.configure(upstream.table(**SETTINGS, dkim_canonicalization=canonicalization)).start()
    message_id = relay.send(content, sender="ann@elsewhere.example")
    one = arrived(upstream)
    assert verified(one.content, RECORDS) == ["rsa-sha256", "ed25519-sha256"]
    assert one.reverse_path == "bounces@example.org"
    header, _, body = one.content.partition(b"\r\n\r\n")
    assert b'\r\nFrom: "Ann, the first" <news@example.org>\r\n' in header + b"\r\n"
    assert b'\r\nReply-To: "Ann, the first" <ann@elsewhere.example>' in header
    assert b"\r\nBcc:" not in header and body == content.partition(b"\r\n\r\n")[2]
    changed = one.content.replace(b"news@example.org", b"evil@example.org")
    assert not verified(changed, RECORDS)
    story = relay.story_in_state(message_id, "delivered")
    assert story["sender"] == "ann@elsewhere.example"


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_a_verbatim_relay_gets_what_is_stored_behind_signature_and_reply_to(
    relay: Relay, upstream: Upstream, content: bytes
) -> None:
    relay.configure(
        upstream.table(
            verbatim=True,
            reply_to="help@example.org",
            dkim_domain="example.org",
            dkim_selector="ed",
            dkim_key=KEYS["ed"],
        )
    ).start()
    relay.send(content, sender="")
    one = arrived(upstream)
    assert verified(one.content, RECORDS) == ["ed25519-sha256"] and one.reverse_path == ""
    header, _, body = content.partition(b"\r\n\r\n")
    assert one.content.endswith(header + b"\r\nReply-To: help@example.org\r\n\r\n" + body)


def test_a_key_is_shown_nowhere(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table(**SETTINGS)).start()
    relay.send()
    arrived(upstream)
    pem_line = KEYS["rsa"].splitlines()[3]
    assert pem_line not in relay.cli("config", "list") and pem_line not in relay.log_text()
    for path in relay.data.rglob("*"):
        if path.is_file():
            assert pem_line.encode() not in path.read_bytes(), path
