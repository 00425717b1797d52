"""What is read from the header section of a message, whatever shape it is in."""

import pytest

from dispatch.mime.inspect import (
    HEAD_BYTES_MAX,
    SUBJECT_CHARS_MAX,
    TAGS_MAX,
    Inspection,
    header_end,
)
from dispatch.mime.inspect import inspect as inspect_content

OWN = "relay.example.org"


def inspect(content: bytes) -> Inspection:
    return inspect_content(content, OWN)


def test_an_ordinary_message() -> None:
    content = (
        b"Date: Thu, 20 Nov 2026 10:00:00 +0000\r\n"
        b"From: Alice <alice@example.org>\r\n"
        b"Subject: Hello\r\n"
        b"Message-ID: <1@example.org>\r\n"
        b"X-Mailer: Printer 3000\r\n"
        b"\r\nbody\r\n"
    )
    seen = inspect(content)
    assert seen.summary.subject == "Hello"
    assert seen.summary.header_from == "Alice <alice@example.org>"
    assert seen.summary.message_id == "<1@example.org>"
    assert seen.summary.mailer == "Printer 3000"
    assert seen.has_date
    assert seen.has_message_id
    assert content[seen.header_end :] == b"\r\nbody\r\n"
    assert not seen.starts_with_body


def test_the_body_is_not_read_as_header() -> None:
    seen = inspect(b"Subject: a\r\n\r\nDate: x\r\nMessage-ID: <1@b>\r\nReceived: by b\r\n\r\n")
    assert not seen.has_date
    assert not seen.has_message_id
    assert seen.received_count == 0


def test_names_are_found_in_any_case_and_with_space_before_the_colon() -> None:
    seen = inspect(b"DATE : x\r\nmessage-iD:<1@b>\r\nsUBJECT\t: hi\r\n\r\n")
    assert seen.has_date
    assert seen.has_message_id
    assert seen.summary.subject == "hi"


def test_longer_names_are_other_fields() -> None:
    seen = inspect(b"Subject-Tag: a\r\nX-Date: b\r\nDated: c\r\nReceived-SPF: pass\r\n\r\n")
    assert seen.summary.subject == ""
    assert not seen.has_date
    assert seen.received_count == 0


def test_a_name_in_a_folded_value_is_no_field() -> None:
    assert not inspect(b"Subject: a\r\n Date: b\r\n\r\n").has_date


def test_the_first_of_two_subjects_is_shown() -> None:
    assert inspect(b"Subject: one\r\nSubject: two\r\n\r\n").summary.subject == "one"


def test_a_folded_subject_is_one_line() -> None:
    assert inspect(b"Subject: one\r\n two\r\n\tthree\r\n\r\n").summary.subject == "one two three"


def test_an_encoded_subject_is_readable() -> None:
    content = b"Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\n =?utf-8?B?IGF1cyBLw7Zsbg==?=\r\n\r\n"
    assert inspect(content).summary.subject == "Grüße aus Köln"


def test_raw_utf8_is_readable_and_other_bytes_do_no_harm() -> None:
    assert inspect("Subject: Grüße\r\n\r\n".encode()).summary.subject == "Grüße"
    assert inspect(b"Subject: Gr\xfc\xdfe\r\n\r\n").summary.subject == "Gr��e"


@pytest.mark.parametrize(
    "subject",
    [
        b"=?utf-8?Q?a=0D=0ABcc:_victim=40example.org?=",
        b"a\x1b[31mred\x00\x7f",
        "a\u2028b\u2029c\x85d".encode(),
        "txt\u202egpj.exe".encode(),
    ],
)
def test_control_characters_never_reach_history(subject: bytes) -> None:
    shown = inspect(b"Subject: " + subject + b"\r\n\r\n").summary.subject
    assert not any(
        ord(character) < 32 or 0x7F <= ord(character) < 0xA0 or character in "\u2028\u2029\u202e"
        for character in shown
    )


def test_lengths_are_bounded() -> None:
    seen = inspect(b"Subject: " + b"x" * 100_000 + b"\r\n" + b"X-Dispatch-Tag: t\r\n" * 5 + b"\r\n")
    assert seen.summary.subject == "x" * SUBJECT_CHARS_MAX


def test_tags_are_kept_once_each_in_their_order() -> None:
    seen = inspect(b"X-Dispatch-Tag: b\r\nX-Dispatch-Tag: a\r\nx-dispatch-tag: b\r\nX-Dispatch-Tag:\r\n\r\n")
    assert seen.summary.tags == ("b", "a")


