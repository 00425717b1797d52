"""Content on the wire: DATA and BDAT decoded, and content encoded for DATA.

Rules that everything here keeps, because breaking them is how mail is smuggled (two servers that disagree
about where a message ends):

- The end of data is CRLF.CRLF and nothing else (RFC 5321 section 4.1.1.4). Its first CRLF is part of the
  content; the CRLF of the DATA command may serve as one.
- Only a dot behind a CRLF is unstuffed (RFC 5321 section 4.5.2), in the bytes as they came: a newline policy
  never makes a line, a dot or an end that was not there.
- A CR or LF that is no CRLF pair is either found (`bare_at`) or made a CRLF (`normalise`); which of the two
  is the listener's choice. Either way no bare one gets through (RFC 5321 section 2.3.8).
- BDAT is framed by its length (RFC 3030 section 2). Content is looked at for bare newlines only, and pairs
  are looked for across the borders of chunks.
- The encoder refuses bare newlines whatever the way in was: what leaves cannot end early.

How the bytes were cut on their way makes no difference. Nothing is scanned twice: what may turn out to be
part of CRLF.CRLF, at most four bytes, is held back and put in front of the next piece; a message is never
joined. A NUL is a byte like any other; so is a line of any length.

Cheap trick: to know whether newlines are bare, take out the pairs and see whether any CR or LF is left.
"""

from __future__ import annotations

from typing import Literal

NewlinePolicy = Literal["reject", "normalise"]

_CRLF = b"\r\n"
_END_OF_DATA = b"\r\n.\r\n"


class BareNewline(ValueError):
    """Content that may not be sent: a CR or LF in it is no CRLF pair."""


def has_bare_newline(text: bytes) -> bool:
    left = text.replace(_CRLF, b"")
    return b"\n" in left or b"\r" in left


def first_bare_newline(text: bytes) -> int:
    """Offset of the first CR or LF that is no CRLF pair, or -1."""
    offset = 0
    for line in text.split(_CRLF):
        found = [at for at in (line.find(b"\r"), line.find(b"\n")) if at >= 0]
        if found:
            return offset + min(found)
        offset += len(line) + len(_CRLF)
    return -1


def normalise_newlines(text: bytes) -> bytes:
    """Each CRLF, bare CR and bare LF as one CRLF."""
    return text.replace(_CRLF, b"\n").replace(b"\r", b"\n").replace(b"\n", _CRLF)


class _Decoder:
    """What DATA and BDAT have in common: counting, and the newline policy."""

    __slots__ = ("_discarding", "_held", "_normalise", "bare_at", "size_bytes")

    def __init__(self, policy: NewlinePolicy) -> None:
        self._normalise = policy == "normalise"
        self._discarding = False
        self._held = b""
        self.size_bytes = 0
        """Content given out so far (RFC 1870 section 5: without the final dot and the doubled ones)."""
        self.bare_at = -1
        """Offset in the content of the first bare CR or LF, or -1; not counted beyond the first find."""

    def discard(self) -> None:
        """Give out nothing more; only look for the end."""
        self._discarding = True

    def _keep(self, text: bytes) -> bytes:
        """Count and check `text`, which must not begin or end within a CRLF."""
        if has_bare_newline(text):
            if self._normalise:
                text = normalise_newlines(text)
            elif self.bare_at < 0:
                self.bare_at = self.size_bytes + first_bare_newline(text)
        self.size_bytes += len(text)
        return text


class DataDecoder(_Decoder):
    """What follows a 354 (RFC 5321 section 4.1.1.4)."""

    __slots__ = ("_held_is_virtual",)

    def __init__(self, policy: NewlinePolicy) -> None:
        super().__init__(policy)
        self._held = _CRLF
        self._held_is_virtual = True
        """What is held begins with the CRLF of the DATA command, which matters to a dot but is no content."""

    def feed(self, data: bytes, at: int = 0) -> tuple[bytes, int]:
        """Content from `data[at:]`, and the offset in `data` behind the end of data, or -1: all was used."""
        if self._held_is_virtual and self._held == _CRLF and not data.startswith(b".", at):
            self._held_is_virtual = False
            self._held = b""
        if self._held:
            text = self._held + data[at:]
            shift = at - len(self._held)
            at = 0
        else:
            text, shift = data, 0

        # One look for a dot at the beginning of a line tells most content apart from its end.
        dot = text.find(b"\r\n.", at)
        end = text.find(_END_OF_DATA, dot) if dot >= 0 else -1
        if end >= 0:
            stop = end + len(_CRLF)
            used = shift + end + len(_END_OF_DATA)
        else:
            stop = len(text) - _length_held_back(text, at)
            used = -1
            self._held = text[stop:]
        if stop == at or self._discarding:
            return b"", used

        content = text[at:stop]
        if 0 <= dot < stop - len(_CRLF):
            content = content.replace(b"\r\n.", _CRLF)
        if self._held_is_virtual:
            self._held_is_virtual = False
            content = content[len(_CRLF) :]
        return self._keep(content), used


class ChunkDecoder(_Decoder):
    """The chunks of one message (RFC 3030 section 2)."""

    __slots__ = ()

    def feed(self, text: bytes, *, final: bool) -> bytes:
        """Content from `text`; `final`: these are the last octets of the last chunk."""
        if self._discarding:
            return b""
        if self._held:
            text = self._held + text
            self._held = b""
        if not final and text.endswith(b"\r"):
            self._held = b"\r"
            text = text[:-1]
        return self._keep(text) if text else text


def _length_held_back(text: bytes, at: int) -> int:
    """How much of the end of `text[at:]` may be the beginning of CRLF.CRLF."""
    for length in (4, 3, 2, 1):
        if text.endswith(_END_OF_DATA[:length], at):
            return length
    return 0


class DotStuffer:
    """Content as it follows a 354 (RFC 5321 section 4.5.2), in pieces that may be cut anywhere.

    `feed` each piece and send what it returns (a piece without dots to double is returned itself); `end` once
    behind the last, which adds a CRLF where the content does not end in one.
    """

    __slots__ = ("_cr_held", "_line_start")

    def __init__(self) -> None:
        self._cr_held = False
        self._line_start = True

    def feed(self, piece: bytes) -> bytes:
        """Raises `BareNewline` for content that may not be sent; nothing of `piece` may be sent then."""
        if self._cr_held:
            piece = b"\r" + piece
        self._cr_held = piece.endswith(b"\r")
        if self._cr_held:
            piece = piece[:-1]
        if not piece:
            return piece
        if has_bare_newline(piece):
            raise BareNewline(f"a bare CR or LF at offset {first_bare_newline(piece)} of a piece")
        stuffed = piece.replace(b"\r\n.", b"\r\n..") if b"\r\n." in piece else piece
        if self._line_start and piece.startswith(b"."):
            stuffed = b"." + stuffed
        self._line_start = piece.endswith(_CRLF)
        return stuffed

    def end(self) -> bytes:
        """The end of data, to be sent behind the last piece. Raises `BareNewline`."""
        if self._cr_held:
            raise BareNewline("the content ends in a bare CR")
        return b".\r\n" if self._line_start else _END_OF_DATA
