"""API keys: `dsp_live_`, a public part, and a secret one.

    dsp_live_k3v7q2m5x4ab_3fO0Z1u8mJr5…

The public part says which key it is, stands in settings and logs, and gives nobody anything. The secret part
is 32 random bytes in base64url; of it only a hash is kept, so that a key is shown once, when it is made. The
prefix is there for programs that search for secrets that were published by mistake.
"""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple

from dispatch.security.passwords import hash_password

PREFIX = "dsp_live_"
_ID_CHARS = 12
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_SECRET_BYTES = 32
_WRITTEN = re.compile(rf"{PREFIX}([a-z2-7]{{8,64}})_([A-Za-z0-9_-]{{43}})", re.ASCII)


class NewKey(NamedTuple):
    text: str
    """The whole key. Whoever made it shows it once and forgets it."""
    key_id: str
    hashed: str
    """Of the secret part, as `verify_password` reads it."""

    def __repr__(self) -> str:
        return f"NewKey({self.key_id!r})"


class OfferedKey(NamedTuple):
    """A key as a client sent it: of the right form, and nothing more is known."""

    key_id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"OfferedKey({self.key_id!r})"


def new_key() -> NewKey:
    """Takes as long as a hash does: a quarter of a second."""
    key_id = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARS))
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    return NewKey(f"{PREFIX}{key_id}_{secret}", key_id, hash_password(secret))


def read_key(text: str) -> OfferedKey | None:
    """None for what is no key."""
    match = _WRITTEN.fullmatch(text.strip())
    return None if match is None else OfferedKey(match[1], match[2].encode())
