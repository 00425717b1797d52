"""What a request is told that does not get what it wants: one shape for everything (RFC 9457).

    {"type": "about:blank", "title": "Bad Request", "status": 400, "code": "invalid_fields",
     "detail": "two fields cannot be used as they are", "request_id": "req_…",
     "errors": [{"path": "to[0]", "message": "is no address"}]}

`code` is for programs and stays as it is; `detail` is for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from math import ceil
from typing import NamedTuple

import msgspec

from dispatch.policy.admission import Refusal, RefusalKind

MEDIA_TYPE = b"application/problem+json"


class FieldError(NamedTuple):
    path: str
    """As `to[0]` or `attachments[2].content`."""
    message: str


class Problem(Exception):
    """Raised wherever a request is looked at; the answer is made of it in one place."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}

    @property
    def title(self) -> str:
        return HTTPStatus(self.status).phrase

    def body(self, request_id: str) -> bytes:
        told: dict[str, object] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "request_id": request_id,
        }
        if self.errors:
            told["errors"] = [error._asdict() for error in self.errors]
        return msgspec.json.encode(told)


def later(status: int, code: str, detail: str, wait_s: float) -> Problem:
    """It may be tried again after so long."""
    return Problem(status, code, detail, headers={"Retry-After": str(max(1, ceil(wait_s)))})


def invalid(errors: Sequence[FieldError]) -> Problem:
    count = "a field" if len(errors) == 1 else f"{len(errors)} fields"
    return Problem(400, "invalid_fields", f"{count} cannot be used as sent", errors=errors)


_BUSY_S = 30.0
_KINDS: dict[RefusalKind, tuple[int, str]] = {
    "closed": (503, "closed"),
    "login": (401, "unauthorized"),
    "lockout": (429, "locked_out"),
    "logins_busy": (503, "busy"),
    "disk": (507, "insufficient_storage"),
    "denied": (403, "source_not_allowed"),
    "login_source": (403, "source_not_allowed"),
    "size": (413, "message_too_large"),
    "sender": (403, "sender_not_allowed"),
    "recipient": (403, "recipient_not_allowed"),
    "suppressed": (403, "recipient_suppressed"),
    "rule": (403, "refused_by_rule"),
    "relay_size": (413, "message_too_large"),
    "relay": (400, "unknown_relay"),
    "recipients": (400, "too_many_recipients"),
    "rate_address": (429, "rate_limited"),
    "rate_login": (429, "rate_limited"),
    "rate_global": (429, "rate_limited"),
    "loop": (400, "mail_loop"),
    "spool": (503, "spool_unavailable"),
}
"""Those that stand for something else are mistakes of ours: 500."""


def of_refusal(refusal: Refusal, path: str = "") -> Problem:
    """What policy says to a client over SMTP, said over HTTP. `path`: the field that it is about."""
    status, code = _KINDS.get(refusal.kind, (500, "internal_error"))
    detail = " ".join(refusal.reply.lines)
    if status in (429, 503, 507) or refusal.reply.code < 500:
        if status < 429:
            status = 503
        return later(status, code, detail, refusal.wait_s or _BUSY_S)
    return Problem(status, code, detail, errors=[FieldError(path, detail)] if path else ())
