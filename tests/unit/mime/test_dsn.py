"""What a sender reads of mail that did not arrive: the notice, as two parsers of Python's library see it."""

from __future__ import annotations

import quopri
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import EmailMessage, Message
from email.policy import compat32, default
from typing import cast

import msgspec
import pytest

from dispatch.mail.ids import new_message_id
from dispatch.mail.reply import reply
from dispatch.mime.dsn import (
    HEADER_BYTES_MAX,
    WHOLE_BYTES_MAX,
    Notice,
    NotifiedRecipient,
    compose,
    needs_smtputf8,
    wants_whole,
)

AT_MS = 1_800_000_000_000
ID = new_message_id(AT_MS, bytes(range(10)))
HEADER = b"From: alice@example.org\r\nSubject: Lunch\r\nMessage-ID: <m1@example.org>\r\n"
CONTENT = HEADER + b"\r\nSee you there.\r\n"
BOB = NotifiedRecipient(
    "bob@example.net",
    "failed",
    "5.1.1",
    "The next mail server refused it.",
    "rfc822;Bob+2BLunch@example.net",
    reply(550, "5.1.1", "no such user", "try harder"),
    "[192.0.2.1]",
    AT_MS - 1000,
    AT_MS + 1000,
)
NOTICE = Notice(
    id=ID,
    at_ms=AT_MS,
    to="alice@example.org",
    sender="mailer-daemon@relay.example.org",
    reporting_mta="relay.example.org",
    recipients=(BOB,),
    arrival_ms=AT_MS - 60_000,
    size_bytes=len(CONTENT),
    subject="Lunch",
    message_id="<m1@example.org>",
    envid="QQ+2B1",
)


def notice(**changes: object) -> Notice:
    return msgspec.structs.replace(NOTICE, **changes)


def about(**changes: object) -> Notice:
    return notice(recipients=(msgspec.structs.replace(BOB, **changes),))


def parsed(content: bytes) -> EmailMessage:
    message = message_from_bytes(content, policy=default)
    assert not any(part.defects for part in message.walk())
    return cast("EmailMessage", message)


def parts(content: bytes) -> list[EmailMessage]:
    report = parsed(content)
    assert report.get_content_type() == "multipart/report"
    return cast("list[EmailMessage]", report.get_payload())


def text(content: bytes) -> str:
    return str(parts(content)[0].get_content())


def words(content: bytes) -> str:
    return " ".join(text(content).split())


def blocks(content: bytes) -> list[Message]:
    """The fields of the message, and those of each recipient."""
    return cast("list[Message]", message_from_bytes(content, policy=compat32).get_payload(1).get_payload())


def test_the_header_says_who_to_whom_about_what_and_that_nobody_should_answer() -> None:
    report = parsed(compose(NOTICE, CONTENT))
    assert report["From"].addresses[0].addr_spec == "mailer-daemon@relay.example.org"
    assert report["To"].addresses[0].addr_spec == "alice@example.org"
    assert report["Subject"] == "Not delivered: Lunch"
    assert report["Date"].datetime.timestamp() == AT_MS / 1000
    assert report["Message-ID"] == f"<spl_{ID.hex()}@relay.example.org>"
    assert report["Auto-Submitted"] == "auto-replied"
    assert report["MIME-Version"] == "1.0"
    assert report["In-Reply-To"] == report["References"] == "<m1@example.org>"
    assert report["Content-Type"].params["report-type"] == "delivery-status"
    assert [part.get_content_type() for part in report.iter_parts()] == [
        "text/plain",
        "message/delivery-status",
        "message/rfc822",
    ]


@pytest.mark.parametrize("policy", [default, compat32])
def test_a_program_reads_every_field_of_message_and_recipient(policy: object) -> None:
    report = message_from_bytes(compose(NOTICE, CONTENT), policy=policy)  # type: ignore[call-overload]  # either
    of_message, of_bob = report.get_payload(1).get_payload()
    assert of_message.items() == [
        ("Original-Envelope-Id", "QQ+1"),
        ("Reporting-MTA", "dns; relay.example.org"),
        ("Arrival-Date", "Fri, 15 Jan 2027 07:59:00 +0000"),
    ]
    assert of_bob.items() == [
        ("Original-Recipient", "rfc822; Bob+Lunch@example.net"),
        ("Final-Recipient", "rfc822; bob@example.net"),
        ("Action", "failed"),
        ("Status", "5.1.1"),
        ("Remote-MTA", "dns; [192.0.2.1]"),
        ("Diagnostic-Code", "smtp; 550 5.1.1 no such user try harder"),
        ("Last-Attempt-Date", "Fri, 15 Jan 2027 07:59:59 +0000"),
    ]


