"""Addresses of the header that have no domain get one, as those of the envelope do (`mail.append_domain`).

Programs of a host write `From: root`, and providers refuse that. What is completed is a single word where an
address must stand, alone or between angle brackets, and the domain `localhost`; names, comments, groups and
quoted words stay as they are, and so does a field that cannot be understood, or would get a line too long
(RFC 5322 section 2.1.1). No byte changes but for those put in.

A signature that the client made over these fields does not survive it, as with all that is rewritten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dispatch.mime.inspect import header_end

_LINE_BYTES_MAX = 998
_FIELD = re.compile(rb"\n(?i:(?:resent-)?(?:from|sender|to|cc)|reply-to)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)")
"""A whole field with the LF before it and without its own, and its value."""
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[<>(),:;]|(?:[^"<>(),:;\s\\]|\\.)++|\s++|.', re.DOTALL)
_LOCAL_PART = re.compile(rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\x80-\xff-]+")
_LOCALHOST = b"@localhost"


class _Unclear(Exception):
    """It is no list of addresses, or none that we understand."""


def complete_header(header: bytes, domain: str) -> bytes:
    """The header section with `domain` (without an at sign) where it is missing; the same object where it is
    missing nowhere. What follows the section may be there and is not touched."""
    end = header_end(header)
    section = b"\n" + header[:end]
    kept: list[bytes] = []
    at = 0
    for field in _FIELD.finditer(section):
        value = field[1]
        new = _completed(value, b"@" + domain.encode())
        if new is not value:
            kept += (section[at : field.start(1)], new)
            at = field.end(1)
    if not kept:
        return header
    return b"".join((*kept, section[at:]))[1:] + header[end:]


def _completed(value: bytes, domain: bytes) -> bytes:
    try:
        gaps = list(_gaps(value))
    except _Unclear:
        return value
    if not gaps:
        return value
    parts: list[bytes] = []
    at = 0
    for start, end in gaps:
        parts += (value[at:start], domain)
        at = end
    new = b"".join((*parts, value[at:]))
    # The first line has the field's name in front of it, which is short.
    return value if max(map(len, new.split(b"\n"))) > _LINE_BYTES_MAX - len("Resent-Reply-To: ") else new


def _gaps(value: bytes) -> Iterator[tuple[int, int]]:
    """Where a domain goes, and what it replaces there. Raises `_Unclear`."""
    words: list[re.Match[bytes]] = []
    depth, inside, angled = 0, False, False
    for token in _TOKEN.finditer(value):
        text = token[0]
        if text == b"(":
            depth += 1
        elif depth:
            depth -= text == b")"
        elif text == b"<":
            if angled:
                raise _Unclear
            words, inside, angled = [], True, True
        elif text == b">":
            if not inside:
                raise _Unclear
            yield from _gap(words)
            words, inside = [], False
        elif inside and text in b",:;":
            # A source route, which has its domains (RFC 5322 section 4.4), or a list that does not end.
            words.append(token)
        elif text in (b",", b";"):
            if not angled:
                yield from _gap(words)
            words, angled = [], False
        elif text == b":":
            # What stood before is the name of a group.
            words = []
        elif not text.isspace():
            words.append(token)
    if depth or inside:
        raise _Unclear
    if not angled:
        yield from _gap(words)


def _gap(words: list[re.Match[bytes]]) -> Iterator[tuple[int, int]]:
    """Of what stands where an address must."""
    if len(words) != 1:
        return
    text, end = words[0][0], words[0].end()
    if text.lower().endswith(_LOCALHOST):
        text = text[: -len(_LOCALHOST)]
        start = end - len(_LOCALHOST)
    else:
        start = end
    # An encoded word (RFC 2047) is a name that lacks its address.
    if _LOCAL_PART.fullmatch(text) and not text.startswith(b"=?"):
        yield start, end
