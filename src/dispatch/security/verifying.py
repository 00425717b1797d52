"""Whether a login's password is right, found out beside the loop and never more than one hash at a time.

A bcrypt hash is a quarter of a second of a core: for the guesser that is the point, for a relay it would be a
way to stop it. So there is one worker, a bound on what waits for it, and a cache of what was right.

Rules:
- An unknown user is hashed for like a known one, against `UNKNOWN_USER_HASH`: neither the answer nor its
  time says whether a name exists. (A foreign hash of another cost than 12 takes another time, and tells.)
- The same password of the same user, asked for while it is being hashed, waits for that hash: a hundred
  connections of one application cost one. Those who wait so are not counted; each is a connection, and
  connections are bounded elsewhere.
- Who is known to come from where he comes from goes before all others, in a line of its own: however many
  strangers guess from however many places, he waits for the hash that is under way.
- What cannot be found out now is BUSY, a temporary reply (454, RFC 4954 section 6), never WRONG: the client
  would throw its password away, and lockout would count it.

It knows nothing of lockout: whoever calls asks `dispatch.policy.lockout` before, and tells it after.

Trap: the answer holds for the hash as it was when asked. Whoever may revoke meanwhile looks again at `done`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import partial

from dispatch.ports import Clock, Worker
from dispatch.security.credential_cache import CredentialCache
from dispatch.security.passwords import UNKNOWN_USER_HASH, verify_password

WAITING_MAX = 32
"""Hashes in each of the two lines; at cost 12 so many take eight seconds."""


class Verified(Enum):
    GOOD = "good"
    WRONG = "wrong"
    """No such user, or not this password: not to be told apart."""
    BUSY = "busy"
    """Not found out; asking later may help."""


Done = Callable[[Verified], None]


class _Hash:
    """One to be made, and who waits for it."""

    __slots__ = ("first", "hashed", "key", "password", "user", "waiting")

    def __init__(self, key: bytes, user: str, password: bytes, hashed: str | None, first: bool) -> None:
        self.key = key
        self.user = user
        self.password = password
        self.hashed = hashed
        self.first = first
        self.waiting: list[Done] = []

    @property
    def against(self) -> str:
        return UNKNOWN_USER_HASH if self.hashed is None else self.hashed


class Verifier:
    """One for each process that logs people in; on the loop, as everything but the hashing."""

    __slots__ = ("_cache", "_clock", "_hashes", "_lines", "_under_way", "_waiting_max", "_worker")

    def __init__(
        self, worker: Worker, clock: Clock, cache: CredentialCache, *, waiting_max: int = WAITING_MAX
    ) -> None:
        """`worker`: one that does nothing else, or logins wait for what else it does."""
        assert waiting_max >= 1
        self._worker = worker
        self._clock = clock
        self._cache = cache
        self._waiting_max = waiting_max
        self._hashes: dict[bytes, _Hash] = {}
        """All that are asked for, by the cache's digest: passwords are no keys."""
        self._lines: dict[bool, deque[_Hash]] = {True: deque(), False: deque()}
        """Those that wait; the first of the line of the first is next."""
        self._under_way: _Hash | None = None

    @property
    def hashing(self) -> int:
        """How many hashes are asked for."""
        return len(self._hashes)

    def remembers(self, user: str, password: bytes, hashed: str | None) -> bool:
        """Whether it was right minutes ago: `verify` answers at once."""
        now_s = self._clock.monotonic()
        return hashed is not None and self._cache.knows(user, password, hashed, now_s)

    def digest(self, user: str, password: bytes, hashed: str | None) -> bytes:
        """What stands for the question; the same for the same one, as long as the process lives."""
        return self._cache.digest(user, password, UNKNOWN_USER_HASH if hashed is None else hashed)

    def verify(
        self, user: str, password: bytes, hashed: str | None, done: Done, *, first: bool = False
    ) -> None:
        """Call `done` exactly once; `hashed` is None where there is no such user, or none who may log in.
        `first`: he is known to come from there.

        Unlike what takes a callback elsewhere, it answers *from within this call* where it can: GOOD for a
        password that was right minutes ago, BUSY where too many wait. Otherwise a turn of the loop later or
        more, in each line in the order of asking.
        """
        if self.remembers(user, password, hashed):
            done(Verified.GOOD)
            return
        key = self.digest(user, password, hashed)
        asked = self._hashes.get(key)
        if asked is None:
            if self._full(first):
                done(Verified.BUSY)
                return
            asked = self._hashes[key] = _Hash(key, user, password, hashed, first)
            self._lines[first].append(asked)
        asked.waiting.append(done)
        self._next()

    def _full(self, first: bool) -> bool:
        under_way = self._under_way is not None and self._under_way.first is first
        return len(self._lines[first]) + under_way >= self._waiting_max

    def _next(self) -> None:
        line = self._lines[True] or self._lines[False]
        if self._under_way is None and line:
            self._under_way = asked = line.popleft()
            work = partial(verify_password, asked.password, asked.against)
            self._worker.call(work, partial(self._found, asked))

    def _found(self, asked: _Hash, result: bool | Exception) -> None:
        match result:
            case True if asked.hashed is not None:
                now_s = self._clock.monotonic()
                self._cache.remember(asked.user, asked.password, asked.hashed, now_s)
                verified = Verified.GOOD
            case bool():
                verified = Verified.WRONG
            case _:
                # The machine failed (no memory), not the password.
                verified = Verified.BUSY
        self._under_way = None
        del self._hashes[asked.key]
        for done in asked.waiting:
            done(verified)
        self._next()
