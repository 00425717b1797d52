"""Sessions over TLS with real certificates and real sockets, on both event loops."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
import uvloop
from tests.unit.relays.loopback import CONTENT, LoopbackSite

from dispatch.mail.report import FaultKind, Report, Stage
from dispatch.relays.smart_host import Trust
from dispatch.smtp.client_auth import Credentials

CREDENTIALS = Credentials("me", "secret", ("PLAIN",))
Host = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Authority:
    """A root of our own, and certificates that it signs."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.file = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.file)

    def context(self, name: str = "127.0.0.1") -> tuple[ssl.SSLContext, str]:
        """For a host, and its certificate's fingerprint."""
        certificate = self._ca.issue_cert(name)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(context)
        der = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
        return context, hashlib.sha256(der).hexdigest()


class Upstream:
    """A host that takes everything; `said` is what it was told behind the handshake."""

    def __init__(self, context: ssl.SSLContext, *, offers: bool = True) -> None:
        self.context = context
        self.offers = offers
        self.said: list[bytes] = []
        self.sessions = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sessions += 1
        encrypted = writer.get_extra_info("ssl_object") is not None
        try:
            await self._talk(reader, writer, encrypted)
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def _talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, encrypted: bool
    ) -> None:
        writer.write(b"220 host\r\n")
        while line := await reader.readline():
            verb = line.split()[0].upper()
            if encrypted:
                self.said.append(line)
            if verb == b"EHLO":
                offer = b"250-AUTH PLAIN\r\n" if encrypted else b"250-STARTTLS\r\n" if self.offers else b""
                writer.write(b"250-host\r\n" + offer + b"250 DSN\r\n")
            elif verb == b"STARTTLS":
                writer.write(b"220 go\r\n")
                await writer.start_tls(self.context)
                encrypted = True
            elif verb == b"AUTH":
                writer.write(b"235 welcome\r\n")
            elif verb == b"DATA":
                writer.write(b"354 go\r\n")
                await reader.readuntil(b"\r\n.\r\n")
                writer.write(b"250 2.0.0 queued\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 bye\r\n")
                return
            else:
                writer.write(b"250 ok\r\n")


@asynccontextmanager
async def running(up: Upstream, *, implicit: bool = False) -> AsyncIterator[int]:
    server = await asyncio.start_server(up.serve, "127.0.0.1", 0, ssl=up.context if implicit else None)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def sent(up: Upstream, *, implicit: bool = False, **settings: object) -> Report:
    async with running(up, implicit=implicit) as port, LoopbackSite(port, **settings) as site:
        return await site.send(CONTENT)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[Report]], Report]:
    def on_a_loop(sending: Awaitable[Report]) -> Report:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(sending)  # type: ignore[arg-type]

    return on_a_loop


Run = Callable[[Awaitable[Report]], Report]


def code(report: Report) -> int | None:
    (reply,) = report.replies
    return None if reply is None else reply.code


def fault_of(report: Report, stage: Stage) -> str:
    assert report.stage is stage
    assert report.fault is not None
    assert report.fault.kind is FaultKind.TLS
    return report.fault.detail


@pytest.mark.parametrize("implicit", [True, False])
def test_mail_and_credentials_go_over_a_verified_connection(
    run: Run, authority: Authority, implicit: bool
) -> None:
    up = Upstream(authority.context()[0])
    mode = "implicit" if implicit else "starttls_required"
    report = run(
        sent(up, implicit=implicit, tls=mode, trust=Trust(ca_file=authority.file), credentials=CREDENTIALS)
    )
    assert code(report) == 250
    assert report.tls is not None
    assert report.tls.startswith("TLSv1.")
    assert report.peer.startswith("127.0.0.1:")
    assert report.dsn
    assert b"AUTH PLAIN " + base64.b64encode(b"\0me\0secret") + b"\r\n" in up.said


