"""CPU of the SMTP relay for one 4 KB message: core, driver and pool, without queue and ledger.

    python bench/micro_relay.py [--messages N] [--connections N]

Talks to `smtp-sink` where it is installed, and to a sink of its own (in another process) that also takes
BDAT. The figure to trust is the CPU of this process a message (user, system); the rate depends on the sink.
"In memory" is the Python alone: no loop, no sockets.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import multiprocessing
import os
import pwd
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import uvloop

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import new_message_id
from dispatch.mail.message import Message, Origin, Summary
from dispatch.mail.report import Report
from dispatch.ports import Leave, Transaction
from dispatch.relays.smart_host import SmartHost
from dispatch.relays.smtp import SmtpRelay
from dispatch.runtime.machine import SystemClock, SystemWorker

CONTENT = b"Subject: measured\r\n\r\n" + (b"x" * 70 + b"\r\n") * 56


class Sink(asyncio.Protocol):
    """The cheapest host that still answers everything: DATA, BDAT, groups."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""
        self.in_data = False
        transport.write(b"220 sink ESMTP\r\n")  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        data = self.buffer + data if self.buffer else data
        at, out = 0, []
        while at < len(data):
            if self.in_data:
                end = data.find(b"\r\n.\r\n", at)
                if end < 0:
                    break
                self.in_data = False
                out.append(b"250 2.0.0 Ok: queued as 4XyZ\r\n")
                at = end + 5
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            verb = data[at : at + 4]
            if verb == b"BDAT":
                size = int(data[at + 5 : end].split()[0])
                if len(data) < end + 2 + size:
                    break
                out.append(b"250 2.0.0 Ok: queued as 4XyZ\r\n")
                at = end + 2 + size
                continue
            at = end + 2
            if verb == b"MAIL":
                out.append(b"250 2.1.0 Ok\r\n")
            elif verb == b"RCPT":
                out.append(b"250 2.1.5 Ok\r\n")
            elif verb == b"DATA":
                self.in_data = True
                out.append(b"354 End data with <CR><LF>.<CR><LF>\r\n")
            elif verb == b"EHLO":
                out.append(b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 0\r\n250 CHUNKING\r\n")
            else:
                out.append(b"250 2.0.0 Ok\r\n")
        self.buffer = data[at:]
        if out:
            self.transport.write(b"".join(out))  # type: ignore[attr-defined]


def _serve_sink(listening: socket.socket) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Sink, sock=listening)
        await server.serve_forever()

    uvloop.run(main())


@contextlib.contextmanager
def own_sink() -> Iterator[int]:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    process = multiprocessing.get_context("fork").Process(target=_serve_sink, args=(listening,), daemon=True)
    process.start()
    try:
        yield listening.getsockname()[1]
    finally:
        process.terminate()
        process.join()
        listening.close()


@contextlib.contextmanager
def smtp_sink(path: str) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    user = pwd.getpwuid(os.getuid()).pw_name
    process = subprocess.Popen([path, "-u", user, f"127.0.0.1:{port}", "200"])
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.1):
                break
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait()


class LoopNetwork:
    async def connect(
        self,
        host: str,
        port: int,
        protocol: Callable[[], asyncio.Protocol],
        timeout_s: float,
        source_address: str | None = None,
    ) -> None:
        await asyncio.get_running_loop().create_connection(protocol, host, port)


def _message() -> Message:
    return Message(
        new_message_id(int(time.time() * 1000), os.urandom(10)),
        0,
        Envelope("sender@example.org", (Recipient("recipient@example.net"),)),
        Origin("smtp", "127.0.0.1"),
        Summary(),
        len(CONTENT),
    )


async def deliver(host: SmartHost, count: int) -> None:
    """Keep the relay full until `count` messages are delivered."""
    loop = asyncio.get_running_loop()
    worker = SystemWorker(loop, "content")
    relay = SmtpRelay(host, clock=SystemClock(loop), network=LoopNetwork(), worker=worker, open_content=None)  # type: ignore[arg-type]
    message = _message()
    finished = loop.create_future()
    started = ended = 0

    leaving: list[Leave] = []

    def sending(transaction: Transaction, leave: Leave) -> None:
        if not leaving:
            loop.call_soon(let_leave)
        leaving.append(leave)

    def let_leave() -> None:
        now = leaving.copy()
        leaving.clear()
        for leave in now:
            leave(None)

    def done(transaction: Transaction, report: Report) -> None:
        nonlocal ended
        ended += 1
        if report.replies[0] is None or not report.replies[0].positive:
            if not finished.done():
                finished.set_exception(RuntimeError(str(report)))
            return
        if ended == count:
            finished.set_result(None)
        fill()

    def fill() -> None:
        nonlocal started
        while started < count and relay.free():
            started += 1
            relay.start(Transaction(message, (0,), CONTENT, sending), done)

    fill()
    await finished
    await relay.close(1.0)
    worker.close()


