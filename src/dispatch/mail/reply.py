"""SMTP replies (RFC 5321 section 4.2) with enhanced status codes (RFC 3463, RFC 2034)."""

from __future__ import annotations

import msgspec


class Reply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a server said, or what ours will say. Text holds no line breaks or control characters."""

    code: int
    """200 to 599; a peer's code outside that range never becomes a `Reply`."""
    enhanced: str | None
    """`class.subject.detail`, or None where the peer sent none."""
    lines: tuple[str, ...]
    """One text a line, without code and enhanced code; at least one, which may be empty."""

    @property
    def text(self) -> str:
        return " ".join(line for line in self.lines if line)

    @property
    def positive(self) -> bool:
        return self.code < 400

    @property
    def temporary(self) -> bool:
        """4yz: the same command may succeed later (RFC 5321 section 4.2.1)."""
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        return self.code >= 500

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.code), self.enhanced, self.text) if part)


def reply(code: int, enhanced: str | None, *lines: str) -> Reply:
    """Shorthand for writing replies in code and tables."""
    return Reply(code, enhanced, lines or ("",))
