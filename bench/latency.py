"""How long an idle relay takes to pass a message on: from the client's end of data to the upstream's receipt.

Client and upstream are on one loop with one clock. The client keeps its connection, sends one message, and
the next one a moment after both the reply and the message itself have come; so never more than one is under
way, and every message is synced before it moves on. Stamped are the moment before the content with its end of
data is written, and the moment when the upstream read the end of data.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence

import uvloop

from bench.contestants import Contestant, free_port, running, settle
from bench.disks import journaled
from bench.dispatch_relay import Dispatch
from bench.parts import Effort, say, wait_for_quiet
from bench.postfix_relay import Postfix
from bench.report import Aim, aims, paragraphs, table
from bench.upstream import Session

MESSAGES = 200
"""In each round."""
MESSAGES_MIN = 50
WARM_UP = 20
PAUSE_S = 0.02
"""Between a message's arrival and the next one."""
BOUND_S = 30.0
CONTENT = b"Subject: How long\r\n\r\n" + (b"x" * 76 + b"\r\n") * 52 + b".\r\n"
P99_MS_MAX = 10


def measure(effort: Effort) -> str:
    messages = max(MESSAGES_MIN, effort.scaled(MESSAGES))
    taken_ms: dict[str, list[float]] = {}
    with journaled(effort.parent) as disk:
        ports = free_port(), free_port()
        ours, theirs = Dispatch(disk.folder / "1", ports[0]), Postfix(disk.folder / "2", ports[1])
        turns: list[tuple[Contestant, int]] = [(ours, ports[0]), (theirs, ports[1])]
        with running(ours, theirs):
            for _ in range(effort.rounds):
                for each, port in turns:
                    wait_for_quiet(effort.patience_s)
                    settle((ours, theirs))
                    took_ms = uvloop.run(_latencies(each, port, messages))
                    taken_ms.setdefault(each.name, []).extend(took_ms)
                    say(f"{each.name}: {_words(took_ms)}")
        where = f"On {disk}."
    rows = [
        [name, f"{len(took_ms):,}", *(f"{value:.2f}" for value in _quantiles(took_ms))]
        for name, took_ms in taken_ms.items()
    ]
    p99_ms = _quantiles(taken_ms[ours.name])[2]
    return paragraphs(
        where,
        table(["", "messages", "p50, ms", "p90, ms", "p99, ms", "longest, ms"], rows),
        aims(Aim(f"Dispatch: p99 under {P99_MS_MAX} ms", f"{p99_ms:.2f} ms", p99_ms < P99_MS_MAX)),
    )


def _quantiles(took_ms: Sequence[float]) -> tuple[float, float, float, float]:
    cuts = statistics.quantiles(took_ms, n=100, method="inclusive")
    return cuts[49], cuts[89], cuts[98], max(took_ms)


def _words(took_ms: Sequence[float]) -> str:
    return "p50 {:.2f}, p90 {:.2f}, p99 {:.2f}, longest {:.2f} ms".format(*_quantiles(took_ms))


async def _latencies(contestant: Contestant, upstream_port: int, messages: int) -> list[float]:
    loop = asyncio.get_running_loop()
    arrivals: asyncio.Queue[int] = asyncio.Queue()
    server = await loop.create_server(
        lambda: Session(lambda _, now_ns: arrivals.put_nowait(now_ns)), "127.0.0.1", upstream_port
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", contestant.port)

    async def said(code: bytes) -> None:
        while (line := await reader.readline())[3:4] == b"-":
            pass
        assert line.startswith(code), line

    async def command(words: bytes, code: bytes) -> None:
        writer.write(words + b"\r\n")
        await said(code)

    async def one() -> float:
        await command(b"MAIL FROM:<me@example.org>", b"250")
        await command(b"RCPT TO:<you@example.net>", b"250")
        await command(b"DATA", b"354")
        sent_ns = time.monotonic_ns()
        writer.write(CONTENT)
        await said(b"250")
        arrived_ns = await arrivals.get()
        return (arrived_ns - sent_ns) / 1e6

    took_ms = []
    async with server:
        await said(b"220")
        await command(b"EHLO bench.test", b"250")
        for number in range(WARM_UP + messages):
            async with asyncio.timeout(BOUND_S):
                took = await one()
            if number >= WARM_UP:
                took_ms.append(took)
            await asyncio.sleep(PAUSE_S)
        writer.close()
    return took_ms
