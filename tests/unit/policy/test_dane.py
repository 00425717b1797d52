"""Which TLSA records a mail host can be authenticated by."""

from __future__ import annotations

import pytest

from dispatch.policy.dane import RECORDS_MAX, Tlsa, usable

SHA256, SHA512 = b"\1" * 32, b"\2" * 64


@pytest.mark.parametrize(
    "record",
    [
        Tlsa(3, 1, 1, SHA256),
        Tlsa(3, 0, 2, SHA512),
        Tlsa(2, 0, 1, SHA256),
        Tlsa(2, 1, 0, b"a key"),
    ],
)
def test_records_for_mail(record: Tlsa) -> None:
    assert usable([record]) == (record,)


@pytest.mark.parametrize(
    "record",
    [
        Tlsa(0, 0, 1, SHA256),
        Tlsa(1, 1, 1, SHA256),
        Tlsa(255, 1, 1, SHA256),
        Tlsa(3, 2, 1, SHA256),
        Tlsa(3, 1, 3, SHA256),
        Tlsa(3, 1, 1, SHA512),
        Tlsa(3, 1, 2, SHA256),
        Tlsa(3, 1, 1, b""),
        Tlsa(3, 1, 0, b""),
    ],
)
def test_records_that_are_of_no_use(record: Tlsa) -> None:
    assert usable([record]) == ()


def test_of_digests_of_one_kind_the_strongest_counts() -> None:
    weak, strong = Tlsa(3, 1, 1, SHA256), Tlsa(3, 1, 2, SHA512)
    other, exact = Tlsa(2, 1, 1, SHA256), Tlsa(3, 1, 0, b"a key")
    assert usable([weak, strong, other, exact]) == (strong, other, exact)


def test_a_strong_digest_that_is_malformed_does_not_outdo_a_weak_one() -> None:
    weak = Tlsa(3, 1, 1, SHA256)
    assert usable([weak, Tlsa(3, 1, 2, b"short")]) == (weak,)


def test_of_a_thousand_records_some_count() -> None:
    assert len(usable(Tlsa(3, 1, 1, bytes([n % 256]) * 32) for n in range(1000))) == RECORDS_MAX
