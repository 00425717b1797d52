"""Direct delivery in memory: domains in a table, and hosts that the test answers for."""

from __future__ import annotations

from tests.simulation.loop import SimulatedChance
from tests.unit.relays.memory_upstream import MemoryNames, Site
from tests.unit.smtp.client_talk import CONTENT

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.report import FaultKind, Stage
from dispatch.relays.direct import DirectRelay
from dispatch.relays.direct_domain import Ourselves
from dispatch.relays.smart_host import SmartHost
from dispatch.relays.sts import StsPolicies

A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"
ENVELOPE = b"MAIL FROM:<a@a.example> SIZE=%d\r\nRCPT TO:<%s>\r\nDATA\r\n"
NOBODY = Ourselves()


class DirectSite(Site):
    """a.example has a host at A, b.example at B; whole.example has two, at A and B."""

    def __init__(
        self,
        ourselves: Ourselves = NOBODY,
        max_concurrency: int = 10,
        policies: StsPolicies | None = None,
        **settings: object,
    ) -> None:
        super().__init__()
        self.names = names = MemoryNames()
        names.hosts = {"mx.a.example.": (A,), "mx.b.example.": (B,), "own.example.": (C,)}
        names.exchangers = {
            "a.example.": ((10, "mx.a.example"),),
            "b.example.": ((10, "mx.b.example"),),
            "whole.example.": ((20, "mx.b.example"), (10, "mx.a.example")),
        }
        given = {"hosts": ("",), "helo_name": "client.example", "tls": "auto", "max_concurrency": 2}
        self.direct = DirectRelay(
            SmartHost(**{**given, **settings}),  # type: ignore[arg-type]
            max_concurrency=max_concurrency,
            ourselves=ourselves,
            clock=self.clock,
            network=self.network,
            worker=self.clock.worker("content"),
            open_content=self._open,
            resolver=names,
            chance=SimulatedChance(),
            policies=policies,
        )
        self.relay = self.direct  # type: ignore[assignment]

    def mail(self, key: str, *recipients: str) -> None:
        self.start(key, CONTENT, Envelope("a@a.example", tuple(map(Recipient, recipients))))

    async def delivered(self, key: str, *recipients: str, at: int) -> None:
        """Mail whose transaction needs connection number `at`, and ends well."""
        self.mail(key, *recipients)
        (await self.connection(at)).take()
        assert self.codes(key) == [250]

    def fault_of(self, key: str) -> tuple[Stage, FaultKind | None]:
        report = self.reports[key]
        return report.stage, None if report.fault is None else report.fault.kind

    async def refused(self, key: str, *recipients: str) -> tuple[Stage, FaultKind | None]:
        """Mail that comes to no session, and why."""
        self.mail(key, *recipients)
        await self.settle()
        return self.fault_of(key)
