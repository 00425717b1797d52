"""Clients that are as slow as they can be: thousands of connections that say a byte now and then.

`python -m bench.trickle PORT CONNECTIONS`, from addresses 127.0.0.2 and on, so many of each as the relay's
default allows. Half of them are in the middle of a command line, half in the middle of content. It prints
`open N` when all are connected, and at SIGTERM `left N`: how many the relay had not cut by then.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import signal
from collections.abc import Callable

import uvloop

PER_ADDRESS = 90
BYTE_EVERY_S = 5.0
TICK_S = 0.1
AT_ONCE = 100
"""Connections that are being made at a time."""
SPARE_FILES = 200
_ENVELOPE = (
    b"EHLO slow.test\r\n",
    b"MAIL FROM:<slow@example.org>\r\n",
    b"RCPT TO:<you@example.net>\r\n",
    b"DATA\r\n",
)


class Slow(asyncio.Protocol):
    """Says its envelope as fast as the relay answers, then trickles."""

    def __init__(self, in_content: bool, everybody: set[Slow], ready: Callable[[], None]) -> None:
        self._script = list(_ENVELOPE if in_content else _ENVELOPE[:1])
        self._everybody = everybody
        self._ready = ready
        """Called when it begins to trickle."""
        self._trickles = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write: Callable[[bytes], None] = transport.write  # type: ignore[attr-defined]  # uvloop's are no asyncio.Transport
        self._everybody.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._everybody.discard(self)

    def data_received(self, data: bytes) -> None:
        last_line = data.rstrip(b"\r\n").rpartition(b"\n")[2]
        if last_line[3:4] == b"-":
            return
        if self._script:
            self._write(self._script.pop(0))
        elif not self._trickles:
            self._trickles = True
            self._ready()

    def trickle(self) -> None:
        if self._trickles:
            self._write(b"x")


async def _run(port: int, connections: int) -> None:
    loop = asyncio.get_running_loop()
    everybody: set[Slow] = set()
    ready = asyncio.Semaphore(0)
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    gate = asyncio.Semaphore(AT_ONCE)

    async def connect(number: int) -> None:
        high, low = divmod(2 + number // PER_ADDRESS, 256)
        async with gate:
            await loop.create_connection(
                lambda: Slow(number % 2 == 0, everybody, ready.release),
                "127.0.0.1",
                port,
                local_addr=(f"127.0.{high}.{low}", 0),
            )

    await asyncio.gather(*map(connect, range(connections)))
    for _ in range(connections):
        await ready.acquire()
    print(f"open {len(everybody)}", flush=True)
    turns = round(BYTE_EVERY_S / TICK_S)
    turn = 0
    while not ended.is_set():
        for each in list(everybody)[turn % turns :: turns]:
            each.trickle()
        turn += 1
        await asyncio.sleep(TICK_S)
    print(f"left {len(everybody)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("connections", type=int)
    given = parser.parse_args()
    raise_files(given.connections + SPARE_FILES)
    uvloop.run(_run(given.port, given.connections))


def raise_files(needed: int) -> None:
    """Allow this process, and those that it starts, so many open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(hard, needed)))


if __name__ == "__main__":
    main()
