"""What has arrived and is not used up yet, and command lines out of it.

A command line ends in CRLF (RFC 5321 section 2.3.8). One that is too long, or that holds another CR or LF,
is bad as a whole, up to its CRLF: what another server may have taken for the end of a command begins no
command here. Which of the two flaws it has, is decided by which the client sent first, and never by how
the bytes were cut.

A bad line is reported as soon as that can be known, and the rest of it dropped in silence: a line feed alone
may be all that this client ever sends as a line end, and it deserves to be told.
"""

from __future__ import annotations

import msgspec

from dispatch.mail.reply import Reply
from dispatch.smtp import wording


class BadLine(msgspec.Struct, frozen=True):
    head: bytes
    """What came before the flaw."""
    reply: Reply


class Input:
    """The client's bytes. `data[at:]` is what is not used up; who reads content moves `at` itself."""

    __slots__ = ("_skipping", "at", "data", "line_bytes_max")

    def __init__(self, line_bytes_max: int) -> None:
        self.line_bytes_max = line_bytes_max
        """With CRLF. May change between two lines."""
        self._skipping = False
        self.data = b""
        self.at = 0

    def receive(self, data: bytes) -> None:
        self.data = data if self.at == len(self.data) else self.data[self.at :] + data
        self.at = 0

    @property
    def empty(self) -> bool:
        return self.at == len(self.data)

    @property
    def holds_another_line(self) -> bool:
        """Something came behind the last line; what is left of that one, if it was bad, does not count."""
        return not (self._skipping or self.empty)

    def forget_used(self) -> None:
        """Keep nothing of the lines that were taken."""
        self.data = self.data[self.at :]
        self.at = 0

    def clear(self) -> None:
        self.data = b""
        self.at = 0

    def line(self) -> bytes | BadLine | None:
        """The next line without its CRLF; None: it is not there yet."""
        data, at = self.data, self.at
        if at == len(data):
            return None
        if self._skipping:
            self._skip()
            at = self.at
        end = data.find(b"\r\n", at)
        if end < 0:
            return self._part_of_line()
        self.at = end + 2
        line = data[at:end]
        if end + 2 - at > self.line_bytes_max or b"\n" in line or b"\r" in line:
            return self._bad(line)
        return line

    def _skip(self) -> None:
        """Drop the rest of a bad line; a CR may be half of the CRLF that ends it."""
        end = self.data.find(b"\r\n", self.at)
        if end >= 0:
            self.at = end + 2
            self._skipping = False
        else:
            self.at = len(self.data) - self.data.endswith(b"\r", self.at)

    def _part_of_line(self) -> BadLine | None:
        if self._skipping:
            return None
        line = self.data[self.at :]
        if b"\n" not in line and len(line) < self.line_bytes_max:
            return None
        self._skipping = True
        self._skip()
        return self._bad(line)

    def _bad(self, line: bytes) -> BadLine:
        limit = self.line_bytes_max
        line_feed = line.find(b"\n", 0, limit)
        if line_feed >= 0:
            return BadLine(line[:line_feed], wording.BARE_NEWLINE_IN_COMMAND)
        if len(line) + 2 > limit:
            return BadLine(line[:limit], wording.LINE_TOO_LONG)
        return BadLine(line, wording.BARE_NEWLINE_IN_COMMAND)
