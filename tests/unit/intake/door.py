"""One client's session over a wire, a log and a clock that the test moves by hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from tests.simulation.disk import SimulatedDisk
from tests.simulation.loop import SimulatedChance, SimulatedLoop

from dispatch.intake.acceptance import Acceptance, AcceptanceRules
from dispatch.intake.credentials import Credentials, KnownLogin
from dispatch.intake.incoming import Budget, Incoming
from dispatch.intake.smtp_session import Desk, SessionRules, SmtpSession
from dispatch.mail.message import Message, Origin
from dispatch.policy.admission import RateLimits, Refusal
from dispatch.policy.limits import Bucket, Limits
from dispatch.policy.lockout import Lockout
from dispatch.policy.routing import Route, Router
from dispatch.policy.size_limits import SizeLimits
from dispatch.policy.suppression import SuppressionList
from dispatch.ports import AppendFault, Buffer, DiskLevel, Lsn
from dispatch.security.credential_cache import CredentialCache
from dispatch.security.passwords import hash_password
from dispatch.security.verifying import Verifier
from dispatch.smtp.server import ServerSettings
from dispatch.spool.content import ContentFolder
from dispatch.spool.records import decode_mail

CONTENT = "content/0"
STORED = Lsn(1)
PASSWORD = "correct horse"
HASHED = hash_password(PASSWORD, rounds=4)

ROUTER = Router((), "relay", {"relay"})
"""No rules."""


class HandLog:
    """`ports.Log`: nothing is durable before the test says so."""

    durable = Lsn(0)

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self._waiting: deque[Callable[[Lsn | AppendFault], None]] = deque()

    def append(self, record: Sequence[Buffer], done: Callable[[Lsn | AppendFault], None]) -> None:
        self.records.append(b"".join(record))
        self._waiting.append(done)

    def answer(self, answer: Lsn | AppendFault = STORED) -> None:
        self._waiting.popleft()(answer)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def messages(self) -> list[tuple[Message, bytes]]:
        return [decode_mail(record) for record in self.records]

    def flush(self) -> None:
        raise AssertionError("intake waits for the disk")

    def release(self, below: Lsn) -> None:
        raise AssertionError("not in a session")

    def close(self) -> None:
        raise AssertionError("not in a session")


class HandWire:
    """`Wire`: what was said, and whether the client is read."""

    def __init__(self) -> None:
        self.said = b""
        self.closed = False
        self.pauses = 0
        self.handshakes = 0

    def write(self, data: bytes) -> None:
        assert not self.closed, "said after the close"
        self.said += data

    def close(self) -> None:
        self.closed = True

    def pause(self) -> None:
        self.pauses += 1

    def resume(self) -> None:
        self.pauses -= 1
        assert self.pauses >= 0, "resumed more often than paused"

    def secure(self) -> None:
        self.handshakes += 1

    def heard(self) -> list[str]:
        """The codes of the replies since this was last asked."""
        lines, self.said = self.said.decode().splitlines(), b""
        return [line[:3] for line in lines if line[3:4] == " "]


class Door:
    """A desk with everything around it; `open` begins a session."""

    def __init__(self) -> None:
        self.loop = SimulatedLoop()
        self.disk = SimulatedDisk()
        self.log = HandLog()
        self.level = DiskLevel.AMPLE
        self.refusals: list[Refusal] = []
        self.refused: list[tuple[str, str | None, str]] = []
        """Kind, sender and recipient of each."""
        self.budget = Budget(1 << 20)
        files = ContentFolder(self.disk.process(), CONTENT, worker=self.loop.worker("content"), incarnation=7)
        rules = AcceptanceRules("mx.test", 8 << 20, 30, 2, SizeLimits(ROUTER, {"relay": 4 << 20}))
        self.acceptance = Acceptance(self.loop, SimulatedChance(), self.log, rules)
        cache = CredentialCache(b"k" * 32)
        self.logins: dict[str, KnownLogin] = {}
        self.lockout = Lockout()
        self.rates = RateLimits(Limits(), Limits(), Bucket(()))
        self.refusing: Route | None = None
        self.suppressed = SuppressionList()
        verifier = Verifier(self.loop.worker("passwords"), self.loop, cache)
        self.desk = Desk(
            credentials=Credentials(self.loop, verifier, self.lockout, self.logins),
            rates=self.rates,
            refused_by=lambda sender, recipient, origin: self.refusing,
            suppressed=lambda recipient: self.suppressed.holds(recipient),
            clock=self.loop,
            acceptance=self.acceptance,
            incoming=lambda: Incoming(self.acceptance, files, self.budget),
            rules=SessionRules(ServerSettings("mx.test", size_bytes_max=8 << 20), 100, False),
            source_allowed=lambda address: address.startswith("192.0.2."),
            disk_level=lambda: self.level,
            refused=self._refused,
        )

    def _refused(self, refusal: Refusal, origin: Origin, sender: str | None, recipient: str) -> None:
        self.refusals.append(refusal)
        self.refused.append((refusal.kind, sender, recipient))

    def open(self, address: str = "192.0.2.1") -> tuple[SmtpSession, HandWire]:
        wire = HandWire()
        session = SmtpSession(self.desk, wire, address)
        session.greet()
        session.received(b"EHLO client.test\r\n")
        assert wire.heard() == ["220", "250"]
        return session, wire

    @property
    def files(self) -> list[str]:
        return [path for path in self.disk.paths if path.startswith(CONTENT + "/")]
