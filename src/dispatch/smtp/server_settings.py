"""What a server core is set up with, and how it announces it (RFC 5321 section 4.1.1.1)."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from dispatch.mail.reply import Reply
from dispatch.smtp.body import NewlinePolicy


class ServerSettings(msgspec.Struct, frozen=True):
    """What the core announces and enforces by itself."""

    server_name: str
    """The name in the greeting and in the answer to EHLO."""
    size_bytes_max: int = 26_214_400
    """Inclusive; 0: none, and SIZE is announced without a number (RFC 1870 section 4)."""
    recipients_max: int = 1000
    """Accepted in one transaction; as many may be refused beside them."""
    bare_newline: NewlinePolicy = "reject"
    commands_bad_max: int = 20
    """Errors of syntax and sequence between two accepted messages; the next one closes the connection."""
    commands_idle_max: int = 100
    """Commands that lead to no message (NOOP, RSET, EHLO, refused mail) between two accepted messages; those
    beyond count as bad."""
    transactions_max: int | None = None
    """Messages begun on one connection; None: any number."""
    command_line_bytes_max: int = 2048
    """With CRLF: 512 (RFC 5321 section 4.5.3.1.4), and room for the allowances of SIZE (RFC 1870), BODY (RFC
    6152), SMTPUTF8 (RFC 6531), RET, ENVID, NOTIFY and ORCPT (RFC 3461), AUTH (RFC 4954) all together."""
    starttls: bool = False
    auth_mechanisms: tuple[str, ...] = ()


@lru_cache(maxsize=64)
def announcement(settings: ServerSettings, *, secured: bool) -> Reply:
    """The answer to EHLO. BINARYMIME is not offered: a next hop may lack it, and we re-encode nothing."""
    size = f"SIZE {settings.size_bytes_max}" if settings.size_bytes_max else "SIZE"
    lines = [settings.server_name, "PIPELINING", size, "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"]
    if settings.starttls and not secured:
        lines.append("STARTTLS")  # RFC 3207 section 4.2: not once TLS is up
    return Reply(250, None, (*lines, "DSN", "CHUNKING"))
