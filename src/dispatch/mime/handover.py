"""What is taken out of a content when it is handed to a relay: `Bcc`, and our own `X-Dispatch-*` fields.

Content is stored as it came; these fields go at the last moment, all lines of them, from the header
section only. `Resent-Bcc` counts as `Bcc` (RFC 5322 section 3.6.6): both name people whom the
other recipients must not see. Nothing else changes by a byte, and where there is nothing to take
out the very same object is handed on.

One definition of the fields serves the quick look, the whole content and the stream. It is bounded in
length, so a stream never holds back more than `_UNDECIDED_BYTES_MAX`.
"""

from __future__ import annotations

import re

from dispatch.mime.inspect import header_end

_UNWANTED = rb"(?:[Bb](?i:cc)|[Rr](?i:esent-bcc)|[Xx]-(?i:dispatch-)[!-9;-~]{1,64})[ \t]{0,16}:"
_UNWANTED_LINE = re.compile(_UNWANTED)
_UNWANTED_LATER = re.compile(rb"\n" + _UNWANTED)
_UNDECIDED_BYTES_MAX = 96
"""From so many bytes of a line it is certain whether it begins an unwanted field."""
assert len("x-dispatch-") + 64 + 16 + len(":") <= _UNDECIDED_BYTES_MAX


def for_relay(content: bytes, *, verbatim: bool) -> bytes:
    """The content as the relay is to get it; `verbatim` relays get it as it is stored."""
    if verbatim:
        return content
    if (
        _UNWANTED_LATER.search(content, 0, header_end(content)) is None
        and _UNWANTED_LINE.match(content) is None
    ):
        return content
    handover = Handover()
    return handover.feed(content) + handover.finish()


class Handover:
    """The same for content that comes in blocks, whatever their borders.

    `feed` each block and send what it returns; `finish` once behind the last.
    """

    __slots__ = ("_dropping", "_held", "_in_header", "_in_line")

    def __init__(self) -> None:
        self._in_header = True
        self._in_line = False
        """Within a line about which it is decided whether it goes."""
        self._dropping = False
        self._held = b""
        """The beginning of a line, too short to decide about."""

    def feed(self, block: bytes) -> bytes:
        if not self._in_header:
            return block
        data = self._held + block
        self._held = b""
        kept: list[bytes] = []
        at = 0
        while at < len(data):
            if not self._in_line:
                if len(data) - at < _UNDECIDED_BYTES_MAX and data.find(b"\n", at) < 0:
                    self._held = data[at:]
                    break
                if data.startswith((b"\r\n", b"\n"), at):
                    self._in_header = False
                    kept.append(data[at:])
                    break
                self._begin_line(data, at)
            line_end = data.find(b"\n", at) + 1
            self._in_line = line_end == 0
            if self._in_line:
                line_end = len(data)
            if not self._dropping:
                kept.append(data[at:line_end])
            at = line_end
        return b"".join(kept)

    def finish(self) -> bytes:
        """What was still held back, once no block follows."""
        held, self._held = self._held, b""
        if held:
            self._begin_line(held, 0)
        return b"" if self._dropping else held

    def _begin_line(self, data: bytes, at: int) -> None:
        # A line that begins with white space continues the field before it, and shares its fate.
        if data[at : at + 1] not in (b" ", b"\t"):
            self._dropping = _UNWANTED_LINE.match(data, at) is not None
