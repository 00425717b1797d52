"""The server's side of the SASL mechanisms that we offer: responses in, a name and a password out.

PLAIN (RFC 4616) and LOGIN (draft-murchison-sasl-login, which never became an RFC but is what many devices
speak). Both hand the password over, so they want TLS around them: who may use them when, is `server_auth`'s.

An exchange lives for one AUTH. It is given each response, decoded from base64, and says one of three things:
what is to be asked next, what the client claims, or what is wrong with it. It never says a password back.

Rules:

- A user name is UTF-8, is not empty and holds no NUL. No password is empty (RFC 4616 section 2: 1*SAFE).
- PLAIN is UTF-8 as a whole. LOGIN names no encoding for its password: octets are octets, and those that are
  not UTF-8 will be a wrong password.
- Nobody acts for somebody else: the authorization identity of PLAIN is empty or repeats the user name.

Names and passwords are not prepared (SASLprep, RFC 4013): the same octets must be sent that were set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from dispatch.mail.reply import Reply
from dispatch.smtp import wording
from dispatch.smtp.events import AuthOffered


class Exchange(Protocol):
    """One AUTH, from its mechanism's name to the last response."""

    @property
    def challenge(self) -> bytes:
        """What the client is asked now; empty is a question, too."""
        ...

    @property
    def last(self) -> bool:
        """The next response is the client's last one."""
        ...

    def respond(self, response: bytes) -> AuthOffered | Reply | None:
        """None: there is another challenge."""
        ...


class Plain:
    """One response says all (RFC 4616 section 2)."""

    challenge = b""
    last = True

    def respond(self, response: bytes) -> AuthOffered | Reply:
        parts = response.split(b"\0")
        if len(parts) != 3 or not _is_utf8(response):
            return wording.RESPONSE_MALFORMED
        acting_for, name, password = parts
        user = _user_name(name)
        if user is None or not password:
            return wording.RESPONSE_MALFORMED
        if acting_for and acting_for != name:
            return wording.AUTHENTICATION_FAILED
        return AuthOffered("PLAIN", user, password)


class Login:
    """Two questions; the first may be answered before it is asked."""

    def __init__(self) -> None:
        self.challenge = b"Username:"
        self._user: str | None = None

    @property
    def last(self) -> bool:
        return self._user is not None

    def respond(self, response: bytes) -> AuthOffered | Reply | None:
        if self._user is not None:
            return AuthOffered("LOGIN", self._user, response) if response else wording.RESPONSE_MALFORMED
        self._user = _user_name(response)
        if self._user is None:
            return wording.RESPONSE_MALFORMED
        self.challenge = b"Password:"
        return None


MECHANISMS: Mapping[str, Callable[[], Exchange]] = {"PLAIN": Plain, "LOGIN": Login}


def _user_name(octets: bytes) -> str | None:
    if not octets or b"\0" in octets or not _is_utf8(octets):
        return None
    return octets.decode()


def _is_utf8(octets: bytes) -> bool:
    """RFC 3629: neither surrogates nor overlong forms."""
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True
