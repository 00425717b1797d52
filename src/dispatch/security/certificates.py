"""The certificates that this relay shows: made here, or uploaded and checked, and how they are kept.

An `Identity` is a certificate with its chain and its private key. It is made by `generate`, or comes out of
`check_upload`, which answers for it: the key fits, the chain is in order, the dates and strengths will do.
It is stored as PKCS#12 (RFC 7292) under a random password that the caller keeps in the vault.

Rules:
- An upload is refused with everything that is wrong with it, each with its remedy, in the words of the
  person who uploaded it. What still works, but may surprise, is a remark.
- Times are arguments, and aware.
- The private key is in no `repr`, no message, no exception.

Traps:
- A generated certificate is no authority (`CA:FALSE`): whoever trusts it trusts this one server, and a
  stolen key signs nothing else. Apple's systems refuse a server certificate that lives longer than 825 days.
- Whether a root or one more intermediate is missing at the end of a chain cannot be seen from the chain.

It deliberately asks nobody: no revocation, no trust store, no fetching of missing intermediates. And it
does not know which certificates this relay made: `self_signed` may be an operator's own, which must not be
replaced. Who stores an identity notes where it came from.
"""

from __future__ import annotations

import hashlib
import secrets
import ssl
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from dispatch.mail.showable import showable

LIFE_DAYS = 820
"""Of a generated certificate: a little less than the longest that all clients take."""
UPLOAD_BYTES_MAX = 262_144
"""Of each of the two files; a chain of ten large certificates has a tenth of that."""
CHAIN_CERTIFICATES_MAX = 20
"""In one upload. Each may be compared with each other, which is a signature to verify."""

_BACKDATED = timedelta(hours=1)
"""Clocks of clients are wrong by minutes more often than certificates are stolen before they are made."""
_COMMON_NAME_CHARS_MAX = 64  # RFC 5280 appendix A.1, ub-common-name
_RSA_BITS_MIN = 2048
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_BROKEN_HASHES = {"md5", "sha1"}

