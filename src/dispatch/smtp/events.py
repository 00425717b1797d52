"""What the server core tells its driver, in the order it happened.

Some events *ask*: the core stands still until `ServerCore.answer`. A positive answer moves the state, a
negative one leaves it as it was. The others only tell.

================  ======  ===================================================================================
event             asks    the driver
================  ======  ===================================================================================
Hello             yes     any 2yz: the core says its announcement in its place
TlsOffered        yes     220, writes it, starts TLS, calls `ServerCore.secured`
AuthOffered       yes     235, and keeps the user while `ServerCore.authenticated` says so; or 535, 454
MailOffered       yes     250, and begins an envelope
RecipientOffered  yes     250, and adds to the envelope
ContentStarted    yes     354, and makes room; asked once a message, for BDAT before the first chunk (the 354
                          is not sent then); a refused BDAT ends the transaction, a refused DATA does not
ContentChunk      no      keeps the bytes
ContentEnded      yes     makes the message durable, then 250; or refuses; the transaction is over either way
ContentRefused    no      drops content and envelope; the core swallows the rest and answers by itself
TransactionReset  no      drops content and envelope: RSET, a new EHLO, a failed BDAT, the connection's end
Quit              no      nothing; the 221 is in the output
================  ======  ===================================================================================

Every accepted MailOffered is followed by exactly one of ContentEnded, ContentRefused and TransactionReset;
only after a close, by `ServerCore.close` or by the peer, while ContentEnded waits for its answer does nothing
follow: what was offered whole is the driver's to decide (RFC 1047).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from dispatch.mail.envelope import BodyType
from dispatch.mail.reply import Reply


class Hello(msgspec.Struct, frozen=True, gc=False):
    """EHLO, or HELO."""

    name: str
    """As announced; what could not stand in a `Received` field is replaced by `?`."""
    extended: bool
    """EHLO."""


class TlsOffered(msgspec.Struct, frozen=True, gc=False):
    """STARTTLS (RFC 3207); nothing was pipelined behind it."""


class AuthOffered(msgspec.Struct, frozen=True, gc=False):
    """AUTH (RFC 4954): somebody's claim. The core has checked its form, and keeps none of it."""

    mechanism: str
    """`PLAIN` or `LOGIN`."""
    user: str
    """Not empty, without NUL; other control characters may stand in it."""
    password: bytes
    """Not empty, any octets; never shown."""

    def __repr__(self) -> str:
        return f"AuthOffered({self.mechanism!r}, {self.user!r}, password hidden)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What msgspec would give to those that print in colours holds every field."""
        return [("mechanism", self.mechanism), ("user", self.user)]


class MailOffered(msgspec.Struct, frozen=True, gc=False):
    """MAIL. The sequence is right, the syntax holds, the declared size fits."""

    reverse_path: str
    """Empty for `<>`; may lack a domain."""
    size_bytes: int | None = None
    """Declared with SIZE (RFC 1870); a claim, not a fact."""
    body: BodyType = "7BIT"
    smtputf8: bool = False
    """Asked for, or needed because the path is not ASCII: clients older than RFC 6531 just send it."""
    ret: Literal["FULL", "HDRS"] | None = None
    envid: str | None = None
    """xtext, as it came."""


class RecipientOffered(msgspec.Struct, frozen=True, gc=False):
    """RCPT."""

    address: str
    """May lack a domain (`postmaster`, RFC 5321 section 4.1.1.3; others are policy)."""
    notify: str | None = None
    """In upper case: `NEVER`, or a comma list of `SUCCESS`, `FAILURE`, `DELAY`."""
    original: str | None = None
    """ORCPT, as it came."""
    smtputf8: bool = False
    """Something of it is not ASCII, so that the whole transaction needs SMTPUTF8."""


class ContentStarted(msgspec.Struct, frozen=True, gc=False):
    """DATA, or the first BDAT."""


class ContentChunk(msgspec.Struct, frozen=True, gc=False):
    """Some content, dots unstuffed, with its newlines as the policy wants them; never empty."""

    data: bytes


class ContentEnded(msgspec.Struct, frozen=True, gc=False):
    """The content is whole."""

    size_bytes: int
    """The sum of all chunks (RFC 1870 section 5)."""


class ContentRefused(msgspec.Struct, frozen=True):
    """The content will not be taken: too large, or its newlines are bare."""

    reply: Reply
    """What the client will be told after its end of data, or after this chunk of BDAT."""
    reason: Literal["size", "bare newline"]


class TransactionReset(msgspec.Struct, frozen=True, gc=False):
    """The transaction under way is over, without a message."""


class Quit(msgspec.Struct, frozen=True, gc=False):
    """The client said QUIT."""


Event = (
    Hello
    | TlsOffered
    | AuthOffered
    | MailOffered
    | RecipientOffered
    | ContentStarted
    | ContentChunk
    | ContentEnded
    | ContentRefused
    | TransactionReset
    | Quit
)
