"""Header fields, written: folded lines, encoded words (RFC 2047), parameters (RFC 2231).

What is written reads back as the same value: plain ASCII stays as it is, and everything that a reader could
take for something else (other scripts, `=?`, white space that folding would lose) becomes encoded words.

Rules:
- No value with a control character, a line break of whatever kind or a lone surrogate is written: that is
  `ValueError`, and whoever takes words from strangers refuses them before. A value cannot become a field.
- Lines have at most 76 columns where white space allows (RFC 5322 section 2.1.1, RFC 2047 section 2).
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Sequence
from string import ascii_letters, digits

from dispatch.mime.mailboxes import CONTROL, Mailbox

COLUMNS_MAX = 76
UNBROKEN_CHARS_MAX = 900
"""A single word of ASCII that is longer would not fit a line of 998 octets."""
_WORD_CHARS_MAX = 75
_WORD_FRAME_CHARS = len("=?utf-8?q??=")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*", re.ASCII)
_PLAIN = re.compile(r"[!-~]+(?: [!-~]+)*", re.ASCII)
_PLAIN_IN_WORD = re.compile(r"[A-Za-z0-9!*+/-]", re.ASCII)
"""RFC 2047 section 5 (3): what a word may hold in a phrase, too."""
_PLAIN_IN_PARAMETER = frozenset(f"{ascii_letters}{digits}!#$&+.^_`{{|}}~-")
"""RFC 2231 section 7: `attribute-char`."""
_TOKEN = re.compile(r"[A-Za-z0-9!#$&+.^_`{|}~-]+", re.ASCII)
_QUOTABLE = re.compile(r"[ !#-\[\]-~]{1,54}", re.ASCII)
_SEGMENT_CHARS = 54


def text_field(name: str, value: str) -> bytes:
    """An unstructured field (RFC 5322 section 3.6.5), line break included."""
    _refuse_control(value)
    if _is_plain(value):
        return _folded(name, value.split(" "))
    return _folded(name, encoded_words(value, first_chars_max=COLUMNS_MAX - len(name) - len(": ")))


def plain_field(name: str, value: str) -> bytes:
    """A field whose syntax knows no encoded words, as `References`: ASCII, and folded at its spaces.

    Raises `ValueError` where it cannot be written."""
    _refuse_control(value)
    if value and not _is_plain(value, words=True):
        raise ValueError(
            f"{name} takes words of ASCII, up to {UNBROKEN_CHARS_MAX} characters, and single spaces"
        )
    return _folded(name, value.split(" "))


def mailbox_field(name: str, mailboxes: Sequence[Mailbox]) -> bytes:
    """A list of mailboxes (RFC 5322 section 3.4). An address is written as it is, in UTF-8 (RFC 6532)."""
    lines: list[str] = []
    line = f"{name}:"
    for number, mailbox in enumerate(mailboxes):
        _refuse_control(mailbox.address)
        words = _mailbox_words(mailbox)
        if number < len(mailboxes) - 1:
            words[-1] += ","
        for word in words:
            if len(line) + 1 + len(word) > COLUMNS_MAX and line != f"{name}:":
                lines.append(line)
                line = ""
            line += f" {word}"
    return "\r\n".join([*lines, line, ""]).encode()


def parameter_field(name: str, value: str, parameters: Iterable[tuple[str, str]]) -> bytes:
    """A value with parameters, as `Content-Disposition`; each that needs it in the form of RFC 2231."""
    pieces = [f"{name}: {value}"]
    for attribute, text in parameters:
        _refuse_control(text)
        pieces += _parameter(attribute, text)
    return (";\r\n ".join(pieces) + "\r\n").encode("ascii")


def encoded_words(text: str, first_chars_max: int = _WORD_CHARS_MAX) -> list[str]:
    """The text as encoded words, of whole characters each; the white space between them does not count."""
    octets = len(text.encode())
    spelled = sum(map(_quoted_chars, text))
    encoding = "q" if spelled <= (octets + 2) // 3 * 4 else "b"
    words: list[str] = []
    piece, used = "", 0
    room = min(first_chars_max, _WORD_CHARS_MAX) - _WORD_FRAME_CHARS
    for character in text:
        cost = _quoted_chars(character) if encoding == "q" else len(character.encode())
        full = used + cost > room if encoding == "q" else (used + cost + 2) // 3 * 4 > room
        if full and piece:
            words.append(_encoded_word(piece, encoding))
            piece, used = "", 0
            room = _WORD_CHARS_MAX - _WORD_FRAME_CHARS
        piece += character
        used += cost
    return [*words, _encoded_word(piece, encoding)]


def _encoded_word(text: str, encoding: str) -> str:
    if encoding == "b":
        return f"=?utf-8?b?{binascii.b2a_base64(text.encode(), newline=False).decode()}?="
    return f"=?utf-8?q?{''.join(map(_quoted, text))}?="


def _quoted(character: str) -> str:
    if character == " ":
        return "_"
    if _PLAIN_IN_WORD.fullmatch(character):
        return character
    return "".join(f"={octet:02X}" for octet in character.encode())


def _quoted_chars(character: str) -> int:
    return 1 if character == " " or _PLAIN_IN_WORD.fullmatch(character) else 3 * len(character.encode())


def _is_plain(value: str, *, words: bool = False) -> bool:
    """Whether it may stand as it is and be folded; with `words`, what looks like encoded words may."""
    return (
        _PLAIN.fullmatch(value) is not None
        and (words or "=?" not in value)
        and (len(value) <= UNBROKEN_CHARS_MAX or max(map(len, value.split(" "))) <= UNBROKEN_CHARS_MAX)
    )


def _folded(name: str, words: Iterable[str]) -> bytes:
    lines: list[str] = []
    line = f"{name}:"
    for word in words:
        if len(line) + 1 + len(word) > COLUMNS_MAX and len(line) > len(name) + 1:
            lines.append(line)
            line = ""
        line += f" {word}"
    return "\r\n".join([*lines, line, ""]).encode("ascii")


def _mailbox_words(mailbox: Mailbox) -> list[str]:
    name = mailbox.name
    if not name:
        return [mailbox.address]
    _refuse_control(name)
    address = f"<{mailbox.address}>"
    if _ATOMS.fullmatch(name) and _is_plain(name):
        return [*name.split(" "), address]
    if name.isascii() and "=?" not in name and len(name) <= _SEGMENT_CHARS and name == name.strip():
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        return [f'"{escaped}"', address]
    return [*encoded_words(name), address]


def _parameter(attribute: str, text: str) -> list[str]:
    if _TOKEN.fullmatch(text) and len(text) <= _SEGMENT_CHARS:
        return [f"{attribute}={text}"]
    if _QUOTABLE.fullmatch(text) and "=?" not in text:
        return [f'{attribute}="{text}"']
    segments: list[str] = [""]
    for character in text:
        plain = character in _PLAIN_IN_PARAMETER
        spelled = character if plain else "".join(f"%{octet:02X}" for octet in character.encode())
        if len(segments[-1]) + len(spelled) > _SEGMENT_CHARS:
            segments.append("")
        segments[-1] += spelled
    if len(segments) == 1:
        return [f"{attribute}*=utf-8''{segments[0]}"]
    first, *rest = segments
    return [
        f"{attribute}*0*=utf-8''{first}",
        *(f"{attribute}*{number}*={segment}" for number, segment in enumerate(rest, 1)),
    ]


def _refuse_control(value: str) -> None:
    found = CONTROL.search(value)
    if found is not None:
        raise ValueError(f"the character U+{ord(found[0]):04X} cannot stand in a header field")
