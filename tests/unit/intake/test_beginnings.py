"""What comes before a session: TLS at once, TLS on request, and the header of a proxy; over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import uvloop
from tests.unit.intake.door import HASHED, PASSWORD, Door

from dispatch.intake.credentials import KnownLogin
from dispatch.intake.listener import ConnectionRules, SmtpListener
from dispatch.policy.logins import LoginRules
from dispatch.runtime.machine import SystemClock, SystemNetwork, SystemThreads
from dispatch.security.certificates import Identity, generate
from dispatch.security.tls import client_context, server_context
from dispatch.smtp.server import ServerSettings

Run = Callable[[Coroutine[Any, Any, None]], None]
LOCAL = "127.0.0.1"
SLOWEST_S = 20.0


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param


@pytest.fixture(scope="module")
def identity() -> Identity:
    return generate(["mx.test"], [LOCAL], now=datetime.now(UTC))


class House:
    """A listener with two doors, `smtp` and `smtps`."""

    def __init__(self, identity: Identity | None) -> None:
        loop = asyncio.get_running_loop()
        self.told: list[tuple[str, dict[str, object]]] = []
        self.door = Door()
        desk = self.door.desk
        core = ServerSettings(
            "mx.test",
            starttls=identity is not None,
            auth_mechanisms=("PLAIN", "LOGIN"),
            size_bytes_max=8 << 20,
        )
        desk.rules = msgspec.structs.replace(desk.rules, core=core)
        desk.clock = SystemClock(loop)
        desk.source_allowed = lambda address: address == LOCAL
        self.door.logins["app"] = KnownLogin(LoginRules("app"), HASHED)
        desk.credentials._verifier._worker = SystemThreads(loop).worker("passwords")
        self.listener = SmtpListener(desk, ConnectionRules(50, 50, 5.0), SystemNetwork(loop), self._report)
        if identity is not None:
            self.listener.tls = server_context(identity.chain_pem, identity.private_key)
        sockets = [socket.create_server((LOCAL, 0)) for _ in range(2)]
        self.plain_port, self.tls_port = (bound.getsockname()[1] for bound in sockets)
        self.listener.listen(zip(("smtp", "smtps"), sockets, strict=True))

    def _report(self, event: str, /, **fields: object) -> None:
        self.told.append((event, fields))

    @property
    def addresses(self) -> list[str]:
        return [connection.address for connection in self.listener.connections]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(SLOWEST_S):
            while not condition():
                await asyncio.sleep(0.005)


@asynccontextmanager
async def house(identity: Identity | None) -> AsyncIterator[House]:
    opened = House(identity)
    try:
        yield opened
    finally:
        opened.listener.close()
        await asyncio.sleep(0)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, *lines: bytes) -> list[str]:
        """Say it in one write, and hear one reply for each line (or one, where nothing is said)."""
        self._writer.write(b"".join(line + b"\r\n" for line in lines))
        return [await self.reply() for _ in range(len(lines) or 1)]

    async def reply(self) -> str:
        async with asyncio.timeout(SLOWEST_S):
            while True:
                line = await self._reader.readline()
                if line[3:4] != b"-":
                    return line.decode().strip()

    async def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        await self._writer.start_tls(context, server_hostname=name)

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def ends(self) -> bytes:
        """What comes until the connection is closed."""
        async with asyncio.timeout(SLOWEST_S):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""


@asynccontextmanager
async def client(
    port: int, *, tls: ssl.SSLContext | None = None, first: bytes = b""
) -> AsyncIterator[Client]:
    """`first` goes before everything, also before a handshake."""
    connected = socket.create_connection((LOCAL, port), timeout=SLOWEST_S)
    connected.sendall(first)
    connected.setblocking(False)
    reader, writer = await asyncio.open_connection(
        sock=connected, ssl=tls, server_hostname="mx.test" if tls is not None else None
    )
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


@contextmanager
def proxies(opened: House) -> Any:
    opened.listener.proxied = lambda address: address == LOCAL
    yield


def trusting(identity: Identity) -> ssl.SSLContext:
    return client_context(ca_pem=identity.chain_pem)


LOGIN = b"AUTH LOGIN"


async def log_in(of: Client) -> str:
    from base64 import b64encode

    response = b64encode(f"\0app\0{PASSWORD}".encode())
    return (await of.ask(b"AUTH PLAIN " + response))[0]


def test_tls_on_request_and_mail_behind_it(run: Run, identity: Identity) -> None:
    async def story() -> None:
        async with house(identity) as opened, client(opened.plain_port) as one:
            assert (await one.reply()).startswith("220")
            assert (await one.ask(b"EHLO me.test"))[0].startswith("250")
            assert (await log_in(one)).startswith("538")
            assert (await one.ask(b"STARTTLS"))[0].startswith("220")
            await one.start_tls(trusting(identity), "mx.test")
            assert (await one.ask(b"MAIL FROM:<a@example.org>"))[0].startswith("503")
            assert (await one.ask(b"EHLO me.test"))[0].startswith("250")
            assert (await log_in(one)).startswith("235")
            codes = await one.ask(b"MAIL FROM:<a@example.org>", b"RCPT TO:<b@example.org>", b"DATA")
            assert [code[:3] for code in codes] == ["250", "250", "354"]
            one.write(b"Subject: hello\r\n\r\n" + b"x" * 70 + b"\r\n.\r\n")
            await opened.until(lambda: opened.door.log.waiting)
            opened.door.log.answer()
            assert (await one.reply()).startswith("250 2.0.0 queued")
            ((message, _),) = opened.door.log.messages
            assert message.origin.tls is not None and message.origin.tls.startswith("TLSv1.3")
            assert message.origin.login == "app"

    run(story())


def test_tls_from_the_first_byte(run: Run, identity: Identity) -> None:
    async def story() -> None:
        async with house(identity) as opened, client(opened.tls_port, tls=trusting(identity)) as one:
            assert (await one.reply()).startswith("220")
            assert (await one.ask(b"EHLO me.test", b"STARTTLS"))[1].startswith(("502", "503"))
            assert (await log_in(one)).startswith("235")

    run(story())


def test_who_speaks_clear_text_to_the_tls_port_is_cut_and_told_of(run: Run, identity: Identity) -> None:
    async def story() -> None:
        async with house(identity) as opened, client(opened.tls_port, first=b"EHLO me.test\r\n") as one:
            assert b"250" not in await one.ends()
            await opened.until(lambda: opened.told)
            event, fields = opened.told[0]
            assert event == "no_beginning" and fields["what"] == "TLS" and fields["client"] == LOCAL

    run(story())


def test_a_handshake_on_request_that_fails_ends_the_session(run: Run, identity: Identity) -> None:
    async def story() -> None:
        async with house(identity) as opened, client(opened.plain_port) as one:
            await one.reply()
            await one.ask(b"EHLO me.test", b"STARTTLS")
            one.write(b"MAIL FROM:<a@example.org>\r\n")
            assert b"250" not in await one.ends()
            await opened.until(lambda: not opened.listener.connections)
            assert [event for event, _ in opened.told] == ["no_beginning"]

    run(story())


def test_without_a_certificate_tls_is_not_offered_and_the_tls_port_cuts(run: Run) -> None:
    async def story() -> None:
        async with house(None) as opened:
            async with client(opened.plain_port) as one:
                await one.reply()
                one.write(b"EHLO me.test\r\nQUIT\r\n")
                assert b"STARTTLS" not in await one.ends()
            async with client(opened.tls_port) as other:
                assert await other.ends() == b""

    run(story())


def test_a_certificate_that_is_replaced_is_shown_to_the_next_client(run: Run, identity: Identity) -> None:
    async def story() -> None:
        async with house(identity) as opened:
            newer = generate(["mx.test"], [LOCAL], now=datetime.now(UTC))
            async with client(opened.tls_port, tls=trusting(identity)) as old:
                await old.reply()
                opened.listener.tls = server_context(newer.chain_pem, newer.private_key)
                async with client(opened.tls_port, tls=trusting(newer)) as one:
                    assert (await one.reply()).startswith("220")
                assert (await old.ask(b"EHLO me.test"))[0].startswith("250"), "who is here stays"

    run(story())


V1 = b"PROXY TCP4 192.0.2.33 192.0.2.1 40000 25\r\n"


@pytest.mark.parametrize("cut", [len(V1), 1, 20, len(V1) - 1])
def test_a_proxy_says_whom_it_speaks_for(run: Run, identity: Identity, cut: int) -> None:
    async def story() -> None:
        async with house(identity) as opened:
            with proxies(opened):
                async with client(opened.plain_port, first=V1[:cut]) as one:
                    one.write(V1[cut:] + b"EHLO me.test\r\n")
                    assert (await one.reply()).startswith("220")
                    assert opened.addresses == ["192.0.2.33"]
                    assert (await one.reply()).startswith("250")

    run(story())


def test_a_header_and_a_handshake_in_one_packet(run: Run, identity: Identity) -> None:
    async def story() -> None:
        async with house(identity) as opened:
            with proxies(opened):
                async with client(opened.tls_port, tls=trusting(identity), first=V1) as one:
                    assert (await one.reply()).startswith("220")
                    assert opened.addresses == ["192.0.2.33"]

    run(story())


def test_a_proxy_that_says_nothing_is_cut_and_told_of(run: Run, identity: Identity) -> None:
    async def story() -> None:
        async with house(identity) as opened:
            with proxies(opened):
                async with client(opened.plain_port, first=b"EHLO me.test\r\n") as one:
                    assert await one.ends() == b""
                    await opened.until(lambda: opened.told)
                    assert opened.told[0][1]["what"] == "PROXY header"

    run(story())


def test_from_anywhere_else_no_header_is_believed(run: Run, identity: Identity) -> None:
    async def story() -> None:
        async with house(identity) as opened, client(opened.plain_port, first=V1) as one:
            assert (await one.reply()).startswith("220")
            assert (await one.reply()).startswith("500")
            assert opened.addresses == [LOCAL]

    run(story())


def test_silent_handshakes_of_one_address_leave_room_for_others(run: Run, identity: Identity) -> None:
    async def story() -> None:
        async with house(identity) as opened:
            opened.listener.rules = ConnectionRules(50, 3, 5.0)
            silent = [socket.create_connection((LOCAL, opened.tls_port)) for _ in range(3)]
            await opened.until(lambda: opened.listener._beginnings.total() == 3)
            async with client(opened.plain_port) as cut:
                cut.write(b"QUIT\r\n")
                assert (await cut.reply()).startswith("220"), "what is no session yet counts for TLS alone"
            with pytest.raises((ssl.SSLError, OSError)):
                async with client(opened.tls_port, tls=trusting(identity)) as one:
                    await one.reply()
            assert opened.told[-1][1]["why"] == "too many connections"
            for each in silent:
                each.close()
            await opened.until(lambda: not opened.listener._beginnings)
            async with client(opened.tls_port, tls=trusting(identity)) as one:
                assert (await one.reply()).startswith("220")

    run(story())


def test_a_handshake_under_way_does_not_outlive_the_drain(run: Run, identity: Identity) -> None:
    async def story() -> None:
        async with house(identity) as opened:
            silent = socket.create_connection((LOCAL, opened.tls_port), timeout=SLOWEST_S)
            await opened.until(lambda: opened.listener._beginnings.total() == 1)
            await opened.listener.drain(1.0)
            silent.setblocking(True)
            assert await asyncio.to_thread(silent.recv, 100) == b""
            silent.close()

    run(story())


def test_a_session_in_its_handshake_ends_with_the_drain(run: Run, identity: Identity) -> None:
    async def story() -> None:
        async with house(identity) as opened, client(opened.plain_port) as one:
            await one.reply()
            await one.ask(b"EHLO me.test", b"STARTTLS")
            drain = asyncio.create_task(opened.listener.drain(SLOWEST_S))
            await asyncio.sleep(0)
            await one.start_tls(trusting(identity), "mx.test")
            assert (await one.reply()).startswith("421")
            await asyncio.wait_for(drain, SLOWEST_S)

    run(story())


def test_who_is_cut_in_the_turn_in_which_the_handshake_ends_is_only_cut(run: Run, identity: Identity) -> None:
    async def story() -> None:
        async with house(identity) as opened, client(opened.plain_port) as one:
            faults: list[object] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
            await one.reply()
            (connection,) = opened.listener.connections
            secure = opened.listener.network.secure

            async def and_cut(*given: Any, **more: Any) -> asyncio.Transport:
                transport = await secure(*given, **more)
                connection.session.cut()
                return transport

            opened.listener.network.secure = and_cut  # type: ignore[method-assign]
            await one.ask(b"EHLO me.test", b"STARTTLS")
            with contextlib.suppress(OSError):
                await one.start_tls(trusting(identity), "mx.test")
            assert await one.ends() == b""
            await opened.until(lambda: not opened.listener.connections)
            assert faults == []

    run(story())


def test_an_ipv6_network_is_one_client() -> None:
    door = Door()
    listener = SmtpListener(door.desk, ConnectionRules(50, 2, 5.0), None, lambda event, **_: None)  # type: ignore[arg-type]
    assert listener.begins("2001:db8::1") and listener.begins("2001:db8::2")
    assert not listener.begins("2001:db8::3") and listener.begins("2001:db8:0:1::1")
    listener.began("2001:db8::1")
    assert listener.begins("2001:db8::3")
