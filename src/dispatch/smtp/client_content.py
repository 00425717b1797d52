"""Content as a client hands it over: lines with stuffed dots behind DATA, counted octets behind BDAT.

Rules: what leaves here holds no bare CR and no bare LF, whatever came in, because the next host may read
either as the end of a line and find a second message in the first (SMTP smuggling). Intake has seen to that;
this is the assertion at the other end. Such content is refused (`body.BareNewline`), never repaired: a repair
would break signatures over it. Only BINARYMIME (RFC 3030 section 3), whose octets are counted and never
searched for line ends, is exempt.

Pure and without a loop: `ContentFramer` works block by block and may run on a thread.
"""

from __future__ import annotations

from enum import Enum, auto

from dispatch.smtp.body import BareNewline, DotStuffer, has_bare_newline

_CRLF = b"\r\n"


class Framing(Enum):
    """How a transaction's content is told from the commands around it."""

    LINES = auto()
    """DATA: dots stuffed, ended by a lone dot (RFC 5321 section 4.5.2)."""
    CHUNKS = auto()
    """BDAT: text, its length announced (RFC 3030 section 2)."""
    BINARY = auto()
    """BDAT of a BINARYMIME body: any octets."""


def frame(content: bytes, framing: Framing) -> bytes:
    """The whole content as it goes on the wire, before its end of data. Raises `BareNewline`."""
    if framing is not Framing.LINES:
        return ContentFramer(framing).frame(content, last=True)
    stuffer = DotStuffer()
    framed = stuffer.feed(content)
    return framed + _CRLF if stuffer.end().startswith(_CRLF) else framed


class ContentFramer:
    """The same for content that comes in blocks, which may be cut anywhere."""

    __slots__ = ("_framing", "_held", "_stuffer")

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._stuffer = DotStuffer() if framing is Framing.LINES else None
        self._held = b""
        """A CR at the end of the last block: whether it is bare shows the next octet."""

    def frame(self, block: bytes, *, last: bool) -> bytes:
        """What to send of this block; behind the last one a line has ended. Raises `BareNewline`."""
        stuffer = self._stuffer
        if stuffer is not None:
            framed = stuffer.feed(block)
            # The lone dot is the client's to send; here only the line before it is completed.
            return framed + _CRLF if last and stuffer.end().startswith(_CRLF) else framed
        if self._framing is Framing.BINARY:
            return block
        if self._held:
            block = self._held + block
            self._held = b""
        if not last and block.endswith(b"\r"):
            self._held = b"\r"
            block = block[:-1]
        if has_bare_newline(block):
            raise BareNewline("a bare CR or LF in content that is not BINARYMIME")
        return block
