"""Handshakes between our own two sides and with strangers, in memory; and what is said when they fail."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from dispatch.security.certificates import Identity, check_upload, generate
from dispatch.security.tls import (
    client_context,
    describe,
    explain,
    matches_fingerprint,
    normalise_fingerprint,
    server_context,
)

NAME = "relay.example.org"


class Pair:
    """Client and server joined by two buffers. The clock is the real one: OpenSSL asks for no other."""

    def __init__(self, client: ssl.SSLContext, server: ssl.SSLContext, name: str = NAME) -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(to_client, to_server, server_hostname=name)
        self.server = server.wrap_bio(to_server, to_client, server_side=True)
        self.client_error: ssl.SSLError | None = None
        self.server_error: ssl.SSLError | None = None

    def shake(self) -> Pair:
        """Until both are done or failed; errors are kept, the other side is told of them by an alert."""
        for _round in range(4):
            self.client_error = self.client_error or _advance(self.client)
            self.server_error = self.server_error or _advance(self.server)
        return self

    @property
    def errors(self) -> tuple[ssl.SSLError | None, ssl.SSLError | None]:
        return self.client_error, self.server_error

    def say(self, octets: bytes) -> bytes:
        self.client.write(octets)
        return self.server.read(len(octets))

    def answer(self, octets: bytes) -> bytes:
        self.server.write(octets)
        return self.client.read(len(octets))


def _advance(side: ssl.SSLObject) -> ssl.SSLError | None:
    try:
        side.do_handshake()
        if not side.server_side:
            # In TLS 1.3 the client is done before the server may refuse it.
            side.read(1)
    except ssl.SSLWantReadError:
        return None
    except ssl.SSLError as error:
        return error
    return None


def shown(identity: Identity, *, alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """A server that shows it."""
    return server_context(identity.chain_pem, identity.private_key, alpn=alpn)


def identity_of(leaf: trustme.LeafCert) -> Identity:
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    key = leaf.private_key_pem.bytes()
    return check_upload(chain, key, names_wanted=[], now=datetime.now(UTC)).identity


@pytest.fixture(scope="module")
def made() -> Identity:
    return generate([NAME, "localhost"], ["127.0.0.1", "::1"], now=datetime.now(UTC))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def capped(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    context.maximum_version = version
    return context


def old_client(version: ssl.TLSVersion, ciphers: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers(ciphers)
    with pytest.warns(DeprecationWarning) if version < ssl.TLSVersion.TLSv1_2 else nullcontext():
        context.minimum_version = context.maximum_version = version
    return context


def test_a_client_that_trusts_our_certificate_talks_to_us(made: Identity) -> None:
    pair = Pair(client_context(ca_pem=made.chain_pem), shown(made)).shake()
    assert pair.errors == (None, None)
    assert pair.say(b"EHLO client.example\r\n") == b"EHLO client.example\r\n"
    assert pair.answer(b"250 relay.example.org\r\n") == b"250 relay.example.org\r\n"
    assert describe(pair.client) == describe(pair.server) == "TLSv1.3 TLS_AES_256_GCM_SHA384"
    assert pair.server.compression() is None


@pytest.mark.parametrize("name", [NAME, "localhost", "127.0.0.1", "::1"])
def test_every_name_and_address_of_the_certificate_is_good(made: Identity, name: str) -> None:
    assert Pair(client_context(ca_pem=made.chain_pem), shown(made), name).shake().errors == (
        None,
        None,
    )


def test_tls_1_2_is_spoken_with_forward_secrecy(made: Identity, authority: trustme.CA) -> None:
    for identity in (made, identity_of(authority.issue_cert(NAME, key_type=trustme.KeyType.RSA))):
        client = capped(client_context(verify=False), ssl.TLSVersion.TLSv1_2)
        pair = Pair(client, shown(identity)).shake()
        assert pair.errors == (None, None)
        kind = "ECDSA" if identity is made else "RSA"
        assert describe(pair.server) == f"TLSv1.2 ECDHE-{kind}-AES256-GCM-SHA384"


def test_the_server_offers_modern_ciphers_only(made: Identity) -> None:
    names = {cipher["name"] for cipher in shown(made).get_ciphers()}
    assert names
    assert all(n.startswith(("TLS_", "ECDHE-")) and ("GCM" in n or "CHACHA20" in n) for n in names)


def test_the_client_offers_forward_secrecy_only() -> None:
    names = {cipher["name"] for cipher in client_context().get_ciphers()}
    assert names
    assert all(n.startswith(("TLS_", "ECDHE-", "DHE-")) and not n.endswith("-SHA") for n in names)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_clients_older_than_tls_1_2_are_refused(made: Identity, version: ssl.TLSVersion) -> None:
    pair = Pair(old_client(version, "ALL:@SECLEVEL=0"), shown(made)).shake()
    assert pair.client_error is not None
    assert pair.server_error is not None
    assert "TLS 1.2 is the oldest" in explain(pair.server_error)
    assert "TLS 1.2 is the oldest" in explain(pair.client_error)


def test_servers_older_than_tls_1_2_are_refused(made: Identity) -> None:
    server = shown(made)
    server.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        server.minimum_version = server.maximum_version = ssl.TLSVersion.TLSv1_1
    pair = Pair(client_context(verify=False), server).shake()
    assert pair.client_error is not None
    assert "TLS 1.2 is the oldest" in explain(pair.client_error)


def test_a_client_with_weak_ciphers_only_is_refused(made: Identity) -> None:
    client = old_client(ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA")
    pair = Pair(client, shown(made)).shake()
    assert pair.server_error is not None
    assert pair.client_error is not None
    assert "no cipher in common" in explain(pair.server_error)
    assert "refused the handshake" in explain(pair.client_error)


def test_a_foreign_authority_is_trusted_only_when_it_is_named(authority: trustme.CA, tmp_path: Path) -> None:
    server = shown(identity_of(authority.create_child_ca().issue_cert(NAME)))
    root = authority.cert_pem.bytes()
    (tmp_path / "roots.pem").write_bytes("# Größenwahn Root\n".encode() + root)
    trusting = {"ca_file": str(tmp_path / "roots.pem")}
    assert Pair(client_context(**trusting), server).shake().errors == (None, None)
    assert Pair(client_context(ca_pem="# Größe\n".encode() + root), server).shake().errors == (None, None)
    for stranger in (client_context(), client_context(ca_pem=trustme.CA().cert_pem.bytes())):
        pair = Pair(stranger, server).shake()
        assert pair.client_error is not None
        assert "the issuer of its certificate is unknown" in explain(pair.client_error)
        assert pair.server_error is not None
        assert "does not trust our certificate" in explain(pair.server_error)


def test_an_own_authority_replaces_those_of_the_system(authority: trustme.CA) -> None:
    assert client_context(ca_pem=authority.cert_pem.bytes()).cert_store_stats()["x509"] == 1


def test_a_self_signed_certificate_is_refused_until_trusted(made: Identity) -> None:
    pair = Pair(client_context(), shown(made)).shake()
    assert pair.client_error is not None
    assert "self-signed" in explain(pair.client_error)


def test_an_unknown_root_in_the_chain_is_refused(authority: trustme.CA) -> None:
    leaf = identity_of(authority.issue_cert(NAME))
    root = ssl.PEM_cert_to_DER_cert(authority.cert_pem.bytes().decode())
    pair = Pair(client_context(), shown(replace(leaf, chain=(*leaf.chain, root)))).shake()
    assert pair.client_error is not None
    assert "root of its chain is not trusted" in explain(pair.client_error)


@pytest.mark.parametrize("name", ["other.example.org", "192.0.2.1"])
def test_a_wrong_name_is_refused_by_name(made: Identity, name: str) -> None:
    pair = Pair(client_context(ca_pem=made.chain_pem), shown(made), name).shake()
    assert pair.client_error is not None
    said = explain(pair.client_error)
    assert said.startswith("its certificate is ")
    assert name in said
    assert pair.server_error is not None, "told by an alert"
    assert "certificate" in explain(pair.server_error)


def test_the_common_name_is_no_host_name(authority: trustme.CA) -> None:
    leaf = identity_of(authority.issue_cert("127.0.0.1", common_name=NAME))
    pair = Pair(client_context(ca_pem=authority.cert_pem.bytes()), shown(leaf)).shake()
    assert pair.client_error is not None
    assert "another host name" in explain(pair.client_error)


@pytest.mark.parametrize(("made_days_ago", "said"), [(100, "has expired"), (-10, "is not valid yet")])
def test_a_certificate_out_of_its_dates_is_refused(made_days_ago: int, said: str) -> None:
    past = datetime.now(UTC) - timedelta(days=made_days_ago)
    other = generate([NAME], [], now=past, days=90)
    pair = Pair(client_context(ca_pem=other.chain_pem), shown(other)).shake()
    assert pair.client_error is not None
    assert said in explain(pair.client_error)


def test_a_pinned_certificate_needs_no_authority_name_or_date(made: Identity) -> None:
    old = generate(["elsewhere.example"], [], now=datetime.now(UTC) - timedelta(days=100), days=90)
    pair = Pair(client_context(fingerprint=old.fingerprint), shown(old)).shake()
    assert pair.errors == (None, None)
    der = pair.client.getpeercert(binary_form=True)
    assert der is not None
    assert matches_fingerprint(der, old.fingerprint)
    assert not matches_fingerprint(der, made.fingerprint)


def test_verification_is_on_by_default_and_off_only_when_asked(made: Identity) -> None:
    default = client_context()
    assert (default.verify_mode, default.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert Pair(client_context(verify=False), shown(made), "other.example").shake().errors == (
        None,
        None,
    )


def test_the_server_asks_for_no_client_certificate_and_agrees_on_no_protocol(made: Identity) -> None:
    client = client_context(verify=False)
    client.set_alpn_protocols(["http/1.1"])
    assert Pair(client, shown(made)).shake().server.selected_alpn_protocol() is None
    https = shown(made, alpn=["http/1.1"])
    assert Pair(client, https).shake().server.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_returning_client_resumes_its_session(made: Identity, version: ssl.TLSVersion) -> None:
    client, server = capped(client_context(verify=False), version), shown(made)
    first = Pair(client, server).shake()
    first.answer(b"220 \r\n")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    second = Pair(client, server)
    second.client = client.wrap_bio(to_client, to_server, server_hostname=NAME, session=first.client.session)
    second.server = server.wrap_bio(to_server, to_client, server_side=True)
    second.shake()
    assert second.client.session_reused
    assert server.session_stats()["number"] == 0, "tickets keep no session in memory"


def test_renegotiation_and_compression_are_off(made: Identity) -> None:
    options = shown(made).options
    assert options & ssl.OP_NO_RENEGOTIATION
    assert options & ssl.OP_NO_COMPRESSION


class Opened:
    """What the key was written to, seen while OpenSSL reads it."""

    def __init__(self) -> None:
        self.modes: list[tuple[int, int]] = []
        self.paths: list[str] = []


@pytest.fixture
def no_memfd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    def refused(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refused)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    seen = Opened()
    load = ssl.SSLContext.load_cert_chain

    def watched(self: ssl.SSLContext, certfile: str, password: str) -> None:
        path = Path(certfile)
        seen.paths.append(certfile)
        seen.modes.append((path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777))
        load(self, certfile, password=password)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watched)
    return seen


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
def test_the_key_touches_no_disk(
    made: Identity, opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "must not be needed"))
    shown(made)
    (path,) = opened.paths
    assert path.startswith("/proc/self/fd/")
    assert not Path(path).exists() or "memfd" not in os.readlink(path), "closed again"


def test_without_memfd_the_key_is_in_a_private_file_for_a_moment(
    made: Identity, opened: Opened, no_memfd: Path
) -> None:
    pair = Pair(client_context(ca_pem=made.chain_pem), shown(made)).shake()
    assert pair.errors == (None, None)
    assert opened.modes == [(0o600, 0o700)]
    assert Path(opened.paths[0]).is_relative_to(no_memfd)
    assert list(no_memfd.iterdir()) == []


def test_without_proc_the_key_is_in_a_private_file_for_a_moment(
    made: Identity, opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("dispatch.security.tls._opens", lambda path: False)
    shown(made)
    assert Path(opened.paths[0]).is_relative_to(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("with_memfd", [True, False])
def test_an_identity_that_openssl_refuses_leaves_nothing_behind(
    made: Identity, with_memfd: bool, request: pytest.FixtureRequest
) -> None:
    folder = None if with_memfd else request.getfixturevalue("no_memfd")
    other = generate([NAME], [], now=datetime.now(UTC))
    before = _open_descriptors()
    for broken in (replace(made, private_key=b"junk"), replace(made, private_key=other.private_key)):
        with pytest.raises(ssl.SSLError):
            shown(broken)
    assert _open_descriptors() == before
    assert folder is None or list(folder.iterdir()) == []


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0


DIGEST = "ab" * 31 + "0f"
COLONS = ":".join(["AB"] * 31 + ["0F"])


@pytest.mark.parametrize(
    "text",
    [
        *(DIGEST, DIGEST.upper(), COLONS, COLONS.replace(":", " "), COLONS.replace(":", "-")),
        *(f"sha256:{DIGEST}", f"SHA256:{COLONS}", f"SHA-256 {COLONS}", f"  sha256:  {DIGEST}\n"),
        *(f"sha256 Fingerprint={COLONS}", f"SHA256 Fingerprint={COLONS}", f"{DIGEST[:32]}\n{DIGEST[32:]}"),
    ],
)
def test_a_fingerprint_is_read_in_any_usual_notation(text: str) -> None:
    assert normalise_fingerprint(text) == DIGEST


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "has 0 hexadecimal digits, not 64"),
        (DIGEST[:-1], "has 63 hexadecimal digits"),
        (DIGEST + "0", "has 65 hexadecimal digits"),
        ("ab" * 20, "length of SHA-1"),
        ("ab:" * 15 + "ab", "length of MD5"),
        ("g" + DIGEST[1:], "no hexadecimal digits"),
        (f"sha1:{DIGEST}", "no hexadecimal digits"),
        ("٣" * 64, "no hexadecimal digits"),
        ("\x1b[31m" + "x" * 5000, "no hexadecimal digits"),
    ],
)
def test_what_is_no_fingerprint_is_refused_clearly(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        client_context(fingerprint=text)
    assert "openssl x509" in str(caught.value)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()
    with pytest.raises(ValueError, match=fault):
        matches_fingerprint(b"", text)


def test_a_certificate_is_recognised_by_its_fingerprint(made: Identity) -> None:
    assert matches_fingerprint(made.chain[0], f"SHA256:{made.fingerprint.upper()}")
    assert not matches_fingerprint(made.chain[0] + b"\0", made.fingerprint)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: {"ca_file": str(folder / "absent.pem")}, "cannot be read: No such file"),
        (lambda folder: {"ca_file": str(folder)}, "the CA file /"),
        (lambda folder: {"ca_pem": b""}, "no certificate in PEM form"),
        (lambda folder: {"ca_pem": b"hello"}, "no certificate in PEM form"),
    ],
)
def test_an_authority_that_cannot_be_read_is_said_plainly(
    make: Callable[[Path], dict[str, str]], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        client_context(**make(tmp_path))


def test_a_ca_file_without_a_certificate_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing here\n")
    with pytest.raises(ValueError, match="holds no certificate"):
        client_context(ca_file=str(tmp_path / "empty.pem"))


def feed(context: ssl.SSLContext, octets: bytes, *, server_side: bool) -> ssl.SSLError:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = context.wrap_bio(incoming, outgoing, server_side=server_side)
    incoming.write(octets)
    incoming.write_eof()
    with pytest.raises(ssl.SSLError) as caught:
        side.do_handshake()
    return caught.value


def test_a_peer_that_speaks_no_tls_is_explained(made: Identity) -> None:
    client = client_context(verify=False)
    assert "STARTTLS" in explain(feed(client, b"220 mail.example.org ESMTP ready\r\n", server_side=False))
    server = shown(made)
    assert "STARTTLS" in explain(feed(server, b"EHLO client.example.org\r\n", server_side=True))
    assert "HTTP" in explain(feed(server, b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n", server_side=True))
    assert "closed the connection" in explain(feed(server, b"", server_side=True))


def test_an_unknown_failure_is_explained_in_one_line() -> None:
    error = ssl.SSLError(1, "[SSL: STRANGE] strange\nthing (_ssl.c:1)")
    assert explain(error) == "TLS failed: [SSL: STRANGE] strange thing (_ssl.c:1)"
    error.reason = "TLSV1_ALERT_INSUFFICIENT_SECURITY"
    assert "the alert insufficient security" in explain(error)
    error.reason = "BAD_LENGTH"
    assert explain(error) == "TLS failed: bad length"
    assert explain(ssl.CertificateError("raised by\nhand")) == "TLS failed: raised by hand"