def test_a_person_reads_what_happened_what_was_said_and_what_to_do() -> None:
    said = words(compose(NOTICE, CONTENT))
    assert "could not be delivered to: bob@example.net" in said
    assert "What happened: The next mail server refused it." in said
    assert "The next mail server ([192.0.2.1]) said: 550 5.1.1 no such user try harder" in said
    assert "Check the address for mistakes" in said
    assert "not tried again" in said
    assert max(map(len, text(compose(NOTICE, CONTENT)).split("\n"))) <= 72


def test_a_delay_says_how_long_it_will_be_tried_and_returns_the_header_only() -> None:
    late = compose(about(action="delayed", status="4.2.0", reply=reply(450, "4.2.0", "later")), CONTENT)
    assert parsed(late)["Subject"] == "Not delivered yet: Lunch"
    assert "until Fri, 15 Jan 2027 08:00:01 +0000" in words(late)
    assert "no need to send it again" in words(late)
    assert blocks(late)[1]["Will-Retry-Until"] == "Fri, 15 Jan 2027 08:00:01 +0000"
    assert parts(late)[2].get_content_type() == "text/rfc822-headers"


def test_several_recipients_have_their_blocks_and_those_answered_alike_are_told_once() -> None:
    others = [msgspec.structs.replace(BOB, address=f"{name}@example.net") for name in ("carol", "dave")]
    content = compose(notice(recipients=(BOB, *others)), CONTENT)
    assert [block["Final-Recipient"] for block in blocks(content)[1:]] == [
        "rfc822; bob@example.net",
        "rfc822; carol@example.net",
        "rfc822; dave@example.net",
    ]
    assert words(content).count("What happened") == 1
    assert "dave@example.net" in words(content)


def test_a_status_that_is_none_becomes_that_of_the_action() -> None:
    assert blocks(compose(about(status="what?"), CONTENT))[1]["Status"] == "5.0.0"
    assert blocks(compose(about(status="", action="delayed"), CONTENT))[1]["Status"] == "4.0.0"
    assert blocks(compose(about(status="", action="relayed"), CONTENT))[1]["Status"] == "2.0.0"


# ---------------------------------------------------------------- what goes back


def test_a_small_message_goes_back_whole_and_unchanged_but_for_its_hidden_recipients() -> None:
    content = compose(NOTICE, b"Bcc: eve@example.org\r\n" + CONTENT)
    assert b"eve@" not in content
    assert CONTENT + b"\r\n--" in content
    assert parts(content)[2].get_payload(0)["Subject"] == "Lunch"


@pytest.mark.parametrize(
    ("ret", "size_bytes", "whole"),
    [
        (None, WHOLE_BYTES_MAX, True),
        (None, WHOLE_BYTES_MAX + 1, False),
        ("FULL", WHOLE_BYTES_MAX + 1, True),
        ("FULL", 1_000_001, False),
        ("HDRS", 10, False),
    ],
)
def test_how_much_goes_back_is_what_was_asked_for_within_limits(
    ret: str | None, size_bytes: int, whole: bool
) -> None:
    content = b"A: b\r\n\r\n" + b"x" * 76 + b"\r\n"
    wanted = notice(ret=ret, size_bytes=size_bytes, full_bytes_max=1_000_000)
    assert wants_whole(wanted) is whole
    returned = parts(compose(wanted, content))[2]
    assert returned.get_content_type() == ("message/rfc822" if whole else "text/rfc822-headers")


def test_the_text_says_why_the_body_does_not_go_back() -> None:
    assert "too large" in words(compose(notice(size_bytes=WHOLE_BYTES_MAX + 1), CONTENT))
    assert "as was asked for" in words(compose(notice(ret="HDRS"), CONTENT))
    assert "no longer at hand" in words(compose(NOTICE, None))
    assert len(parts(compose(NOTICE, None))) == 2


def test_a_message_whose_lines_no_mail_may_carry_goes_back_as_its_header() -> None:
    for body in (b"x" * 999, b"nul \0 byte"):
        content = compose(NOTICE, HEADER + b"\r\n" + body + b"\r\n")
        assert parts(content)[2].get_content_type() == "text/rfc822-headers"
        assert "longer than mail may carry" in words(content)
        assert max(map(len, content.split(b"\r\n"))) <= 998


