"""Whether a host's certificates are those that its TLSA records name (RFC 7671, RFC 7672).

Which records count is `policy.dane`'s business. Nobody is asked whether a certificate was revoked: whoever
publishes the records takes the record back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from hmac import compare_digest

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from dispatch.policy.dane import DANE_EE, DANE_TA, EXACT, FULL, SHA256, Tlsa

CHAIN_MAX = 10
"""Certificates of a chain that are looked at."""

_AUTHORITY = ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
_HOST = ExtensionPolicy.permit_all().require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
"""What authorities of one's own leave out is no reason to refuse mail: their word is in DNS."""


class NotAuthentic(Exception):
    """The certificates are not those of the records; the text is for the operator."""


def authenticate(records: Sequence[Tlsa], chain: Sequence[bytes], names: Sequence[str], now_s: float) -> None:
    """`chain`: what the host has shown, DER, its own certificate first. `names`: one of them must be in that
    certificate, unless a record names the certificate itself. `now_s`: seconds since 1970. Raises
    `NotAuthentic`."""
    if not chain:
        raise NotAuthentic("it shows no certificate")
    shown = chain[:CHAIN_MAX]
    if any(record.usage == DANE_EE and _matches(record, shown[0]) for record in records):
        return
    anchors = _anchors([record for record in records if record.usage == DANE_TA], shown)
    if not anchors:
        raise NotAuthentic("its certificate is not the one that its TLSA records name")
    _verify(anchors, shown, names, datetime.fromtimestamp(now_s, UTC))


def _matches(record: Tlsa, der: bytes) -> bool:
    selected = der
    if record.selector != FULL:
        try:
            key = x509.load_der_x509_certificate(der).public_key()
        except (ValueError, UnsupportedAlgorithm):
            return False
        selected = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if record.matching != EXACT:
        digest = hashlib.sha256 if record.matching == SHA256 else hashlib.sha512
        selected = digest(selected).digest()
    return compare_digest(selected, record.data)


def _anchors(records: Sequence[Tlsa], chain: Sequence[bytes]) -> list[x509.Certificate]:
    """The authorities that the records name; one that stands whole in a record need not be shown."""
    named = [der for der in chain[1:] if any(_matches(record, der) for record in records)]
    named += [each.data for each in records if (each.selector, each.matching) == (FULL, EXACT)]
    return _loaded(dict.fromkeys(named))


def _loaded(certificates: Sequence[bytes] | dict[bytes, None]) -> list[x509.Certificate]:
    found: list[x509.Certificate] = []
    for der in certificates:
        try:
            found.append(x509.load_der_x509_certificate(der))
        except ValueError:
            # Others of the chain may do.
            continue
    return found


def _verify(
    anchors: list[x509.Certificate], chain: Sequence[bytes], names: Sequence[str], now: datetime
) -> None:
    why = "its certificate cannot be read"
    builder = PolicyBuilder().store(Store(anchors)).time(now)
    builder = builder.extension_policies(ca_policy=_AUTHORITY, ee_policy=_HOST)
    leaf, between = _loaded(chain[:1]), _loaded(chain[1:])
    for name in names if leaf else ():
        try:
            builder.build_server_verifier(x509.DNSName(name)).verify(leaf[0], between)
        except (VerificationError, ValueError, UnsupportedAlgorithm) as error:
            why = f"its certificate does not lead to the authority in its TLSA records for {name}: {error}"
        else:
            return
    raise NotAuthentic(why)