def measure(label: str, host: SmartHost, count: int) -> None:
    best: tuple[float, float, float, float] | None = None
    uvloop.run(deliver(host, 500))
    for _ in range(3):
        gc.collect()
        before, since = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        uvloop.run(deliver(host, count))
        after, took = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - since
        user = (after.ru_utime - before.ru_utime) / count * 1e6
        system = (after.ru_stime - before.ru_stime) / count * 1e6
        if best is None or user + system < best[0]:
            best = (user + system, user, system, count / took)
    assert best is not None
    print(f"{label:44} {best[0]:6.1f} us CPU (user {best[1]:5.1f}, sys {best[2]:5.1f})  {best[3]:8.0f} msg/s")


class NoTransport(asyncio.Transport):
    """Takes everything, and leads nowhere."""

    def writelines(self, list_of_data: object) -> None:
        pass

    def abort(self) -> None:
        pass


class NoNetwork:
    def __init__(self) -> None:
        self.protocol: asyncio.Protocol | None = None

    async def connect(
        self,
        host: str,
        port: int,
        protocol: Callable[[], asyncio.Protocol],
        timeout_s: float,
        source_address: str | None = None,
    ) -> None:
        self.protocol = protocol()
        self.protocol.connection_made(NoTransport())


async def measure_in_memory(count: int) -> None:
    """One connection, every reply handed in by hand, the next envelope behind each content."""
    loop = asyncio.get_running_loop()
    network = NoNetwork()
    host = SmartHost(
        hosts=("x",),
        helo_name="bench.example",
        max_concurrency=1,
        messages_per_connection_max=count * 9,
    )
    worker = SystemWorker(loop, "content")
    relay = SmtpRelay(
        host,
        clock=SystemClock(loop),
        network=network,
        worker=worker,
        open_content=None,  # type: ignore[arg-type]
    )
    message = _message()

    leaving: list[Leave] = []

    def sending(transaction: Transaction, leave: Leave) -> None:
        leaving.append(leave)

    def hear(words: bytes) -> None:
        protocol.data_received(words)
        while leaving:
            leaving.pop()(None)

    def done(transaction: Transaction, report: Report) -> None:
        relay.start(Transaction(message, (0,), CONTENT, sending), done)

    for _ in range(2):
        relay.start(Transaction(message, (0,), CONTENT, sending), done)
        await asyncio.sleep(0)
    assert network.protocol is not None
    protocol = network.protocol
    hear(b"220 hi\r\n")
    hear(b"250-hi\r\n250-PIPELINING\r\n250 SIZE 0\r\n")
    group = b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n"
    for words in (group, b"250 first\r\n", group):
        hear(words)
    best = float("inf")
    for _ in range(5):
        since = time.process_time()
        for number in range(count):
            hear(b"250 2.0.0 Ok: queued as %d\r\n" % number + group)
        best = min(best, (time.process_time() - since) / count * 1e6)
    print(f"{'in memory, next envelope behind the content':44} {best:6.1f} us CPU")
    await relay.close(0)
    worker.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=8)
    options = parser.parse_args()

    def host(port: int, **settings: object) -> SmartHost:
        return SmartHost(
            hosts=("127.0.0.1",),
            port=port,
            helo_name="bench.example",
            max_concurrency=options.connections,
            messages_per_connection_max=1_000_000,
            **settings,  # type: ignore[arg-type]
        )

    print(f"python {sys.version.split()[0]}, {len(CONTENT)} bytes, {options.connections} connections")
    uvloop.run(measure_in_memory(options.messages))
    if (path := shutil.which("smtp-sink", path=os.environ["PATH"] + ":/usr/sbin")) is not None:
        with smtp_sink(path) as port:
            measure("smtp-sink, next envelope behind the content", host(port), options.messages)
            measure("smtp-sink, lock-step", host(port, pipelining="off"), options.messages)
    with own_sink() as port:
        measure("own sink, next envelope behind the content", host(port), options.messages)
        measure("own sink, BDAT with its envelope", host(port, chunking="always"), options.messages)
        measure("own sink, lock-step", host(port, pipelining="off"), options.messages)


if __name__ == "__main__":
    main()
