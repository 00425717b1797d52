"""Encoded words (RFC 2047): `=?utf-8?Q?Gr=C3=BC=C3=9Fe?=` as what a person reads.

For display only, so nothing is an error: what cannot be decoded stays as it was written. The result
may hold any character, line breaks included; the caller scrubs it.

Only charsets of the mail world are looked up. A codec's name becomes an import in Python, and
some codecs take quadratic time, so a name from a stranger is never passed on unchecked.
"""

from __future__ import annotations

import binascii
import re

_WORD = re.compile(r"=\?([^?* \t\r\n]+)(?:\*[^? \t\r\n]*)?\?([BbQq])\?([^? \t\r\n]*)\?=")
"""Charset, language (RFC 2231 section 5), encoding, text. Looser than the grammar: see `decode_words`."""
_CHARSET = re.compile(
    r"utf-?8|us-ascii|ascii|iso-?8859-(?:[1-9]|1[013-6])|(?:windows|cp)-?125[0-8]|koi8-[ru]"
    r"|gb2312|gbk|gb18030|big5|euc-(?:jp|kr)|iso-2022-(?:jp|kr)|shift[_-]jis|ks_c_5601-1987|tis-620|macintosh",
    re.IGNORECASE,
)


def decode_words(text: str) -> str:
    """The text with its encoded words decoded.

    White space between two encoded words is no part of the text (RFC 2047 section 6.2). Neighbours of one
    charset are decoded together: many writers cut inside a character, which section 5 forbids. Words that
    touch other text are decoded too, as readers expect and the grammar does not.
    """
    pieces: list[str] = []
    charset = ""
    octets = b""
    end = 0
    for word in _WORD.finditer(text):
        between = text[end : word.start()]
        word_octets = _word_octets(word[2], word[3])
        readable = word_octets is not None and _CHARSET.fullmatch(word[1]) is not None
        if between and (between.strip(" \t\r\n") or not octets or not readable):
            pieces.append(_decode(octets, charset))
            octets = b""
            pieces.append(between)
        end = word.end()
        if not readable or word_octets is None:
            pieces.append(_decode(octets, charset))
            octets = b""
            pieces.append(word[0])
            continue
        if octets and charset != word[1].lower():
            pieces.append(_decode(octets, charset))
            octets = b""
        charset = word[1].lower()
        octets += word_octets
    pieces.append(_decode(octets, charset))
    pieces.append(text[end:])
    return "".join(pieces)


def _word_octets(encoding: str, encoded: str) -> bytes | None:
    try:
        ascii_octets = encoded.encode("ascii")
        if encoding in "Bb":
            # Missing padding is common; surplus padding is ignored by the decoder.
            return binascii.a2b_base64(ascii_octets + b"==")
        return binascii.a2b_qp(ascii_octets, header=True)
    except ValueError:
        return None


def _decode(octets: bytes, charset: str) -> str:
    if not octets:
        return ""
    try:
        return octets.decode(charset, "replace")
    except (LookupError, ValueError):
        return octets.decode("ascii", "replace")
