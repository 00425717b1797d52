"""The envelope (RFC 5321 section 2.3.1): who it is from, who it is for, and the ESMTP parameters.

Never to be mixed up with header fields: what the header says about sender and recipients
decides nothing.
"""

from __future__ import annotations

from typing import Literal

import msgspec

BodyType = Literal["7BIT", "8BITMIME", "BINARYMIME"]
"""RFC 6152, RFC 3030."""


class Recipient(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One forward-path with its DSN parameters, which are carried as they came (RFC 3461)."""

    address: str
    notify: str | None = None
    """`NEVER`, or a comma list of `SUCCESS`, `FAILURE`, `DELAY` (RFC 3461 section 4.1)."""
    original: str | None = None
    """`ORCPT`: address type, `;`, xtext, as received (RFC 3461 section 4.2)."""
    copy_to: str = ""
    """It is no forward-path of the client's but a copy for this relay, which a rule asks for. Copies stand
    behind all others."""


class Envelope(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a client announced with MAIL and RCPT."""

    reverse_path: str
    """Empty for the null reverse-path `<>`, which stays null for ever."""
    recipients: tuple[Recipient, ...]
    body: BodyType = "7BIT"
    smtputf8: bool = False
    """RFC 6531: addresses or header may hold UTF-8."""
    ret: Literal["FULL", "HDRS"] | None = None
    """RFC 3461 section 4.3."""
    envid: str | None = None
    """RFC 3461 section 4.4: xtext, as received."""
