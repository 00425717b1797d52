"""Access tokens for SMTP hosts (OAuth 2.0): what an authorization server is asked, and what its answer means.

Three ways to be granted a token without a person at hand:

- client credentials (RFC 6749 section 4.4): an application in its own name; Microsoft 365.
- a refresh token (RFC 6749 section 6) that a person once agreed to; Google, Microsoft 365.
- a statement signed by a service account (RFC 7523 section 2.1) that acts for a mailbox by domain-wide
  delegation; Google.

The client's secret goes into the body (RFC 6749 section 2.3.1): the large servers take it there.

Rules:

- No secret is shown: not by `repr`, and not by what a server says, which is searched for what we told it.
- *Refused* is only what the server says so of, in the words of RFC 6749 section 5.2. Everything else, above
  all what a proxy or an unwell server answers, means: not now.

Deliberately not here: asking (`relays.http`), keeping and renewing (`relays.tokens`), and the way in which a
person agrees, which needs a browser.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlencode

import msgspec

from dispatch.ports import HttpAnswer
from dispatch.security.jwt import ServiceAccount
from dispatch.smtp.replies import scrubbed

FORM = "application/x-www-form-urlencoded"
LIFETIME_S = 600.0
"""Of a token whose answer does not say it; RFC 6749 section 5.1 only recommends that it does."""
LIFETIME_S_MAX = 1e9
"""Beyond it, it is no lifetime."""
STATEMENT_S = 3600
"""How long a service account's statement is good for; Google takes no longer one."""
RETRY_AFTER_S_MAX = 900.0
_WORDS_MAX = 300

_NOT_NOW = frozenset({"server_error", "temporarily_unavailable", "slow_down"})
"""RFC 6749 section 4.1.2.1; of section 5.2 they are not, and are met all the same."""


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    client_id: str
    client_secret: str = field(repr=False)
    scope: str = ""


@dataclass(frozen=True, slots=True)
class RefreshToken:
    client_id: str
    client_secret: str = field(repr=False)
    """Empty for a public client, which has none."""
    refresh_token: str = field(repr=False)
    scope: str = ""
    """Empty: as it was agreed to."""


@dataclass(frozen=True, slots=True)
class ServiceStatement:
    account: ServiceAccount
    mailbox: str
    """For whom the account acts."""
    scope: str


Grant = ClientCredentials | RefreshToken | ServiceStatement


@dataclass(frozen=True, slots=True)
class Token:
    """What was granted."""

    value: str = field(repr=False)
    lifetime_s: float
    refresh_token: str = field(repr=False, default="")
    """In place of ours, where the server changed it; otherwise empty."""


class NoToken(NamedTuple):
    why: str
    """Fit to be shown."""
    refused: bool
    """Asking again is in vain until somebody has changed something. Otherwise: not now."""
    retry_after_s: float = 0.0
    """What the server asked for, at most `RETRY_AFTER_S_MAX`."""


def request_form(grant: Grant, token_url: str, now_s: float) -> bytes:
    """The body of the request. `now_s`: seconds since 1970."""
    match grant:
        case ClientCredentials():
            fields = {
                "grant_type": "client_credentials",
                "client_id": grant.client_id,
                "client_secret": grant.client_secret,
                "scope": grant.scope,
            }
        case RefreshToken():
            fields = {
                "grant_type": "refresh_token",
                "client_id": grant.client_id,
                "client_secret": grant.client_secret,
                "refresh_token": grant.refresh_token,
                "scope": grant.scope,
            }
        case ServiceStatement():
            fields = {
                "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
                "assertion": grant.account.signed(_statement(grant, token_url, int(now_s))),
            }
    return urlencode({name: value for name, value in fields.items() if value}).encode()


def _statement(grant: ServiceStatement, token_url: str, now_s: int) -> dict[str, str | int]:
    """RFC 7523 section 3; `scope` is Google's."""
    return {
        "iss": grant.account.address,
        "sub": grant.mailbox,
        "aud": token_url,
        "scope": grant.scope,
        "iat": now_s,
        "exp": now_s + STATEMENT_S,
    }


class _Granted(msgspec.Struct, frozen=True):
    """RFC 6749 section 5.1."""

    access_token: str
    token_type: str | None = None
    expires_in: float | str | None = None
    refresh_token: str | None = None


class _Denied(msgspec.Struct, frozen=True):
    """RFC 6749 section 5.2."""

    error: str
    error_description: str | None = None


def read_answer(answer: HttpAnswer, grant: Grant) -> Token | NoToken:
    """What the server's answer to `request_form(grant, …)` means."""
    if answer.status != 200:
        return _not_granted(answer, grant)
    try:
        granted = msgspec.json.decode(answer.body, type=_Granted)
        lifetime_s = LIFETIME_S if granted.expires_in is None else float(granted.expires_in)
        if not 0 <= lifetime_s < LIFETIME_S_MAX:
            raise ValueError
    except (msgspec.DecodeError, ValueError):
        return NoToken("the token endpoint's answer holds no token that can be read", refused=False)
    if (granted.token_type or "bearer").lower() != "bearer":
        # RFC 6749 section 7.1: a type that is not understood must not be used.
        return NoToken("the token endpoint gives tokens that are no bearer tokens", refused=False)
    renewed = granted.refresh_token or ""
    if not isinstance(grant, RefreshToken) or renewed == grant.refresh_token:
        renewed = ""
    return Token(granted.access_token, lifetime_s, renewed)


def _not_granted(answer: HttpAnswer, grant: Grant) -> NoToken:
    retry_after = answer.headers.get("retry-after", "")
    # A date (RFC 9110 section 10.2.3) is not read: our own back-off is as good.
    retry_after_s = min(float(retry_after), RETRY_AFTER_S_MAX) if retry_after.isdecimal() else 0.0
    try:
        denied = msgspec.json.decode(answer.body, type=_Denied)
    except msgspec.DecodeError:
        why = f"the token endpoint answered with HTTP status {answer.status}"
        return NoToken(why, refused=False, retry_after_s=retry_after_s)
    words = denied.error
    if denied.error_description:
        # Microsoft's goes on for lines, with trace ids and dates.
        words += f": {denied.error_description.splitlines()[0]}"
    for secret in _secrets_of(grant):
        words = words.replace(secret, "[secret]")
    words = scrubbed(words.encode("utf-8", "replace"))[:_WORDS_MAX]
    refused = answer.status in (400, 401, 403) and denied.error not in _NOT_NOW
    return NoToken(f"the token endpoint says {words}", refused=refused, retry_after_s=retry_after_s)


def _secrets_of(grant: Grant) -> tuple[str, ...]:
    match grant:
        case ClientCredentials():
            secrets: tuple[str, ...] = (grant.client_secret,)
        case RefreshToken():
            secrets = (grant.client_secret, grant.refresh_token)
        case ServiceStatement():
            # What was stated is no secret for long, and nobody repeats it.
            secrets = ()
    return tuple(filter(None, secrets))
