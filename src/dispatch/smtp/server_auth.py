"""AUTH on one connection (RFC 4954): what is refused at once, the exchange under way, what failed so far.

The core hands over arguments and lines, and gets one of three things back: `AuthOffered`, to be asked of the
driver; a challenge (334), whose response is the next line; or `Denied`, and the exchange is over. Neither the
core nor this file keeps a password, and no reply quotes what a client sent.

Trap: behind an AUTH that was denied may come what the client would have answered to a challenge: a password.
RFC 2920 section 3.1 lets nothing be sent behind AUTH, but a client that sends it all in one go is served as
long as the exchange goes well. `Denied.more_to_come` says that lines behind are no commands.
"""

from __future__ import annotations

import binascii

import msgspec

from dispatch.mail.reply import Reply
from dispatch.smtp import wording
from dispatch.smtp.events import AuthOffered
from dispatch.smtp.lines import BadLine
from dispatch.smtp.sasl import MECHANISMS, Exchange
from dispatch.smtp.server_settings import ServerSettings, serves_auth

RESPONSE_LINE_BYTES_MAX = 12_288 + 2
"""With CRLF (RFC 4954 section 4)."""


class Denied(msgspec.Struct, frozen=True):
    """No AUTH, or no longer: the connection stands where it stood before."""

    reply: Reply
    more_to_come: bool
    """The client owes responses, and may have sent them: they are no commands."""


Step = AuthOffered | Reply | Denied
"""A `Reply` is a challenge."""


class Authentication:
    """What the core knows of logins."""

    __slots__ = ("_exchange", "_failures", "_settings")

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._exchange: Exchange | None = None
        self._failures = 0

    def begin(self, argument: str, *, secured: bool, authenticated: bool) -> Step:
        """AUTH, in its place."""
        name, initial = _split(argument)
        refusal = self._objection(name, secured=secured, authenticated=authenticated)
        if refusal is not None:
            return _denied_before(argument, refusal)
        self._exchange = exchange = MECHANISMS[name]()
        if initial is None:
            return wording.challenge(exchange.challenge)
        return self._go_on(b"" if initial == "=" else _decoded(initial))

    def _objection(self, name: str, *, secured: bool, authenticated: bool) -> Reply | None:
        settings = self._settings
        if not settings.auth_mechanisms:
            return wording.NOT_IMPLEMENTED
        if authenticated:
            return wording.ALREADY_AUTHENTICATED  # RFC 4954 section 4
        if not serves_auth(settings, secured=secured):
            return wording.ENCRYPTION_REQUIRED
        if self._failures >= settings.auth_failures_max:
            return wording.TOO_MANY_FAILED_LOGINS
        if not name:
            return wording.AUTH_SYNTAX
        return None if name in settings.auth_mechanisms else wording.MECHANISM_UNKNOWN

    def out_of_sequence(self, argument: str, reply: Reply) -> Denied:
        """AUTH where it may not stand; where it is not served at all, that comes first."""
        return _denied_before(argument, reply if self._settings.auth_mechanisms else wording.NOT_IMPLEMENTED)

    def respond(self, line: bytes | BadLine) -> Step:
        """The line behind a challenge."""
        if line == b"*":  # RFC 4954 section 4: the client gives up, and sends no more
            self._exchange = None
            return Denied(wording.AUTH_CANCELLED, more_to_come=False)
        if isinstance(line, BadLine):
            too_long = line.reply is wording.LINE_TOO_LONG
            return self._end(wording.RESPONSE_TOO_LONG if too_long else wording.RESPONSE_MALFORMED)
        return self._go_on(_decoded(line))

    def _go_on(self, response: bytes | None) -> Step:
        exchange = self._exchange
        assert exchange is not None
        if response is None:
            return self._end(wording.RESPONSE_MALFORMED)
        match exchange.respond(response):
            case None:
                return wording.challenge(exchange.challenge)
            case AuthOffered() as offered:
                self._exchange = None
                return offered
            case refusal:
                return self._end(refusal)

    def _end(self, refusal: Reply) -> Denied:
        exchange, self._exchange = self._exchange, None
        assert exchange is not None
        if refusal is wording.AUTHENTICATION_FAILED:
            self._failures += 1
        return Denied(refusal, more_to_come=not exchange.last)

    def judged(self, verdict: Reply) -> None:
        """The driver's answer. 454 counts as a failure, too: who knocks at a lock goes on guessing."""
        if not verdict.positive:
            self._failures += 1


def _denied_before(argument: str, reply: Reply) -> Denied:
    """AUTH did not begin. Only an argument that needs no challenge leaves nothing to come."""
    name, initial = _split(argument)
    mechanism = MECHANISMS.get(name)
    return Denied(reply, more_to_come=initial is None or mechanism is None or not mechanism().last)


def _split(argument: str) -> tuple[str, str | None]:
    """Mechanism in upper case, empty if there is none or too much; and the initial response, as it came."""
    words = [word for word in argument.split(" ") if word]
    if not 1 <= len(words) <= 2 or not words[0].isascii():
        return "", None
    return words[0].upper(), words[1] if len(words) == 2 else None


def _decoded(text: str | bytes) -> bytes | None:
    """RFC 4648 section 4, to the letter: no white space, nothing behind the padding."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return None
