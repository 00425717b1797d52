"""What a token's message is: its sender, its recipients and each byte of its content.

Everything is a function of the token alone, so that whoever meets the message anywhere can say what it must
be. A token is a serial number and a *shape*, the kind of content that it has; the shapes are chosen for what
a relay may do wrong with them. Contents are put together from a few large constants, because they are made
and compared for every message of every seed; head and end bear the token, so that no part of another one
goes unnoticed.

What arrives upstream differs from what was sent in exactly this: our trace fields stand in front; `Bcc`,
`Resent-Bcc` and `X-Dispatch-*` are gone; a mbox `From ` line in front is gone; content that begins with its
body has an empty line before it; content whose last line was not ended may have been given its end; where a
listener repairs newlines, a bare one is a pair.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

LARGE_BYTES_MIN = 1 << 20
_SHAPE_BITS = 4
_SHAPES = (1 << _SHAPE_BITS) - 1


class Shape(IntEnum):
    """The kind of content."""

    PLAIN = 0
    """All fields that a message should have, a kilobyte."""
    BARE = 1
    """Neither Date nor Message-ID, one line."""
    DATED = 2
    """Without Message-ID."""
    DOTTED = 3
    """Lines that begin with dots, and lines of nothing else."""
    EIGHT_BIT = 4
    BLIND_COPY = 5
    """Bcc in the middle, folded."""
    URGENT = 6
    """Our own fields for priority and tags, around a Resent-Bcc in front of everything."""
    PATIENT = 7
    """A low priority, and a Bcc that ends the header section."""
    HEADLESS = 8
    """Begins with the empty line behind a header section that is none."""
    BODY_ONLY = 9
    """Begins with a line that is no field, and with a dot."""
    MBOX = 10
    OPEN_ENDED = 11
    """The last line has no CRLF."""
    BULKY = 12
    """Tens of kilobytes."""
    LOOP = 13
    """Has been through too many servers: is refused at its end."""
    BARE_NEWLINE = 14
    """Is refused at its end, or repaired, as the listener is set."""
    LARGE = 15
    """Above a mebibyte: has a file of its own in the spool."""


class _Form(NamedTuple):
    """A shape's content, of which `head` and `end` have a place for the token."""

    head: bytes
    body: bytes
    end: bytes = b"end of %d\r\n"
    handed_head: bytes = b""
    """The head as it arrives, where it is another one."""
    handed_body: bytes = b""
    has_date: bool = False
    has_message_id: bool = False