def test_a_header_without_end_is_cut_and_the_text_says_so() -> None:
    content = compose(notice(ret="HDRS"), b"X-Filler: y\r\n" * 100_000 + b"\r\n")
    assert len(content) < HEADER_BYTES_MAX + 4096
    assert "its end was left out" in words(content)


def test_a_header_alone_is_enough_to_compose() -> None:
    returned = parts(compose(NOTICE, HEADER, header_only=True))[2]
    assert returned.get_content_type() == "text/rfc822-headers"
    assert returned.get_payload().encode() == HEADER


def test_stray_octets_in_a_header_go_back_quoted_so_that_any_relay_takes_the_notice() -> None:
    content = compose(notice(ret="HDRS"), b"Subject: caf\xe9\r\n\r\n")
    assert content.isascii()
    returned = parts(content)[2]
    assert returned["Content-Transfer-Encoding"] == "quoted-printable"
    assert quopri.decodestring(returned.get_payload()) == b"Subject: caf\xe9\r\n"


def test_an_eight_bit_body_makes_the_notice_eight_bit() -> None:
    content = compose(NOTICE, HEADER + "\r\nGrüße\r\n".encode())
    assert parsed(content)["Content-Transfer-Encoding"] == "8bit"
    assert parsed(compose(NOTICE, CONTENT))["Content-Transfer-Encoding"] == "7bit"


def test_bare_line_ends_of_the_original_become_crlf() -> None:
    content = compose(NOTICE, CONTENT.replace(b"\r\n", b"\n"))
    assert b"\n" not in content.replace(b"\r\n", b"")


def test_the_boundary_never_stands_in_what_it_divides() -> None:
    first = parsed(compose(NOTICE, CONTENT)).get_boundary()
    assert first is not None
    hostile = CONTENT + f"--{first}--\r\nInjected: yes\r\n--{first}\r\n".encode()
    content = compose(NOTICE, hostile)
    assert parsed(content).get_boundary() != first
    assert [part.get_content_maintype() for part in parts(content)] == ["text", "message", "message"]


# ---------------------------------------------------------------- letters beyond ASCII


def test_an_international_recipient_is_named_in_seven_bits_to_an_ascii_sender() -> None:
    content = compose(about(address="bøb@exämple.net", original=None), CONTENT)
    assert content.isascii()
    assert parts(content)[1].get_content_type() == "message/delivery-status"
    assert blocks(content)[1]["Final-Recipient"] == r"utf-8; b\x{F8}b@ex\x{E4}mple.net"
    assert "bøb@exämple.net" in text(content)


def test_an_international_sender_reads_addresses_as_they_are() -> None:
    wanted = about(address="bøb@example.net", original=r"utf-8;b\x{F8}b@example.net")
    wanted = msgspec.structs.replace(wanted, to="ålice@example.org")
    assert needs_smtputf8(wanted)
    content = compose(wanted, CONTENT)
    assert parts(content)[1].get_content_type() == "message/global-delivery-status"
    for line in ("To: <ålice@", "Original-Recipient: utf-8; bøb@", "Final-Recipient: utf-8; bøb@"):
        assert f"\r\n{line}".encode() in content


def test_an_international_sender_of_ascii_mail_gets_the_plain_report() -> None:
    content = compose(notice(to="ålice@example.org"), CONTENT)
    assert parts(content)[1].get_content_type() == "message/delivery-status"


@pytest.mark.parametrize("encoded", ["bøb@example.net", r"b\x{F8}b@example.net"])
def test_an_international_orcpt_is_understood_in_each_of_its_forms(encoded: str) -> None:
    content = compose(about(original=f"utf-8;{encoded}"), CONTENT)
    assert blocks(content)[1]["Original-Recipient"] == r"utf-8; b\x{F8}b@example.net"


def test_an_international_header_goes_back_in_seven_bits_to_an_ascii_sender() -> None:
    original = "Subject: Grüße\r\n\r\nHallo\r\n".encode()
    whole = compose(NOTICE, original)
    assert whole.isascii()
    head, _, body = whole.rpartition(b"message/global\r\n")[2].partition(b"\r\n\r\n")
    assert head == b"Content-Transfer-Encoding: quoted-printable"
    assert quopri.decodestring(body).startswith(original)
    header = compose(notice(ret="HDRS"), original)
    assert header.isascii()
    assert b"message/global-headers" in header


