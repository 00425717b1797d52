"""An operator uploads a certificate: everything wrong with it is said at once, with its remedy."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs12,
)
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from dispatch.security.certificates import (
    CHAIN_CERTIFICATES_MAX,
    UPLOAD_BYTES_MAX,
    CertificateRefused,
    Checked,
    check_upload,
    generate,
)

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
WANTED = ("relay.example.org",)
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey


def curve_key(curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve or ec.SECP256R1())


class Authority:
    """A certificate and its key, which certifies others."""

    def __init__(self, certificate: x509.Certificate, key: Key) -> None:
        self.certificate = certificate
        self.key = key


def certify(
    subject: str,
    key: Key,
    issuer: Authority | None = None,
    *,
    ca: bool = False,
    names: Sequence[str] = WANTED,
    starts: datetime = NOW - timedelta(days=1),
    ends: datetime = NOW + timedelta(days=30),
    extra: Sequence[x509.ExtensionType] = (),
) -> Authority:
    own_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = x509.CertificateBuilder(
        issuer_name=issuer.certificate.subject if issuer else own_name,
        subject_name=own_name,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=starts,
        not_valid_after=ends,
    ).add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if names and not ca:
        kinds = [x509.IPAddress(ip_address(n)) if n[0].isdigit() else x509.DNSName(n) for n in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(kinds), critical=False)
    for extension in extra:
        builder = builder.add_extension(extension, critical=False)
    signer = issuer.key if issuer else key
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Authority(builder.sign(signer, algorithm), key)


ROOT = certify("Example Root", curve_key(), ca=True, ends=NOW + timedelta(days=3000))
MIDDLE = certify("Example Middle", curve_key(), ROOT, ca=True)
LOWER = certify("Example Lower", curve_key(), MIDDLE, ca=True)
LEAF = certify("relay", curve_key(), LOWER)


def pem(*authorities: Authority) -> bytes:
    return b"".join(a.certificate.public_bytes(Encoding.PEM) for a in authorities)


def key_pem(authority: Authority, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    return authority.key.private_bytes(Encoding.PEM, form, NoEncryption())


def der(*authorities: Authority) -> tuple[bytes, ...]:
    return tuple(a.certificate.public_bytes(Encoding.DER) for a in authorities)


def check(chain: bytes, key: bytes, wanted: Sequence[str] = WANTED, now: datetime = NOW) -> Checked:
    return check_upload(chain, key, names_wanted=wanted, now=now)


def mistakes(chain: bytes, key: bytes, now: datetime = NOW) -> tuple[str, ...]:
    with pytest.raises(CertificateRefused) as caught:
        check(chain, key, now=now)
    assert all(mistake.endswith(".") and "\n" not in mistake for mistake in caught.value.mistakes)
    assert str(caught.value) == " ".join(caught.value.mistakes)
    return caught.value.mistakes


def the_mistake(chain: bytes, key: bytes, now: datetime = NOW) -> str:
    (mistake,) = mistakes(chain, key, now)
    return mistake


def test_a_whole_chain_with_its_key_is_taken_without_a_word() -> None:
    identity, remarks = check(pem(LEAF, LOWER, MIDDLE), key_pem(LEAF))
    assert remarks == ()
    assert identity.chain == der(LEAF, LOWER, MIDDLE)
    assert (identity.subject, identity.issuer) == ("CN=relay", "CN=Example Lower")
    assert (identity.names, identity.key_type, identity.self_signed) == (WANTED, "ECDSA P-256", False)
    assert b"PRIVATE" in identity.private_key
    assert "PRIVATE" not in repr(Checked(identity, remarks))


def test_the_root_may_be_sent_along() -> None:
    assert check(pem(LEAF, LOWER, MIDDLE, ROOT), key_pem(LEAF)).identity.chain == der(
        LEAF, LOWER, MIDDLE, ROOT
    )


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("bits", [2048, 3072])
def test_rsa_is_taken_in_both_usual_forms(form: PrivateFormat, bits: int) -> None:
    own = certify("relay", rsa.generate_private_key(65537, bits))
    assert check(pem(own), key_pem(own, form)) == (check(pem(own), key_pem(own)).identity, ())
    assert check(pem(own), key_pem(own, form)).identity.key_type == f"RSA {bits}"


def test_what_generate_makes_would_be_taken_as_an_upload() -> None:
    made = generate(WANTED, [], now=NOW)
    assert check(made.chain_pem, made.private_key) == (made, ())


def test_both_may_stand_in_one_file_or_in_each_others() -> None:
    expected = check(pem(LEAF, LOWER, MIDDLE), key_pem(LEAF))
    both = key_pem(LEAF) + pem(LEAF, LOWER, MIDDLE)
    assert check(both, both) == expected
    assert check(both, b"") == expected
    assert check(key_pem(LEAF), pem(LEAF, LOWER, MIDDLE)) == expected


def test_text_around_the_blocks_is_passed_over() -> None:
    noisy = b"\xef\xbb\xbf" + b"Bag Attributes\r\n    friendlyName: relay\r\n".join(
        (b"", pem(LEAF).replace(b"\n", b"\r\n"), pem(LOWER), pem(MIDDLE).replace(b"\n", b"\n   "))
    )
    key = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + key_pem(LEAF)
    assert check(noisy, key).identity.chain == der(LEAF, LOWER, MIDDLE)


def test_a_chain_out_of_order_is_put_right() -> None:
    identity, remarks = check(pem(ROOT, MIDDLE, LEAF, LOWER), key_pem(LEAF))
    assert identity.chain == der(LEAF, LOWER, MIDDLE, ROOT)
    assert len(remarks) == 1
    assert "out of order" in remarks[0]


def test_what_is_no_part_of_the_chain_is_left_out() -> None:
    stranger = certify("Stranger", curve_key(), ca=True)
    identity, remarks = check(pem(LEAF, LOWER, stranger, MIDDLE, ROOT), key_pem(LEAF))
    assert identity.chain == der(LEAF, LOWER, MIDDLE, ROOT)
    assert remarks == ("Left out, for it is no part of the chain: CN=Stranger.",)


def test_of_a_certificate_and_its_renewal_the_renewal_is_used() -> None:
    renewed = certify("relay", LEAF.key, LOWER, ends=NOW + timedelta(days=90))
    identity, _ = check(pem(LEAF, renewed, LOWER, MIDDLE), key_pem(LEAF))
    assert identity.chain == der(renewed, LOWER, MIDDLE)


def test_a_certificate_without_its_intermediate_is_remarked_upon() -> None:
    access = x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(
                AuthorityInformationAccessOID.CA_ISSUERS,
                x509.UniformResourceIdentifier("http://pki.example.org/lower.crt"),
            )
        ]
    )
    own = certify("relay", curve_key(), LOWER, extra=[access])
    identity, (remark,) = check(pem(own), key_pem(own))
    assert identity.chain == der(own)
    assert "The certificate of CN=Example Lower is missing" in remark
    assert "http://pki.example.org/lower.crt" in remark


def test_a_gap_in_the_chain_is_remarked_upon() -> None:
    identity, remarks = check(pem(LEAF, MIDDLE, ROOT), key_pem(LEAF))
    assert identity.chain == der(LEAF)
    assert "CN=Example Middle; CN=Example Root" in remarks[0]
    assert "The certificate of CN=Example Lower is missing" in remarks[1]


@pytest.mark.parametrize(
    ("names", "wanted", "missing"),
    [
        (["other.example.org"], WANTED, "not for relay.example.org (but for other.example.org)"),
        ([], WANTED, "not for relay.example.org (but for no name)"),
        (["*.example.org"], ["example.org", "a.b.example.org"], "not for example.org, a.b.example.org"),
        (["*.example.org", "192.0.2.1"], ["192.0.2.2"], "not for 192.0.2.2"),
        (["a.example"], ["a.example", "*"], "not for *"),
        (["*.example.org"], ["Relay.Example.Org."], None),
        (["192.0.2.1"], ["192.0.2.1"], None),
        (["Relay.example.org"], WANTED, None),
    ],
)
def test_names_that_are_not_covered_are_remarked_upon(
    names: list[str], wanted: Sequence[str], missing: str | None
) -> None:
    own = certify("relay.example.org", curve_key(), names=names)
    remarks = check(pem(own), key_pem(own), wanted).remarks
    if missing is None:
        assert remarks == ()
    else:
        assert len(remarks) == 1
        assert missing in remarks[0]


def test_nothing_uploaded_lacks_both() -> None:
    first, second = mistakes(b"", b" \n")
    assert "no certificate" in first
    assert "no private key" in second


def test_what_is_not_pem_is_refused_with_the_way_to_convert_it() -> None:
    assert "has no line that begins with -----BEGIN" in the_mistake(b"hello", key_pem(LEAF))
    assert "openssl x509 -inform DER" in the_mistake(der(LEAF)[0], key_pem(LEAF))
    p12 = pkcs12.serialize_key_and_certificates(
        None, curve_key(), None, None, BestAvailableEncryption(b"secret")
    )
    assert "openssl pkcs12 -in" in mistakes(p12, p12)[0]
    assert "The key file is not PEM" in the_mistake(pem(LEAF, LOWER, MIDDLE), b"secret")


def test_a_file_that_is_cut_off_is_refused() -> None:
    assert "certificate file is cut off" in the_mistake(pem(LEAF, LOWER, MIDDLE)[:-40], key_pem(LEAF))
    assert "key file is cut off" in the_mistake(pem(LEAF, LOWER, MIDDLE), key_pem(LEAF)[:-10])


def test_damaged_blocks_are_refused() -> None:
    lines = pem(LOWER).splitlines()
    damaged = b"\n".join([lines[0], *lines[2:]]) + b"\n"
    assert "Certificate 2 of 3 cannot be read" in the_mistake(
        pem(LEAF) + damaged + pem(MIDDLE), key_pem(LEAF)
    )
    key_lines = key_pem(LEAF).splitlines()
    broken = b"\n".join([key_lines[0], *key_lines[2:]])
    assert "private key cannot be read" in the_mistake(pem(LEAF, LOWER, MIDDLE), broken)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_an_encrypted_key_is_refused(form: PrivateFormat) -> None:
    encrypted = LEAF.key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret"))
    said = the_mistake(pem(LEAF, LOWER, MIDDLE), encrypted)
    assert "encrypted" in said
    assert "openssl pkey" in said


def test_a_key_of_another_certificate_is_refused() -> None:
    said = the_mistake(pem(LOWER, LEAF, MIDDLE), key_pem(certify("other", curve_key())))
    assert "does not belong to the certificate (CN=relay)" in said


def test_several_keys_are_refused_but_one_given_twice_is_not() -> None:
    chain = pem(LEAF, LOWER, MIDDLE)
    assert "2 different private keys" in the_mistake(chain, key_pem(LEAF) + key_pem(LOWER))
    assert check(chain, key_pem(LEAF) + key_pem(LEAF, PrivateFormat.TraditionalOpenSSL)).remarks == ()


def test_requests_and_public_keys_are_called_by_their_name() -> None:
    request = x509.CertificateSigningRequestBuilder(LEAF.certificate.subject).sign(LEAF.key, hashes.SHA256())
    assert "but a request" in the_mistake(request.public_bytes(Encoding.PEM), key_pem(LEAF))
    public = LEAF.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert "but a public key" in the_mistake(pem(LEAF, LOWER, MIDDLE), public)
    first, second = mistakes(request.public_bytes(Encoding.PEM), b"")
    assert "but a request" in first
    assert second == "There is no private key in the files: upload it as PEM."


def test_keys_that_tls_does_not_use_are_refused() -> None:
    own = certify("relay", dsa.generate_private_key(2048))
    assert "of a kind that TLS does not use" in the_mistake(pem(own), key_pem(own))
    assert "not for TLS" in the_mistake(pem(LEAF, LOWER, MIDDLE), key_pem(LEAF, PrivateFormat.OpenSSH))


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (NOW + timedelta(days=31), "The certificate expired on 2026-05-31 12:00 UTC: have it renewed"),
        (NOW - timedelta(days=2), "The certificate is not valid before 2026-04-30 12:00 UTC"),
    ],
)
def test_a_certificate_out_of_its_dates_is_refused(at: datetime, said: str) -> None:
    own = certify("relay", curve_key(), ROOT)
    said_all = mistakes(pem(own, ROOT), key_pem(own), at)
    assert said in said_all[0]


def test_an_expired_intermediate_is_refused_and_an_expired_root_is_not() -> None:
    root = certify("Old Root", curve_key(), ca=True, ends=NOW - timedelta(hours=1))
    middle = certify("Old Middle", curve_key(), root, ca=True, ends=NOW - timedelta(hours=1))
    own = certify("relay", curve_key(), middle)
    assert "CN=Old Middle expired on" in the_mistake(pem(own, middle, root), key_pem(own))
    direct = certify("relay", curve_key(), root)
    (remark,) = check(pem(direct, root), key_pem(direct)).remarks
    assert "root of the chain expired" in remark


def test_weak_keys_are_refused() -> None:
    small = certify("relay", rsa.generate_private_key(65537, 1024))
    assert "RSA key of 1024 bits" in the_mistake(pem(small), key_pem(small))
    odd = certify("relay", curve_key(ec.SECP256K1()))
    assert "curve secp256k1" in the_mistake(pem(odd), key_pem(odd))


def with_sha1(subject: Authority, signer: rsa.RSAPrivateKey) -> Authority:
    """The same certificate signed with SHA-1, which the library parses but does not make."""
    sha256_with_rsa, sha1_with_rsa = (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01" + end for end in (b"\x0b", b"\x05"))
    whole = subject.certificate.public_bytes(Encoding.DER).replace(sha256_with_rsa, sha1_with_rsa)
    to_be_signed = subject.certificate.tbs_certificate_bytes.replace(sha256_with_rsa, sha1_with_rsa)
    signature = signer.sign(to_be_signed, padding.PKCS1v15(), hashes.SHA1())
    return Authority(x509.load_der_x509_certificate(whole[: -len(signature)] + signature), subject.key)


def test_a_signature_with_sha1_is_refused_where_it_is_verified() -> None:
    key = rsa.generate_private_key(65537, 2048)
    root = certify("Old Root", key, ca=True)
    own = with_sha1(certify("relay", curve_key(), root), key)
    assert "The certificate is signed with SHA1" in the_mistake(pem(own, root), key_pem(own))
    under_it = certify("relay", curve_key(), root)
    assert check(pem(under_it, with_sha1(root, key)), key_pem(under_it)).remarks == ()


def test_a_key_that_few_clients_know_is_remarked_upon() -> None:
    own = certify("relay", ed25519.Ed25519PrivateKey.generate())
    identity, (remark,) = check(pem(own), key_pem(own))
    assert identity.key_type == "Ed25519"
    assert "Ed25519" in remark


def test_a_certificate_for_clients_only_is_refused() -> None:
    own = certify("relay", curve_key(), extra=[x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])])
    assert "not for servers" in the_mistake(pem(own), key_pem(own))


def test_everything_wrong_is_said_at_once() -> None:
    key = rsa.generate_private_key(65537, 1024)
    weak = with_sha1(certify("weak", key, ends=NOW - timedelta(hours=1)), key)
    said = mistakes(pem(weak), key_pem(LEAF))
    for part in ("does not belong", "expired", "1024 bits", "signed with SHA1"):
        assert sum(part in mistake for mistake in said) == 1
    assert len(said) == 4
    assert len(mistakes(b"hello", b"")) == 2


def test_uploads_are_bounded() -> None:
    assert "larger than 256 KiB" in the_mistake(b"x" * (UPLOAD_BYTES_MAX + 1), key_pem(LEAF))
    many = pem(*(certify(f"c{n}", LEAF.key) for n in range(CHAIN_CERTIFICATES_MAX + 1)))
    assert "are no chain" in the_mistake(many, key_pem(LEAF))


def test_no_mistake_quotes_the_key() -> None:
    secret = key_pem(LEAF).splitlines()[1].decode()
    wrong = key_pem(LEAF).replace(b"PRIVATE KEY", b"EC PRIVATE KEY")
    said = (*mistakes(pem(MIDDLE), key_pem(LEAF)), *mistakes(b"x", wrong[:-4]), *mistakes(pem(LEAF), wrong))
    assert not [mistake for mistake in said if secret[:12] in mistake]