_LINE = b"The quick brown fox jumps over the lazy dog, again and again and again.\r\n"
_FROM = b"From: Crowd <crowd@example.org>\r\n"
_DATE = b"Date: Mon, 01 Jan 2024 12:00:00 +0000\r\n"
_ID = b"Message-ID: <%d@example.org>\r\n"
_TOKEN = b"X-Token: %d\r\n"
_RECEIVED = b"Received: from a.example by b.example; Mon, 01 Jan 2024 12:00:00 +0000\r\n"
_BIG = b"".join(b"%07d " % number + _LINE for number in range(LARGE_BYTES_MIN // len(_LINE) + 1))

_FORMS = {
    Shape.PLAIN: _Form(
        _FROM + _DATE + b"Subject: plain\r\n" + _TOKEN + b"Message-ID: <plain@example.org>\r\n\r\n",
        _LINE * 14,
        has_date=True,
        has_message_id=True,
    ),
    Shape.BARE: _Form(_TOKEN + b"\r\n", b"short\r\n"),
    Shape.DATED: _Form(_DATE + _TOKEN + _FROM + b"\r\n", _LINE * 3, has_date=True),
    Shape.DOTTED: _Form(
        _TOKEN + b"Subject: .\r\n\r\n",
        b".\r\n..\r\n.hidden\r\n\r\n.\r\n...\r\n" + _LINE + b". \r\n.\r\n",
    ),
    Shape.EIGHT_BIT: _Form(
        _FROM + _TOKEN + b"Subject: =?utf-8?q?caf=C3=A9?=\r\n\r\n",
        "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.\r\n".encode() * 8,
    ),
    Shape.BLIND_COPY: _Form(
        _FROM + b"Bcc: secret@example.net,\r\n\thidden@example.net\r\n" + _TOKEN + _DATE + b"\r\n",
        b"Bcc: this is body\r\n" + _LINE * 2,
        handed_head=_FROM + _TOKEN + _DATE + b"\r\n",
        has_date=True,
    ),
    Shape.URGENT: _Form(
        b"Resent-Bcc: secret@example.net\r\nX-Dispatch-Priority: high\r\n"
        + _TOKEN
        + b"X-Dispatch-Tag: crowd\r\nSubject: now\r\n\r\n",
        b"X-Dispatch-Tag: this is body\r\n",
        handed_head=_TOKEN + b"Subject: now\r\n\r\n",
    ),
    Shape.PATIENT: _Form(
        _TOKEN + _DATE + b"x-dispatch-priority: bulk\r\nbcc: secret@example.net\r\n\r\n",
        _LINE * 5,
        handed_head=_TOKEN + _DATE + b"\r\n",
        has_date=True,
    ),
    Shape.HEADLESS: _Form(b"\r\n" + _TOKEN, _LINE),
    Shape.BODY_ONLY: _Form(
        b".not a field\r\n" + _TOKEN, _LINE * 2, handed_head=b"\r\n.not a field\r\n" + _TOKEN
    ),
    Shape.MBOX: _Form(
        b"From crowd Mon Jan  1 12:00:00 2024\r\n" + _TOKEN + _FROM + b"\r\n",
        b"From here on it is body\r\n",
        handed_head=_TOKEN + _FROM + b"\r\n",
    ),
    Shape.OPEN_ENDED: _Form(_TOKEN + b"\r\n", _LINE, b"end of %d"),
    Shape.BULKY: _Form(
        _FROM + _TOKEN + b"Bcc: secret@example.net\r\n\r\n",
        _BIG[: 30 << 10] + b"\r\n",
        handed_head=_FROM + _TOKEN + b"\r\n",
    ),
    Shape.LOOP: _Form(_RECEIVED * 40 + _TOKEN + b"\r\n", b"round and round\r\n"),
    Shape.BARE_NEWLINE: _Form(
        _TOKEN + b"\r\n", b"one\ntwo\r\n\n.\nfour\r\n", handed_body=b"one\r\ntwo\r\n\r\n.\r\nfour\r\n"
    ),
    Shape.LARGE: _Form(
        _FROM + b"Bcc: secret@example.net\r\n" + _TOKEN + b"\r\n",
        _BIG,
        handed_head=_FROM + _TOKEN + b"\r\n",
    ),
}
_BY_SHAPE = tuple(_FORMS[shape] for shape in Shape)
# The head in front of a body ends a line.
_STUFFED_BODIES = tuple((b"\r\n" + form.body).replace(b"\r\n.", b"\r\n..")[2:] for form in _BY_SHAPE)

_RECIPIENT_COUNTS = (1, 1, 2, 1, 3, 1, 6, 1)
_NULL_PATH_EVERY = 9


def token_of(serial: int, shape: Shape) -> int:
    return serial << _SHAPE_BITS | shape


def shape_of(token: int) -> Shape:
    return Shape(token & _SHAPES)


def sender_of(token: int) -> str:
    """The reverse-path; sometimes the null one."""
    serial = token >> _SHAPE_BITS
    return f"s{token}@example.org" if serial % _NULL_PATH_EVERY else ""


def recipients_of(token: int) -> tuple[str, ...]:
    count = _RECIPIENT_COUNTS[(token >> _SHAPE_BITS) % len(_RECIPIENT_COUNTS)]
    return tuple([f"t{token}r{number}@example.org" for number in range(count)])


def content_of(token: int) -> bytes:
    """As a client offers it."""
    form = _BY_SHAPE[token & _SHAPES]
    return form.head % token + form.body + form.end % token


def stuffed_content_of(token: int) -> bytes:
    """The same as it follows a 354, up to and with its end of data (RFC 5321 section 4.5.2)."""
    shape = token & _SHAPES
    form = _BY_SHAPE[shape]
    head = form.head % token
    if head.startswith(b"."):
        head = b"." + head
    end = form.end % token
    return head + _STUFFED_BODIES[shape] + end + (b".\r\n" if end.endswith(b"\n") else b"\r\n.\r\n")


def handed_over_content_of(token: int) -> bytes:
    """As it stands behind our trace fields when an upstream gets it, but for an unended last line."""
    form = _BY_SHAPE[token & _SHAPES]
    return (form.handed_head or form.head) % token + (form.handed_body or form.body) + form.end % token


def fields_of(token: int) -> tuple[bool, bool]:
    """Whether the content has a Date and a Message-ID of its own."""
    form = _BY_SHAPE[token & _SHAPES]
    return form.has_date, form.has_message_id
