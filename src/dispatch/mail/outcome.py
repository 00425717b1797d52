"""What an attempt means for one recipient: made by `policy.verdict`, recorded in the ledger."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from dispatch.mail.delivery import Move
from dispatch.mail.reply import Reply


class Scope(StrEnum):
    """What an outcome says something about; it decides failover and the breaker."""

    SESSION = "session"
    """This connection only: the next one may do better."""
    RELAY = "relay"
    """The relay as a whole: fail over, count towards its breaker."""
    DOMAIN = "domain"
    """Direct delivery to the recipient's domain: fail over; other domains are not meant."""
    MESSAGE = "message"
    """This message, at any relay like this one."""
    RECIPIENT = "recipient"
    """This recipient only: never fail over (RFC 5321 section 3.3)."""


class Outcome(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One recipient's result of one attempt."""

    move: Move
    """DELIVER, CAPTURE, DEFER, BOUNCE, LOSE_REPLY or QUARANTINE."""
    scope: Scope
    reply: Reply | None
    """The peer's words, None where a fault left us without."""
    reason: str
    """For the operator: what happened, in one line."""
    retry_after_s: float | None = None
    """The peer's own wish, where it stated one."""
    burns_attempt: bool = True
    """False where the peer only throttled us, or our own side failed: not counted against max_retries."""
