"""`Grace Hopper <grace@example.org>`: people and their addresses, as programs write them in one string.

A *mailbox* (RFC 5322 section 3.4) is a display name, which may be empty, and an address. What is read here
comes out of JSON, forms and command lines, not out of a header: the name is Unicode and stands for itself, so
no encoded word is decoded. Comments, groups and routes are not understood, and nothing is guessed: a text
that could mean two things is refused. Whether the address is one, `smtp.grammar` says.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dispatch.mail.showable import showable

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, the line breaks of Unicode, and halves of surrogate pairs: no header field has them."""
SHOWN_CHARS_MAX = 100
"""Of what is wrong, so much is repeated."""
_QUOTED = r'"(?:[^"\\]|\\.)*+"'
_LISTED = re.compile(rf'((?:{_QUOTED}|<[^<>]*+>|[^",<>])*+)(?:,|$)')
_QUOTED_NAME = re.compile(_QUOTED)
_QUOTED_ADDRESS = re.compile(rf'{_QUOTED}@[^",<>]+')
_MARKS = re.compile(r'[",<>]')
_ESCAPED = re.compile(r"\\(.)")


class MalformedMailbox(Exception):
    """It says what is wrong, in words for whoever wrote it."""


class Mailbox(NamedTuple):
    """Somebody, by name and address."""

    name: str
    """As a person reads it; may be empty."""
    address: str


def parse_mailbox(text: str) -> Mailbox:
    """`a@b` or `Name <a@b>`, the name quoted or not. Raises `MalformedMailbox`."""
    if CONTROL.search(text):
        raise MalformedMailbox(f"a line break or another control character in {_shown(text)}")
    text = text.strip()
    if not text.endswith(">"):
        if not text or (_MARKS.search(text) and not _QUOTED_ADDRESS.fullmatch(text)):
            raise MalformedMailbox(f"neither an address nor Name <address>: {_shown(text) or 'nothing'}")
        return Mailbox("", text)
    name, bracket, address = text[:-1].rpartition("<")
    name, address = name.strip(), address.strip()
    if _QUOTED_NAME.fullmatch(name):
        name = _ESCAPED.sub(r"\1", name[1:-1]).strip()
    elif not bracket or ">" in address or _MARKS.search(name):
        raise MalformedMailbox(f"not to be read as Name <address>, or a name without quotes: {_shown(text)}")
    if not address:
        raise MalformedMailbox(f"no address between the angle brackets of {_shown(text)}")
    return Mailbox(name, address)


def parse_mailboxes(text: str) -> list[Mailbox]:
    """As `parse_mailbox`, any number of them with commas between. Raises `MalformedMailbox`."""
    found: list[Mailbox] = []
    at = 0
    while at < len(text):
        piece = _LISTED.match(text, at)
        if piece is None:
            raise MalformedMailbox(f"a quote or an angle bracket that does not end: {_shown(text[at:])}")
        if piece[1].strip():
            found.append(parse_mailbox(piece[1]))
        at = piece.end()
    return found


def _shown(text: str) -> str:
    return showable(CONTROL.sub("?", text[:SHOWN_CHARS_MAX]))
