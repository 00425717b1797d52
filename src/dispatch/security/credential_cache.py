"""Which passwords were right a moment ago, so that a client that logs in each second is hashed for once.

What is kept is a digest: HMAC-SHA256 by a key of this process, over user name, password and the hash that
the password was checked against. So

- no password is kept, and a dump of the memory gives, without the key that stands in it too, nothing to
  guess at; with it, guessing costs an HMAC instead of a bcrypt, for the few minutes that an entry lives;
- a changed hash forgets at once: under the new one there is no entry;
- only right passwords are kept. Wrong ones cost a hash each time, and lockout bounds how often.

Entries live for `ttl_s` from the check, however often they are used, and the least recently used goes when
`entries_max` is reached. Times are monotonic seconds. Not shared between threads.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict

TTL_S = 300.0
ENTRIES_MAX = 4096
_KEY_BYTES_MIN = 16


class CredentialCache:
    """Bounded: about 300 bytes an entry, beside its user name."""

    __slots__ = ("_entries", "_entries_max", "_key", "_ttl_s")

    def __init__(self, key: bytes, *, ttl_s: float = TTL_S, entries_max: int = ENTRIES_MAX) -> None:
        """`key`: random, made at the start of the process and kept nowhere else (32 bytes are right)."""
        if len(key) < _KEY_BYTES_MIN:
            raise ValueError(f"a key has at least {_KEY_BYTES_MIN} bytes, not {len(key)}")
        assert ttl_s >= 0 and entries_max >= 1
        self._key = key
        self._ttl_s = ttl_s
        self._entries_max = entries_max
        self._entries: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        """Until when, and whose; the least recently used first."""

    def __len__(self) -> int:
        return len(self._entries)

    def digest(self, user: str, password: bytes, hashed: str) -> bytes:
        """32 bytes that stand for the three, for as long as the process lives."""
        name, text = user.encode("utf-8", "surrogatepass"), hashed.encode("utf-8", "surrogatepass")
        # With the lengths in front no two triples are written alike.
        framed = b"%d %d %b%b%b" % (len(name), len(password), name, password, text)
        return hmac.digest(self._key, framed, "sha256")

    def knows(self, user: str, password: bytes, hashed: str, now_s: float) -> bool:
        """Whether exactly this was found right within the last `ttl_s`."""
        # That a look-up takes more or less time says nothing: nobody without the key can choose digests.
        digest = self.digest(user, password, hashed)
        entry = self._entries.get(digest)
        if entry is None:
            return False
        if now_s >= entry[0]:
            del self._entries[digest]
            return False
        self._entries.move_to_end(digest)
        return True

    def remember(self, user: str, password: bytes, hashed: str, now_s: float) -> None:
        """The password was checked against the hash just now, and is right."""
        digest = self.digest(user, password, hashed)
        self._entries[digest] = now_s + self._ttl_s, user
        self._entries.move_to_end(digest)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    def forget(self, user: str) -> None:
        """The login was revoked. Looks at every entry (a fraction of a millisecond)."""
        for digest in [digest for digest, (_, owner) in self._entries.items() if owner == user]:
            del self._entries[digest]
