"""A relay is tried out: what a person is told of each step, and what nobody is told."""

from __future__ import annotations

import asyncio
import os

import pytest
from tests.unit.relays.loopback import SHORT
from tests.unit.relays.memory_upstream import MemoryNames
from tests.unit.relays.test_smtp_relay import on_a_loop
from tests.unit.relays.test_smtp_tls import Authority, Upstream, authority, running

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import new_message_id
from dispatch.mail.message import Message, Origin, Summary
from dispatch.mail.report import CHECK_RESULT, CheckStep
from dispatch.ports import Transaction
from dispatch.relays.checkup import CERTIFICATE, Checkup, Direct, Means
from dispatch.relays.direct_domain import Ourselves
from dispatch.relays.smart_host import SmartHost, Trust
from dispatch.runtime.machine import SystemClock, SystemNetwork, SystemWorker
from dispatch.smtp.client_auth import Credentials

__all__ = ["authority"]

SECRET = "open sesame"
CONTENT = b"Subject: a test\r\n\r\nhello\r\n"


async def tried(
    port: int,
    *,
    letter: bool = False,
    names: MemoryNames | None = None,
    direct: Direct | None = None,
    **settings: object,
) -> list[CheckStep]:
    loop = asyncio.get_running_loop()
    steps: list[CheckStep] = []
    over = asyncio.Event()
    worker = SystemWorker(loop, "content")
    given = {"hosts": ("127.0.0.1",), "port": port, "helo_name": "client.example", "timeouts": SHORT}
    checkup = Checkup(
        SmartHost(**(given | settings)),  # type: ignore[arg-type]
        Means(SystemClock(loop), SystemNetwork(loop), names, None, worker),
        tell=steps.append,
        over=over.set,
        direct=direct,
    )
    try:
        checkup.start(_letter() if letter else None)
        await asyncio.wait_for(over.wait(), 20)
    finally:
        checkup.stop()
        worker.close()
    return steps


def _letter() -> Transaction:
    message = Message(
        new_message_id(0, os.urandom(10)),
        0,
        Envelope("a@a.example", (Recipient("b@b.example"),)),
        Origin("internal", "127.0.0.1"),
        Summary(),
        len(CONTENT),
    )
    return Transaction(message, (0,), CONTENT, lambda transaction, leave: leave(None))


def names_of(steps: list[CheckStep]) -> list[str]:
    return [step.what for step in steps]


def result(steps: list[CheckStep]) -> CheckStep:
    (found,) = [step for step in steps if step.what == CHECK_RESULT]
    return found


@on_a_loop
async def test_each_step_is_told_with_the_hosts_words(authority: Authority) -> None:
    context, fingerprint = authority.context()
    trust = Trust(ca_file=authority.file)
    async with running(Upstream(context)) as port:
        steps = await tried(
            port,
            letter=True,
            tls="starttls_required",
            trust=trust,
            credentials=Credentials("me", SECRET, ("PLAIN",)),
        )
    assert names_of(steps) == [
        f"connect to 127.0.0.1:{port}",
        "greeting",
        "EHLO",
        "STARTTLS",
        "TLS",
        CERTIFICATE,
        "EHLO",
        "AUTH",
        "MAIL FROM",
        "RCPT TO",
        "DATA",
        "end of data",
        CHECK_RESULT,
        "QUIT",
    ]
    assert all(step.fine for step in steps)
    said = {step.what: step.words for step in steps}
    assert said["end of data"] == "250 2.0.0 queued"
    assert fingerprint in said[CERTIFICATE]
    assert "127.0.0.1" in said[CERTIFICATE]
    assert SECRET not in repr(steps)


@on_a_loop
async def test_without_a_letter_a_session_is_opened_and_that_is_all(authority: Authority) -> None:
    context, _ = authority.context()
    host = Upstream(context)
    async with running(host, implicit=True) as port:
        steps = await tried(port, tls="implicit", trust=Trust(ca_file=authority.file))
    assert result(steps).fine
    assert [line.split()[0] for line in host.said] == [b"EHLO", b"QUIT"]


