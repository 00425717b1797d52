"""The real machine behind the ports: clock, chance, disk, threads, network, shared numbers.

Each adapter is as thin as it can be: what is decided here cannot be simulated, so nothing is
decided here. The simulated machine of the tests has the same classes with the same guarantees.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import TypeVar

from dispatch.ports import Buffer, Timer

T = TypeVar("T")

_POOL_BYTES = 2048
_IOV_MAX = os.sysconf("SC_IOV_MAX") if hasattr(os, "sysconf") else 1024


class SystemClock:
    """`ports.Clock` over the running event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.time()

    def wall(self) -> float:
        return time.time()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        if delay_s <= 0:
            return self._loop.call_soon(callback)
        return self._loop.call_later(delay_s, callback)


class SystemChance:
    """`ports.Chance`: tokens from the kernel, jitter from a generator that the kernel seeded."""

    def __init__(self) -> None:
        self._generator = Random(secrets.randbits(64))  # noqa: S311 - jitter, not a secret
        self._pool = b""

    def uniform(self) -> float:
        return self._generator.random()

    def token(self, size_bytes: int) -> bytes:
        # Drawn from the kernel a page at a time: a call for each message costs more than its id.
        if len(self._pool) < size_bytes:
            self._pool = secrets.token_bytes(max(_POOL_BYTES, size_bytes))
        token, self._pool = self._pool[:size_bytes], self._pool[size_bytes:]
        return token


class SystemFile:
    """`ports.File` over one descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write_at(self, offset: int, buffers: Sequence[Buffer]) -> None:
        pending = list(buffers)
        while pending:
            chunk = pending[:_IOV_MAX]
            written = os.pwritev(self._descriptor, chunk, offset)
            offset += written
            taken = 0
            while taken < len(chunk) and written >= len(chunk[taken]):
                written -= len(chunk[taken])
                taken += 1
            pending = pending[taken:]
            if written and pending:
                pending[0] = memoryview(pending[0])[written:]

    def read_at(self, offset: int, size_bytes: int) -> bytes:
        data = os.pread(self._descriptor, size_bytes, offset)
        if len(data) == size_bytes or not data:
            return data
        parts = [data]
        missing = size_bytes - len(data)
        while missing and data:
            offset += len(data)
            data = os.pread(self._descriptor, missing, offset)
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def truncate(self, size_bytes: int) -> None:
        os.ftruncate(self._descriptor, size_bytes)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class SystemDisk:
    """`ports.Disk` under one folder; refuses to leave it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _path(self, path: str) -> Path:
        if ".." in path.split("/") or path.startswith("/"):
            raise ValueError(f"{path!r} leaves the data directory")
        return self.root / path

    def open(self, path: str, *, create: bool = False) -> SystemFile:
        flags = os.O_RDWR | os.O_CLOEXEC
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        full = self._path(path)
        try:
            return SystemFile(os.open(full, flags, 0o600))
        except FileNotFoundError:
            if not create:
                raise
            full.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return SystemFile(os.open(full, flags, 0o600))

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self._path(folder)))  # noqa: PTH208 - names only, without a Path each
        except FileNotFoundError:
            self._path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
            return []

    def rename(self, old: str, new: str) -> None:
        self._path(old).replace(self._path(new))

    def remove(self, path: str) -> None:
        self._path(path).unlink()

    def sync_folder(self, folder: str) -> None:
        descriptor = os.open(self._path(folder), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free_bytes(self) -> int:
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize


class SystemWorker:
    """`ports.Worker`: one thread; results come back with `call_soon_threadsafe`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._asked: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"dispatch-{name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (job := self._asked.get()) is not None:
            job()

    def call(self, work: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        def job() -> None:
            result: T | Exception
            try:
                result = work()
            except Exception as error:
                result = error
            try:
                self._loop.call_soon_threadsafe(done, result)
            except RuntimeError:
                # The loop has ended: nobody is left to hear of it.
                return

        self._asked.put(job)

    def close(self) -> None:
        self._asked.put(None)
        self._thread.join()


class SystemThreads:
    """`ports.Threads`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def worker(self, name: str) -> SystemWorker:
        return SystemWorker(self._loop, name)


class SystemNetwork:
    """`ports.Network` over the running event loop, which tries the host's addresses in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    async def connect(
        self,
        host: str,
        port: int,
        protocol: Callable[[], asyncio.Protocol],
        timeout_s: float,
        source_address: str | None = None,
    ) -> None:
        local = None if source_address is None else (source_address, 0)
        async with asyncio.timeout(timeout_s):
            await self._loop.create_connection(protocol, host, port, local_addr=local)

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
        secured = await self._loop.start_tls(
            transport,
            protocol,
            context,
            server_side=server_side,
            server_hostname=server_name,
            ssl_handshake_timeout=timeout_s,
        )
        if secured is None:
            raise ConnectionAbortedError("the connection ended during the handshake")
        return secured


class MarkFile:
    """`ports.Mark` in a mapped file: aligned, eight bytes, seen at once by every process that maps it.

    The page cache keeps it through `kill -9`; after a power cut it may be older than the truth,
    never ahead of it, because it is stored only after what it speaks of was synced.
    """

    def __init__(self, path: Path, *, writable: bool) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Real blocks, not a hole: a store into a hole on a full disk would be a SIGBUS.
            os.posix_fallocate(descriptor, 0, mmap.PAGESIZE)
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            self._map = mmap.mmap(descriptor, mmap.PAGESIZE, access=access)
        finally:
            os.close(descriptor)
        # A cast view stores and loads eight aligned bytes in one move, as a struct call might not.
        self._numbers = memoryview(self._map).cast("Q")

    def load(self) -> int:
        return self._numbers[0]

    def store(self, value: int) -> None:
        self._numbers[0] = value

    def close(self) -> None:
        self._numbers.release()
        self._map.close()
