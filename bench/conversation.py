"""A client that speaks as most do: each command when the last one is answered; by TLS and with a login.

For sessions that are counted or timed one by one, and for what Postfix's `smtp-source` has no words for. It
costs more CPU than a relay, so it makes no load.
"""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from types import TracebackType
from typing import NamedTuple

BOUND_S = 30.0
"""For one reply; only a fault takes so long."""
CONTENT = b"Subject: How long\r\n\r\n" + (b"x" * 76 + b"\r\n") * 52 + b".\r\n"
"""4 KB with their end of data."""


class Login(NamedTuple):
    user: str
    password: str


class Conversation:
    """Open inside the `async with` block that `begin` is for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def begin(
        cls, port: int, *, source: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> Conversation:
        """EHLO is said and answered; with `tls` also STARTTLS, and EHLO once more."""
        self = cls(*await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0)))
        await self.said(b"220")
        await self.command(b"EHLO bench.test", b"250")
        if tls is not None:
            await self.command(b"STARTTLS", b"220")
            await self._writer.start_tls(tls)
            await self.command(b"EHLO bench.test", b"250")
        return self

    async def reply(self) -> bytes:
        """The code of the next one."""
        async with asyncio.timeout(BOUND_S):
            while (line := await self._reader.readline())[3:4] == b"-":
                pass
        return line[:3]

    async def said(self, code: bytes) -> None:
        answered = await self.reply()
        assert answered == code, answered

    async def command(self, words: bytes, code: bytes) -> None:
        self._writer.write(words + b"\r\n")
        await self.said(code)

    async def log_in(self, login: Login) -> bytes:
        """The code of the answer."""
        response = b64encode(f"\0{login.user}\0{login.password}".encode())
        self._writer.write(b"AUTH PLAIN " + response + b"\r\n")
        return await self.reply()

    async def envelope(self) -> None:
        """Up to where the content may come."""
        await self.command(b"MAIL FROM:<me@example.org>", b"250")
        await self.command(b"RCPT TO:<you@example.net>", b"250")
        await self.command(b"DATA", b"354")

    async def content(self) -> None:
        self._writer.write(CONTENT)
        await self.said(b"250")

    async def __aenter__(self) -> Conversation:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.command(b"QUIT", b"221")
        self._writer.close()


def unverified() -> ssl.SSLContext:
    """A relay's certificate is its own; sessions are not resumed."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