@on_a_loop
async def test_a_certificate_that_is_not_taken_is_shown_and_nobody_logs_in(authority: Authority) -> None:
    context, fingerprint = authority.context()
    host = Upstream(context)
    async with running(host) as port:
        steps = await tried(port, tls="starttls_required", credentials=Credentials("me", SECRET, ("PLAIN",)))
    assert not result(steps).fine
    assert "unknown here" in result(steps).words
    assert steps[-1].what == CERTIFICATE
    assert fingerprint in steps[-1].words
    assert not any(line.startswith((b"AUTH", b"MAIL")) for line in host.said)


@on_a_loop
async def test_another_certificate_than_the_pinned_one_is_shown_at_once(authority: Authority) -> None:
    context, fingerprint = authority.context()
    host = Upstream(context)
    async with running(host) as port:
        steps = await tried(port, tls="starttls", trust=Trust(fingerprint="00" * 32))
    assert "pinned" in result(steps).words
    assert fingerprint in next(step.words for step in steps if step.what == CERTIFICATE)
    assert host.sessions == 1


@on_a_loop
async def test_nobody_there_is_told_with_the_address() -> None:
    steps = await tried(1)
    assert names_of(steps) == ["connect to 127.0.0.1:1", CHECK_RESULT]
    assert not any(step.fine for step in steps)
    assert "connection refused" in result(steps).words


@on_a_loop
async def test_names_are_told_with_what_dns_says(authority: Authority) -> None:
    names = MemoryNames()
    names.exchangers["example.org"] = ((10, "down.example.org"), (20, "up.example.org"))
    names.hosts |= {"up.example.org": ("127.0.0.1",)}
    async with running(Upstream(authority.context()[0])) as port:
        steps = await tried(port, names=names, hosts=("example.org",), lookup="mx")
    assert [(step.what, step.fine, step.words) for step in steps[:3]] == [
        ("MX of example.org", True, "down.example.org, up.example.org"),
        ("addresses of down.example.org", False, "there is no name down.example.org in DNS"),
        ("addresses of up.example.org", True, "127.0.0.1"),
    ]
    assert result(steps).fine


@on_a_loop
async def test_a_mail_domain_is_looked_up_as_direct_delivery_does(authority: Authority) -> None:
    names = MemoryNames()
    names.exchangers["example.org."] = ((10, "mx.example.org"),)
    names.hosts["mx.example.org."] = ("127.0.0.1",)
    direct = Direct(Ourselves(), None)
    async with running(Upstream(authority.context()[0])) as port:
        steps = await tried(port, letter=True, names=names, direct=direct, hosts=("example.org",), tls="auto")
    assert names_of(steps)[:3] == [
        "MX of example.org",
        "addresses of mx.example.org",
        f"connect to 127.0.0.1:{port}",
    ]
    assert result(steps).fine
    nobody = await tried(1, names=names, direct=direct, hosts=("nowhere.example",))
    assert "no such mail domain" in result(nobody).words


@on_a_loop
async def test_an_access_token_that_is_not_given_is_a_step_of_its_own(authority: Authority) -> None:
    async def source(refused: Credentials | None) -> Credentials:
        raise PermissionError("invalid_client")

    async with running(Upstream(authority.context()[0])) as port:
        steps = await tried(port, credentials=source)
    assert names_of(steps) == ["access token", CHECK_RESULT]
    assert "invalid_client" in result(steps).words


@on_a_loop
async def test_a_refusal_is_the_result() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 host\r\n")
        while line := await reader.readline():
            writer.write(b"550 5.1.1 nobody here\r\n" if line.startswith(b"RCPT") else b"250 ok\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    try:
        steps = await tried(server.sockets[0].getsockname()[1], letter=True)
    finally:
        server.close()
    assert (result(steps).fine, "550 5.1.1 nobody here" in result(steps).words) == (False, True)


@on_a_loop
async def test_what_is_broken_off_tells_nothing_more() -> None:
    connected, gone = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        gone.set()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    try:
        trying = asyncio.ensure_future(tried(server.sockets[0].getsockname()[1]))
        await asyncio.wait_for(connected.wait(), 20)
        trying.cancel()
        await asyncio.wait_for(gone.wait(), 20)
        with pytest.raises(asyncio.CancelledError):
            await trying
    finally:
        server.close()