def test_a_thousand_tags_are_too_many() -> None:
    head = b"".join(b"X-Dispatch-Tag: %d\r\n" % number for number in range(1000))
    assert len(inspect(head + b"\r\n").summary.tags) == TAGS_MAX


@pytest.mark.parametrize(
    ("value", "priority"),
    [(b"high", "high"), (b" BULK ", "bulk"), (b"normal", "normal"), (b"urgent", None), (b"", None)],
)
def test_the_priority_is_read(value: bytes, priority: str) -> None:
    assert inspect(b"X-Dispatch-Priority: " + value + b"\r\n\r\n").priority == priority


def test_received_fields_and_our_own_among_them_are_counted() -> None:
    seen = inspect(
        b"Received: from a by relay.example.org (Dispatch) with ESMTP; x\r\n"
        b"Received: from a ([192.0.2.1])\r\n\tby RELAY.example.ORG with SMTP; x\r\n"
        b"received: from relay.example.org by mx.example.net; x\r\n"
        b"Received: from a by relay.example.org.evil.test; x\r\n"
        b"Received: from a by my-relay.example.org; x\r\n"
        b"Received: nearby relay.example.org; x\r\n"
        b"\r\n"
    )
    assert seen.received_count == 6
    assert seen.own_received_count == 2


def test_a_header_section_without_body() -> None:
    content = b"Subject: a\r\nDate: b\r\n"
    seen = inspect(content)
    assert seen.has_date
    assert seen.header_end == len(content)
    assert not seen.starts_with_body


def test_an_empty_header_section() -> None:
    seen = inspect(b"\r\nDate: body\r\n\r\nmore")
    assert (seen.header_start, seen.header_end) == (0, 0)
    assert not seen.has_date
    assert not seen.starts_with_body


@pytest.mark.parametrize(
    "content", [b"Hello world\r\nDate: no\r\n\r\n", b" folded\r\n", b"\xff\xfe: x\r\n", b": x\r\n"]
)
def test_a_message_that_starts_with_its_body_has_no_header(content: bytes) -> None:
    seen = inspect(content)
    assert seen.starts_with_body
    assert (seen.header_start, seen.header_end) == (0, 0)
    assert not seen.has_date


def test_an_empty_message_needs_no_divider() -> None:
    assert not inspect(b"").starts_with_body


def test_the_line_that_a_mailbox_file_puts_in_front_is_not_the_message() -> None:
    content = b"From alice@example.org Thu Nov 20 10:00:00 2026\r\nFrom: Alice <a@example.org>\r\n\r\nbody"
    seen = inspect(content)
    assert content[seen.header_start :].startswith(b"From: Alice")
    assert seen.summary.header_from == "Alice <a@example.org>"
    assert not seen.starts_with_body


def test_a_mailbox_line_before_a_bare_body() -> None:
    content = b"From alice Thu Nov 20\r\nHello there\r\n"
    seen = inspect(content)
    assert seen.starts_with_body
    assert content[seen.header_start :] == b"Hello there\r\n"


def test_nothing_hides_behind_a_bare_line_feed() -> None:
    content = b"Subject: a\nDate: b\n\nMessage-ID: <body@b>\r\n\r\n"
    seen = inspect(content)
    assert seen.has_date
    assert not seen.has_message_id
    assert content[seen.header_end :].startswith(b"\nMessage-ID")


def test_a_header_section_of_megabytes_is_read_in_part() -> None:
    content = b"X-Padding: y\r\n" * (2 * HEAD_BYTES_MAX // 14) + b"Date: late\r\n\r\nbody"
    seen = inspect(content)
    assert not seen.has_date
    assert content[seen.header_end :] == b"\r\nbody"


def test_the_header_end_of_a_first_block_without_empty_line_is_its_length() -> None:
    assert header_end(b"Subject: a\r\nTo: b") == 17


def test_the_relays_that_a_message_names_each_once() -> None:
    assert inspect(b"Subject: a\r\n\r\nX-Dispatch-Relay: body\r\n").relays == ()
    assert inspect(b"x-dispatch-RELAY :\r\n bulk \r\nX-Dispatch-Relay: bulk\r\n\r\n").relays == ("bulk",)
    assert inspect(b"X-Dispatch-Relay: b\r\nX-Dispatch-Relay: a\r\n\r\n").relays == ("b", "a")
    assert inspect(b"X-Dispatch-Relay:\r\n\r\n").relays == ("",)
