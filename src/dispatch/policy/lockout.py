"""Who may not try to log in for a while, because too many passwords were wrong.

Failures are counted twice: for the address they came from (IPv6 by /64: that is what one subscriber has), and
for the user they were tried on. Each count works alike::

           failures_max within window_s
    OPEN ────────────────────────────────▶ LOCKED for first_s, doubled each time up to longest_s
      ▲                                      │
      └──────────────────────────────────────┘ time is over: a new count, and the doubling goes on
    A success, or window_s in which nothing happened, forgets all of it.

**The owner is not locked out by strangers.** A user's name is no secret, so anybody could keep it locked for
ever. Where a user has logged in from, he is *at home* (for `HOME_S`), and failures there are counted apart:
strangers' failures never lock a home, and a home's failures (a device with an old password) lock neither
other homes nor strangers. A success at home clears the home only; if it cleared the strangers' count too, an
application that logs in each minute would hand its guessers new tries each minute. A first success from a new
place proves the password as well as any, clears the user's count and makes the place a home. Homes are in
memory: after a restart a user under attack is let in when his lock is over and his try comes first.

**A password that is being looked at counts as wrong until it is known.** Looking takes a quarter of a second,
and all that began before the first one ended would be so many guesses more. So `begin` lets as many be looked
at as may be wrong, of an address and of a user, and the others wait for how those end.

Exempt addresses (listed proxies, behind which everybody looks alike) are never locked. Nobody is at home
there either: what is tried through them counts for the user, as from strangers, else a proxy would be a way
to guess without end.

Traps:
- What ends while its count is locked (it was under way) changes nothing, unless it succeeded.
- User names are counted as given: pass the name as it is looked up, or `Alice` and `alice` have ten tries.
- Unknown users are counted like known ones; a lock that falls only for real names would list them.
- An address that has one good login can clear its own count with it between guesses; the count of the user
  that it guesses at stays.

Memory is bounded: `entries_max` counts for each of addresses, users and homes. What is not locked goes first,
the oldest failure first, and locked counts never fill more than three quarters, so that others can still
reach `failures_max`. To push out a lock an attacker needs to lock thousands of others while it lasts.

`now_s` is monotonic seconds. AUTH only: mail that needs no login is none of its business.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from dispatch.policy.limits import address_key

K = TypeVar("K")

ENTRIES_MAX = 8192
HOME_S = 30 * 86_400.0
_LOCKED_SHARE = 0.75
_USER_CHARACTERS_MAX = 128
"""Names alike so far share a count: a peer may send one as long as a command line, and memory is bounded."""
_DOUBLINGS_MAX = 32


def _nobody(address: str) -> bool:
    return False


class LockoutRules(NamedTuple):
    """When somebody is locked out, and for how long."""

    failures_max: int | None = 5
    """The last of so many locks; None: nobody is ever locked out."""
    window_s: float = 600.0
    first_s: float = 60.0
    longest_s: float = 900.0
    """At least `first_s`."""


class _Count:
    __slots__ = ("active_until_s", "failures_s", "locked_until_s", "locks")

    def __init__(self) -> None:
        self.failures_s: list[float] = []
        """When they happened, the oldest first; empty after each lock."""
        self.locks = 0
        self.locked_until_s = 0.0
        self.active_until_s = 0.0
        """The last failure, or the end of the lock: the quiet time begins here."""


class _Counts(Generic[K]):
    """One bounded table of counts, with the rule for each of them."""

    __slots__ = ("_entries_max", "_locked", "_open", "_tried", "rules")

    def __init__(self, rules: LockoutRules, entries_max: int) -> None:
        self.rules = rules
        self._entries_max = entries_max
        self._open: OrderedDict[K, _Count] = OrderedDict()
        """In the order of their last failures, or in which a lock was seen to be over."""
        self._locked: OrderedDict[K, _Count] = OrderedDict()
        """In the order in which they were locked; a lock whose time is over may still stand here."""
        self._tried: Counter[K] = Counter()
        """How many passwords are being looked at, where there are any."""

    def __len__(self) -> int:
        return len(self._open) + len(self._locked)

    def left_s(self, key: K, now_s: float) -> float:
        if self.rules.failures_max is None:
            return 0.0
        count = self._locked.get(key)
        return max(0.0, count.locked_until_s - now_s) if count is not None else 0.0

    def may_try(self, key: K, now_s: float) -> bool:
        """Whether one more may be looked at: were all of them wrong, it would not be one too many."""
        failures_max = self.rules.failures_max
        if failures_max is None:
            return True
        count = self._open.get(key)
        recent = [] if count is None else self._recent(count, now_s)
        return len(recent) + self._tried[key] < failures_max

    def begin(self, key: K) -> None:
        self._tried[key] += 1

    def end(self, key: K) -> None:
        self._tried[key] -= 1
        if not self._tried[key]:
            del self._tried[key]

    def _recent(self, count: _Count, now_s: float) -> list[float]:
        return [at_s for at_s in count.failures_s if now_s - at_s <= self.rules.window_s]

    def clear(self, key: K) -> None:
        self._open.pop(key, None)
        self._locked.pop(key, None)

    def failed(self, key: K, now_s: float) -> float:
        """For how many seconds this failure locks; 0.0 where it does not."""
        rules = self.rules
        if rules.failures_max is None or self.left_s(key, now_s):
            return 0.0
        count = self._locked.pop(key, None) or self._open.pop(key, None)
        if count is None or now_s - count.active_until_s > rules.window_s:
            count = _Count()
            self._make_room(now_s)
        count.failures_s = [*self._recent(count, now_s), now_s]
        if len(count.failures_s) < rules.failures_max:
            count.active_until_s = now_s
            self._open[key] = count
            return 0.0
        lock_s = min(rules.first_s * 2.0 ** min(count.locks, _DOUBLINGS_MAX), rules.longest_s)
        count.failures_s = []
        count.locks += 1
        count.locked_until_s = count.active_until_s = now_s + lock_s
        self._locked[key] = count
        if len(self._locked) > max(1, self._entries_max * _LOCKED_SHARE):
            self._locked.popitem(last=False)
        return lock_s

    def _make_room(self, now_s: float) -> None:
        """Room for one more; locks that are over become open counts, which may have to go."""
        # The first to be locked need not be the first to be free, but is so after `longest_s`: what stands
        # behind it is seen then.
        while self._locked and next(iter(self._locked.values())).locked_until_s <= now_s:
            key, count = self._locked.popitem(last=False)
            self._open[key] = count
        if len(self) >= self._entries_max:
            (self._open or self._locked).popitem(last=False)


class Tried(NamedTuple):
    """A password that is being looked at, by whom it counts for."""

    network: str | None
    """None: its address is exempt."""
    whose: tuple[str, str]


class Lockout:
    """Mutable; one for each process that logs people in."""

    __slots__ = ("_addresses", "_entries_max", "_exempt", "_homes", "_users")

    def __init__(
        self,
        rules: LockoutRules = LockoutRules(),  # noqa: B008  # a tuple: nobody can change it
        entries_max: int = ENTRIES_MAX,
        exempt: Callable[[str], bool] = _nobody,
    ) -> None:
        """`exempt`: whether an address, as the socket names it, is never locked."""
        assert entries_max >= 2
        self._addresses: _Counts[str] = _Counts(rules, entries_max)
        self._users: _Counts[tuple[str, str]] = _Counts(rules, entries_max)
        """By user and home; no home: from wherever else."""
        self._homes: OrderedDict[tuple[str, str], float] = OrderedDict()
        """User and network, until when; the least recently used first."""
        self._entries_max = entries_max
        self._exempt = exempt

    def change(self, rules: LockoutRules) -> None:
        """Go by these from now on. Locks that stand last as long as they were to, unless nobody is locked."""
        self._addresses.rules = self._users.rules = rules

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many addresses, users and homes are kept; each at most `entries_max`."""
        return len(self._addresses), len(self._users), len(self._homes)

    def locked(self, address: str, user: str, now_s: float) -> float:
        """For how many seconds more this user may not be tried from this address; 0.0: he may."""
        network, exempt = address_key(address), self._exempt(address)
        left_s = self._users.left_s(self._whose(user, network, exempt, now_s), now_s)
        return left_s if exempt else max(left_s, self._addresses.left_s(network, now_s))

    def at_home(self, address: str, user: str, now_s: float) -> bool:
        """Whether this user has logged in from there before."""
        whose = self._whose(user, address_key(address), self._exempt(address), now_s)
        return bool(whose[1])

    def begin(self, address: str, user: str, now_s: float) -> Tried | None:
        """A password may be looked at; `end` follows. None: first another one has to end.

        Ask `locked` before.
        """
        network, exempt = address_key(address), self._exempt(address)
        whose = self._whose(user, network, exempt, now_s)
        if not self._users.may_try(whose, now_s):
            return None
        if not exempt:
            if not self._addresses.may_try(network, now_s):
                return None
            self._addresses.begin(network)
        self._users.begin(whose)
        return Tried(None if exempt else network, whose)

    def end(self, tried: Tried) -> None:
        """It was looked at. Say then what came of it: `failed`, `succeeded`, or nothing."""
        if tried.network is not None:
            self._addresses.end(tried.network)
        self._users.end(tried.whose)

    def failed(self, address: str, user: str, now_s: float) -> float:
        """A password was wrong. For how many seconds that locks address or user; 0.0 where it does not."""
        network, exempt = address_key(address), self._exempt(address)
        lock_s = self._users.failed(self._whose(user, network, exempt, now_s), now_s)
        return lock_s if exempt else max(lock_s, self._addresses.failed(network, now_s))

    def succeeded(self, address: str, user: str, now_s: float) -> None:
        """The password was right: the address's count is cleared, and the user's as seen from there."""
        network, exempt = address_key(address), self._exempt(address)
        self._users.clear(self._whose(user, network, exempt, now_s))
        if exempt:
            return
        self._addresses.clear(network)
        home = user[:_USER_CHARACTERS_MAX], network
        self._homes[home] = now_s + HOME_S
        self._homes.move_to_end(home)
        if len(self._homes) > self._entries_max:
            self._homes.popitem(last=False)

    def _whose(self, user: str, network: str, exempt: bool, now_s: float) -> tuple[str, str]:
        """Which of the user's counts is this address's: its own where he is at home, else the common one."""
        home = user[:_USER_CHARACTERS_MAX], network
        if not exempt and self._homes.get(home, now_s) > now_s:
            return home
        return home[0], ""
