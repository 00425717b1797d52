"""A hundred thousand messages while the upstream is down; then all is killed, and the upstream comes back.

Dispatch alone, with its defaults. In this order, in one run:

1. the end-to-end rate with the upstream up, which the drain is compared with; memory at rest;
2. the upstream refuses connections, and the messages are accepted and parked; memory at rest again;
3. `kill -9` of every process, the upstream comes up, a new start: when the first delivery arrives, and how
   fast the rest follows.

Rates are taken where the upstream counts. The drain counts from its first delivery, and to its last; to 99 %
is shown as well, because a few deliveries that were tried before the breaker opened wait for their retry.
"""

from __future__ import annotations

import subprocess
import time
from functools import partial
from typing import NamedTuple

from bench.contestants import BOUND_S, free_port, running, settle, wait_until
from bench.disks import Disk, plain
from bench.dispatch_relay import Dispatch
from bench.load import Load, source
from bench.parts import Effort, say
from bench.processes import Memory, memory, total_pss
from bench.report import MIB, Aim, aims, mib, paragraphs, table, weights
from bench.upstream import Upstream

MESSAGES = 100_000
LOAD = Load(20, 4 << 10)
MORE_MIB_MAX = 64
FIRST_S_MAX = 5
SHARE_MIN = 0.5


class _Run(NamedTuple):
    through_rate: float
    accept_rate: float
    idle: dict[str, Memory]
    parked: dict[str, Memory]
    first_s: float
    """From the start of the new processes."""
    most_rate: float
    """To 99 % of the messages."""
    all_rate: float


def measure(effort: Effort) -> str:
    messages = effort.scaled(MESSAGES)
    with plain(effort.parent) as disk:
        run = _run(disk, messages)
        where = f"{messages:,} messages of 4 KB. On {disk}."
    more_bytes = total_pss(run.parked) - total_pss(run.idle)
    share = run.all_rate / run.through_rate
    return paragraphs(
        where,
        table(
            ["", ""],
            [
                ["end to end, before", f"{run.through_rate:,.0f}/s"],
                ["accepted while the upstream is down", f"{run.accept_rate:,.0f}/s"],
                ["first delivery, after `kill -9` and start", f"{run.first_s:.2f} s"],
                ["drained", f"{run.all_rate:,.0f}/s"],
                ["the first 99 % of it", f"{run.most_rate:,.0f}/s"],
            ],
        ),
        weights({"idle": run.idle, "all parked": run.parked}),
        aims(
            Aim(f"under {MORE_MIB_MAX} MiB more than idle", mib(more_bytes), more_bytes < MORE_MIB_MAX * MIB),
            Aim(f"first delivery within {FIRST_S_MAX} s", f"{run.first_s:.2f} s", run.first_s < FIRST_S_MAX),
            Aim("drained at half of the end-to-end rate", f"{share:.2f} of it", share >= SHARE_MIN),
        ),
    )


def _run(disk: Disk, messages: int) -> _Run:
    upstream = Upstream(disk.folder, free_port())
    relay = Dispatch(disk.folder, upstream.port)
    with running(relay), upstream:
        through_rate = _through(relay, upstream, max(1000, messages // 5))
        settle([relay])
        idle = memory(relay.members())
        upstream.stop()
        say("upstream down")
        start_s = time.monotonic()
        subprocess.run(source(relay.port, LOAD, messages), check=True, timeout=BOUND_S)
        accept_rate = messages / (time.monotonic() - start_s)
        settle([relay])
        parked = memory(relay.members())
        say(f"parked: {mib(total_pss(parked) - total_pss(idle))} more")
        relay.kill()
        before = upstream.small
        upstream.start()
        start_s = time.monotonic()
        relay.start()
        wait_until(lambda: upstream.first_s > 0, "the first delivery arrives", every_s=0.005)
        wait_until(lambda: upstream.small - before >= 0.99 * messages, "99 % have arrived")
        most_s = time.monotonic() - upstream.first_s
        say(f"first after {upstream.first_s - start_s:.2f} s, 99 % at {0.99 * messages / most_s:,.0f}/s")
        wait_until(lambda: upstream.small - before >= messages, "all have arrived")
        all_s = upstream.last_small_s - upstream.first_s
        settle([relay])
    return _Run(
        through_rate,
        accept_rate,
        idle,
        parked,
        upstream.first_s - start_s,
        0.99 * messages / most_s,
        messages / all_s,
    )


def _through(relay: Dispatch, upstream: Upstream, messages: int) -> float:
    """The end-to-end rate of the second of two rounds."""
    rate = 0.0
    for _ in range(2):
        settle([relay])
        wanted = upstream.small + messages
        start_s = time.monotonic()
        subprocess.run(source(relay.port, LOAD, messages), check=True, timeout=BOUND_S)
        wait_until(partial(_reached, upstream, wanted), "all have arrived")
        rate = messages / (upstream.last_small_s - start_s)
        say(f"end to end: {rate:,.0f}/s")
    return rate


def _reached(upstream: Upstream, wanted: int) -> bool:
    return upstream.small >= wanted