def test_an_international_header_goes_back_as_it_is_to_an_international_sender() -> None:
    original = "Subject: Grüße\r\n\r\nHallo\r\n".encode()
    whole = compose(notice(to="ålice@example.org"), original)
    assert original + b"\r\n--" in whole
    assert b"Content-Type: message/global\r\nContent-Transfer-Encoding: 8bit\r\n" in whole


def test_a_subject_of_any_letters_comes_back_as_it_was() -> None:
    for subject in ("Grüße aus Köln " * 5, "日本語の件名", "=?utf-8?Q?=41?=", "plain"):
        content = compose(notice(subject=subject), CONTENT)
        head = content.split(b"\r\n\r\n")[0]
        assert head.isascii()
        raw = message_from_bytes(content, policy=compat32)["Subject"]
        assert str(make_header(decode_header(raw))) == f"Not delivered: {subject.strip()}"
        assert max(map(len, head.split(b"\r\n"))) <= 100


# ---------------------------------------------------------------- what strangers wrote


HOSTILE = [
    "\r\nX-Injected: yes",
    "\nX-Injected: yes",
    "\r\n\r\nX-Injected: yes",
    "a\x00\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029X-Injected: yes",
    "\ud800X-Injected: yes",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_that_came_with_the_mail_makes_a_line_of_its_own(hostile: str) -> None:
    recipient = NotifiedRecipient(
        f"bob{hostile}",
        "failed",
        f"5.1.1{hostile}",
        f"No.{hostile}",
        f"rfc822{hostile};x{hostile}",
        reply(550, f"5.1.1{hostile}", f"no{hostile}"),
        f"host{hostile}",
    )
    for original in (f"rfc822{hostile};x", f"rfc822;x{hostile}", f"utf-8;x{hostile}"):
        content = compose(
            notice(
                to=f"alice{hostile}",
                sender=f"daemon{hostile}",
                reporting_mta=f"relay{hostile}",
                subject=f"s{hostile}",
                message_id=f"<a@b>{hostile}",
                envid=f"e{hostile}",
                recipients=(recipient, msgspec.structs.replace(recipient, original=original)),
            ),
            CONTENT,
        )
        for policy in (default, compat32):
            report = message_from_bytes(content, policy=policy)
            assert "X-Injected" not in report
            assert not any("X-Injected" in block for block in blocks(content))
        assert b"\nX-Injected" not in content
        assert len(blocks(content)) == 3
        for char in "\x00\x0b\x0c\x1c\x85\u2028":
            assert char.encode() not in content


def test_line_breaks_hidden_in_xtext_stay_hidden() -> None:
    content = compose(notice(envid="a+0D+0AX-Injected:+20yes"), CONTENT)
    assert blocks(content)[0]["Original-Envelope-Id"] == "a+0D+0AX-Injected:+20yes"
    content = compose(about(original="rfc822;a+0D+0AX-Injected:+20yes"), CONTENT)
    assert blocks(content)[1]["Original-Recipient"] == "rfc822; a+0D+0AX-Injected:+20yes"
    content = compose(about(original=r"utf-8;a\x{0D}\x{0A}X-Injected: yes"), CONTENT)
    assert "X-Injected" not in blocks(content)[1]


def test_a_message_id_that_is_none_is_not_named() -> None:
    for message_id in ("", "m1", "<a b@c>", "<a@b> <c@d>", f"<{'a' * 300}@b>"):
        assert "References" not in parsed(compose(notice(message_id=message_id), CONTENT))


def test_an_endless_address_and_an_endless_reply_still_fit_their_lines() -> None:
    endless = about(address="ü" * 5000, original=f"rfc822;{'x' * 5000}", reply=reply(550, None, "y" * 5000))
    for wanted in (endless, msgspec.structs.replace(endless, to="ü" * 5000)):
        content = compose(wanted, CONTENT)
        assert max(map(len, content.split(b"\r\n"))) <= 998
    assert parsed(content)["To"] == "undisclosed-recipients:;"


def test_an_address_of_many_spaces_does_not_end_the_fields() -> None:
    wanted = msgspec.structs.replace(
        about(address=f"{'ü' * 100}{' ' * 600}{'ü' * 100}"), to="ålice@example.org"
    )
    status = compose(wanted, CONTENT).partition(b"global-delivery-status\r\n")[2].partition(b"\r\n--")[0]
    assert not any(line and not line.strip() for line in status.split(b"\r\n"))


def test_the_same_notice_is_the_same_bytes() -> None:
    assert compose(NOTICE, CONTENT) == compose(NOTICE, CONTENT)
