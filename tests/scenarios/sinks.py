"""Real servers as upstreams, none of them ours: aiosmtpd, and Postfix's smtp-sink."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from tests.scenarios.programs import dying_with_us, needed
from tests.scenarios.relay import free_port, until

SIZE_BYTES_MAX = 100 << 20


@dataclass(frozen=True)
class Arrived:
    sender: str
    recipients: list[str]
    content: bytes


class Sink(Protocol):
    port: int
    takes_utf8: bool

    def arrived(self) -> list[Arrived]: ...

    def close(self) -> None: ...


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Aiosmtpd:
    takes_utf8 = True

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._arrived: list[Arrived] = []
        self._controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            data_size_limit=SIZE_BYTES_MAX,
            enable_SMTPUTF8=True,
            decode_data=False,
        )
        self._controller.start()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.original_content
        assert isinstance(content, bytes) and envelope.mail_from is not None
        self._arrived.append(Arrived(envelope.mail_from, list(envelope.rcpt_tos), content))
        return "250 2.0.0 Ok"

    def arrived(self) -> list[Arrived]:
        return list(self._arrived)

    def close(self) -> None:
        self._controller.stop()


class SmtpSink:
    """Its dump has LF for CRLF, a `Received` of its own, and an empty line behind each message."""

    takes_utf8 = False
    _OWN = re.compile(rb"\A((?:X-[A-Za-z-]+: [^\n]*\n)+)Received: [^\n]*\n(?:\t[^\n]*\n)*")

    def __init__(self, folder: Path) -> None:
        program = needed("smtp-sink")
        self.port = free_port()
        self._folder = folder / "smtp-sink"
        self._folder.mkdir()
        user = ["-u", "root"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            [*dying_with_us(), program, *user, "-d", "message.", f"127.0.0.1:{self.port}", "100"],
            cwd=self._folder,
        )
        until(lambda: answers(self.port), "smtp-sink answers")

    def arrived(self) -> list[Arrived]:
        return [
            self._read(path) for path in sorted(self._folder.iterdir(), key=lambda p: p.stat().st_mtime_ns)
        ]

    def _read(self, path: Path) -> Arrived:
        dump = path.read_bytes()
        own = self._OWN.match(dump)
        assert own is not None and dump.endswith(b"\n\n"), dump[:500]
        content = dump[own.end() : -1].replace(b"\n", b"\r\n")
        fields = re.findall(r"X-(\w+)-Args: <([^>]*)>", own[1].decode())
        return Arrived(
            next(value for name, value in fields if name == "Mail"),
            [value for name, value in fields if name == "Rcpt"],
            content,
        )

    def close(self) -> None:
        ended = self._process.poll()
        assert ended is None, f"smtp-sink has ended by itself or was killed: {ended}"
        self._process.kill()
        self._process.wait()
