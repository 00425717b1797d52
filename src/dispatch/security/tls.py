"""TLS contexts for both sides of a connection, and what to say about a session or a failed handshake.

Rules:
- TLS 1.2 is the floor (RFC 8996), whatever the system's OpenSSL is set to; nothing lowers it.
- A server takes only key exchanges with forward secrecy and authenticated encryption. A client offers
  besides what some hosts with TLS 1.2 and an RSA certificate are limited to (finite-field Diffie-Hellman, CBC
  with SHA-2): forward secrecy all the same, and better than the clear text that might be the alternative.
- A client verifies chain and host name (RFC 9525), or the one certificate whose fingerprint it was given,
  or, only if that was asked for, nothing.

Traps:
- OpenSSL knows nothing of fingerprints. A context for one verifies nothing: who uses it compares
  `getpeercert(binary_form=True)` with `matches_fingerprint` after the handshake, before a word is said.
- A context is made once and shared by all connections. `client_context` reads the system's store, some
  milliseconds; `server_context` has the session tickets' key, so a new one ends all resumption.
- Python hands OpenSSL a private key only by the name of a file. That is an anonymous one in memory (memfd):
  it is on no disk, and gone when it is closed, even by `kill -9`. Without memfd, or without `/proc` to name
  it by, it is a file with mode 0600 in a folder of its own with mode 0700, removed at once, also after an
  error; only a crash in between leaves it behind.

It deliberately does no I/O with peers, keeps no certificate, and asks for no client certificates.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hmac import compare_digest
from pathlib import Path

from dispatch.mail.showable import showable

_SERVER_CIPHERS = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20"
_CLIENT_CIPHERS = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:ECDHE+AES:!SHA1:!AESCCM"


def server_context(chain_pem: bytes, key_pem: bytes, *, alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """For every listener that shows this certificate; SMTP has no use for ALPN (RFC 7301).

    Raises `ssl.SSLError` where OpenSSL does not take the chain or the key.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, _SERVER_CIPHERS)
    # No renegotiation: only TLS 1.2 has it, and it lets a client burn our CPU (CVE-2011-1473).
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # Resumption saves a signature for devices that connect for each message. One ticket, not two, because
    # an SMTP client opens one connection after the other. Without any, TLS 1.2 would keep sessions in memory.
    context.num_tickets = 1
    if alpn:
        context.set_alpn_protocols(list(alpn))
    with _named_file(key_pem + chain_pem) as path:
        # The empty password keeps OpenSSL from asking the terminal, should the key be encrypted after all.
        context.load_cert_chain(path, password="")
    return context


