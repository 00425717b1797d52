"""How long an idle relay takes to pass a message on: from the client's end of data to the upstream's receipt.

Client and upstream are on one loop with one clock. The client keeps its connection, sends one message, and
the next one a moment after both the reply and the message itself have come; so never more than one is under
way, and every message is synced before it moves on. Stamped are the moment before the content with its end of
data is written, and the moment when the upstream read the end of data.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import uvloop

from bench.contestants import Contestant, free_port, running, settle
from bench.conversation import BOUND_S, Conversation
from bench.disks import journaled
from bench.dispatch_relay import Dispatch
from bench.parts import Effort, say, wait_for_quiet
from bench.postfix_relay import Postfix
from bench.report import Aim, aims, paragraphs, quantiles, table
from bench.upstream import Session

MESSAGES = 200
"""In each round."""
MESSAGES_MIN = 50
WARM_UP = 20
PAUSE_S = 0.02
"""Between a message's arrival and the next one."""
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
        [name, f"{len(took_ms):,}", *(f"{value:.2f}" for value in quantiles(took_ms))]
        for name, took_ms in taken_ms.items()
    ]
    p99_ms = quantiles(taken_ms[ours.name])[2]
    return paragraphs(
        where,
        table(["", "messages", "p50, ms", "p90, ms", "p99, ms", "longest, ms"], rows),
        aims(Aim(f"Dispatch: p99 under {P99_MS_MAX} ms", f"{p99_ms:.2f} ms", p99_ms < P99_MS_MAX)),
    )


def _words(took_ms: Sequence[float]) -> str:
    return "p50 {:.2f}, p90 {:.2f}, p99 {:.2f}, longest {:.2f} ms".format(*quantiles(took_ms))


async def _latencies(contestant: Contestant, upstream_port: int, messages: int) -> list[float]:
    loop = asyncio.get_running_loop()
    arrivals: asyncio.Queue[int] = asyncio.Queue()
    server = await loop.create_server(
        lambda: Session(lambda _, now_ns: arrivals.put_nowait(now_ns)), "127.0.0.1", upstream_port
    )

    async def one(session: Conversation) -> float:
        await session.envelope()
        sent_ns = time.monotonic_ns()
        await session.content()
        arrived_ns = await arrivals.get()
        return (arrived_ns - sent_ns) / 1e6

    took_ms = []
    async with server, await Conversation.begin(contestant.port) as session:
        for number in range(WARM_UP + messages):
            async with asyncio.timeout(BOUND_S):
                took = await one(session)
            if number >= WARM_UP:
                took_ms.append(took)
            await asyncio.sleep(PAUSE_S)
    return took_ms
