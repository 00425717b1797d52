"""The local bus: orders between the processes of one machine, over a Unix socket for each role.

Not for mail, which goes through the logs, and not for anything that must arrive: an order is asked for,
executed and confirmed on one connection, or the caller learns that it was not confirmed. A connection that
breaks after the request left says nothing about whether it was executed; nothing is ever sent twice.

Who may speak: root, our own user, and the users named, as the kernel says (SO_PEERCRED); what a peer
claims about itself is not looked at. A request that cannot be read closes its own connection only. A
handler's fault is reported and answered as `internal`, without its text, which may hold what the peer
should not see.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Generic, TypeVar, cast

import msgspec

from dispatch.observe import Reporter
from dispatch.runtime.bus_frames import (
    LENGTH,
    REQUEST_BYTES_MAX,
    BusError,
    Kind,
    answer_frame,
    bind_at,
    hint_path,
    socket_path,
)

Request = TypeVar("Request")
Handler = Callable[[Request], Awaitable[object]]
"""Returns the answer, or an async generator of many; `BusError` among the legal ones."""

CONNECTIONS_MAX = 64
_STALL_S = 30.0
"""How long a peer may take to send the rest of a request, or to read an answer."""
_PEER = struct.Struct("3i")


class BusServer(Generic[Request]):
    def __init__(
        self,
        path: Path,
        requests: msgspec.msgpack.Decoder[Request],
        handle: Handler[Request],
        report: Reporter,
        uids: frozenset[int] = frozenset(),
    ) -> None:
        """`uids`: who may speak besides root and ourselves."""
        self._path = path
        self._requests = requests
        self._handle = handle
        self._report = report
        self._foreign_uids = uids
        self._uids = uids | {0, os.geteuid()}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self) -> None:
        bound = bind_at(self._path, socket.SOCK_STREAM, shared=bool(self._foreign_uids))
        self._server = await asyncio.start_unix_server(self._accept, sock=bound, limit=1 << 16)

    async def close(self) -> None:
        """Cut every conversation. A handler that must finish is the service's to wait for, before."""
        if self._server is None:
            return
        self._closed = True
        self._path.unlink(missing_ok=True)
        self._server.close()
        self._server = None
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._closed:  # accepted just before
            writer.close()
            return
        credentials = writer.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size
        )
        pid, uid, _ = _PEER.unpack(credentials)
        if uid not in self._uids or len(self._connections) >= CONNECTIONS_MAX:
            self._report("bus_refused", path=self._path, pid=pid, uid=uid, connections=len(self._connections))
            writer.close()
            return
        self._connections.add(task)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # the peer went away or stalled: its own business
        except asyncio.CancelledError:
            pass  # `close`: nobody else knows this task
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether another request may follow."""
        (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        if length > REQUEST_BYTES_MAX:
            too_large = f"a request of {length} bytes: the bus takes {REQUEST_BYTES_MAX}"
            return await self._refuse(writer, BusError("too_large", too_large))
        async with asyncio.timeout(_STALL_S):
            body = await reader.readexactly(length)
        try:
            request = self._requests.decode(body)
        except ValueError as error:
            return await self._refuse(writer, BusError("malformed", str(error)))
        try:
            await self._answer(writer, request)
        except _PeerGone:
            raise
        except Exception as fault:
            self._report("bus_fault", path=self._path, request=type(request).__name__, why=repr(fault))
            await _send(writer, answer_frame(Kind.ERROR, BusError("internal", type(fault).__name__)))
        return True

    async def _answer(self, writer: asyncio.StreamWriter, request: Request) -> None:
        answer = await self._handle(request)
        if not isinstance(answer, AsyncIterator):
            kind = Kind.ERROR if isinstance(answer, BusError) else Kind.LAST
            await _send(writer, answer_frame(kind, answer))
            return
        # Closed on every way out, for it may hold a cursor or a lock.
        async with aclosing(cast("_Closable", answer)) as answers:
            async for each in answers:
                if isinstance(each, BusError):
                    await _send(writer, answer_frame(Kind.ERROR, each))
                    return
                await _send(writer, answer_frame(Kind.MORE, each))
        await _send(writer, answer_frame(Kind.END))

    async def _refuse(self, writer: asyncio.StreamWriter, error: BusError) -> bool:
        self._report("bus_refused", path=self._path, code=error.code, why=error.message)
        await _send(writer, answer_frame(Kind.ERROR, error))
        return False


class _PeerGone(OSError):
    """It did not take what we sent; told apart from an `OSError` of the handler's own."""


class _Closable(AsyncIterator[object]):
    async def aclose(self) -> None: ...


async def _send(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(frame)
    try:
        async with asyncio.timeout(_STALL_S):
            await writer.drain()
    except OSError as error:
        raise _PeerGone(str(error)) from error


__all__ = [
    "BusError",
    "BusServer",
    "Handler",
    "hint_path",
    "socket_path",
]
