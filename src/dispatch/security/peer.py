"""What a person should see of the certificate that an upstream showed."""

from __future__ import annotations

import hashlib

from cryptography import x509

from dispatch.mail.showable import showable

NAMES_MAX = 8


def certificate_in_words(der: bytes) -> str:
    """Whom it names, who signed it, until when it is valid, and its SHA-256 fingerprint.

    What cannot be read, because it is no certificate or a broken one, has its fingerprint all the same.
    """
    digits = hashlib.sha256(der).hexdigest()
    fingerprint = f"SHA-256 {digits}"
    try:
        certificate = x509.load_der_x509_certificate(der)
        subject = showable(certificate.subject.rfc4514_string()) or "no subject"
        issuer = showable(certificate.issuer.rfc4514_string()) or "nobody"
        until = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
        names = _names(certificate)
    except ValueError:
        return f"it cannot be read; {fingerprint}"
    signed = "self-signed" if certificate.subject == certificate.issuer else f"issued by {issuer}"
    return f"{subject}, for {names}, {signed}, valid until {until}, {fingerprint}"


def _names(certificate: x509.Certificate) -> str:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "no name"
    names = [showable(str(name.value)) for name in found]
    more = [] if len(names) <= NAMES_MAX else [f"{len(names) - NAMES_MAX} more"]
    return ", ".join([*names[:NAMES_MAX], *more]) or "no name"
