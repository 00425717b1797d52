"""What leaves, of a whole content in memory; through files it is looked at where they are read."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.mime.test_dkim import KEYS, MESSAGE

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import new_message_id
from dispatch.mail.message import Message, Origin, Summary
from dispatch.mime.departure import Departure, Signing
from dispatch.mime.dkim import Unsignable
from dispatch.mime.handover import for_relay
from dispatch.mime.rewrite import SenderRewrite

REWRITE = SenderRewrite("relay@example.org", "news@example.org", "help@example.org")


def message(reverse_path: str) -> Message:
    envelope = Envelope(reverse_path, (Recipient("you@example.net"),), envid="QQ")
    return Message(new_message_id(0, bytes(10)), 0, envelope, Origin("smtp", "192.0.2.1"), Summary(), 20)


def test_the_envelope_sender_is_replaced_and_nothing_else() -> None:
    before = message("ann@elsewhere.example")
    after = Departure(rewrite=REWRITE).message(before)
    assert after.envelope.reverse_path == "relay@example.org"
    envelope = msgspec.structs.replace(after.envelope, reverse_path="ann@elsewhere.example")
    assert msgspec.structs.replace(after, envelope=envelope) == before


@pytest.mark.parametrize("rewrite", [None, REWRITE, SenderRewrite(reply_to="help@example.org")])
def test_a_null_sender_stays_null(rewrite: SenderRewrite | None) -> None:
    before = message("")
    assert Departure(rewrite=rewrite).message(before) is before


def test_a_relay_that_asks_for_nothing_gets_the_very_same_object() -> None:
    assert Departure().content(MESSAGE, 1) is MESSAGE and Departure(verbatim=True).as_stored
    before = message("ann@elsewhere.example")
    assert Departure().message(before) is before
    assert not Departure().as_stored and not Departure(True, REWRITE).as_stored


def test_fields_go_before_they_could_be_signed_and_senders_are_rewritten_first() -> None:
    content = b"Bcc: hidden@example.net\r\n" + MESSAGE
    left = Departure(rewrite=REWRITE, signing=Signing(KEYS)).content(content, 1)
    assert left.count(b"DKIM-Signature:") == len(KEYS) and left.startswith(b"DKIM-Signature:")
    assert b"hidden" not in left
    assert left.endswith(Departure(rewrite=REWRITE).content(for_relay(content, verbatim=False), 1))


def test_header_and_body_apart_give_what_the_whole_gives() -> None:
    departure = Departure(rewrite=REWRITE, signing=Signing(KEYS, "relaxed/simple"))
    end = MESSAGE.index(b"\r\n\r\n") + 4
    head = departure.header(MESSAGE[:end])
    assert departure.signing is not None
    body = departure.signing.body_hash()
    for at in range(end, len(MESSAGE), 7):
        body.feed(MESSAGE[at : at + 7])
    signatures = departure.signatures(head, body, 1)
    whole = departure.content(MESSAGE, 1)
    # RSA and Ed25519 sign alike each time.
    assert signatures + head + MESSAGE[end:] == whole


def test_what_cannot_be_signed_is_said() -> None:
    with pytest.raises(Unsignable, match="101 fields"):
        Departure(signing=Signing(KEYS)).content(b"To: a@example.org\r\n" * 101 + b"\r\n", 1)


def test_bare_addresses_are_completed_before_senders_are_replaced_and_all_is_signed() -> None:
    stored = b"From: Cron <root>\r\nTo: root\r\n\r\nbody\r\n"
    completing = Departure(append_domain="example.org")
    assert not completing.as_stored
    assert completing.content(stored, 1) == (
        b"From: Cron <root@example.org>\r\nTo: root@example.org\r\n\r\nbody\r\n"
    )
    both = Departure(
        append_domain="example.org",
        rewrite=SenderRewrite(keep_from_as_reply_to=True, header_from="a@b.example"),
    )
    assert b"Reply-To: Cron <root@example.org>\r\n" in both.content(stored, 1)
