"""Content-Transfer-Encoding (RFC 2045 section 6): text and attachments as lines that every host passes on.

What is written here is ASCII. Text stays as it is where it can: in lines of less than 998 octets, without
control characters, and without what some host on the way would change (spaces at the end of a line, a line
that begins `From `). Otherwise it is quoted-printable, or base64 where that is shorter.

Trap: `binascii.b2a_qp` adds line breaks of the kind that its input begins with, and LF if there is none.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

Encoding = Literal["7bit", "quoted-printable", "base64"]

LINE_BYTES_MAX = 998
BLOCK_BYTES = 57 * 1024
"""A whole number of base64 lines, of 57 octets each (RFC 2045 section 6.8)."""
_LINE_OCTETS = 57
_LINE_CHARS = 76

_NEWLINE = re.compile(r"\r\n|\r|\n")
_CHANGED_ON_THE_WAY = re.compile(rb"[^\t\r\n -~]|[ \t]\r\n|(?:\A|\n)From |[^\n]{%d}" % LINE_BYTES_MAX)
_SPELLED = re.compile(rb"[^\t\r\n -<>-~]")
_FROM = re.compile(rb"(?m)^From ")


class EncodedText(NamedTuple):
    encoding: Encoding
    body: bytes
    """CRLF throughout; ends with one, or is empty."""


def encode_text(text: str) -> EncodedText:
    """Text for a body. Whatever newlines it has become CRLF, and it gets one at its end."""
    octets = _NEWLINE.sub("\r\n", text).encode()
    if octets and not octets.endswith(b"\r\n"):
        octets += b"\r\n"
    if not _CHANGED_ON_THE_WAY.search(octets):
        return EncodedText("7bit", octets)
    if 2 * len(_SPELLED.findall(octets)) > len(octets) // 3:
        return EncodedText("base64", b"".join(base64_lines([octets])))
    quoted = binascii.b2a_qp(octets, istext=True)
    return EncodedText("quoted-printable", _FROM.sub(b"=46ro=\r\nm ", quoted))


def base64_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The octets of all blocks, of whatever sizes, in lines of base64."""
    held = b""
    for block in blocks:
        held += block
        whole = len(held) // _LINE_OCTETS * _LINE_OCTETS
        if whole >= BLOCK_BYTES:
            yield _lines(held[:whole])
            held = held[whole:]
    if held:
        yield _lines(held)


def _lines(octets: bytes) -> bytes:
    text = binascii.b2a_base64(octets, newline=False)
    lines = [text[at : at + _LINE_CHARS] for at in range(0, len(text), _LINE_CHARS)]
    return b"\r\n".join([*lines, b""])
