"""A relay on a real loop, with loopback sockets and the real machine behind its ports."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import new_message_id
from dispatch.mail.message import ContentFile, Message, Origin, Summary
from dispatch.mail.report import Report
from dispatch.ports import Leave, Transaction
from dispatch.relays.smart_host import SmartHost, Timeouts
from dispatch.relays.smtp import SmtpRelay
from dispatch.runtime.machine import SystemClock, SystemDisk, SystemNetwork, SystemWorker

CONTENT = b"Subject: over a socket\r\n\r\n.dot\r\n..\r\n.\r\nend\r\n"
PATIENT = Timeouts()
SHORT = Timeouts(
    connect_s=5,
    handshake_s=0.5,
    greeting_s=0.5,
    ehlo_s=0.5,
    mail_s=0.5,
    rcpt_s=0.5,
    data_s=0.5,
    block_s=0.5,
    end_of_data_s=0.5,
    quit_s=0.1,
)


class LoopbackSite:
    """`async with` it; `send` returns the report."""

    def __init__(self, port: int, folder: Path | None = None, **settings: object) -> None:
        self.host = SmartHost(
            hosts=("127.0.0.1",),
            port=port,
            helo_name="client.example",
            **{"timeouts": SHORT, **settings},  # type: ignore[arg-type]
        )
        self.folder = folder
        self.sending: list[object] = []

    async def __aenter__(self) -> LoopbackSite:
        loop = asyncio.get_running_loop()
        self._worker = SystemWorker(loop, "content")
        disk = SystemDisk(self.folder or Path("/nowhere"))
        self.relay = SmtpRelay(
            self.host,
            clock=SystemClock(loop),
            network=SystemNetwork(loop),
            worker=self._worker,
            open_content=lambda content: disk.open(content.name),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.relay.close(2)
        self._worker.close()

    def start(
        self, content: bytes | ContentFile = CONTENT, *recipients: str, tag: object = None
    ) -> asyncio.Future[Report]:
        size = len(content) if isinstance(content, bytes) else content.size_bytes
        paths = recipients or ("b@b.example",)
        message = Message(
            new_message_id(0, os.urandom(10)),
            0,
            Envelope("a@a.example", tuple(map(Recipient, paths))),
            Origin("smtp", "127.0.0.1"),
            Summary(),
            size,
        )
        ended: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        transaction = Transaction(message, tuple(range(len(paths))), content, self._sending, tag)
        self.relay.start(transaction, lambda _, report: ended.set_result(report))
        return ended

    def _sending(self, transaction: Transaction, leave: Leave) -> None:
        self.sending.append(transaction.tag)
        asyncio.get_running_loop().call_soon(leave, None)

    async def send(self, content: bytes | ContentFile = CONTENT, *recipients: str) -> Report:
        return await asyncio.wait_for(self.start(content, *recipients), 20)
