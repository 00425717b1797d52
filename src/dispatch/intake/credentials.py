"""Who a client is that logs in: user name and password against the logins of the settings.

A name is looked up in small letters. Whether it is unknown, switched off or used from a place that it may not
be used from, the client is told the same as for a wrong password, after the same time. Lockout comes before
any hashing, and hashing has one thread and a short line: a flood of wrong passwords costs its sender time,
and those who are known none. Who has logged in from there before goes before those who have not.

A password that is offered becomes a *guess*. Of one address, and of one user, only as many guesses are hashed
at once as lockout would let fail (`Lockout.begin`); others are held back, and begin, or are locked out, when
those before them have ended. The same password from the same place, offered while it is looked at, is the
same guess: a hundred connections of one application cost one hash, and one failure where it is wrong. What is
remembered is no guess and waits for nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from dispatch.mail.message import Priority
from dispatch.mail.showable import showable
from dispatch.policy.admission import Refusal, refuse_auth
from dispatch.policy.limits import address_key
from dispatch.policy.lockout import Lockout, Tried
from dispatch.policy.logins import LoginRules
from dispatch.ports import Clock
from dispatch.security.networks import Networks
from dispatch.security.verifying import Verified, Verifier
from dispatch.smtp.wording import AUTHENTICATION_FAILED

HELD_MAX = 256
"""Guesses that are held back, of all addresses; more are told to try again later."""
OFFERS_MAX = 1000
"""Of one guess; a connection that ends while it waits is forgotten with the guess only."""
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


class _Guess:
    """One password, and everybody who offers it from the same place just now."""

    __slots__ = ("address", "hashed", "login", "name", "password", "waiting", "why")

    def __init__(
        self, address: str, name: str, password: bytes, login: KnownLogin | None, why: str, done: Proven
    ) -> None:
        """`login` is None where there is none that may be used from there."""
        self.address = address
        self.name = name
        self.password = password
        self.login = login
        self.hashed = None if login is None else login.hashed
        self.why = why
        """What the operator is told where it is wrong."""
        self.waiting = [done]


_Key = tuple[bytes, str]
"""Password with user and hash, by the cache's digest; and the network that it is offered from."""


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
        self._guesses: dict[_Key, _Guess] = {}
        """Those that are being looked at, and those that are held back."""
        self._held: dict[_Key, _Guess] = {}
        """The latter, in the order in which they came."""
        self._releasing = False

    def prove(self, address: str, user: str, password: bytes, done: Proven) -> None:
        """Call `done` once with the login, or with why not; from within this call where that is known."""
        name = user.lower()
        locked = self._locked(address, name)
        if locked is not None:
            done(locked)
            return
        login, why = self.logins.get(name), _WRONG
        if login is not None and not login.permits_source(address):
            login, why = None, "the login may not be used from there"
        guess = _Guess(address, name, password, login, why, done)
        if self._verifier.remembers(name, password, guess.hashed):
            self._answer(guess, self._judge(guess, Verified.GOOD))
            return
        key = self._verifier.digest(name, password, guess.hashed), address_key(address)
        same = self._guesses.get(key)
        if same is not None and len(same.waiting) < OFFERS_MAX:
            same.waiting.append(done)
        elif same is not None or len(self._held) >= HELD_MAX:
            done(self._judge(guess, Verified.BUSY))
        else:
            self._guesses[key] = guess
            if not self._begin(key, guess):
                self._held[key] = guess

    def still(self, login: KnownLogin) -> KnownLogin | None:
        """The login as it is now; None where it is gone, switched off, or has another password."""
        now = self.logins.get(login.name)
        return now if now is not None and now.hashed == login.hashed else None

    def _locked(self, address: str, name: str) -> Refusal | None:
        locked_s = self._lockout.locked(address, name, self._clock.monotonic())
        return refuse_auth(client_address=address, user=name[:USER_CHARS_MAX], locked_s=locked_s)

    def _begin(self, key: _Key, guess: _Guess) -> bool:
        """Have it looked at; False where lockout wants others to end first."""
        now_s = self._clock.monotonic()
        tried = self._lockout.begin(guess.address, guess.name, now_s)
        if tried is None:
            return False
        verified = partial(self._verified, key, tried)
        first = self._lockout.at_home(guess.address, guess.name, now_s)
        self._verifier.verify(guess.name, guess.password, guess.hashed, verified, first=first)
        return True

    def _verified(self, key: _Key, tried: Tried, verified: Verified) -> None:
        guess = self._guesses.pop(key)
        self._lockout.end(tried)
        self._answer(guess, self._judge(guess, verified))
        self._release()

    def _judge(self, guess: _Guess, verified: Verified) -> KnownLogin | Refusal:
        """What it comes to, and lockout is told of it: once, whoever waits."""
        now_s = self._clock.monotonic()
        if verified is Verified.BUSY:
            busy = refuse_auth(client_address=guess.address, user=guess.name, busy=True)
            assert busy is not None
            return busy
        login = guess.login
        if verified is Verified.GOOD and login is not None and (now := self.still(login)) is not None:
            self._lockout.succeeded(guess.address, guess.name, now_s)
            return now
        self._lockout.failed(guess.address, guess.name, now_s)
        name = showable(guess.name[:USER_CHARS_MAX])
        return Refusal(AUTHENTICATION_FAILED, f"login {name!r}: {guess.why}", "login")

    def _answer(self, guess: _Guess, answer: KnownLogin | Refusal) -> None:
        for done in guess.waiting:
            done(answer)

    def _release(self) -> None:
        """One has ended: others may begin, or are locked out because of it."""
        if self._releasing:
            # One that could not even wait for a hash ended at once; whoever calls looks at the next.
            return
        self._releasing = True
        # Who is answered may offer the next password from within.
        held, self._held = self._held, {}
        for key, guess in held.items():
            locked = self._locked(guess.address, guess.name)
            if locked is not None:
                del self._guesses[key]
                self._answer(guess, locked)
            elif not self._begin(key, guess):
                self._held[key] = guess
        self._releasing = False
