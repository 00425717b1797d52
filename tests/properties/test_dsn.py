"""What holds for every notice, whatever strangers wrote, with Python's own parser as the second opinion."""

from __future__ import annotations

import re
from email import message_from_bytes
from email.message import Message
from email.policy import compat32, default
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.mail.reply import Reply
from dispatch.mail.showable import showable
from dispatch.mime.dsn import Action, Notice, NotifiedRecipient, compose, needs_smtputf8, wants_whole

EXAMPLES = settings(max_examples=150, deadline=None)

LINE_BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
FIELDS = {
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "Auto-Submitted",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
}
OF_MESSAGE = {"Original-Envelope-Id", "Reporting-MTA", "Arrival-Date"}
OF_RECIPIENT = {
    "Original-Recipient",
    "Final-Recipient",
    "Action",
    "Status",
    "Remote-MTA",
    "Diagnostic-Code",
    "Last-Attempt-Date",
    "Will-Retry-Until",
}

pieces = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [*LINE_BREAKS, "\r\n", "\r\n\r\n", "\r\n ", "\x00", "\ud800", "X-Injected: 1", "--", "=?", "ü" * 300]
    ),
    st.sampled_from(
        ["+0D+0A", r"\x{0D}", r"\x{10FFFF}", "utf-8;", "rfc822;", "=_dsn-", " " * 300, "x" * 1200]
    ),
)
strangers = st.lists(pieces, max_size=5).map("".join)
times_ms = st.integers(0, 4_000_000_000_000)
replies = st.builds(
    Reply,
    st.integers(400, 599),
    st.none() | strangers,
    st.lists(strangers, min_size=1, max_size=2).map(tuple),
)
recipients = st.builds(
    NotifiedRecipient,
    strangers,
    st.sampled_from(["failed", "delayed", "relayed", "delivered"]).map(lambda one: cast("Action", one)),
    strangers | st.just("5.1.1"),
    strangers,
    st.none() | strangers,
    st.none() | replies,
    strangers,
    st.none() | times_ms,
    st.none() | times_ms,
)
notices = st.builds(
    Notice,
    id=st.binary(min_size=16, max_size=16),
    at_ms=times_ms,
    to=strangers.map(lambda text: text or "alice"),
    sender=strangers,
    reporting_mta=strangers,
    recipients=st.lists(recipients, min_size=1, max_size=3).map(tuple),
    arrival_ms=times_ms,
    size_bytes=st.integers(0, 400_000),
    subject=strangers,
    message_id=strangers | st.just("<m1@example.org>"),
    envid=st.none() | strangers,
    ret=st.sampled_from(["FULL", "HDRS", None]),
    full_bytes_max=st.integers(0, 400_000),
)
octets = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"Subject: s\r\n", b"Bcc: eve\r\n", b"--=_dsn-", b"x" * 999]
    ),
    st.just("Betreff: Grüße\r\n".encode()),
)
originals = st.none() | st.lists(octets, max_size=8).map(b"".join)


def names(message: Message) -> list[str]:
    return [name for name, _ in message.items()]


@EXAMPLES
@given(notices, originals, st.booleans())
def test_a_notice_has_its_own_fields_and_parts_and_no_others(
    notice: Notice, original: bytes | None, header_only: bool
) -> None:
    content = compose(notice, original, header_only=header_only)
    for policy in (default, compat32):
        report = message_from_bytes(content, policy=policy)
        assert set(names(report)) <= FIELDS
        assert len(names(report)) == len(set(names(report)))
        assert not report.defects
        parts = cast("list[Message]", report.get_payload())
        assert len(parts) == (2 if original is None else 3)
        assert parts[0].get_content_type() == "text/plain"
        for part in parts:
            assert set(names(part)) == {"Content-Type", "Content-Transfer-Encoding"}
    if parts[1].get_content_type() == "message/delivery-status":
        of_message, *blocks = cast("list[Message]", parts[1].get_payload())
        assert set(names(of_message)) <= OF_MESSAGE
        assert len(blocks) == len(notice.recipients)
        for block in blocks:
            assert set(names(block)) <= OF_RECIPIENT
            assert len(names(block)) == len(set(names(block)))
            assert {"Final-Recipient", "Action", "Status"} <= set(names(block))
            assert re.fullmatch(r"[245]\.\d{1,3}\.\d{1,3}", block["Status"])
    else:
        assert needs_smtputf8(notice)


@EXAMPLES
@given(notices, originals)
def test_lines_end_with_crlf_and_are_short_enough_to_be_sent(notice: Notice, original: bytes | None) -> None:
    content = compose(notice, original)
    lines = content.split(b"\r\n")
    assert lines[-1] == b""
    assert max(map(len, lines)) <= 998
    assert not any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines)


@EXAMPLES
@given(notices)
def test_what_we_write_ourselves_breaks_no_line_in_any_alphabet(notice: Notice) -> None:
    content = compose(notice, None).decode()
    for line in content.split("\r\n"):
        assert showable(line).replace(" ", "") == line.replace("\t", "").replace(" ", "")


@EXAMPLES
@given(notices, originals)
def test_a_notice_to_an_ascii_sender_has_an_ascii_header(notice: Notice, original: bytes | None) -> None:
    head, _, rest = compose(notice, original).partition(b"\r\n\r\n")
    assert needs_smtputf8(notice) or head.isascii()
    plain = b"Content-Transfer-Encoding: 7bit" in head
    assert plain == rest.isascii()


@EXAMPLES
@given(notices, originals)
def test_no_more_goes_back_than_was_asked_for(notice: Notice, original: bytes | None) -> None:
    parts = cast("list[Message]", message_from_bytes(compose(notice, original)).get_payload())
    if len(parts) == 3 and not wants_whole(notice):
        assert parts[2].get_content_type() in ("text/rfc822-headers", "message/global-headers")


@EXAMPLES
@given(notices, st.integers(0, 3))
def test_an_original_that_knows_the_boundary_does_not_break_out(notice: Notice, number: int) -> None:
    boundaries = "".join(f"--=_dsn-{notice.id.hex()}-{n}--\r\nX: y\r\n" for n in range(number))
    content = compose(notice, b"A: b\r\n\r\n" + boundaries.encode())
    report = message_from_bytes(content)
    assert len(cast("list[Message]", report.get_payload())) == 3
    assert not report.defects