@pytest.mark.parametrize("implicit", [True, False])
def test_a_certificate_that_nobody_vouches_for_is_refused_in_words(
    run: Run, authority: Authority, implicit: bool
) -> None:
    up = Upstream(authority.context()[0])
    mode, stage = ("implicit", Stage.CONNECT) if implicit else ("starttls_required", Stage.STARTTLS)
    detail = fault_of(run(sent(up, implicit=implicit, tls=mode)), stage)
    assert "CA file" in detail
    assert up.said == []


def test_a_certificate_for_another_name_is_refused(run: Run, authority: Authority) -> None:
    up = Upstream(authority.context("other.example")[0])
    report = run(sent(up, tls="starttls", trust=Trust(ca_file=authority.file)))
    assert "not for this IP address" in fault_of(report, Stage.STARTTLS)


def test_a_pinned_certificate_is_taken_whoever_signed_it(run: Run, authority: Authority) -> None:
    context, fingerprint = authority.context("other.example")
    report = run(sent(Upstream(context), tls="starttls_required", trust=Trust(fingerprint=fingerprint)))
    assert code(report) == 250


def test_another_certificate_than_the_pinned_one_gets_nothing_to_hear(run: Run, authority: Authority) -> None:
    up = Upstream(authority.context()[0])
    trust = Trust(ca_file=authority.file, fingerprint="ab" * 32)
    detail = fault_of(run(sent(up, tls="starttls_required", trust=trust)), Stage.STARTTLS)
    assert "pinned" in detail
    assert up.said == []


def test_without_verification_any_certificate_will_do(run: Run, authority: Authority) -> None:
    up = Upstream(authority.context("other.example")[0])
    assert code(run(sent(up, tls="starttls_required", trust=Trust(verify=False)))) == 250


def test_auto_encrypts_even_where_nothing_is_verified(run: Run, authority: Authority) -> None:
    report = run(sent(Upstream(authority.context("other.example")[0]), tls="auto"))
    assert code(report) == 250
    assert report.tls is not None


def test_auto_verifies_before_it_hands_out_credentials(run: Run, authority: Authority) -> None:
    up = Upstream(authority.context()[0])
    report = run(sent(up, tls="auto", credentials=CREDENTIALS))
    assert "CA file" in fault_of(report, Stage.STARTTLS)
    assert (up.said, up.sessions) == ([], 1)


def test_auto_goes_on_in_clear_text_where_the_host_cannot_do_what_it_offers(run: Run) -> None:
    nothing_to_show = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    up = Upstream(nothing_to_show)
    report = run(sent(up, tls="auto"))
    assert (code(report), report.tls, up.sessions) == (250, None, 2)


def test_credentials_do_not_go_over_clear_text(run: Run, authority: Authority) -> None:
    up = Upstream(authority.context()[0], offers=False)
    assert "clear text" in fault_of(run(sent(up, tls="auto", credentials=CREDENTIALS)), Stage.AUTH)


def test_a_host_that_speaks_first_where_tls_was_begun_is_explained(run: Run, authority: Authority) -> None:
    report = run(sent(Upstream(authority.context()[0]), tls="implicit"))
    assert "no TLS" in fault_of(report, Stage.CONNECT)


def test_a_ca_file_that_is_not_there_is_a_fault_of_the_connection(run: Run, authority: Authority) -> None:
    report = run(
        sent(Upstream(authority.context()[0]), tls="starttls", trust=Trust(ca_file="/nowhere/ca.pem"))
    )
    assert "/nowhere/ca.pem" in fault_of(report, Stage.STARTTLS)


def test_a_host_that_is_silent_in_the_handshake_is_given_up(run: Run) -> None:
    async def silent() -> Report:
        hush = asyncio.Event()

        async def wait(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await hush.wait()
            writer.close()

        server = await asyncio.start_server(wait, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with LoopbackSite(port, tls="implicit") as site:
            report = await site.send(CONTENT)
        hush.set()
        server.close()
        return report

    fault_of(run(silent()), Stage.CONNECT)
