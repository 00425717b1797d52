"""The client's side of AUTH (RFC 4954) and of its mechanisms (SASL, RFC 4422), without I/O.

Duty: choose a mechanism, write its lines, answer its challenges. Whether to begin at all is
`client_opening`'s matter.

Rules:

- A mechanism is a generator. It yields its initial response, or None where the host speaks first; it is sent
  each challenge as the host wrote it and yields the answer. When it is exhausted, nothing more may be asked.
- No secret is shown: not by `repr`, not by an error, and not by the host. Some hosts repeat the line that
  they refuse, so what they say is searched for what we told them (`redacted`).

Traps:

- An initial response that makes the command longer than 512 octets must wait for the host's 334 (RFC 4954
  section 4). With bearer tokens that is the usual case.
- An OAuth mechanism that fails says why in a 334, and refuses only when that was answered (RFC 7628 section
  3.2.3). What it said goes with the refusal, because the refusal itself rarely says anything.

Deliberately not here: SASLprep (RFC 4013; strings go out as they were given), security layers (none of these
mechanisms has one), and how bearer tokens are had and renewed.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import msgspec

from dispatch.mail.reply import Reply
from dispatch.smtp.client_commands import UnwritableCommand, command
from dispatch.smtp.replies import scrubbed

_COMMAND_BYTES_MAX = 512
"""With CRLF (RFC 5321 section 4.5.3.1.4)."""
_COMPLAINT_CHARACTERS_MAX = 200

_UNSENDABLE = re.compile("[\x00\ud800-\udfff]")
"""NUL separates the fields of PLAIN (RFC 4616 section 2); lone surrogates have no UTF-8."""
_UNSENDABLE_BY_OAUTH = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
"""The OAuth mechanisms separate their fields with 0x01 (RFC 7628 section 3.1)."""
_ENCODED = re.compile("[A-Za-z0-9+/]{8,}")

_Steps = Generator[bytes | None, str, None]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are to a host, and how we may prove it.

    Raises `UnwritableCommand` for a user or secret that no mechanism listed can carry, and `ValueError` for
    mechanisms that are none of `MECHANISMS`. Neither names the secret.
    """

    user: str
    secret: str = field(repr=False)
    """The password; for XOAUTH2 and OAUTHBEARER the bearer token."""
    mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN")
    """Those allowed, the preferred one first."""
    in_clear: bool = False
    """They may go over a connection without TLS."""

    def __post_init__(self) -> None:
        unknown = set(self.mechanisms) - MECHANISMS.keys()
        if unknown or not self.mechanisms:
            raise ValueError(f"AUTH mechanisms unknown or none: {', '.join(sorted(unknown))}")
        forbidden = _UNSENDABLE if _OAUTH.isdisjoint(self.mechanisms) else _UNSENDABLE_BY_OAUTH
        for what, value in (("user", self.user), ("password or token", self.secret)):
            if not value:
                raise UnwritableCommand(f"AUTH: the {what} is empty")
            if forbidden.search(value):
                raise UnwritableCommand(f"AUTH: a character in the {what} cannot be sent")

    def choose(self, offered: tuple[str, ...]) -> str | None:
        """The first allowed mechanism that the host offers."""
        return next((mechanism for mechanism in self.mechanisms if mechanism in offered), None)


class Unanswerable(Exception):
    """The host asked what the mechanism has no answer to; the text says what, without the host's words."""


