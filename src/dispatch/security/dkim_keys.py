"""The private keys that sign with DKIM: made, read from PEM, and shown as the DNS record that names them.

RSA keys have at least 1024 bits; from 2048 on they are without remark (RFC 8301 section 3.2). Ed25519
keys are those of RFC 8463. A signature takes about 0.3 ms with 2048 bits of RSA and a tenth of that with
Ed25519; but not every verifier knows Ed25519, so sign with both or with RSA.

What a PEM holds appears in no error, representation or record. Keys are stored by whoever calls, in
the vault, and so they come without a password.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from typing import Literal, assert_never

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from dispatch.mime.dkim import Algorithm

KeyKind = Literal["rsa", "ed25519"]

RSA_BITS_MIN = 1024
RSA_BITS_ADVISED = 2048
RSA_BITS_VERIFIED_MAX = 4096
"""What every verifier must be able to check; larger keys they may (RFC 8301 section 3.2)."""
TXT_STRING_BYTES_MAX = 255
"""Of one character-string in a TXT record (RFC 1035 section 3.3)."""

_PADDING = PKCS1v15()
_HASH = SHA256()


class UnusableKey(ValueError):
    """The text is no key that may sign; the message says why, and holds nothing of the key."""


class DkimKey:
    """A private key as `mime.dkim.Signer`; may be used by several threads at once."""

    __slots__ = ("_private", "algorithm", "remark")

    def __init__(self, private: RSAPrivateKey | Ed25519PrivateKey) -> None:
        """Raises `UnusableKey` for an RSA key that is too short."""
        self._private = private
        self.algorithm: Algorithm = (
            "ed25519-sha256" if isinstance(private, Ed25519PrivateKey) else "rsa-sha256"
        )
        self.remark = _remark(private)
        """What an operator ought to know about it, or None."""

    @property
    def kind(self) -> KeyKind:
        """The name that `k=` gives it."""
        return "ed25519" if isinstance(self._private, Ed25519PrivateKey) else "rsa"

    def sign(self, data: bytes) -> bytes:
        private = self._private
        if isinstance(private, RSAPrivateKey):
            return private.sign(data, _PADDING, _HASH)
        # RFC 8463 section 3: the hash is what is signed, as a message of its own.
        return private.sign(sha256(data).digest())

    def public_octets(self) -> bytes:
        """As `p=` holds them: bare for Ed25519 (RFC 8463 section 4.2), a SubjectPublicKeyInfo for RSA.

        RFC 6376 section 3.6.1 describes RSA otherwise, but its examples and all verifiers have it so.
        """
        public = self._private.public_key()
        if isinstance(self._private, Ed25519PrivateKey):
            return public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def load(pem: str) -> DkimKey:
    """A private key from PEM (PKCS #8 or PKCS #1) without password; raises `UnusableKey`."""
    try:
        private = load_pem_private_key(pem.encode(), password=None)
    except TypeError:
        raise UnusableKey("the key is protected by a password: store it without one") from None
    except (ValueError, UnsupportedAlgorithm):
        # Whatever the library says could quote the key.
        raise UnusableKey("this is no private key in PEM format") from None
    if not isinstance(private, (RSAPrivateKey, Ed25519PrivateKey)):
        raise UnusableKey("DKIM knows RSA and Ed25519 keys; this is another kind")
    return DkimKey(private)


def generate(kind: KeyKind) -> str:
    """A new private key as PEM (PKCS #8, unencrypted). RSA has 2048 bits, and takes up to a second."""
    private: RSAPrivateKey | Ed25519PrivateKey
    match kind:
        case "rsa":
            private = generate_private_key(public_exponent=65537, key_size=RSA_BITS_ADVISED)
        case "ed25519":
            private = Ed25519PrivateKey.generate()
        case _:
            assert_never(kind)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def dns_record(key: DkimKey) -> str:
    """The text of the TXT record at `<selector>._domainkey.<domain>` (RFC 6376 section 3.6.1)."""
    return f"v=DKIM1; k={key.kind}; p={b64encode(key.public_octets()).decode('ascii')}"


def zone_strings(record: str) -> str:
    """A record as a zone file wants it: quoted strings of at most 255 octets, with spaces between.

    Readers join them without the spaces (RFC 6376 section 3.6.2.2). Nothing in a record needs escaping.
    """
    starts = range(0, len(record), TXT_STRING_BYTES_MAX)
    return " ".join(f'"{record[start : start + TXT_STRING_BYTES_MAX]}"' for start in starts)


def _remark(private: RSAPrivateKey | Ed25519PrivateKey) -> str | None:
    if isinstance(private, Ed25519PrivateKey):
        return None
    bits = private.key_size
    if bits < RSA_BITS_MIN:
        raise UnusableKey(f"an RSA key of {bits} bits: no verifier accepts fewer than {RSA_BITS_MIN}")
    if bits < RSA_BITS_ADVISED:
        return f"an RSA key of {bits} bits: {RSA_BITS_ADVISED} are advised (RFC 8301)"
    if bits > RSA_BITS_VERIFIED_MAX:
        return f"an RSA key of {bits} bits: not every verifier accepts more than {RSA_BITS_VERIFIED_MAX}"
    return None
