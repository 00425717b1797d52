"""What servers say, and what they say that no server may."""

from __future__ import annotations

import pytest

from dispatch.mail.reply import Reply
from dispatch.smtp.replies import (
    LINE_BYTES_MAX,
    REPLY_BYTES_MAX,
    REPLY_LINES_MAX,
    ReplyParser,
    ReplyViolation,
    ViolationReason,
)


def read(data: bytes, piece: int | None = None) -> list[Reply]:
    """All replies in `data`, given whole or in pieces of some length."""
    parser = ReplyParser()
    replies = []
    size = piece or max(1, len(data))
    for at in range(0, len(data), size):
        parser.receive(data[at : at + size])
        while (reply := parser.next_reply()) is not None:
            replies.append(reply)
    return replies


@pytest.mark.parametrize("piece", [None, 1, 2, 7])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"250 Ok\r\n", Reply(250, None, ("Ok",))),
        (b"250\r\n", Reply(250, None, ("",))),
        (b"250 \r\n", Reply(250, None, ("",))),
        (b"250 2.1.0 Sender ok\r\n", Reply(250, "2.1.0", ("Sender ok",))),
        (b"550 5.1.1\r\n", Reply(550, "5.1.1", ("",))),
        (b"550-5.7.1 not\r\n550 5.7.1 you\r\n", Reply(550, "5.7.1", ("not", "you"))),
        (b"250-a\r\n250-\r\n250\r\n", Reply(250, None, ("a", "", ""))),
        (b"354 go\n", Reply(354, None, ("go",))),
        (b"421-a\n421 b\r\n", Reply(421, None, ("a", "b"))),
    ],
)
def test_replies_mean_the_same_however_they_are_cut(data: bytes, expected: Reply, piece: int | None) -> None:
    assert read(data, piece) == [expected]


def test_enhanced_code_of_another_class_is_text() -> None:
    assert read(b"450 5.1.1 odd\r\n") == [Reply(450, None, ("5.1.1 odd",))]


def test_version_number_is_no_enhanced_code() -> None:
    assert read(b"250 2.1.0.4 hello\r\n") == [Reply(250, None, ("2.1.0.4 hello",))]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"a\x00b", "a\ufffdb"),
        (b"a\x1b[31mb", "a\ufffd[31mb"),
        (b"a\rb", "a\ufffdb"),
        (b"a\tb", "a b"),
        (b"a\xffb", "a\ufffdb"),
        ("a\u2028b\u202eb\u0085".encode(), "a\ufffdb\ufffdb"),
        ("gr\u00fcn".encode(), "gr\u00fcn"),
    ],
)
def test_text_that_could_hurt_is_scrubbed(raw: bytes, text: str) -> None:
    reply = read(b"550 " + raw + b"\r\n")[0]
    assert reply.text.startswith(text)
    assert reply.text.isprintable()


@pytest.mark.parametrize("piece", [None, 1, 3])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello\r\n", ViolationReason.NO_CODE),
        (b"\r\n", ViolationReason.NO_CODE),
        (b"25\r\n", ViolationReason.NO_CODE),
        (b"-25 negative\r\n", ViolationReason.NO_CODE),
        ("\u0662\u0665\u0660 digits of another script\r\n".encode(), ViolationReason.NO_CODE),
        (b"250Ok\r\n", ViolationReason.NO_SEPARATOR),
        (b"2500 Ok\r\n", ViolationReason.NO_SEPARATOR),
        (b"250\tOk\r\n", ViolationReason.NO_SEPARATOR),
        (b"100 Continue\r\n", ViolationReason.CODE_OUT_OF_RANGE),
        (b"600 far\r\n", ViolationReason.CODE_OUT_OF_RANGE),
        (b"000 nothing\r\n", ViolationReason.CODE_OUT_OF_RANGE),
        (b"250-a\r\n550 b\r\n", ViolationReason.MIXED_CODES),
        (b"250-a\r\nb\r\n", ViolationReason.NO_CODE),
        (b"250 " + b"x" * LINE_BYTES_MAX, ViolationReason.LINE_TOO_LONG),
        (b"250 " + b"x" * LINE_BYTES_MAX + b"\r\n", ViolationReason.LINE_TOO_LONG),
        (b"250-x\r\n" * (REPLY_LINES_MAX + 1), ViolationReason.REPLY_TOO_LONG),
        (b"250-" + b"x" * 4000 + b"\r\n", None),
        ((b"250-" + b"x" * 4000 + b"\r\n") * (REPLY_BYTES_MAX // 4000 + 1), ViolationReason.REPLY_TOO_LONG),
    ],
)
def test_broken_replies_are_one_kind_of_fault(
    data: bytes, reason: ViolationReason | None, piece: int | None
) -> None:
    if reason is None:
        assert read(data, piece) == []
        return
    with pytest.raises(ReplyViolation) as caught:
        read(b"250 fine\r\n" + data, piece)
    assert caught.value.reason is reason


def test_replies_before_a_violation_are_given_out_first() -> None:
    parser = ReplyParser()
    parser.receive(b"250 one\r\n250 two\r\nbroken\r\n250 three\r\n")
    assert [parser.next_reply(), parser.next_reply()] == [
        Reply(250, None, ("one",)),
        Reply(250, None, ("two",)),
    ]
    for _ in range(2):
        with pytest.raises(ReplyViolation):
            parser.next_reply()


def test_what_is_left_over_is_known() -> None:
    parser = ReplyParser()
    parser.receive(b"220 ready\r\n")
    assert parser.pending
    assert parser.next_reply() == Reply(220, None, ("ready",))
    assert not parser.pending
    parser.receive(b"220 injected")
    assert parser.next_reply() is None
    assert parser.pending


def test_endless_line_is_noticed_without_being_kept() -> None:
    parser = ReplyParser()
    with pytest.raises(ReplyViolation):
        for _ in range(LINE_BYTES_MAX):
            parser.receive(b"2" * 100)
            parser.next_reply()
    assert not parser.pending
