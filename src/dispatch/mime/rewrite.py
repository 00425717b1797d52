"""The sender as a relay wants it: envelope sender, `From`, `Reply-To` replaced where its settings say so.

Upstreams that accept mail only from addresses they know need this. What `handover` is for fields that must
not leave, this is for those that must read differently: both work on the bytes of the header section, behind
one another in any order. All occurrences of a replaced field go, however they are written (folded,
repeated, in odd case, with space before the colon); the new one stands in the place of the first, or
at the end of the section. No other byte changes.

A null reverse-path stays null, always: a bounce with a sender can be bounced (RFC 5321 section 6.1).

Nothing can be injected. The addresses of the settings are checked once and hold nothing but what an address
needs. Of the message, the display name is kept as it was written (quoted, encoded words, raw UTF-8) if it is
a phrase by the grammar, and is left out if it is not; the old `From` becomes `Reply-To` as one whole value.

A signature that the client made over `From` does not survive this. Sign afterwards.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from dispatch.mime.inspect import header_end

_ADDRESS_CHARS_MAX = 254
_PHRASE_BYTES_MAX = 900
_COLUMNS_MAX = 77
_LINE_BYTES_MAX = 998

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")

_FROM = re.compile(rb"\n[Ff](?i:rom)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)")
_REPLY_TO = re.compile(rb"\n[Rr](?i:eply-to)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)")
"""A whole field with the LF before it and without its own, and its value."""

_PHRASE = re.compile(
    rb"""(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\x80-\xff-]|[ \t]|\r\n[ \t]"""
    rb"""|"(?:[^"\\\x00-\x1f\x7f]|\\[ -~\x80-\xff]|\t|\r\n[ \t])*+\""""
    rb"""|\((?:[^()\\\x00-\x1f\x7f]|\\[ -~\x80-\xff]|\t|\r\n[ \t])*+\))*+(?=<)"""
)
"""A display name before `<` (RFC 5322 sections 3.2.5 and 4.1, RFC 6532): words, dots, quoted strings, folds,
comments without others in them. No two branches begin alike and none gives back: it takes linear time."""


class SenderRewrite(msgspec.Struct, frozen=True):
    """What a relay replaces. None leaves it as it is; raises `ValueError` for what is no address.

    Addresses are `local-part@domain` in ASCII: one beyond it would make every message need SMTPUTF8.
    """

    envelope_from: str | None = None
    header_from: str | None = None
    reply_to: str | None = None
    keep_null: Literal[True] = True
    """Stated, not chosen: see the head of this module."""
    keep_display_name: bool = True
    """The new `From` carries the name that stood before the first address of the old one."""
    keep_from_as_reply_to: bool = False
    """With `header_from`: replies still go to the old `From`, if no `Reply-To` is there or set."""

    def __post_init__(self) -> None:
        for address in (self.envelope_from, self.header_from, self.reply_to):
            if address is not None and (
                len(address) > _ADDRESS_CHARS_MAX or _ADDRESS.fullmatch(address) is None
            ):
                raise ValueError(f"{address!r} is no address: write it in ASCII, like name@example.org")


def rewrite_reverse_path(reverse_path: str, rewrite: SenderRewrite) -> str:
    """The envelope sender that the relay is given; null stays null."""
    if not reverse_path or rewrite.envelope_from is None:
        return reverse_path
    return rewrite.envelope_from


def rewrite_header(header: bytes, rewrite: SenderRewrite) -> bytes:
    """The header section as the relay is to get it; the same object where nothing is to be replaced.

    What follows the section (the empty line, a body) may be there and is not touched.
    """
    if rewrite.header_from is None and rewrite.reply_to is None:
        return header
    end = header_end(header)
    # The line break in front makes the first line begin like every other.
    section = b"\n" + header[:end]
    if not section.endswith(b"\n"):
        section += b"\r\n"
    reply_to = b"" if rewrite.reply_to is None else f"Reply-To: {rewrite.reply_to}".encode("ascii")
    if rewrite.header_from is not None:
        found = _FROM.search(section)
        old = b"" if found is None else found[1]
        if rewrite.keep_from_as_reply_to and not reply_to and _REPLY_TO.search(section) is None:
            reply_to = _reply_to_field(old)
        name = _display_name(old) if rewrite.keep_display_name else b""
        section = _replace(section, _FROM, _from_field(name, rewrite.header_from.encode("ascii")))
    if reply_to:
        section = _replace(section, _REPLY_TO, reply_to)
    return section[1:] + header[end:]


def _replace(section: bytes, field: re.Pattern[bytes], new: bytes) -> bytes:
    kept: list[bytes] = []
    at = 0
    for found in field.finditer(section):
        kept.append(section[at : found.start()])
        if at == 0:
            kept.append(b"\n" + new + b"\r")
        at = found.end()
    if at == 0:
        return section + new + b"\r\n"
    kept.append(section[at:])
    return b"".join(kept)


def _from_field(name: bytes, address: bytes) -> bytes:
    if not name:
        return b"From: " + address
    last_line = (b"From: " + name).rpartition(b"\n")[2]
    fold = b" " if len(last_line) + len(address) + len(" <>") <= _COLUMNS_MAX else b"\r\n "
    return b"From: " + name + fold + b"<" + address + b">"


def _display_name(value: bytes) -> bytes:
    """The phrase before the first address, as it is written; empty where there is none."""
    # A bound, so that what is kept fits on a line whatever stands before it.
    phrase = _PHRASE.match(value, 0, _PHRASE_BYTES_MAX)
    return b"" if phrase is None else phrase[0].strip(b" \t\r\n")


def _reply_to_field(value: bytes) -> bytes:
    """The whole value of a `From`, under another name; empty where it cannot be answered."""
    if b"@" not in value:
        return b""
    # Its lines and nothing behind them: a value cannot hold the start of another field.
    value = value.strip(b" \t\r\n")
    first_line = value.partition(b"\r")[0]
    fold = b" " if len(first_line) + len("Reply-To: ") <= _LINE_BYTES_MAX else b"\r\n "
    return b"Reply-To:" + fold + value
