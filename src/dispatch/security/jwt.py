"""Signed statements about ourselves: a JSON Web Token (RFC 7519), signed with RS256 (RFC 7518 section 3.3).

A service account of Google's proves who it is with one (`relays.oauth` says what it states). The account
comes as the JSON file that Google hands out; of it the address, the key and the key's name are used.

Rules:

- What the file holds of the key appears in no error and no representation.
- Only what is signed here leaves: nothing is verified, and no algorithm but RS256 is known.

A signature with 2048 bits takes about half a millisecond; one serves for an hour.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Mapping

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

RSA_BITS_MIN = 2048
"""RFC 7518 section 3.3."""


class UnusableAccount(ValueError):
    """The text is no service account that can sign; the message says why, and holds nothing of the key."""


class ServiceAccount:
    """Who signs, and with what."""

    __slots__ = ("_header", "_private", "address")

    def __init__(self, address: str, private: RSAPrivateKey, key_name: str = "") -> None:
        """Raises `UnusableAccount` for a key that is too short."""
        if private.key_size < RSA_BITS_MIN:
            raise UnusableAccount(f"its key has {private.key_size} bits: RS256 wants {RSA_BITS_MIN} at least")
        self.address = address
        """Of the account itself, which is no mailbox."""
        self._private = private
        header = {"alg": "RS256", "typ": "JWT"} | ({"kid": key_name} if key_name else {})
        self._header = _encoded(msgspec.json.encode(header))

    def __repr__(self) -> str:
        return f"ServiceAccount({self.address!r})"

    def signed(self, claims: Mapping[str, str | int]) -> str:
        """The claims as a token in compact form (RFC 7515 section 3.1)."""
        told = self._header + b"." + _encoded(msgspec.json.encode(claims))
        return (told + b"." + _encoded(self._private.sign(told, PKCS1v15(), SHA256()))).decode()


class _AccountFile(msgspec.Struct, frozen=True):
    client_email: str
    private_key: str
    private_key_id: str = ""


def read_service_account(text: str) -> ServiceAccount:
    """From the JSON file that Google hands out. Raises `UnusableAccount`."""
    try:
        file = msgspec.json.decode(text, type=_AccountFile)
    except msgspec.ValidationError:
        raise UnusableAccount("client_email or private_key is missing in it") from None
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise UnusableAccount("it is no JSON") from None
    if not file.client_email:
        raise UnusableAccount("its client_email is empty")
    try:
        private = load_pem_private_key(file.private_key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Whatever the library says could quote the key.
        raise UnusableAccount("its private_key is none in PEM format without a password") from None
    if not isinstance(private, RSAPrivateKey):
        raise UnusableAccount("its private_key is no RSA key")
    return ServiceAccount(file.client_email, private, file.private_key_id)


def _encoded(octets: bytes) -> bytes:
    """RFC 7515 section 2: the alphabet of RFC 4648 section 5, without padding."""
    return urlsafe_b64encode(octets).rstrip(b"=")