PrivateKey = (
    rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A certificate, what leads up to it, its private key, and what there is to know about it."""

    chain: tuple[bytes, ...]
    """DER, our own certificate first, each certified by the next one (RFC 8446 section 4.4.2)."""
    private_key: bytes = field(repr=False)
    """PEM of PKCS#8 (RFC 5958), not encrypted."""
    subject: str
    """RFC 4514, fit to be shown; so is the issuer."""
    issuer: str
    names: tuple[str, ...]
    """Host names and IP addresses of the subjectAltName, as they stand there."""
    not_before: datetime
    not_after: datetime
    fingerprint: str
    """SHA-256 of our own certificate: 64 hexadecimal digits in lower case."""
    key_type: str
    """`ECDSA P-256`, `RSA 2048`, `Ed25519`."""
    self_signed: bool

    @property
    def chain_pem(self) -> bytes:
        """The public part, for whoever shall trust it."""
        return "".join(map(ssl.DER_cert_to_PEM_cert, self.chain)).encode()


class Checked(NamedTuple):
    """An upload that may be used, and what its owner should know."""

    identity: Identity
    remarks: tuple[str, ...]


class CertificateRefused(ValueError):
    """An upload cannot be used. `mistakes` has everything that is wrong, a sentence and its remedy each."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__(" ".join(mistakes))
        self.mistakes = tuple(mistakes)


def generate(
    names: Sequence[str], addresses: Sequence[str], *, now: datetime, days: int = LIFE_DAYS
) -> Identity:
    """A self-signed certificate for a server (RFC 5280): ECDSA P-256, for all names and IP addresses.

    Lives `days` from an hour before `now`. Names that are not ASCII are put in as A-labels. Raises
    `ValueError` for a name that is none, and where there is nothing to be named.
    """
    assert now.tzinfo is not None, "a time without its zone"
    wanted = _general_names(names, addresses)
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    common_name = next((n.value for n in wanted if isinstance(n, x509.DNSName)), str(wanted[0].value))
    if len(common_name) > _COMMON_NAME_CHARS_MAX:
        common_name = "self-signed"
    parts = {NameOID.ORGANIZATION_NAME: "Dispatch", NameOID.COMMON_NAME: common_name}
    name = x509.Name([x509.NameAttribute(kind, value) for kind, value in parts.items()])
    not_before = now.astimezone(UTC).replace(microsecond=0) - _BACKDATED
    # Each has its own serial number: browsers refuse two certificates with one issuer and one number.
    certificate = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_before + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_SIGNS_HANDSHAKES, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(wanted), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _identity([certificate], key)


# digitalSignature and nothing else: what an ECDSA key does in a handshake.
_SIGNS_HANDSHAKES = x509.KeyUsage(True, *(8 * (False,)))


def renewal_due(identity: Identity, now: datetime) -> bool:
    """Whether a self-signed certificate has less than a third of its life left. Never for any other.

    The caller asks this only for what it generated: one that an operator signed is the operator's to renew.
    """
    life = identity.not_after - identity.not_before
    return identity.self_signed and (identity.not_after - now) * 3 < life


def days_left(identity: Identity, now: datetime) -> int:
    """Whole days until the certificate expires; below zero when it has."""
    return (identity.not_after - now) // timedelta(days=1)


def to_store(identity: Identity) -> tuple[bytes, str]:
    """PKCS#12 with chain and key, and the random password that it is encrypted under."""
    own, *above = map(x509.load_der_x509_certificate, identity.chain)
    key = serialization.load_pem_private_key(identity.private_key, None)
    assert isinstance(key, PrivateKey), "no identity has another key"
    password = secrets.token_urlsafe(32)
    encryption = serialization.BestAvailableEncryption(password.encode())
    return pkcs12.serialize_key_and_certificates(b"dispatch", key, own, above, encryption), password


def from_store(p12: bytes, password: str) -> Identity:
    """What `to_store` was given. Raises `ValueError` where bytes and password do not fit or hold no identity.

    Dates and strengths are not judged again: what was stored was checked, and an expired certificate is
    still better than none.
    """
    try:
        stored = pkcs12.load_pkcs12(p12, password.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(
            "the stored certificate cannot be opened: it is damaged, or its password is that of another"
        ) from None
    if stored.cert is None or not isinstance(stored.key, PrivateKey):
        raise ValueError("the stored certificate lacks its certificate or its private key")
    # PKCS#12 promises no order.
    own = stored.cert.certificate
    return _identity(
        _chain(own, [own, *(extra.certificate for extra in stored.additional_certs)]), stored.key
    )


def check_upload(chain_pem: bytes, key_pem: bytes, *, names_wanted: Sequence[str], now: datetime) -> Checked:
    """A certificate chain and its unencrypted key, both PEM (RFC 7468), as an identity that can be used.

    Certificates and key may stand in either file, or both in one that is given twice. Raises
    `CertificateRefused`. That OpenSSL takes the result as well is for the caller to see, with
    `tls.server_context`, before it replaces anything.
    """
    assert now.tzinfo is not None, "a time without its zone"
    upload = _Upload()
    blocks = [*upload.blocks("certificate", chain_pem), *upload.blocks("key", key_pem)]
    certificates = upload.certificates(blocks)
    key = upload.key(blocks)
    chain: list[x509.Certificate] = []
    if certificates:
        own = upload.own(certificates, key)
        chain = _chain(own, certificates)
        upload.judge_order(chain, certificates)
        for certificate in chain:
            upload.judge(certificate, is_own=certificate is own, now=now)
        upload.judge_purpose(own)
        upload.judge_names(own, names_wanted)
    if upload.mistakes or key is None:
        raise CertificateRefused(tuple(dict.fromkeys(upload.mistakes)))
    return Checked(_identity(chain, key), tuple(upload.remarks))


class _Block(NamedTuple):
    label: str
    pem: bytes
    """Empty where the file ends before the block does."""


class _Upload:
    """What was found while an upload was read; each method adds what it notices."""

    def __init__(self) -> None:
        self.mistakes: list[str] = []
        self.remarks: list[str] = []
        self._unreadable: set[str] = set()

    def blocks(self, what: str, data: bytes) -> list[_Block]:
        found = [] if len(data) > UPLOAD_BYTES_MAX else list(_blocks(data))
        whole = [block for block in found if block.pem]
        if len(data) > UPLOAD_BYTES_MAX:
            mistake = f"is larger than {UPLOAD_BYTES_MAX // 1024} KiB: upload only certificate, chain and key"
        elif not found and data.strip():
            mistake = _not_pem(data)
        elif len(whole) < len(found):
            mistake = "is cut off, a BEGIN line has no END line: copy it whole, with both lines"
        else:
            return whole
        self.mistakes.append(f"The {what} file {mistake}.")
        self._unreadable.add(what)
        return whole

    def certificates(self, blocks: Sequence[_Block]) -> list[x509.Certificate]:
        pems = list(dict.fromkeys(b.pem for b in blocks if b.label in ("CERTIFICATE", "X509 CERTIFICATE")))
        if not pems and "certificate" not in self._unreadable:
            self.mistakes.append(_absent(blocks, "certificate"))
        if len(pems) > CHAIN_CERTIFICATES_MAX:
            self.mistakes.append(
                f"{len(pems)} certificates are no chain: upload only the server's own and its intermediates."
            )
            return []
        certificates = []
        for place, pem in enumerate(pems, 1):
            try:
                certificates.append(_certificate(pem))
            except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
                self.mistakes.append(
                    f"Certificate {place} of {len(pems)} cannot be read, damaged or of an unknown kind: "
                    "copy it again from the file that your authority sent."
                )
        # The same one may stand in both files, wrapped at other columns.
        return list(dict.fromkeys(certificates))

    def key(self, blocks: Sequence[_Block]) -> PrivateKey | None:
        pems = list(dict.fromkeys(b.pem for b in blocks if b.label.endswith("PRIVATE KEY")))
        if not pems and "key" not in self._unreadable:
            self.mistakes.append(_absent(blocks, "private key"))
        read = [self._key(pem) for pem in pems[:CHAIN_CERTIFICATES_MAX]]
        keys = {_spki(key): key for key in read if key is not None}
        if len(keys) > 1:
            self.mistakes.append(
                f"There are {len(keys)} different private keys: upload only the one of the certificate."
            )
            return None
        return next(iter(keys.values()), None)

    def _key(self, pem: bytes) -> PrivateKey | None:
        try:
            key = serialization.load_pem_private_key(pem, None)
        except TypeError:
            self.mistakes.append(_ENCRYPTED)
        except (ValueError, UnsupportedAlgorithm):
            self.mistakes.append(
                "The private key cannot be read, it is damaged or not for TLS: copy it again, whole."
            )
        else:
            if isinstance(key, PrivateKey):
                return key
            self.mistakes.append(
                "The private key is of a kind that TLS does not use: request a certificate with a new key, "
                "ECDSA P-256 or RSA with 2048 bits or more."
            )
        return None

    def own(self, certificates: Sequence[x509.Certificate], key: PrivateKey | None) -> x509.Certificate:
        """The server's certificate: the one that the key fits, else one that certified no other."""
        if key is not None:
            public = key.public_key()
            fitting = [c for c in certificates if c.public_key() == public]
            if fitting:
                # Of a certificate and its renewal with the same key, the renewal is meant.
                return max(fitting, key=lambda c: c.not_valid_after_utc)
        own = next((c for c in certificates if not _certifies(c, certificates)), certificates[0])
        if key is not None:
            self.mistakes.append(
                f"The private key does not belong to the certificate ({_shown(own.subject)}): upload the key "
                "with which this certificate was requested, or have a new one made for this key."
            )
        return own

    def judge_order(self, chain: Sequence[x509.Certificate], given: Sequence[x509.Certificate]) -> None:
        left_out = [c for c in given if c not in chain]
        if [c for c in given if c in chain] != list(chain):
            self.remarks.append(
                "The chain was out of order and was put right: from the server's own certificate upwards."
            )
        if left_out:
            subjects = "; ".join(_shown(c.subject) for c in left_out)
            self.remarks.append(f"Left out, for it is no part of the chain: {subjects}.")
        last = chain[-1]
        if _signed_by(last, last) or (len(chain) > 1 and not left_out):
            return
        # Above one or more intermediates, the root alone may be missing: clients have that.
        address = _issuer_address(last)
        self.remarks.append(
            f"The certificate of {_shown(last.issuer)} is missing, which certifies {_shown(last.subject)}. "
            "Unless that is a root that all clients know, they will refuse the connection: add it to the file"
            + (f" (it is published at {address})." if address else ".")
        )

    def judge(self, certificate: x509.Certificate, *, is_own: bool, now: datetime) -> None:
        """Dates, key and signature of one certificate of the chain."""
        root = not is_own and _signed_by(certificate, certificate)
        whose = "The certificate" if is_own else f"The intermediate certificate {_shown(certificate.subject)}"
        expired = f"expired on {_date(certificate.not_valid_after_utc)}"
        if now > certificate.not_valid_after_utc and root:
            self.remarks.append(f"The root of the chain {expired}: leave it out, clients use their own copy.")
        elif now > certificate.not_valid_after_utc:
            renew = "have it renewed" if is_own else "get the current chain from your authority"
            self.mistakes.append(f"{whose} {expired}: {renew}.")
        if now < certificate.not_valid_before_utc:
            self.mistakes.append(
                f"{whose} is not valid before {_date(certificate.not_valid_before_utc)}: upload it then, or "
                f"set the clock of this machine, which says {_date(now)}."
            )
        match certificate.public_key():
            case rsa.RSAPublicKey(key_size=bits) if bits < _RSA_BITS_MIN:
                self.mistakes.append(
                    f"{whose} has an RSA key of {bits} bits, which is too weak: request one with "
                    f"{_RSA_BITS_MIN} bits or more, or with ECDSA P-256."
                )
            case ec.EllipticCurvePublicKey(curve=curve) if curve.name not in _CURVES:
                self.mistakes.append(
                    f"{whose} has a key on the curve {curve.name}, which clients do not take: request one "
                    "with P-256."
                )
            case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey() if is_own:
                self.remarks.append(
                    "Many mail clients do not know such a key yet "
                    f"({_key_type(certificate.public_key())}); all know ECDSA P-256."
                )
        # Nobody verifies the signature of a root: it is trusted because one has it.
        signed_with = certificate.signature_hash_algorithm
        if not root and signed_with is not None and signed_with.name in _BROKEN_HASHES:
            self.mistakes.append(
                f"{whose} is signed with {signed_with.name.upper()}, which is broken and refused by clients: "
                "have it issued again with SHA-256."
            )

    def judge_purpose(self, own: x509.Certificate) -> None:
        try:
            purposes = own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            return
        if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(purposes):
            self.mistakes.append(
                "The certificate is not for servers (its key usage lacks serverAuth): request one that is."
            )

    def judge_names(self, own: x509.Certificate, wanted: Sequence[str]) -> None:
        names = _names(own)
        missing = [name for name in wanted if not _covers(names, name)]
        if missing:
            self.remarks.append(
                f"The certificate is not for {', '.join(missing)} (but for {', '.join(names) or 'no name'}): "
                "clients that connect to these and check will refuse it."
            )


_ENCRYPTED = (
    "The private key is encrypted: upload it without its passphrase, which "
    "`openssl pkey -in encrypted.pem -out plain.pem` takes off. It is kept encrypted here."
)
_INSTEAD = {
    "CERTIFICATE REQUEST": "a request: upload the certificate that the authority made from it",
    "NEW CERTIFICATE REQUEST": "a request: upload the certificate that the authority made from it",
    "TRUSTED CERTIFICATE": "OpenSSL's own form: convert it with `openssl x509 -in file -out cert.pem`",
    "PKCS7": "a PKCS#7 bundle: convert it with `openssl pkcs7 -print_certs -in file -out chain.pem`",
    "PUBLIC KEY": "a public key: upload the private one that was made with it",
}


def _absent(blocks: Iterable[_Block], what: str) -> str:
    akin = (b.label for b in blocks if ("KEY" in b.label) == ("key" in what))
    instead = next((_INSTEAD[label] for label in akin if label in _INSTEAD), None)
    return f"There is no {what} in the files" + (f", but {instead}." if instead else ": upload it as PEM.")


def _blocks(data: bytes) -> Iterator[_Block]:
    """The PEM blocks of a file, in order; text around them is passed over, as RFC 7468 section 5.2 allows.

    Line by line, because a pattern over the whole would take quadratic time on what is not PEM.
    """
    label, lines = "", []
    for raw in data.splitlines():
        line = raw.strip().removeprefix(b"\xef\xbb\xbf")
        if line.startswith(b"-----BEGIN ") and line.endswith(b"-----"):
            if label:
                yield _Block(label, b"")
            label, lines = line[11:-5].decode("ascii", "replace").strip(), [line]
        elif label:
            lines.append(line)
            if line == f"-----END {label}-----".encode():
                yield _Block(label, b"\n".join([*lines, b""]))
                label = ""
    if label:
        yield _Block(label, b"")


def _not_pem(data: bytes) -> str:
    # A DER SEQUENCE; what is binary and is none is not worth a guess.
    if not data.startswith(b"\x30"):
        return "is not PEM: it has no line that begins with -----BEGIN. Upload the text file with that line"
    try:
        x509.load_der_x509_certificate(data)
    except (ValueError, x509.InvalidVersion):
        return (
            "is binary, not PEM, probably PKCS#12 (.pfx, .p12): convert it with "
            "`openssl pkcs12 -in file -nodes -out all.pem` and upload the result as both files"
        )
    return "is DER, not PEM: convert it with `openssl x509 -inform DER -in file -out cert.pem`"


def _certificate(pem: bytes) -> x509.Certificate:
    """Raises what `cryptography` raises, and at once: it reads most parts only when they are asked for."""
    certificate = x509.load_pem_x509_certificate(pem)
    for _part in (certificate.subject, certificate.issuer, certificate.signature_hash_algorithm):
        pass
    certificate.public_key()
    try:
        _ = certificate.extensions
    except x509.DuplicateExtension as error:
        raise ValueError("an extension stands twice") from error
    return certificate


def _chain(own: x509.Certificate, pool: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """From our own certificate upwards, as far as the pool leads."""
    chain = [own]
    while not _signed_by(chain[-1], chain[-1]):
        issuers = [c for c in pool if c not in chain and _signed_by(chain[-1], c)]
        if not issuers:
            break
        # An authority renews its intermediates with the same key and name.
        chain.append(max(issuers, key=lambda c: c.not_valid_after_utc))
    return chain


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    signed_with = certificate.signature_hash_algorithm
    if signed_with is not None and signed_with.name in _BROKEN_HASHES:
        # Not verified any more by `cryptography`. Unless it is a root, such a certificate is refused anyway.
        return certificate.issuer == issuer.subject
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _certifies(issuer: x509.Certificate, others: Iterable[x509.Certificate]) -> bool:
    return any(other is not issuer and _signed_by(other, issuer) for other in others)


def _identity(chain: Sequence[x509.Certificate], key: PrivateKey) -> Identity:
    own = chain[0]
    return Identity(
        chain=tuple(c.public_bytes(serialization.Encoding.DER) for c in chain),
        private_key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        subject=_shown(own.subject),
        issuer=_shown(own.issuer),
        names=_names(own),
        not_before=own.not_valid_before_utc,
        not_after=own.not_valid_after_utc,
        fingerprint=hashlib.sha256(own.public_bytes(serialization.Encoding.DER)).hexdigest(),
        key_type=_key_type(own.public_key()),
        self_signed=_signed_by(own, own),
    )


def _general_names(names: Sequence[str], addresses: Sequence[str]) -> list[x509.DNSName | x509.IPAddress]:
    dns = dict.fromkeys(_host_name(name) for name in names if not _is_address(name))
    ips = dict.fromkeys(map(_address, [*filter(_is_address, names), *addresses]))
    if not dns and not ips:
        raise ValueError("a certificate needs at least one host name or IP address")
    return [*map(x509.DNSName, dns), *map(x509.IPAddress, ips)]


def _host_name(text: str) -> str:
    name = text.strip().removesuffix(".").lower()
    try:
        name = name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        name = ""
    labels = name.split(".")
    if len(name) > 253 or not all(0 < len(label) <= 63 and _is_label(label) for label in labels):
        raise ValueError(f"{text!r} is no host name")
    return name


def _is_label(label: str) -> bool:
    # The underscore is no part of a host name (RFC 952), but of names that machines have.
    return label.replace("-", "").replace("_", "").isalnum() and label[0] != "-" and label[-1] != "-"


def _address(text: str) -> IPv4Address | IPv6Address:
    # An interface is no part of what a client connects to.
    address = ip_address(text.strip().partition("%")[0])
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _is_address(text: str) -> bool:
    try:
        _address(text)
    except ValueError:
        return False
    return True


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(showable(str(n.value)) for n in found if isinstance(n, x509.DNSName | x509.IPAddress))


def _covers(names: Sequence[str], wanted: str) -> bool:
    """RFC 9525 section 6.3: a wildcard is a whole label, the first, and stands for exactly one."""
    if _is_address(wanted):
        return str(_address(wanted)) in names
    try:
        name = _host_name(wanted)
    except ValueError:
        return False
    wildcard = f"*.{name.partition('.')[2]}"
    return any(own.lower() in (name, wildcard) for own in names)


def _issuer_address(certificate: x509.Certificate) -> str:
    """Where the issuer says that its own certificate is (RFC 5280 section 4.2.2.1); else empty."""
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return ""
    for place in access:
        if place.access_method == AuthorityInformationAccessOID.CA_ISSUERS:
            return showable(str(place.access_location.value))
    return ""


def _key_type(key: CertificatePublicKeyTypes) -> str:
    match key:
        case rsa.RSAPublicKey():
            return f"RSA {key.key_size}"
        case ec.EllipticCurvePublicKey():
            return f"ECDSA {_CURVES.get(key.curve.name, key.curve.name)}"
        case ed25519.Ed25519PublicKey():
            return "Ed25519"
        case ed448.Ed448PublicKey():
            return "Ed448"
        case _:
            return type(key).__name__


def _spki(key: PrivateKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.DER, form)


def _shown(name: x509.Name) -> str:
    return showable(name.rfc4514_string()) or "(no subject)"


def _date(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
