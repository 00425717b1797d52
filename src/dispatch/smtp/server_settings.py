"""What a server core is set up with, and how it announces it (RFC 5321 section 4.1.1.1)."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from dispatch.mail.reply import Reply
from dispatch.smtp.body import NewlinePolicy
from dispatch.smtp.sasl import MECHANISMS


class ServerSettings(msgspec.Struct, frozen=True):
    """What the core announces and enforces by itself."""

    server_name: str
    """The name in the greeting and in the answer to EHLO."""
    size_bytes_max: int = 26_214_400
    """Inclusive; 0: none, and SIZE is announced without a number (RFC 1870 section 4)."""
    recipients_max: int = 1000
    """Refused in one transaction: the next ones are no longer offered. How many are accepted is the driver's
    business."""
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
    """Of `sasl`; none: AUTH is not served."""
    auth_in_clear: bool = False
    """AUTH is served without TLS, too (RFC 4954 section 4 leaves that to the operator)."""
    auth_failures_max: int = 3
    """Failed logins on one connection; the next AUTH closes it."""

    def __post_init__(self) -> None:
        unknown = set(self.auth_mechanisms) - set(MECHANISMS)
        if unknown:
            raise ValueError(f"AUTH mechanism {min(unknown)} is not served")


def serves_auth(settings: ServerSettings, *, secured: bool) -> bool:
    """Passwords do not cross the network in clear, unless the operator says so."""
    return bool(settings.auth_mechanisms) and (secured or settings.auth_in_clear)


@lru_cache(maxsize=64)
def announcement(settings: ServerSettings, *, secured: bool, authenticated: bool = False) -> Reply:
    """The answer to EHLO. BINARYMIME is not offered: a next hop may lack it, and we re-encode nothing."""
    size = f"SIZE {settings.size_bytes_max}" if settings.size_bytes_max else "SIZE"
    lines = [settings.server_name, "PIPELINING", size, "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"]
    if settings.starttls and not secured:
        lines.append("STARTTLS")  # RFC 3207 section 4.2: not once TLS is up
    if serves_auth(settings, secured=secured) and not authenticated:
        # Every further AUTH gets 503 (RFC 4954 section 4). Naming the mechanisms again would uncover a
        # downgrade if one of them had negotiated a security layer, and none of ours can.
        lines.append(f"AUTH {' '.join(settings.auth_mechanisms)}")
    return Reply(250, None, (*lines, "DSN", "CHUNKING"))
