"""A network in memory: the test is the host, reads what the relay wrote and says what it likes."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable

from tests.simulation.loop import SimulatedLoop
from tests.unit.smtp.client_talk import CONTENT, ehlo_reply

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import new_message_id
from dispatch.mail.message import ContentFile, Message, Origin, Summary
from dispatch.mail.report import Report
from dispatch.policy.dane import Tlsa
from dispatch.ports import File, Leave, MailExchangers, NameFault, Resolved, TlsaRecords, Transaction
from dispatch.relays.smart_host import SmartHost
from dispatch.relays.smtp import SmtpRelay

PIPELINING = ("PIPELINING", "SIZE 100000000")
GROUP = b"MAIL FROM:<a@a.example> SIZE=%d\r\nRCPT TO:<b@b.example>\r\nDATA\r\n"


class MemoryConnection(asyncio.Transport):
    """The host's end of one connection."""

    def __init__(self, protocol: asyncio.Protocol, number: int, turned: Callable[[], None]) -> None:
        super().__init__({"peername": ("192.0.2.1", 2500 + number)})
        self.protocol = protocol
        self._turned = turned
        self.writes: list[bytes] = []
        self.closed = False
        self.reading = True

    # What the relay uses

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: object) -> None:
        self.write(b"".join(list_of_data))  # type: ignore[arg-type]

    def abort(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol  # type: ignore[assignment]

    # What the test uses

    def heard(self) -> bytes:
        heard = b"".join(self.writes)
        self.writes.clear()
        return heard

    def say(self, data: bytes) -> None:
        assert not self.closed, "the relay has closed this connection"
        self.protocol.data_received(data)
        self._turned()

    def open(self, *extensions: str) -> None:
        self.say(b"220 host.example\r\n")
        assert self.heard() == b"EHLO client.example\r\n"
        self.say(ehlo_reply(*(extensions or PIPELINING)))

    def take(self, count: int = 1) -> None:
        """Accept `count` messages of one recipient, one group after the other."""
        for _ in range(count):
            self.say(b"250 ok\r\n250 ok\r\n354 go\r\n")
            self.say(b"250 2.0.0 queued\r\n")

    def drop(self, error: Exception | None = None) -> None:
        self.closed = True
        self.protocol.connection_lost(error)


class MemoryNetwork:
    """`ports.Network`; `faults` come first, one for each attempt. `turned`: what hosts say ends a turn."""

    def __init__(self, turned: Callable[[], None]) -> None:
        self._turned = turned
        self.connections: list[MemoryConnection] = []
        self.faults: deque[Exception] = deque()
        self.attempts = 0
        self.dialled: list[str] = []
        self.sources: list[str | None] = []
        self.down: dict[str, Exception] = {}
        self.silent: set[str] = set()
        """Addresses that never answer."""
        self.handshakes: deque[Exception | None] = deque()
        """How they end, in their order; without any they succeed."""
        self.server_names: list[str | None] = []
        self.verified: list[bool] = []
        """Whether the context of each handshake verifies."""

    async def connect(
        self,
        host: str,
        port: int,
        protocol: Callable[[], asyncio.Protocol],
        timeout_s: float,
        source_address: str | None = None,
    ) -> None:
        self.attempts += 1
        self.dialled.append(host)
        self.sources.append(source_address)
        if self.faults:
            raise self.faults.popleft()
        if host in self.down:
            raise self.down[host]
        if host in self.silent:
            await asyncio.get_running_loop().create_future()
        made = protocol()
        connection = MemoryConnection(made, self.attempts, self._turned)
        self.connections.append(connection)
        made.connection_made(connection)

    async def secure(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.Protocol,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str | None = None,
        timeout_s: float,
    ) -> asyncio.Transport:
        assert not transport.is_reading(), "what comes belongs to the handshake"
        self.server_names.append(server_name)
        self.verified.append(context.verify_mode is ssl.CERT_REQUIRED)
        if self.handshakes and (fault := self.handshakes.popleft()) is not None:
            raise fault
        return transport


class MemoryNames:
    """`ports.Resolver` from tables; a fault stands for every name while there is one."""

    def __init__(self) -> None:
        self.hosts: dict[str, tuple[str, ...]] = {}
        self.exchangers: dict[str, tuple[tuple[int, str], ...]] = {}
        self.texts: dict[str, tuple[str, ...]] = {}
        self.tlsas: dict[str, tuple[Tlsa, ...]] = {}
        self.faults: dict[str, NameFault] = {}
        """Of questions for TLSA records."""
        self.secure = False
        """DNSSEC vouches for every answer, but those of `insecure`."""
        self.insecure: set[str] = set()
        self.fault: NameFault | None = None
        self.ttl_s = 60.0
        self.asked: list[str] = []

    async def addresses(self, host: str) -> Resolved:
        self.asked.append(host)
        if self.fault is not None:
            raise self.fault
        if host not in self.hosts:
            raise NameFault(f"there is no name {host} in DNS", confirmed=True)
        return Resolved(self.hosts[host], self.ttl_s, self._secure(host))

    async def mx(self, domain: str) -> MailExchangers:
        self.asked.append(domain)
        if self.fault is not None:
            raise self.fault
        if domain not in self.exchangers:
            raise NameFault(f"{domain} has no MX record", confirmed=True)
        return MailExchangers(self.exchangers[domain], self.ttl_s, self._secure(domain))

    async def tlsa(self, name: str) -> TlsaRecords:
        self.asked.append(name)
        if self.fault is not None or name in self.faults:
            raise self.fault or self.faults[name]
        if name not in self.tlsas:
            raise NameFault(f"{name} has no TLSA record", confirmed=True)
        return TlsaRecords(self.tlsas[name], self.ttl_s, self._secure(name))

    async def txt(self, name: str) -> Resolved:
        self.asked.append(name)
        if self.fault is not None:
            raise self.fault
        if name not in self.texts:
            raise NameFault(f"{name} has no TXT record", confirmed=True)
        return Resolved(self.texts[name], self.ttl_s)

    def _secure(self, name: str) -> bool:
        return self.secure and name not in self.insecure


class MemoryFile:
    """`ports.File` to read from."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.reads = 0
        self.closed = False

    def read_at(self, offset: int, size_bytes: int) -> bytes:
        self.reads += 1
        return self.content[offset : offset + size_bytes]

    def close(self) -> None:
        self.closed = True


class Site:
    """A relay, its clock, its network, and what became of the transactions."""

    def __init__(self, **settings: object) -> None:
        self.clock = SimulatedLoop()
        self.network = MemoryNetwork(self._turned)
        self.files: dict[str, MemoryFile] = {}
        self.reports: dict[str, Report] = {}
        self.asked: list[str] = []
        self.sending: list[str] = []
        self.undecided = False
        """`sending` is answered when the test calls `let_leave`, and not at the end of the turn."""
        self._leaving: list[tuple[Transaction, Leave]] = []
        self.on_sending: Callable[[Transaction], None] | None = None
        self.on_done: Callable[[str], None] | None = None
        self.names: MemoryNames | None = settings.pop("names", None)  # type: ignore[assignment]
        given = {"hosts": ("up.example",), "helo_name": "client.example", **settings}
        self.relay = SmtpRelay(
            SmartHost(**given),  # type: ignore[arg-type]
            clock=self.clock,
            network=self.network,
            worker=self.clock.worker("content"),
            open_content=self._open,
            resolver=self.names,
        )

    def _open(self, content: ContentFile) -> File:
        return self.files[content.name]  # type: ignore[return-value]

    def start(
        self, key: str, content: bytes | ContentFile = CONTENT, envelope: Envelope | None = None
    ) -> None:
        envelope = envelope or Envelope("a@a.example", (Recipient("b@b.example"),))
        size = len(content) if isinstance(content, bytes) else content.size_bytes
        message = Message(
            new_message_id(0, bytes(10)), 0, envelope, Origin("smtp", "127.0.0.1"), Summary(), size
        )
        indexes = tuple(range(len(envelope.recipients)))
        self.relay.start(Transaction(message, indexes, content, self._sending, key), self._done)

    def _sending(self, transaction: Transaction, leave: Leave) -> None:
        self.asked.append(str(transaction.tag))
        self._leaving.append((transaction, leave))
        if not self.undecided:
            self.clock.call_later(0, self.let_leave)

    def let_leave(self) -> None:
        """What the queue does at the end of a turn."""
        leaving, self._leaving = self._leaving, []
        for transaction, leave in leaving:
            fault = None
            try:
                if self.on_sending is not None:
                    self.on_sending(transaction)
            except OSError as error:
                fault = error
            else:
                self.sending.append(str(transaction.tag))
            leave(fault)

    def _done(self, transaction: Transaction, report: Report) -> None:
        key = str(transaction.tag)
        assert key not in self.reports, "reported twice"
        self.reports[key] = report
        if self.on_done is not None:
            self.on_done(key)

    def _turned(self) -> None:
        while self._leaving and not self.undecided:
            self.let_leave()

    async def settle(self) -> None:
        """Let everything happen that can happen now."""
        for _ in range(25):
            await asyncio.sleep(0)
            self.clock.settle()

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.settle()

    async def connection(self, number: int = 0, *extensions: str) -> MemoryConnection:
        """Wait for that connection and open its session."""
        await self.settle()
        connection = self.network.connections[number]
        connection.open(*extensions)
        return connection

    def codes(self, key: str) -> list[int | None]:
        return [None if reply is None else reply.code for reply in self.reports[key].replies]
