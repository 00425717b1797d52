"""Certificates made here: for all names, readable by others, renewed in time, and stored without loss."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from dispatch.security import certificates
from dispatch.security.certificates import (
    Identity,
    check_upload,
    days_left,
    from_store,
    generate,
    renewal_due,
    to_store,
)

NOW = datetime(2026, 5, 1, 12, 30, 15, 250_000, tzinfo=UTC)
NAMES = ("relay.example.org", "mail.example.org", "localhost")
ADDRESSES = ("192.0.2.7", "2001:db8::25")


@pytest.fixture(scope="module")
def made() -> Identity:
    return generate(NAMES, ADDRESSES, now=NOW)


@pytest.fixture
def openssl(tmp_path: Path) -> Callable[..., str]:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("the openssl command line tool is not here")

    def run(*arguments: str) -> str:
        done = subprocess.run([program, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_made_certificate_is_for_every_name_and_address(made: Identity) -> None:
    own = x509.load_der_x509_certificate(made.chain[0])
    alternative = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternative.get_values_for_type(x509.DNSName) == list(NAMES)
    assert alternative.get_values_for_type(x509.IPAddress) == [ip_address(a) for a in ADDRESSES]
    assert made.names == (*NAMES, *ADDRESSES)


def test_a_made_certificate_is_a_server_and_no_authority(made: Identity) -> None:
    extensions = x509.load_der_x509_certificate(made.chain[0]).extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert (usage.critical, usage.value.digital_signature, usage.value.key_cert_sign) == (True, True, False)
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_a_made_certificate_states_its_facts(made: Identity) -> None:
    own = x509.load_der_x509_certificate(made.chain[0])
    assert isinstance(own.public_key(), ec.EllipticCurvePublicKey)
    assert (made.key_type, made.self_signed, len(made.chain)) == ("ECDSA P-256", True, 1)
    assert made.subject == made.issuer == "CN=relay.example.org,O=Dispatch"
    assert made.not_before == datetime(2026, 5, 1, 11, 30, 15, tzinfo=UTC)
    assert made.not_after - made.not_before == timedelta(days=certificates.LIFE_DAYS)
    assert made.chain_pem.count(b"BEGIN CERTIFICATE") == 1


def test_two_certificates_differ_in_key_and_serial_number(made: Identity) -> None:
    other = generate(NAMES, ADDRESSES, now=NOW)
    assert other.private_key != made.private_key
    serials = {x509.load_der_x509_certificate(i.chain[0]).serial_number for i in (made, other)}
    assert len(serials) == 2
    assert min(serials) > 2**64, "guessed by nobody"


def test_the_private_key_is_never_shown(made: Identity) -> None:
    secret = made.private_key.splitlines()[1].decode()
    for shown in (repr(made), str(made), f"{made}", made.chain_pem.decode()):
        assert "PRIVATE" not in shown
        assert secret not in shown


def test_names_are_put_in_as_clients_ask_for_them() -> None:
    made = generate(
        ["Relay.Example.ORG.", "relay.example.org", "bücher.example", "192.0.2.9", "print_server"],
        ["::ffff:192.0.2.9", "fe80::1%eth0"],
        now=NOW,
    )
    assert made.names == (
        *("relay.example.org", "xn--bcher-kva.example", "print_server", "192.0.2.9"),
        "fe80::1",
    )


def test_an_address_alone_is_enough() -> None:
    made = generate([], ["127.0.0.1"], now=NOW)
    assert (made.names, made.subject) == (("127.0.0.1",), "CN=127.0.0.1,O=Dispatch")


def test_a_name_too_long_for_a_common_name_is_still_certified() -> None:
    name = f"{'a' * 60}.{'b' * 60}.example"
    made = generate([name], [], now=NOW)
    assert (made.names, made.subject) == ((name,), "CN=self-signed,O=Dispatch")


@pytest.mark.parametrize(
    "name", ["", " ", "two words", "a..b", "-a.example", "a" * 64, "*", "ü" * 64, "a/b", "x." * 130 + "y"]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no host name"):
        generate([name], [], now=NOW)


def test_nothing_to_certify_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        generate([], [], now=NOW)


def test_a_certificate_is_renewed_when_a_third_of_its_life_is_left() -> None:
    made = generate(["a.example"], [], now=NOW, days=90)
    day = timedelta(days=1)
    assert not renewal_due(made, NOW)
    assert not renewal_due(made, made.not_after - 30 * day)
    assert renewal_due(made, made.not_after - 30 * day + timedelta(seconds=1))
    assert renewal_due(made, made.not_after + day)
    assert not renewal_due(replace(made, self_signed=False), made.not_after + day)


def test_days_left_are_whole_and_negative_when_expired() -> None:
    made = generate(["a.example"], [], now=NOW, days=90)
    assert days_left(made, made.not_after - timedelta(days=3, hours=1)) == 3
    assert days_left(made, made.not_after - timedelta(hours=1)) == 0
    assert days_left(made, made.not_after) == 0
    assert days_left(made, made.not_after + timedelta(hours=1)) == -1


def test_the_store_gives_back_what_it_was_given(made: Identity) -> None:
    p12, password = to_store(made)
    assert from_store(p12, password) == made
    again, another = to_store(made)
    assert password != another
    assert len(password) >= 40
    assert made.private_key.splitlines()[1] not in p12
    with pytest.raises(ValueError, match="cannot be opened"):
        from_store(again, password)


def test_the_store_keeps_a_chain_in_order() -> None:
    root = trustme.CA()
    leaf = root.create_child_ca().create_child_ca().issue_cert("relay.example.org")
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    identity, _ = check_upload(chain, leaf.private_key_pem.bytes(), names_wanted=[], now=datetime.now(UTC))
    assert len(identity.chain) == 3
    assert from_store(*to_store(identity)) == identity


def test_a_damaged_store_is_said_to_be(made: Identity) -> None:
    p12, password = to_store(made)
    for damaged in (b"", b"junk", p12[:-20], p12[: len(p12) // 2]):
        with pytest.raises(ValueError, match="cannot be opened"):
            from_store(damaged, password)


def test_a_store_without_a_key_is_no_identity(made: Identity) -> None:
    own = x509.load_der_x509_certificate(made.chain[0])
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

    p12 = pkcs12.serialize_key_and_certificates(None, None, own, None, BestAvailableEncryption(b"secret"))
    with pytest.raises(ValueError, match="lacks"):
        from_store(p12, "secret")


def test_openssl_reads_a_made_certificate(
    made: Identity, openssl: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "cert.pem").write_bytes(made.chain_pem)
    text = openssl("x509", "-in", "cert.pem", "-noout", "-text", "-fingerprint", "-sha256")
    for part in (
        *(f"DNS:{name}" for name in NAMES),
        *("IP Address:192.0.2.7", "IP Address:2001:DB8:0:0:0:0:0:25", "CA:FALSE", "Digital Signature"),
        *("TLS Web Server Authentication", "ecdsa-with-SHA256", "NIST CURVE: P-256", "Version: 3"),
    ):
        assert part in text
    assert made.fingerprint.upper() in text.replace(":", "")


def test_openssl_verifies_a_made_certificate_against_itself(
    openssl: Callable[..., str], tmp_path: Path
) -> None:
    current = generate(NAMES, ADDRESSES, now=datetime.now(UTC))
    (tmp_path / "cert.pem").write_bytes(current.chain_pem)
    (tmp_path / "key.pem").write_bytes(current.private_key)
    verify = ("verify", "-x509_strict", "-check_ss_sig", "-purpose", "sslserver", "-CAfile", "cert.pem")
    assert openssl(*verify, "-verify_hostname", NAMES[1], "cert.pem").strip() == "cert.pem: OK"
    assert openssl(*verify, "-verify_ip", ADDRESSES[1], "cert.pem").strip() == "cert.pem: OK"
    public = openssl("x509", "-in", "cert.pem", "-noout", "-pubkey")
    assert openssl("pkey", "-in", "key.pem", "-pubout") == public


def test_openssl_opens_the_store(made: Identity, openssl: Callable[..., str], tmp_path: Path) -> None:
    p12, password = to_store(made)
    (tmp_path / "store.p12").write_bytes(p12)
    opened = openssl("pkcs12", "-in", "store.p12", "-nodes", "-passin", f"pass:{password}")
    assert made.private_key.decode() in opened
    assert made.chain_pem.decode() in opened
