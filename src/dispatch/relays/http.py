"""The HTTP client of the relays: `ports.HttpClient` on aiohttp, the only module that knows that library.

Rules:

- What is asked for is what is done: no redirects, no cookies, no proxies or passwords from the environment,
  no decompression (an answer's limit is one of octets on the wire).
- TLS as for SMTP hosts (`security.tls`); the chain must lead to a root of this system.
- A connection for each request. Tokens are asked for once an hour, and policies of mail domains more seldom.

Traps: importing aiohttp takes a tenth of a second and nine mebibytes for good, so whoever needs this module
imports it where the need arises. Errors of aiohttp's that are no `OSError` become one.

Deliberately not here: connections that are kept, and proxies (both come with the first provider's API).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping, Sequence

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from dispatch.ports import HttpAnswer
from dispatch.security.tls import client_context

USER_AGENT = "Dispatch"


class AiohttpClient:
    """`ports.HttpClient`."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        """`context`: for https; None: made of the system's roots when it is first needed."""
        self._context = context

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        timeout_s: float,
        answer_bytes_max: int,
    ) -> HttpAnswer:
        return await self._ask("POST", url, body, headers, timeout_s, answer_bytes_max)

    async def get(
        self, url: str, addresses: Sequence[str], *, timeout_s: float, answer_bytes_max: int
    ) -> HttpAnswer:
        return await self._ask("GET", url, None, {}, timeout_s, answer_bytes_max, _Known(addresses))

    async def _ask(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_s: float,
        answer_bytes_max: int,
        resolver: AbstractResolver | None = None,
    ) -> HttpAnswer:
        if self._context is None:
            self._context = client_context()
        try:
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(ssl=self._context, force_close=True, resolver=resolver),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    timeout=aiohttp.ClientTimeout(total=timeout_s),
                    auto_decompress=False,
                    trust_env=False,
                ) as session,
                session.request(
                    method,
                    url,
                    data=body,
                    headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers},
                    allow_redirects=False,
                ) as answer,
            ):
                content = await _bounded(answer.content, answer_bytes_max)
                given = {name.lower(): value for name, value in answer.headers.items()}
                return HttpAnswer(answer.status, given, content)
        except TimeoutError:
            raise TimeoutError(f"no answer within {timeout_s:g} s") from None
        except aiohttp.ClientError as error:
            if isinstance(error, OSError):
                raise
            raise OSError(str(error) or type(error).__name__) from error


class _Known(AbstractResolver):
    """Every host is at these addresses."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """It holds nothing."""


async def _bounded(stream: aiohttp.StreamReader, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    left = bytes_max
    while part := await stream.read(left + 1):
        left -= len(part)
        if left < 0:
            raise OSError(f"the answer has more than {bytes_max} octets")
        parts.append(part)
    return b"".join(parts)
