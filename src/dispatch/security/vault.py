"""Sealing secrets, so that a database, a snapshot or a backup holds nothing that can be read.

AES-256-GCM with a random 256-bit key and a random 96-bit nonce for each value (NIST SP 800-38D). What a
secret becomes is one word of printable ASCII::

    v1.3f2a91bc.<nonce, ciphertext and tag in base64url without padding>
    │  └─ which key: a fingerprint, from which nothing can be learnt about the key
    └──── the format; another one is another version's

Rules:
- A sealed value is bound to its name (`relays.smarthost.password`), its format and its key: moved to
  another name it does not open. Whoever can write the database cannot swap two secrets unseen.
- A value that does not open is never replaced and never taken for empty: it may be good, and the key wrong.
- No message, `repr` or traceback of this module contains a key, a secret or a sealed value. A text that is
  not sealed at all may be a secret in the clear.

Traps: random nonces are good for 2**32 seals by one key (SP 800-38D section 8.3), far above what settings
need; it is not meant for messages. A fingerprint that was altered looks like that of another key. An old
sealed value put back under its own name opens: that it is old cannot be seen.

    VaultFault
    ├── WrongKey        sealed with another key; says which, and what to do
    ├── Damaged         altered, cut off, or bound to another name
    └── UnknownFormat   not sealed, or by a version that this one does not know
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_FORMAT = "v1"
_KEY_ID_DIGITS = 8


class VaultFault(Exception):
    """A value cannot be opened. The message is for the operator and holds no secret."""


class WrongKey(VaultFault):
    def __init__(self, name: str, needed: str, at_hand: str) -> None:
        self.needed = needed
        """Fingerprint of the key that the value was sealed with."""
        self.at_hand = at_hand
        super().__init__(
            f"{name} is sealed with key {needed}, and the key here is {at_hand}: put the key file back that "
            f"belongs to this database (.dispatch-key of the machine it came from), or enter the secret "
            f"again; nothing was changed"
        )


class Damaged(VaultFault):
    def __init__(self, name: str, why: str) -> None:
        super().__init__(
            f"{name} cannot be opened: {why}; restore it from a backup, or enter the secret again"
        )


class UnknownFormat(VaultFault):
    def __init__(self, name: str, found: str) -> None:
        super().__init__(f"{name} {found}: this version reads {_FORMAT}")


def key_id_of(key: bytes) -> str:
    """The fingerprint by which people and sealed values name a key: eight hexadecimal digits."""
    return hmac.digest(key, b"dispatch vault key id", hashlib.sha256).hex()[:_KEY_ID_DIGITS]


class Vault:
    """Seals and opens with one key. May be shared between threads."""

    __slots__ = ("_chance", "_cipher", "key_id")

    def __init__(self, key: bytes, *, chance: Callable[[int], bytes] = os.urandom) -> None:
        """`key`: 32 random bytes. `chance`: gives so many unguessable bytes; the nonces come from it."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        self._cipher = AESGCM(key)
        self._chance = chance
        self.key_id = key_id_of(key)

    def __repr__(self) -> str:
        return f"Vault(key_id={self.key_id!r})"

    def seal(self, name: str, secret: bytes) -> str:
        """One word of ASCII, different each time, 48 characters and four thirds of the secret's length."""
        nonce = self._chance(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, secret, _bound_to(name, self.key_id))
        return f"{_FORMAT}.{self.key_id}.{_base64(sealed)}"

    def unseal(self, name: str, sealed: str) -> bytes:
        """The secret. Raises `WrongKey`, `Damaged` or `UnknownFormat`, whatever the text is."""
        key_id, body = _parts(name, sealed)
        if key_id != self.key_id:
            raise WrongKey(name, key_id, self.key_id)
        nonce, ciphertext = body[:_NONCE_BYTES], body[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, ciphertext, _bound_to(name, key_id))
        except InvalidTag:
            raise Damaged(name, "it was altered, or sealed under another name") from None

    def reseal(self, name: str, sealed: str, old: Vault) -> str:
        """The same secret under this key. Raises as `unseal`.

        What this key opens already stays as it is, so a rotation that was cut short is simply repeated.
        """
        if _parts(name, sealed)[0] == self.key_id:
            self.unseal(name, sealed)
            return sealed
        return self.seal(name, old.unseal(name, sealed))


def _bound_to(name: str, key_id: str) -> bytes:
    return f"{_FORMAT}.{key_id}\0{name}".encode()


def _base64(octets: bytes) -> str:
    return urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


def _parts(name: str, sealed: str) -> tuple[str, bytes]:
    """Key id, and nonce with ciphertext and tag; of the right form, and nothing proven yet."""
    written, _, rest = sealed.partition(".")
    if written != _FORMAT:
        # Only what cannot be a secret is repeated.
        known = re.fullmatch(r"v[0-9]{1,3}", written, re.ASCII) and rest
        raise UnknownFormat(name, f"is sealed in format {written}" if known else "is not a sealed value")
    key_id, _, text = rest.partition(".")
    if not re.fullmatch(rf"[0-9a-f]{{{_KEY_ID_DIGITS}}}", key_id):
        raise Damaged(name, "the name of its key was altered")
    try:
        body = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (NotBase64, ValueError):
        raise Damaged(name, "it was altered or cut off") from None
    # The decoder skips what it does not know and ignores left-over bits: only one writing is right.
    if _base64(body) != text or len(body) < _NONCE_BYTES + _TAG_BYTES:
        raise Damaged(name, "it was altered or cut off")
    return key_id, body
