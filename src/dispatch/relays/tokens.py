"""The access token of one relay: fetched when it is needed, kept while it is good, renewed before it ends.

`RelayTokens` is a `smart_host.TokenSource`, and asked before each session.

Rules:

- One request at a time; whoever asks meanwhile waits for the same one.
- Five minutes before a token ends it is renewed, beside the mail: sessions go on opening with the old one.
  Where that fails it is said while nothing waits yet, and tried again until the token ends.
- A token that the host refuses is given up for a fresh one, since it may have been revoked; but once. Where
  the fresh one is refused as well, the token was not the reason: the refusal stands, and the same token is
  offered again whenever the relay's breaker lets a session be tried.
- After a failure the endpoint is left alone for a while, longer each time. The breaker, which opens where
  there is no token, waits longer than that, so that its probes do ask.

Traps:

- A server may answer with another refresh token, and take the old one no more (RFC 6749 section 6). The new
  one counts at once; `rotated` is told, because what is configured has become old.
- Lifetimes count from before the request, by the clock that never jumps. That clock may rest while a virtual
  machine does: then the host refuses a token that we believe in, and a fresh one is fetched.
- Whoever waits may be cancelled; the request may not, for others wait as well.

No token and no secret goes into an error, an event or a representation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dispatch.observe import Reporter
from dispatch.ports import Chance, Clock, HttpClient
from dispatch.relays.oauth import FORM, Grant, NoToken, RefreshToken, Token, read_answer, request_form
from dispatch.smtp.client_auth import Credentials
from dispatch.smtp.client_commands import UnwritableCommand

RENEW_BEFORE_S = 300.0
RENEW_JITTER_S = 60.0
"""Up to so much earlier still, so that relays that started together do not ask together."""
ASK_TIMEOUT_S = 30.0
ANSWER_BYTES_MAX = 64 << 10
BACK_OFF_S = 5.0
BACK_OFF_S_MAX = 20.0
"""Below the shortest time that a breaker stays open by default (30 s, less its jitter)."""
REFUSAL_STANDS_S = 300.0
"""For how long after a fresh token was fetched because of a refusal another refusal brings none."""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What is asked of whom, and who logs in with what comes of it."""

    url: str
    grant: Grant
    user: str
    mechanisms: tuple[str, ...] = ("XOAUTH2",)
    in_clear: bool = False

    def credentials(self, token: Token) -> Credentials:
        """Raises `UnwritableCommand` for a token that cannot be sent."""
        return Credentials(self.user, token.value, self.mechanisms, in_clear=self.in_clear)


@dataclass(frozen=True, slots=True)
class _Held:
    credentials: Credentials = field(repr=False)
    renew_at: float
    expires_at: float


class RelayTokens:
    """A `TokenSource`; call it."""

    def __init__(
        self,
        relay: str,
        request: TokenRequest,
        *,
        http: HttpClient,
        clock: Clock,
        chance: Chance,
        report: Reporter,
        rotated: Callable[[str], None],
    ) -> None:
        """`rotated` is told each refresh token that comes in place of the one before."""
        self._relay = relay
        self._request = request
        self._http = http
        self._clock = clock
        self._chance = chance
        self._report = report
        self._rotated = rotated
        self._held: _Held | None = None
        self._asking: asyncio.Task[_Held | NoToken] | None = None
        self._failures = 0
        self._failed = NoToken("", refused=False)
        """The last failure, which also answers whoever asks before `_again_at`."""
        self._again_at = 0.0
        self._stands_until = 0.0

    async def __call__(self, refused: Credentials | None) -> Credentials:
        """Raises `PermissionError` where a token is refused us, another `OSError` where none can be had."""
        now = self._clock.monotonic()
        if refused is not None:
            self._note_refused(refused, now)
        held = self._held
        resting = self._failures > 0 and now < self._again_at
        if held is not None and now < held.expires_at:
            if now >= held.renew_at and self._asking is None and not resting:
                self._ask()
            return held.credentials
        if self._asking is None and resting:
            raise _fault(self._failed)
        got = await asyncio.shield(self._asking or self._ask())
        if isinstance(got, NoToken):
            raise _fault(got)
        return got.credentials

    def _note_refused(self, refused: Credentials, now: float) -> None:
        if self._held is None or self._held.credentials != refused:
            return
        if now < self._stands_until:
            self._report(
                "token_refused", relay=self._relay, by="host", why="a fresh token was refused as well"
            )
            return
        self._held = None
        self._stands_until = now + REFUSAL_STANDS_S

    def _ask(self) -> asyncio.Task[_Held | NoToken]:
        self._asking = asyncio.ensure_future(self._fetch())
        return self._asking

    async def _fetch(self) -> _Held | NoToken:
        try:
            began = self._clock.monotonic()
            got = await self._answered()
            if isinstance(got, Token):
                return self._keep(got, began)
            return self._fail(got)
        finally:
            self._asking = None

    async def _answered(self) -> Token | NoToken:
        """A token that can be sent, or why there is none."""
        request = self._request
        form = request_form(request.grant, request.url, self._clock.wall())
        headers = {"Content-Type": FORM, "Accept": "application/json"}
        try:
            answer = await self._http.post(
                request.url, form, headers, timeout_s=ASK_TIMEOUT_S, answer_bytes_max=ANSWER_BYTES_MAX
            )
        except OSError as error:
            why = f"the token endpoint cannot be reached: {str(error) or type(error).__name__}"
            return NoToken(why, refused=False)
        got = read_answer(answer, request.grant)
        if isinstance(got, Token):
            try:
                request.credentials(got)
            except UnwritableCommand as error:
                return NoToken(f"the token endpoint's token is unusable: {error}", refused=False)
        return got

    def _keep(self, token: Token, began: float) -> _Held:
        request = self._request
        if token.refresh_token and isinstance(request.grant, RefreshToken):
            grant = replace(request.grant, refresh_token=token.refresh_token)
            self._request = request = replace(request, grant=grant)
            self._rotated(token.refresh_token)
        expires_at = began + token.lifetime_s
        early_s = RENEW_BEFORE_S + RENEW_JITTER_S * self._chance.uniform()
        # A token that lives for minutes is used for half of them.
        renew_at = expires_at - min(early_s, token.lifetime_s / 2)
        self._held = _Held(request.credentials(token), renew_at, expires_at)
        self._failures = 0
        self._report("token_fetched", relay=self._relay, lifetime_s=round(token.lifetime_s))
        return self._held

    def _fail(self, failed: NoToken) -> NoToken:
        now = self._clock.monotonic()
        wait_s = min(BACK_OFF_S * 2.0 ** min(self._failures, 16), BACK_OFF_S_MAX)
        wait_s *= 1.0 - 0.25 * self._chance.uniform()
        self._again_at = now + max(wait_s, failed.retry_after_s)
        self._failures += 1
        self._failed = failed
        # What is left of the token in hand says how urgent it is.
        left_s = 0 if self._held is None else max(0, round(self._held.expires_at - now))
        if failed.refused:
            self._report("token_refused", relay=self._relay, by="endpoint", why=failed.why, valid_s=left_s)
        else:
            self._report("token_unavailable", relay=self._relay, why=failed.why, valid_s=left_s)
        return failed


def _fault(failed: NoToken) -> OSError:
    return PermissionError(failed.why) if failed.refused else OSError(failed.why)
