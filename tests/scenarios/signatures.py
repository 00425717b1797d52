"""DKIM signatures as somebody else judges them: dkimpy, with the DNS records that we are told.

Where PyNaCl is missing it is lent Ed25519 from `cryptography`; all else stays its own.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping
from types import SimpleNamespace

import dkim as dkimpy
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class _BadSignature(Exception):
    pass


class _VerifyKey:
    def __init__(self, key: bytes, encoder: object = None) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(b64decode(key))

    def verify(self, message: bytes, signature: bytes) -> bytes:
        try:
            self._key.verify(bytes(signature), bytes(message))
        except InvalidSignature:
            raise _BadSignature from None
        return message


def verified(message: bytes, records: Mapping[str, str]) -> list[str]:
    """The algorithm of each signature, from the top, that is good; `records` by name."""
    if not hasattr(dkimpy, "nacl"):
        dkimpy.nacl = SimpleNamespace(
            signing=SimpleNamespace(VerifyKey=_VerifyKey),
            exceptions=SimpleNamespace(BadSignatureError=_BadSignature, ValueError=ValueError),
            encoding=SimpleNamespace(RawEncoder=None, Base64Encoder=None),
        )

    def dns(name: bytes, timeout: int = 5) -> bytes | None:
        record = records.get(name.decode().rstrip("."))
        return None if record is None else record.encode()

    found = re.findall(rb"(?i)^DKIM-Signature: v=1; a=([a-z0-9-]+);", message, re.MULTILINE)
    judge = dkimpy.DKIM(message)
    return [algorithm.decode() for place, algorithm in enumerate(found) if judge.verify(place, dns)]
