"""Certificates of hosts beside the TLSA records of their names."""

from __future__ import annotations

import datetime
import hashlib
import ssl
from collections.abc import Sequence

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dispatch.policy.dane import DANE_EE, DANE_TA, EXACT, FULL, KEY, SHA256, SHA512, Tlsa
from dispatch.security.dane import NotAuthentic, authenticate

ROOT = trustme.CA()
BETWEEN = ROOT.create_child_ca()
NAME = "mx.a.example"
NOW_S = datetime.datetime.now(datetime.UTC).timestamp()
YEARS_S = 365 * 86_400.0 * 2000


def der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def shown(*names: str, by: trustme.CA = BETWEEN, root: bool = True, **keys: object) -> list[bytes]:
    """What a host with a certificate for these names sends."""
    leaf = by.issue_cert(*names, **keys)  # type: ignore[arg-type]
    chain = [der(each.bytes()) for each in leaf.cert_chain_pems]
    return [*chain, der(ROOT.cert_pem.bytes())] if root else chain


def record(usage: int, certificate: bytes, selector: int = KEY, matching: int = SHA256) -> Tlsa:
    data = certificate
    if selector == KEY:
        key = x509.load_der_x509_certificate(certificate).public_key()
        data = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if matching != EXACT:
        data = (hashlib.sha256 if matching == SHA256 else hashlib.sha512)(data).digest()
    return Tlsa(usage, selector, matching, data)


def refused(records: Sequence[Tlsa], chain: list[bytes], *names: str, now_s: float = NOW_S) -> str:
    with pytest.raises(NotAuthentic) as fault:
        authenticate(records, chain, names or (NAME,), now_s)
    return str(fault.value)


LEAF = shown(NAME)


@pytest.mark.parametrize("selector", [FULL, KEY])
@pytest.mark.parametrize("matching", [EXACT, SHA256, SHA512])
def test_a_record_names_the_hosts_certificate(selector: int, matching: int) -> None:
    authenticate([record(DANE_EE, LEAF[0], selector, matching)], LEAF, [NAME], NOW_S)
    assert "not the one" in refused([record(DANE_EE, shown(NAME)[0], selector, matching)], LEAF)


def test_names_and_dates_of_a_certificate_that_a_record_names_do_not_matter() -> None:
    chain = shown("other.example")[:1]
    authenticate([record(DANE_EE, chain[0])], chain, [NAME], NOW_S + YEARS_S)


def test_one_record_of_several_will_do() -> None:
    others = [record(DANE_EE, shown(NAME)[0]), Tlsa(DANE_TA, FULL, EXACT, b"no certificate")]
    authenticate([*others, record(DANE_EE, LEAF[0])], LEAF, [NAME], NOW_S)


@pytest.mark.parametrize("place", [1, 2])
@pytest.mark.parametrize("selector", [FULL, KEY])
@pytest.mark.parametrize("matching", [EXACT, SHA256, SHA512])
def test_a_record_names_an_authority_of_the_chain(place: int, selector: int, matching: int) -> None:
    authenticate([record(DANE_TA, LEAF[place], selector, matching)], LEAF, [NAME], NOW_S)


def test_an_authority_must_be_shown_unless_the_record_holds_it() -> None:
    chain, root = LEAF[:2], LEAF[2]
    authenticate([record(DANE_TA, root, FULL, EXACT)], chain, [NAME], NOW_S)
    refused([record(DANE_TA, root, FULL, SHA256)], chain)


def test_a_certificate_that_an_authority_signed_must_name_the_host_or_the_domain() -> None:
    records = [record(DANE_TA, LEAF[2])]
    for names in (["a.example"], ["*.a.example"], ["x.example", NAME]):
        authenticate(records, shown(*names), [NAME, "a.example"], NOW_S)
    assert "for a.example" in refused(records, shown("other.example"), NAME, "a.example")


def test_a_certificate_that_an_authority_signed_must_be_in_date() -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)
    refused([record(DANE_TA, LEAF[2])], shown(NAME, not_after=past))
    refused([record(DANE_TA, LEAF[2])], LEAF, now_s=NOW_S + YEARS_S)


def test_an_authority_that_is_shown_and_did_not_sign_vouches_for_nothing() -> None:
    stranger = trustme.CA()
    chain = [shown(NAME, by=stranger, root=False)[0], *LEAF[1:]]
    refused([record(DANE_TA, LEAF[2])], chain)


def test_the_own_certificate_is_no_authority_and_an_authority_is_not_the_own_one() -> None:
    refused([record(DANE_TA, LEAF[0])], LEAF)
    refused([record(DANE_EE, LEAF[1])], LEAF)


def test_no_certificate_and_rubbish_are_refused_in_words() -> None:
    records = [record(DANE_EE, LEAF[0]), record(DANE_TA, LEAF[2])]
    assert refused(records, []) == "it shows no certificate"
    refused(records, [b"rubbish"])
    refused(records, [b"rubbish", *LEAF[1:]])
    refused(records[1:], [LEAF[0], b"rubbish"])
    assert refused([], LEAF)
