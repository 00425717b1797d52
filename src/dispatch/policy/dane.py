"""TLSA records of mail hosts (DANE, RFC 6698, RFC 7671, RFC 7672): which of them count.

Pure. Whether DNSSEC vouches for them is the resolver's word, and must be asked before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

DANE_TA = 2
"""The certificate of an authority that the host's chain leads to, and whose names must be right."""
DANE_EE = 3
"""The host's own certificate or key: names and dates in it do not matter (RFC 7672 section 3.1.1)."""
FULL, KEY = 0, 1
"""Selectors: the certificate, or its public key (SubjectPublicKeyInfo)."""
EXACT, SHA256, SHA512 = 0, 1, 2
"""Matching types."""
_DIGEST_BYTES = {SHA256: 32, SHA512: 64}
RECORDS_MAX = 50
"""So many of a host are compared."""


class Tlsa(NamedTuple):
    """One record (RFC 6698 section 2.1)."""

    usage: int
    selector: int
    matching: int
    data: bytes


def usable(records: Iterable[Tlsa]) -> tuple[Tlsa, ...]:
    """Those that a mail host can be authenticated by; where there are none, its connections are encrypted
    all the same (RFC 7672 section 2.2).

    PKIX-TA(0) and PKIX-EE(1) are not for SMTP (section 3.1.3). Of digests of one kind the strongest counts
    (RFC 7671 section 9).
    """
    known = [each for each in records if _known(each)]
    strongest: dict[tuple[int, int], int] = {}
    for each in known:
        kind = each.usage, each.selector
        strongest[kind] = max(strongest.get(kind, EXACT), each.matching)
    return tuple(each for each in known if each.matching in (EXACT, strongest[each.usage, each.selector]))[
        :RECORDS_MAX
    ]


def _known(record: Tlsa) -> bool:
    if record.usage not in (DANE_TA, DANE_EE) or record.selector not in (FULL, KEY) or not record.data:
        return False
    return record.matching == EXACT or len(record.data) == _DIGEST_BYTES.get(record.matching)
