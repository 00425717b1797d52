"""What a relay saw while it tried one transaction. Protocol code reports; it does not judge.

The judgement, replies and faults to outcomes, is made in one place: `policy.verdict`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from dispatch.mail.reply import Reply


class Stage(StrEnum):
    """How far a transaction had come, in the order of the conversation."""

    CONNECT = "connect"
    GREETING = "greeting"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CONTENT = "content"
    """The content was being sent, but its end had not left us."""
    END_OF_DATA = "end of data"
    """The end of data had left, or may have: without a reply the outcome is uncertain (RFC 1047)."""


class FaultKind(StrEnum):
    """Why there was no reply to go by."""

    UNRESOLVED = "name not resolved"
    REFUSED = "connection refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timed out"
    DROPPED = "connection lost"
    PROTOCOL = "protocol violated"
    """The peer said what no server may say: broken replies, replies before commands, endless lines."""
    TLS = "TLS failed"
    AUTHENTICATION = "no usable way to authenticate"
    """The host offers no AUTH mechanism that is allowed, or there are no credentials to offer it."""
    CREDENTIALS_ABSENT = "no credentials to be had now"
    """Whoever gives access tokens cannot be asked; where they are refused us, it is AUTHENTICATION."""
    NULL_MX = "the domain takes no mail"
    """It says so itself, with a null MX record (RFC 7505)."""
    NO_DOMAIN = "no such mail domain"
    """Of direct delivery: DNS says that the recipient's domain has no host, or its address has no domain."""
    LOOP = "mail would come back to us"
    """Of direct delivery: the domain's mail host is this relay itself."""
    RESTS = "its hosts failed a moment ago"
    """Of direct delivery: nothing was tried again since."""
    POLICY = "the domain's policy is not met"
    """Of direct delivery: what the domain demands of a session (MTA-STS, DANE) cannot be had."""
    UNSUITED = "message needs what the host lacks"
    """8BITMIME, SMTPUTF8 or SIZE is needed and not offered: the host is well, this message is not for it."""
    CONTENT_UNREADABLE = "content unreadable"
    """Our own file, or the ledger that the attempt must be noted in, is out of reach for now."""
    CONTENT_LOST = "content lost"
    """Our own file is gone, or not whole: no later attempt will do better by itself."""


class Fault(msgspec.Struct, frozen=True, array_like=True, gc=False):
    kind: FaultKind
    detail: str
    """For the operator's log; may hold the peer's words, control characters removed."""
    retry_after_s: float | None = None
    """Before that it is not worth while to try again; None: nobody knows."""


class Report(msgspec.Struct, frozen=True, gc=False):
    """One transaction tried at one relay: a reply for each recipient, or the fault that left them without."""

    stage: Stage
    """Where the transaction ended."""
    replies: tuple[Reply | None, ...]
    """In the order of the transaction's recipients: the reply that settled each one, None where the
    conversation ended before there was one. A refusal at MAIL or DATA stands for every recipient."""
    fault: Fault | None = None
    """Set exactly when some recipient has no reply."""
    peer: str = ""
    """Address and port of the host that was talked to, as `192.0.2.1:25`."""
    tls: str | None = None
    reply_stage: tuple[Stage, ...] = ()
    """For each recipient the stage its reply belongs to: MAIL, RCPT, DATA, END_OF_DATA. Empty: all
    belong to `stage`."""
    dsn: bool = False
    """The host offered DSN, so NOTIFY and ORCPT went with the envelope, and notices are its duty now; where
    not, they stay ours (RFC 3461 section 5.2.2)."""


CHECK_RESULT = "result"
"""The step of a test that says what would become of mail."""


class CheckStep(msgspec.Struct, frozen=True, tag="step"):
    """One thing that was tried of a relay, for a person who watches a test of it."""

    what: str
    fine: bool
    words: str
    """What came of it; the peer's own words where it spoke."""
    took_ms: int