def client_context(
    *,
    verify: bool = True,
    ca_file: str | None = None,
    ca_pem: bytes | None = None,
    fingerprint: str | None = None,
) -> ssl.SSLContext:
    """For connections to an upstream. By default its chain must lead to a root of this system.

    `ca_file` and `ca_pem` (both may be given) are trusted instead of the system's roots; a certificate in
    them is trusted as it is, root or not, so a server's own self-signed one will do. With `fingerprint` or
    `verify=False` the context verifies nothing, and a fingerprint is for the caller to compare. Raises
    `ValueError`, fit to be shown, for a fingerprint that is none and a CA file that cannot be read.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, _CLIENT_CIPHERS)
    # RFC 9525 section 2: the subject's common name is no host name.
    context.hostname_checks_common_name = False
    if fingerprint is not None:
        normalise_fingerprint(fingerprint)
    if fingerprint is not None or not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if ca_file is None and ca_pem is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except ssl.SSLError:
            raise ValueError(f"the CA file {ca_file} holds no certificate in PEM form") from None
        except OSError as error:
            raise ValueError(f"the CA file {ca_file} cannot be read: {error.strerror}") from None
    if ca_pem is not None:
        try:
            # Bundles have comments in many languages; PEM itself is ASCII.
            context.load_verify_locations(cadata=ca_pem.decode("ascii", "ignore"))
        except (ssl.SSLError, ValueError):
            raise ValueError("the CA certificates hold no certificate in PEM form") from None
    return context


def _context(protocol: int, ciphers: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    # After the protocol: the system's openssl.cnf may have set another floor, or a ceiling.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
    # Compression gives away secrets by the length of records (CVE-2012-4929).
    context.options |= ssl.OP_NO_COMPRESSION
    context.set_ciphers(ciphers)
    return context


@contextmanager
def _named_file(secret: bytes) -> Iterator[str]:
    """The path of a file with these bytes, for as long as the block lasts."""
    try:
        memory = os.memfd_create("identity")
    except (AttributeError, OSError):
        memory = -1
    if memory >= 0:
        with os.fdopen(memory, "wb") as file:
            file.write(secret)
            file.flush()
            path = f"/proc/self/fd/{memory}"
            if _opens(path):
                yield path
                return
    with tempfile.TemporaryDirectory(prefix="dispatch-") as folder:
        path = f"{folder}/identity"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
        yield path


def _opens(path: str) -> bool:
    try:
        with Path(path).open("rb"):
            return True
    except OSError:
        return False


def normalise_fingerprint(text: str) -> str:
    """64 hexadecimal digits in lower case, from SHA-256 in any usual notation; raises `ValueError`.

    `openssl x509 -fingerprint -sha256` writes `sha256 Fingerprint=AB:CD:…`, others `sha256:abcd…`.
    """
    digits = re.sub(r"^\s*sha-?256\s*(fingerprint)?\s*[:=]?", "", text, flags=re.IGNORECASE)
    digits = re.sub(r"[\s:-]", "", digits).lower()
    if re.fullmatch(r"[0-9a-f]{64}", digits):
        return digits
    if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{32}", digits):
        kind = "SHA-1" if len(digits) == 40 else "MD5"
        fault = f"it has the length of {kind}, which can be forged"
    elif re.fullmatch(r"[0-9a-f]*", digits):
        fault = f"it has {len(digits)} hexadecimal digits, not 64"
    else:
        fault = "it has characters that are no hexadecimal digits"
    raise ValueError(
        f"{showable(text[:100])!r} is no SHA-256 fingerprint, {fault}; "
        "`openssl x509 -in cert.pem -noout -fingerprint -sha256` shows the right one"
    )


def matches_fingerprint(der: bytes, fingerprint: str) -> bool:
    """Whether a certificate is the one that was pinned; raises `ValueError` as `normalise_fingerprint`."""
    return compare_digest(hashlib.sha256(der).hexdigest(), normalise_fingerprint(fingerprint))


def describe(session: ssl.SSLObject | ssl.SSLSocket) -> str:
    """`TLSv1.3 TLS_AES_256_GCM_SHA384`, after the handshake: for the `Received` field and the logs."""
    cipher = session.cipher()
    assert cipher is not None, "there is nothing to describe before the handshake"
    return f"{session.version()} {cipher[0]}"


def chain_of(session: ssl.SSLObject | ssl.SSLSocket) -> list[bytes]:
    """The certificates that the peer has shown, DER, its own one first; nothing of them was verified."""
    public = getattr(session, "get_unverified_chain", None)
    if public is not None:
        return list(public())
    # Python has had it since 3.10, and a public name for it since 3.13.
    shown = getattr(session, "_sslobj").get_unverified_chain()  # noqa: B009  # mypy does not know it
    return [ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in shown or ()]


_CHECKS = {
    9: "its certificate is not valid yet: compare the clocks of both machines",
    10: "its certificate, or one in its chain, has expired: have it renewed, if our clock is right",
    18: "its certificate is self-signed: pin its fingerprint, or trust it as a CA file",
    19: "the root of its chain is not trusted here: give the root as a CA file, if it is the right one",
    20: "the issuer of its certificate is unknown here: give its root as a CA file, or have the host send "
    "its intermediate certificates; without a CA bundle on this system every issuer is unknown",
    23: "its certificate was revoked: ask its operator",
    26: "its certificate is not meant for servers: its operator must get another",
    62: "its certificate is for another host name: use a name that it is for, or pin its fingerprint",
    64: "its certificate is not for this IP address: use a name that it is for, or pin its fingerprint",
    66: "the key of its certificate is too weak: its operator must get another",
    67: "the key of a certificate in its chain is too weak: its operator must get another",
    68: "a certificate in its chain is signed with a broken hash: its operator must get another",
}
_CHECKS |= dict.fromkeys((2, 21), _CHECKS[20])
"""What failed, by X509_V_ERR (OpenSSL, `x509_vfy.h`), and what can be done."""

_PLAIN_TEXT = (
    "what it sent is no TLS: the port speaks clear text first (STARTTLS) where TLS was begun at once, or it "
    "is another service"
)
_NO_VERSION = "it and we have no version of TLS in common: TLS 1.2 is the oldest that is spoken here"
_NO_CIPHER = (
    "it and we have no cipher in common: it is too old, or limited to ciphers without forward secrecy"
)
_BAD_CERTIFICATE = (
    "it refuses our certificate: see that the chain is whole, in date, and for the name it uses"
)
_REASONS = {
    "WRONG_VERSION_NUMBER": _PLAIN_TEXT,
    "HTTP_REQUEST": "it speaks HTTP without TLS: it took this port for another",
    "RECORD_LAYER_FAILURE": _PLAIN_TEXT,
    "PACKET_LENGTH_TOO_LONG": _PLAIN_TEXT,
    "UNSUPPORTED_PROTOCOL": _NO_VERSION,
    "VERSION_TOO_LOW": _NO_VERSION,
    "TLSV1_ALERT_PROTOCOL_VERSION": _NO_VERSION,
    "NO_SHARED_CIPHER": _NO_CIPHER,
    "NO_SUITABLE_SIGNATURE_ALGORITHM": _NO_CIPHER,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": f"it refused the handshake; mostly {_NO_CIPHER}",
    "DH_KEY_TOO_SMALL": "its Diffie-Hellman group is too weak: its operator must use 2048 bits, or ECDHE",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust our certificate: import it there, or get one of a public CA",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it finds our certificate expired: renew it, or set its clock right",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _BAD_CERTIFICATE,
    "SSLV3_ALERT_BAD_CERTIFICATE": _BAD_CERTIFICATE,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": _BAD_CERTIFICATE,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it asks for a client certificate, which is not supported",
    "TLSV1_UNRECOGNIZED_NAME": "it does not know the host name that we asked for: check the name",
}


def explain(error: ssl.SSLError) -> str:
    """One line for an operator: which check or step failed, and what can be done.

    `ssl.CertificateError` is an `ssl.SSLError`. The peer is "it" on either side: host or client.
    """
    if isinstance(error, ssl.SSLCertVerificationError) and hasattr(error, "verify_code"):
        words = _CHECKS.get(error.verify_code) or f"its certificate was refused: {error.verify_message}"
        # OpenSSL names the host that was asked for in this message only.
        return _one_line(f"{words} ({error.verify_message})" if error.verify_code in (62, 64) else words)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "it closed the connection in the middle of TLS: its own log may say why"
    # Only what OpenSSL reported has a reason; what is raised by hand lacks even the attribute.
    reason: str = getattr(error, "reason", None) or ""
    known = _REASONS.get(reason)
    if known is not None:
        return known
    before, alert, what = reason.partition("_ALERT_")
    if alert:
        return _one_line(f"it broke TLS off with the alert {_spoken(what)}: its own log may say why")
    words = error.strerror or " ".join(map(str, error.args))
    return _one_line(f"TLS failed: {_spoken(before) or words}")


def _spoken(reason: str) -> str:
    return reason.replace("_", " ").lower()


def _one_line(text: str) -> str:
    return " ".join(showable(text).split())