class Authentication:
    """One exchange, from AUTH to the reply that ends it."""

    def __init__(self, credentials: Credentials, mechanism: str) -> None:
        self._credentials = credentials
        self._mechanism = mechanism
        self._complaint = ""
        """What an OAuth mechanism said of its failure before it refused."""
        self._steps = MECHANISMS[mechanism](self)
        self._held: bytes | None = None
        """An initial response too long for its command."""
        self._told: list[str] = []

    def first_line(self) -> bytes:
        """The AUTH command, with the initial response where it may have one."""
        response = next(self._steps)
        if response is not None:
            line = command("AUTH", f"{self._mechanism} {self._encoded(response)}")
            if len(line) <= _COMMAND_BYTES_MAX:
                return line
            self._held = response
        return command("AUTH", self._mechanism)

    def answer(self, challenge: Reply) -> bytes:
        """The line that answers a 334. Raises `Unanswerable`."""
        response, self._held = self._held, None
        if response is None:
            try:
                response = self._steps.send(challenge.text)
            except StopIteration:
                raise Unanswerable(f"{self._mechanism}: the host asks for more than there is") from None
        assert response is not None
        return self._encoded(response).encode() + b"\r\n"

    def refused(self, reply: Reply) -> Reply:
        """The refusal as it is to be shown: with what was complained of before it."""
        if not self._complaint:
            return reply
        complaint = self._without_secret(self._complaint)[:_COMPLAINT_CHARACTERS_MAX]
        return Reply(reply.code, reply.enhanced, (*reply.lines, complaint))

    def redacted(self, reply: Reply) -> Reply:
        """The reply without anything in it that we told the host."""
        lines = tuple(map(self._without_secret, reply.lines))
        return reply if lines == reply.lines else Reply(reply.code, reply.enhanced, lines)

    def _without_secret(self, line: str) -> str:
        line = line.replace(self._credentials.secret, "[secret]")
        # A host that repeats our line may cut it, so a piece of what was told is as good as all of it.
        return _ENCODED.sub(
            lambda found: "[secret]" if any(found[0] in told for told in self._told) else found[0], line
        )

    def _encoded(self, response: bytes) -> str:
        encoded = base64.b64encode(response).decode()
        self._told.append(encoded)
        return encoded

    # Mechanisms

    def _plain(self) -> _Steps:
        """RFC 4616; no authorization identity: it follows from the user."""
        yield f"\0{self._credentials.user}\0{self._credentials.secret}".encode()

    def _login(self) -> _Steps:
        """No standard (draft-murchison-sasl-login): prompts differ between hosts, their order does not."""
        yield None
        yield self._credentials.user.encode()
        yield self._credentials.secret.encode()

    def _cram_md5(self) -> _Steps:
        """RFC 2195 section 2."""
        challenge = _decoded((yield None))
        if challenge is None:
            raise Unanswerable("CRAM-MD5: the challenge is not base64")
        digest = hmac.digest(self._credentials.secret.encode(), challenge, "md5").hex()
        yield f"{self._credentials.user} {digest}".encode()

    def _xoauth2(self) -> _Steps:
        """Google's and Microsoft's forerunner of RFC 7628; the answer to its complaint is an empty line."""
        credentials = self._credentials
        complaint = yield f"user={credentials.user}\1auth=Bearer {credentials.secret}\1\1".encode()
        self._complaint = _complaint(complaint)
        yield b""

    def _oauthbearer(self) -> _Steps:
        """RFC 7628 section 3.1, without host and port, which only signed tokens need; section 3.2.3."""
        # A saslname has no bare "," or "=" (RFC 5801 section 4).
        user = self._credentials.user.replace("=", "=3D").replace(",", "=2C")
        complaint = yield f"n,a={user},\1auth=Bearer {self._credentials.secret}\1\1".encode()
        self._complaint = _complaint(complaint)
        yield b"\1"


MECHANISMS: dict[str, Callable[[Authentication], _Steps]] = {
    "PLAIN": Authentication._plain,
    "LOGIN": Authentication._login,
    "CRAM-MD5": Authentication._cram_md5,
    "XOAUTH2": Authentication._xoauth2,
    "OAUTHBEARER": Authentication._oauthbearer,
}
_OAUTH = frozenset({"XOAUTH2", "OAUTHBEARER"})


def _decoded(challenge: str) -> bytes | None:
    try:
        return base64.b64decode(challenge, validate=True)
    except (binascii.Error, ValueError):
        return None


def _complaint(challenge: str) -> str:
    """The JSON error of an OAuth mechanism (RFC 7628 section 3.2.2) in words: `status 400, scope mail`."""
    told = _decoded(challenge)
    if told is None:
        return challenge
    try:
        fields = msgspec.json.decode(told, type=dict[str, str | int])
    except msgspec.DecodeError:
        return scrubbed(told)
    return scrubbed(", ".join(f"{name} {value}" for name, value in fields.items()).encode())
