"""What leaves, and what must not."""

import pytest

from dispatch.mime.handover import Handover, for_relay

PLAIN = (
    b"Received: x\r\nFrom: a@b\r\nTo: c@d\r\nSubject: Bcc: no\r\n\r\nBcc: body@b\r\nX-Dispatch-Tag: body\r\n"
)


def test_a_message_with_nothing_to_hide_is_handed_on_as_the_same_object() -> None:
    assert for_relay(PLAIN, verbatim=False) is PLAIN


def test_a_verbatim_relay_gets_what_is_stored() -> None:
    content = b"Bcc: secret@b\r\n\r\nbody"
    assert for_relay(content, verbatim=True) is content


@pytest.mark.parametrize(
    "field",
    [
        b"Bcc: secret@b\r\n",
        b"BCC : secret@b\r\n",
        b"bcc:\r\n",
        b"Bcc: secret@b,\r\n\tother@b,\r\n third@b\r\n",
        b"Resent-Bcc: secret@b\r\n",
        b"X-Dispatch-Tag: t\r\n",
        b"x-dispatch-priority: high\r\n",
        b"X-Dispatch-Idempotency-Key: k\r\n continued\r\n",
    ],
)
@pytest.mark.parametrize("before", [b"", b"From: a@b\r\n"])
@pytest.mark.parametrize("after", [b"", b"To: c@d\r\n\tfolded\r\n"])
def test_every_line_of_what_must_not_leave_is_taken_out(field: bytes, before: bytes, after: bytes) -> None:
    body = b"\r\nBcc: body\r\n"
    assert for_relay(before + field + after + field + body, verbatim=False) == before + after + body


@pytest.mark.parametrize(
    "field",
    [
        b"Bcc-Note: x\r\n",
        b"XBcc: x\r\n",
        b"X-Dispatch: x\r\n",
        b"X-Dispatcher-Tag: x\r\n",
        b"Subject: Bcc: x\r\n",
    ],
)
def test_other_fields_stay(field: bytes) -> None:
    content = field + b"\r\nbody"
    assert for_relay(content, verbatim=False) is content


def test_a_header_section_without_body_is_cleaned_too() -> None:
    assert for_relay(b"To: a@b\r\nBcc: c@d", verbatim=False) == b"To: a@b\r\n"


def test_a_body_behind_an_empty_header_section_is_not_touched() -> None:
    content = b"\r\nBcc: text\r\n\r\nBcc: text\r\n"
    assert for_relay(content, verbatim=False) == content


def test_a_bcc_behind_bare_line_feeds_does_not_leave() -> None:
    assert for_relay(b"To: a@b\nBcc: c@d\n\nBcc: body\n", verbatim=False) == b"To: a@b\n\nBcc: body\n"


def test_a_stream_holds_back_no_more_than_the_beginning_of_a_line() -> None:
    handover = Handover()
    sent = 0
    for number in range(1, 1001):
        sent += len(handover.feed(b"x" * 1000))
        assert number * 1000 - sent < 100
    assert sent + len(handover.finish()) == 1_000_000


def test_behind_the_header_blocks_pass_as_they_are() -> None:
    handover = Handover()
    assert handover.feed(b"Bcc: a@b\r\n\r\nbody") == b"\r\nbody"
    block = b"Bcc: more body\r\n"
    assert handover.feed(block) is block
    assert handover.finish() == b""
