"""The fields that are put in front, and what cannot be smuggled into them."""

from email import message_from_bytes
from email.policy import SMTP
from typing import Any

import pytest

from dispatch.mime.inspect import inspect
from dispatch.mime.trace import date_text, front_fields, received_field

NOON_S = 1_795_176_000
ID = "spl_0192f0c1a2b34c5d8e9fa0b1c2d3e4f5"


def received(**changes: Any) -> bytes:
    usual: dict[str, Any] = {
        "client_name": "app.example.org",
        "client_address": "192.0.2.7",
        "own_name": "relay.example.org",
        "with_type": "ESMTP",
        "id_text": ID,
        "recipient": "bob@example.net",
        "epoch_s": NOON_S,
    }
    return received_field(**(usual | changes))


def front(**changes: Any) -> bytes:
    usual: dict[str, Any] = {
        "has_date": True,
        "has_message_id": True,
        "starts_with_body": False,
        "own_name": "relay.example.org",
        "id_text": ID,
        "epoch_s": NOON_S,
    }
    return front_fields(received(), **(usual | changes))


def test_the_whole_field() -> None:
    assert received() == (
        b"Received: from app.example.org ([192.0.2.7])\r\n"
        b"\tby relay.example.org (Dispatch) with ESMTP\r\n"
        b"\tid spl_0192f0c1a2b34c5d8e9fa0b1c2d3e4f5\r\n"
        b"\tfor <bob@example.net>;\r\n"
        b"\tFri, 20 Nov 2026 12:00:00 +0000\r\n"
    )


def test_several_recipients_are_not_told_of_each_other() -> None:
    field = received(recipient=None)
    assert b"for" not in field
    assert field.endswith(b"\tid " + ID.encode() + b";\r\n\tFri, 20 Nov 2026 12:00:00 +0000\r\n")


def test_an_ipv6_client_is_tagged_as_such() -> None:
    assert b"([IPv6:2001:db8::1])" in received(client_address="2001:db8::1")


def test_protocol_and_tls_are_named() -> None:
    field = received(with_type="ESMTPSA", tls="TLSv1.3, TLS_AES_256_GCM_SHA384")
    assert b"with ESMTPSA\r\n\t(TLSv1.3, TLS_AES_256_GCM_SHA384)\r\n" in field


def test_our_own_field_is_recognised_when_it_comes_back() -> None:
    assert inspect(received() * 2 + b"\r\n", "relay.example.org").own_received_count == 2


@pytest.mark.parametrize("field", ["client_name", "client_address", "own_name", "recipient", "tls"])
@pytest.mark.parametrize(
    "evil", ["a\r\nBcc: x@y", "a\nb", "a\rb", "a\x00b", "a\x85b", "a\u2028b", "a\x1bb", "\r\n\r\nbody"]
)
def test_nothing_inserted_breaks_out_of_the_field(field: str, evil: str) -> None:
    written = received(**{field: evil})
    lines = written.split(b"\r\n")
    assert lines.pop() == b""
    assert lines[0].startswith(b"Received: ")
    assert all(line.startswith(b"\t") for line in lines[1:])
    assert not any(character < 32 and character != 9 for line in lines for character in line)
    assert "\u2028".encode() not in written
    assert "\x85".encode() not in written


@pytest.mark.parametrize("evil", ["a (b", "a) by evil.example", "a; b", "<x>"])
def test_an_announced_name_cannot_forge_another_clause(evil: str) -> None:
    field = received(client_name=evil)
    assert field.count(b"(") == 2
    assert field.count(b";") == 1
    assert b" by evil" not in field


def test_a_client_without_a_name_is_unknown() -> None:
    assert received(client_name="").startswith(b"Received: from unknown ([192.0.2.7])")


def test_an_international_recipient_is_named_in_utf8() -> None:
    assert "for <jürgen@example.de>".encode() in received(recipient="jürgen@example.de", with_type="UTF8SMTP")


def test_lines_stay_below_78_columns_for_names_of_usual_length() -> None:
    field = received(
        client_name="a-rather-long-host-name.department.example.org",
        client_address="2001:db8:1234:5678:9abc:def0:1234:5678",
        recipient="first.last+tag@department.example.net",
        tls="TLSv1.3, TLS_AES_256_GCM_SHA384",
    )
    assert max(len(line) for line in field.split(b"\r\n")) < 78


def test_endless_names_are_cut() -> None:
    assert len(received(client_name="a" * 100_000, own_name="b" * 100_000)) < 1000


def test_a_complete_message_gets_the_trace_field_only() -> None:
    assert front() == received()


def test_what_is_missing_is_added_behind_the_trace_field() -> None:
    assert front(has_date=False, has_message_id=False) == (
        received()
        + b"Date: Fri, 20 Nov 2026 12:00:00 +0000\r\nMessage-ID: <"
        + ID.encode()
        + b"@relay.example.org>\r\n"
    )


def test_a_message_that_starts_with_its_body_keeps_all_of_it() -> None:
    content = b"Hello: this is text, not header\r\n"
    parsed = message_from_bytes(front(has_date=False, starts_with_body=True) + content, policy=SMTP)
    assert parsed.get_payload() == "Hello: this is text, not header\r\n"


@pytest.mark.parametrize("own_name", ["a\r\nb", "", "[192.0.2.1]", "-", "a>b"])
def test_an_odd_own_name_still_gives_a_sound_message_id(own_name: str) -> None:
    line = front(has_message_id=False, own_name=own_name).rpartition(b"Message-ID: ")[2]
    assert line.startswith(b"<" + ID.encode() + b"@")
    assert line.endswith(b">\r\n")
    assert line.count(b"\r\n") == line.count(b">") == 1


@pytest.mark.parametrize(
    ("epoch_s", "text"),
    [
        (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
        (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
        (NOON_S, "Fri, 20 Nov 2026 12:00:00 +0000"),
    ],
)
def test_dates(epoch_s: int, text: str) -> None:
    assert date_text(epoch_s) == text
