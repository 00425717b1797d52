"""A message out of values: who, to whom, about what, text, HTML, files.

The result is ASCII, but for addresses that are not (RFC 6532), and has CRLF throughout. `Date` and
`Message-ID` come with our trace (`mime.trace`), as for mail that comes over SMTP without them. The parts are
in the order that readers expect:

    multipart/mixed                      where there are files
      multipart/alternative              where there are text and HTML
        text/plain
        multipart/related                where HTML shows files by their Content-ID
          text/html
          image/png …
      application/pdf …

Files come as blocks and leave as blocks, so that none is in memory whole.

Rules:
- Nothing that a stranger wrote becomes a line: the writers of `mime.fields` raise `ValueError` for a value
  with a control character. Whoever speaks with strangers refuses it before, by name.
- A file that calls itself `message/…` or `multipart/…` would have to be sent as it is (RFC 2046 section
  5.2.1); it goes as `application/octet-stream`, with its name.
- The same values and token give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from dispatch.mime.fields import mailbox_field, parameter_field, plain_field, text_field
from dispatch.mime.mailboxes import Mailbox
from dispatch.mime.transfer_encoding import base64_lines, encode_text

PLAIN_FIELDS = frozenset(
    {
        *("references", "in-reply-to", "message-id", "date", "auto-submitted", "precedence", "importance"),
        *("list-id", "list-unsubscribe", "list-unsubscribe-post", "list-help", "list-post", "list-archive"),
        *("list-owner", "list-subscribe", "feedback-id", "x-priority", "priority", "return-receipt-to"),
    }
)
"""In small letters: fields whose syntax knows no encoded words, so that only ASCII can be written."""
OCTETS = "application/octet-stream"
_TYPE_NAME = "[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_MEDIA_TYPE = re.compile(f"{_TYPE_NAME}/{_TYPE_NAME}", re.ASCII)
"""RFC 6838 section 4.2, and no parameters."""
_CONTENT_ID = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]{1,250}", re.ASCII)
_AS_IT_IS = ("message/", "multipart/")


class Attachment(msgspec.Struct, frozen=True):
    """A file."""

    filename: str
    """May be empty, for what HTML shows."""
    content_type: str
    """`type/subtype`."""
    blocks: Iterable[bytes]
    """Of whatever sizes; asked for once."""
    content_id: str = ""
    """Without angle brackets. With it, the file belongs to the HTML (`<img src="cid:…">`), if any."""


class Draft(msgspec.Struct, frozen=True):
    """A message, still as values."""

    sender: Mailbox
    to: Sequence[Mailbox] = ()
    cc: Sequence[Mailbox] = ()
    reply_to: Sequence[Mailbox] = ()
    subject: str = ""
    text: str | None = None
    html: str | None = None
    headers: Sequence[tuple[str, str]] = ()
    """Further fields, in this order."""
    attachments: Sequence[Attachment] = ()


class _Part(msgspec.Struct, frozen=True):
    head: bytes
    """Its fields."""
    body: Iterable[bytes]
    """Each part ends with a line end, or is empty."""


def is_media_type(text: str) -> bool:
    return _MEDIA_TYPE.fullmatch(text) is not None


def is_content_id(text: str) -> bool:
    return _CONTENT_ID.fullmatch(text) is not None


def compose(draft: Draft, token: str) -> Iterator[bytes]:
    """The content, block by block. `token`: letters and digits that nobody can guess, for the boundaries.

    Raises `ValueError`, before the first block, for values that no field can hold."""
    fields = [
        mailbox_field("From", [draft.sender]),
        *(mailbox_field(name, boxes) for name, boxes in _correspondents(draft) if boxes),
        text_field("Subject", draft.subject),
        *(_further(name, value) for name, value in draft.headers),
        b"MIME-Version: 1.0\r\n",
    ]
    whole = _Composer(token).whole(draft)
    return _blocks(b"".join((*fields, whole.head, b"\r\n")), whole.body)


def _correspondents(draft: Draft) -> tuple[tuple[str, Sequence[Mailbox]], ...]:
    return ("Reply-To", draft.reply_to), ("To", draft.to), ("Cc", draft.cc)


def _further(name: str, value: str) -> bytes:
    return (plain_field if name.lower() in PLAIN_FIELDS else text_field)(name, value)


def _blocks(head: bytes, body: Iterable[bytes]) -> Iterator[bytes]:
    # Small content in one piece: whoever takes it counts and copies by the block.
    held = head
    for block in body:
        held += block
        if len(held) >= 1 << 16:
            yield held
            held = b""
    if held:
        yield held


class _Composer:
    def __init__(self, token: str) -> None:
        self._token = token
        self._boundaries = 0

    def whole(self, draft: Draft) -> _Part:
        shown = [each for each in draft.attachments if each.content_id and draft.html is not None]
        files = [each for each in draft.attachments if each not in shown]
        readable = [] if draft.text is None else [_text(draft.text, "plain")]
        if draft.html is not None:
            html = _text(draft.html, "html")
            readable.append(self._several("related", [html, *map(_file, shown)]) if shown else html)
        if not readable and not files:
            readable = [_text("", "plain")]
        body = [self._several("alternative", readable)] if len(readable) > 1 else readable
        parts = [*body, *map(_file, files)]
        return self._several("mixed", parts) if files else parts[0]

    def _several(self, subtype: str, parts: Sequence[_Part]) -> _Part:
        self._boundaries += 1
        # "=_" stands in no quoted-printable and no base64 (RFC 2045 section 6.7), and nobody knows the token.
        boundary = f"=_{self._token}-{self._boundaries}"
        more = [("type", "text/html")] if subtype == "related" else []
        head = parameter_field("Content-Type", f"multipart/{subtype}", [("boundary", boundary), *more])
        return _Part(head, _joined(boundary.encode(), parts))


def _joined(boundary: bytes, parts: Iterable[_Part]) -> Iterator[bytes]:
    for part in parts:
        yield b"--" + boundary + b"\r\n" + part.head + b"\r\n"
        yield from part.body
        # The line end before a boundary is the boundary's (RFC 2046 section 5.1.1).
        yield b"\r\n"
    yield b"--" + boundary + b"--\r\n"


def _text(text: str, subtype: str) -> _Part:
    encoding, body = encode_text(text)
    head = (
        f"Content-Type: text/{subtype}; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}\r\n"
    ).encode()
    return _Part(head, (body,))


def _file(attachment: Attachment) -> _Part:
    content_type, content_id = attachment.content_type, attachment.content_id
    if not is_media_type(content_type) or not (is_content_id(content_id) or not content_id):
        raise ValueError("a file's type is type/subtype, and its Content-ID like an address")
    if content_type.lower().startswith(_AS_IT_IS):
        content_type = OCTETS
    named = [("filename", attachment.filename)] if attachment.filename else []
    head = parameter_field("Content-Type", content_type, ())
    head += parameter_field("Content-Disposition", "inline" if content_id else "attachment", named)
    if content_id:
        head += f"Content-ID: <{content_id}>\r\n".encode()
    return _Part(head + b"Content-Transfer-Encoding: base64\r\n", base64_lines(attachment.blocks))
