"""Who a client is that logs in: user name and password against the logins of the settings.

A name is looked up in small letters. Whether it is unknown, switched off or used from a place that it may not
be used from, the client is told the same as for a wrong password, after the same time. Lockout comes before
any hashing, and hashing has one thread and a short line: a flood of wrong passwords costs its sender time,
and those who are known none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from dispatch.mail.message import Priority
from dispatch.mail.showable import showable
from dispatch.policy.admission import Refusal, refuse_auth
from dispatch.policy.lockout import Lockout
from dispatch.policy.logins import LoginRules
from dispatch.ports import Clock
from dispatch.security.networks import Networks
from dispatch.security.verifying import Verified, Verifier
from dispatch.smtp.wording import AUTHENTICATION_FAILED

USER_CHARS_MAX = 128
"""Of a name that is told: a stranger may send one as long as a line."""
_WRONG = "user name or password is wrong"


class KnownLogin(msgspec.Struct, frozen=True):
    """A login that may be used, as the settings have it."""

    rules: LoginRules
    hashed: str
    networks: Networks | None = None
    """Where it may be used, also beyond `listener.allowed_cidrs`; None: wherever mail may come from."""
    tags: tuple[str, ...] = ()
    priority: Priority = "normal"

    @property
    def name(self) -> str:
        return self.rules.name

    def permits_source(self, address: str) -> bool:
        return self.networks is None or self.networks.contains(address)

    def __repr__(self) -> str:
        return f"KnownLogin({self.name!r})"


Proven = Callable[[KnownLogin | Refusal], None]


class Credentials:
    """All logins of the process; `logins` may be exchanged while it runs."""

    def __init__(
        self, clock: Clock, verifier: Verifier, lockout: Lockout, logins: Mapping[str, KnownLogin]
    ) -> None:
        """`logins` by their names, in small letters."""
        self._clock = clock
        self._verifier = verifier
        self._lockout = lockout
        self.logins = logins

    def prove(self, address: str, user: str, password: bytes, done: Proven) -> None:
        """Call `done` once with the login, or with why not; from within this call where that is known."""
        name = user.lower()
        locked_s = self._lockout.locked(address, name, self._clock.monotonic())
        refusal = refuse_auth(client_address=address, user=name[:USER_CHARS_MAX], locked_s=locked_s)
        if refusal is not None:
            done(refusal)
            return
        login = self.logins.get(name)
        why = _WRONG
        if login is not None and not login.permits_source(address):
            login, why = None, "the login may not be used from there"
        hashed = None if login is None else login.hashed
        self._verifier.verify(
            name, password, hashed, partial(self._verified, address, name, login, why, done)
        )

    def still(self, login: KnownLogin) -> KnownLogin | None:
        """The login as it is now; None where it is gone, switched off, or has another password."""
        now = self.logins.get(login.name)
        return now if now is not None and now.hashed == login.hashed else None

    def _verified(
        self,
        address: str,
        name: str,
        login: KnownLogin | None,
        why: str,
        done: Proven,
        verified: Verified,
    ) -> None:
        now_s = self._clock.monotonic()
        if verified is Verified.BUSY:
            busy = refuse_auth(client_address=address, user=name, busy=True)
            assert busy is not None
            done(busy)
        elif verified is Verified.GOOD and login is not None and (now := self.still(login)) is not None:
            self._lockout.succeeded(address, name, now_s)
            done(now)
        else:
            self._lockout.failed(address, name, now_s)
            done(Refusal(AUTHENTICATION_FAILED, f"login {showable(name[:USER_CHARS_MAX])!r}: {why}", "login"))
