"""Replies of a server that we do not trust, read from any chunks (RFC 5321 section 4.2).

Duty: bytes in, `Reply` values out, one at a time and in order. What comes out depends on the
bytes alone, never on how they were cut into chunks.

Rules:

- A line ends at LF; a CR before it belongs to the line end. Bare LF is *tolerated*: old devices and
  scripted hosts send it, and unlike mail content a reply travels no further, so nothing can be
  smuggled with it. Any other control character is scrubbed from the text.
- A reply that breaks the grammar raises `ReplyViolation`, the only exception here, with a reason. What was
  complete before it is handed out first; behind it there is nothing to trust, so it is raised
  again for ever.
- Memory is bounded: a line, the lines of a reply and the bytes of a reply have limits. RFC 5321 section
  4.5.3.1.5 allows 512 octets a line; hosts exceed it, so the limits are wider than that.

Trap: a positive-looking digit is not enough. `2500`, `25`, `-25` and `250Ok` are violations, because a
client that guesses here takes the rest of a broken stream for answers to later commands.

Deliberately not here: which reply fits which command (`client_states`), and what a refusal means
for the mail (`policy.verdict`).
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

from dispatch.mail.reply import Reply

LINE_BYTES_MAX = 4096
"""Longest line, its line end included."""
REPLY_LINES_MAX = 256
REPLY_BYTES_MAX = 16 * 1024
"""All lines of one reply together: this much of a peer's words may end up in the ledger."""

_EXCERPT_CHARACTERS = 80
_REMEMBERED_LINES = 256

_ENHANCED = re.compile(r"([245])\.([0-9]{1,3})\.([0-9]{1,3})(?: +|\Z)")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


class ViolationReason(StrEnum):
    """How a server broke the protocol."""

    LINE_TOO_LONG = "endless line"
    REPLY_TOO_LONG = "endless reply"
    NO_CODE = "line without a reply code"
    CODE_OUT_OF_RANGE = "reply code out of range"
    NO_SEPARATOR = "no space or hyphen behind the reply code"
    MIXED_CODES = "reply lines with different codes"
    UNASKED = "reply before a command"
    OUT_OF_PLACE = "reply that does not fit its command"
    BEHIND_STARTTLS = "clear text behind the answer to STARTTLS"


class ReplyViolation(ValueError):
    """The server said what no server may say: nothing that it says later can be trusted."""

    def __init__(self, reason: ViolationReason, excerpt: str = "") -> None:
        super().__init__(f"{reason}: {excerpt!r}" if excerpt else str(reason))
        self.reason = reason


class ReplyParser:
    """Collects bytes with `receive`, hands out replies with `next_reply`."""

    __slots__ = ("_at", "_buffer", "_code", "_lines", "_size_bytes", "_violation")

    def __init__(self) -> None:
        self._buffer = b""
        self._at = 0
        self._lines: list[bytes] = []
        """Of a reply whose last line has not come yet: texts, without code and separator."""
        self._code = b""
        self._size_bytes = 0
        self._violation: ReplyViolation | None = None

    @property
    def pending(self) -> bool:
        """There are bytes that belong to no reply yet; at the start of TLS there must be none (RFC 3207)."""
        return self._at < len(self._buffer) or bool(self._lines)

    def receive(self, data: bytes) -> None:
        """Add what the server sent. The caller takes all replies out before it adds more."""
        if self._at == len(self._buffer):
            self._buffer = data
        else:
            self._buffer = self._buffer[self._at :] + data
        self._at = 0

    def next_reply(self) -> Reply | None:
        """The next complete reply, or None until more bytes come. Raises `ReplyViolation`."""
        if self._violation is not None:
            raise self._violation
        buffer = self._buffer
        try:
            while True:
                start = self._at
                end = buffer.find(b"\n", start, start + LINE_BYTES_MAX)
                if end < 0:
                    if len(buffer) - start >= LINE_BYTES_MAX:
                        raise ReplyViolation(ViolationReason.LINE_TOO_LONG, _excerpt(buffer[start:]))
                    return None
                self._at = end + 1
                line = buffer[start:end]
                if line[3:4] != b"-" and not self._lines:
                    return _one_line_reply(line)
                if (reply := self._add_line(line)) is not None:
                    return reply
        except ReplyViolation as violation:
            self._violation = violation
            self._buffer = b""
            self._at = 0
            raise

    def _add_line(self, line: bytes) -> Reply | None:
        code, last, text = _split_line(line)
        if self._lines and code != self._code:
            raise ReplyViolation(ViolationReason.MIXED_CODES, _excerpt(self._code + b" and " + code))
        self._code = code
        self._lines.append(text)
        self._size_bytes += len(line)
        if len(self._lines) > REPLY_LINES_MAX or self._size_bytes > REPLY_BYTES_MAX:
            raise ReplyViolation(ViolationReason.REPLY_TOO_LONG, _excerpt(line))
        if not last:
            return None
        texts, self._lines, self._size_bytes = self._lines, [], 0
        return _make_reply(code, texts)


@lru_cache(maxsize=_REMEMBERED_LINES)
def _one_line_reply(line: bytes) -> Reply:
    """Hosts say the same few lines all day ("250 2.1.0 Ok"): their values, being frozen, are remembered."""
    code, _, text = _split_line(line)
    return _make_reply(code, [text])


def _split_line(line: bytes) -> tuple[bytes, bool, bytes]:
    """Code, whether it is the reply's last line, text. A bare code is a line too (RFC 5321 section 4.2)."""
    if line.endswith(b"\r"):
        line = line[:-1]
    code = line[:3]
    if len(code) < 3 or not code.isdigit():
        raise ReplyViolation(ViolationReason.NO_CODE, _excerpt(line))
    if not b"200" <= code <= b"599":
        raise ReplyViolation(ViolationReason.CODE_OUT_OF_RANGE, _excerpt(line))
    separator = line[3:4]
    if separator not in (b" ", b"-", b""):
        raise ReplyViolation(ViolationReason.NO_SEPARATOR, _excerpt(line))
    return code, separator != b"-", line[4:]


def _make_reply(code: bytes, texts: list[bytes]) -> Reply:
    """Each line may carry the enhanced code (RFC 2034 section 4); it counts when its class fits."""
    enhanced = None
    lines = []
    for raw in texts:
        text = scrubbed(raw)
        match = _ENHANCED.match(text)
        if match is not None and text[0] == chr(code[0]):
            enhanced = enhanced or match[0].rstrip()
            text = text[match.end() :]
        lines.append(text)
    return Reply(int(code), enhanced, tuple(lines))


def scrubbed(raw: bytes) -> str:
    """A peer's words, safe to show: no control or direction-changing characters, no invalid UTF-8."""
    text = raw.decode("utf-8", "replace").rstrip()
    if not text.isprintable():
        text = _UNPRINTABLE.sub("\ufffd", text.replace("\t", " "))
    return text


def _excerpt(line: bytes) -> str:
    # The length is the same wherever the line was cut, so the text is too.
    return scrubbed(line[:_EXCERPT_CHARACTERS])
