"""Direct delivery over real sockets and real TLS: domains in a table, all their hosts at loopback."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.simulation.loop import SimulatedChance
from tests.unit.relays.loopback import LoopbackSite
from tests.unit.relays.memory_upstream import MemoryNames

from dispatch.relays.direct import DirectRelay
from dispatch.relays.direct_domain import Ourselves
from dispatch.relays.sts import StsPolicies
from dispatch.runtime.machine import SystemClock, SystemDisk, SystemNetwork, SystemWorker


class DirectLoopback(LoopbackSite):
    """a.example has one host, mx.a.example, at 127.0.0.1."""

    def __init__(self, port: int, policies: StsPolicies | None = None, **settings: object) -> None:
        super().__init__(port, **{"tls": "auto", **settings})
        self.names = MemoryNames()
        self.names.hosts["mx.a.example."] = ("127.0.0.1",)
        self.names.exchangers["a.example."] = ((10, "mx.a.example"),)
        self._policies = policies

    async def __aenter__(self) -> DirectLoopback:
        loop = asyncio.get_running_loop()
        self._worker = SystemWorker(loop, "content")
        disk = SystemDisk(Path("/nowhere"))
        self.relay = DirectRelay(  # type: ignore[assignment]
            self.host,
            max_concurrency=10,
            ourselves=Ourselves(),
            clock=SystemClock(loop),
            network=SystemNetwork(loop),
            worker=self._worker,
            open_content=lambda content: disk.open(content.name),
            resolver=self.names,
            chance=SimulatedChance(),
            policies=self._policies,
        )
        return self
