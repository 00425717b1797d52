"""A request as the handlers see it: its fields read, its body yet to come, and who sent it.

What a body may be is bounded while it arrives: by bytes, and by time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NamedTuple

from dispatch.intake.http.problems import Problem, later
from dispatch.intake.incoming import Budget

NO_ROOM_WAIT_S = 5.0

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
"""ASGI's (version 3)."""


class Room:
    """What one request holds of a budget that all bodies share; given back at the end of the `with` block."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._taken_bytes = 0

    def take(self, size_bytes: int) -> bool:
        """False where there is not as much left."""
        self._taken_bytes += size_bytes
        return self._budget.take(size_bytes)

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.give_back(self._taken_bytes)


class ClientGone(Exception):
    """It closed the connection before its request was whole: nobody to answer, and nothing to keep."""


class Request(NamedTuple):
    """One, while it is looked at."""

    id: str
    """`req_` and a ULID; in the answer, and in the log where something went wrong."""
    method: str
    path: str
    headers: Mapping[str, str]
    """By small name; the first of each that may stand there once."""
    client_address: str
    tls: str | None
    """Version and cipher, or None for clear text."""
    receive: Receive

    def header(self, name: str) -> str | None:
        return self.headers.get(name)

    def demand_media_type(self, wanted: str) -> None:
        """Raises `Problem` where the body calls itself something else."""
        given = (self.header("content-type") or "").partition(";")[0].strip().lower()
        if given != wanted:
            raise Problem(415, "unsupported_media_type", f"the body must be {wanted} (Content-Type)")
        if self.header("content-encoding") not in (None, "", "identity"):
            raise Problem(415, "unsupported_media_type", "the body must not be compressed (Content-Encoding)")

    async def body(self, room: Room, bytes_max: int, timeout_s: float) -> bytes:
        """All of it. Raises `Problem` (413, 408, 503) and `ClientGone`."""
        declared = self.header("content-length")
        if declared is not None and declared.isdecimal() and int(declared) > bytes_max:
            raise _too_large(bytes_max)
        blocks: list[bytes] = []
        size_bytes = 0
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    block: bytes = message.get("body", b"")
                    size_bytes += len(block)
                    if size_bytes > bytes_max:
                        raise _too_large(bytes_max)
                    if not room.take(len(block)):
                        raise later(503, "busy", "other requests have large bodies", NO_ROOM_WAIT_S)
                    blocks.append(block)
                    if not message.get("more_body", False):
                        return b"".join(blocks)
        except TimeoutError:
            raise Problem(408, "request_timeout", f"the body did not arrive within {timeout_s:g} s") from None


def _too_large(bytes_max: int) -> Problem:
    return Problem(
        413, "payload_too_large", f"the body is larger than {bytes_max} bytes (api.max_body_bytes)"
    )
