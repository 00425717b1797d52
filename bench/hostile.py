"""Ordinary mail beside trouble: thousands of trickling clients, huge messages, a relay that hangs.

Dispatch alone. The ordinary mail is 4 KB over 20 sessions, once at a steady pace that the machine can well
keep up with, once as fast as it is taken. Its rate is what the upstream counts: before the trouble, during it
and after it. At the steady pace it shows whether trouble holds other mail up; at full speed what the trouble
costs, because then all cores are busy and whatever it needs is missing.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.contestants import BOUND_S, free_port, running, settle, wait_until
from bench.disks import plain
from bench.dispatch_relay import Dispatch
from bench.load import Load, source
from bench.parts import Effort, say
from bench.processes import Scales, memory, total_pss
from bench.report import MIB, Aim, aims, mib, paragraphs, table, weights
from bench.trickle import SPARE_FILES, raise_files
from bench.upstream import Upstream

ORDINARY = Load(20, 4 << 10)
PACES: dict[str, float | None] = {"500/s are offered": 500.0, "as much as is taken": None}
PACED_BATCH = 100
"""Messages of one `smtp-source`, which are sent at once; the next one follows when its time has come."""
BATCH = 5000
WINDOW_S = 10.0
MORE_MIB_MAX = 64
"""What trouble may cost in memory: as much as `spool.content_memory_mb`."""
USUAL_SHARE = 0.95
"""What is offered at a steady pace still flows at its usual rate."""

TRICKLING = 10_000
LARGE_MESSAGES = 50
LARGE_BYTES = 50 << 20
HANGING = 2_000
HANGING_ROUTE = """
[[relays]]
name = "hanging"
host = "127.0.0.1"
port = {port}
[[rules]]
name = "to-the-hanging-one"
recipient = ["*@hang.example"]
relays = ["hanging"]
"""


class Ordinary:
    """Mail that flows inside the `with` block."""

    def __init__(self, relay: Dispatch, upstream: Upstream, per_s: float | None) -> None:
        self._relay, self._upstream, self._per_s = relay, upstream, per_s
        self._wanted = upstream.small
        self._stopping = False
        self._thread = threading.Thread(target=self._send, daemon=True)

    def _send(self) -> None:
        batch = BATCH if self._per_s is None else PACED_BATCH
        due_s = time.monotonic()
        while not self._stopping:
            subprocess.run(source(self._relay.port, ORDINARY, batch), check=True, timeout=BOUND_S)
            self._wanted += batch
            if self._per_s is not None:
                due_s += batch / self._per_s
                time.sleep(max(0.0, due_s - time.monotonic()))

    @property
    def arrived(self) -> int:
        return self._upstream.small

    def __enter__(self) -> Ordinary:
        self._thread.start()
        time.sleep(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join()
        wait_until(lambda: self._upstream.small >= self._wanted, "the ordinary mail has arrived")


def _rates(relay: Dispatch, upstream: Upstream, window_s: float) -> list[float]:
    """Of the ordinary mail, at each pace."""
    found = []
    for per_s in PACES.values():
        with Ordinary(relay, upstream, per_s) as ordinary:
            before, start_s = ordinary.arrived, time.monotonic()
            time.sleep(window_s)
            found.append((ordinary.arrived - before) / (time.monotonic() - start_s))
    say(f"ordinary mail: {' and '.join(f'{rate:,.0f}/s' for rate in found)}")
    return found


def _rates_table(**stages: list[float]) -> str:
    rows = [
        [f"ordinary mail, {pace}", *(f"{rates[place]:,.0f}/s" for rates in stages.values())]
        for place, pace in enumerate(PACES)
    ]
    return table(["", *stages], rows)


def _aims(more_bytes: int, before: list[float], during: list[float]) -> str:
    share = during[0] / before[0]
    return aims(
        Aim(f"under {MORE_MIB_MAX} MiB more memory", mib(more_bytes), more_bytes < MORE_MIB_MAX * MIB),
        Aim("other mail at a steady pace flows at its usual rate", f"{share:.0%}", share >= USUAL_SHARE),
    )


def measure_trickling(effort: Effort) -> str:
    connections, window_s = effort.scaled(TRICKLING), _window(effort)
    raise_files(TRICKLING + SPARE_FILES)
    options = [
        f"listener.max_connections={TRICKLING + 1000}",
        # A byte now and then is as good as silence, and is cut after a minute otherwise.
        "listener.connection_timeout_seconds=600",
    ]
    with plain(effort.parent) as disk:
        upstream = Upstream(disk.folder, free_port())
        relay = Dispatch(disk.folder, upstream.port, options=options)
        with running(relay), upstream:
            before = _rates(relay, upstream, window_s)
            settle([relay])
            idle = memory(relay.members())
            with _trickling(relay, connections) as left:
                during = _rates(relay, upstream, window_s)
                beside = memory(relay.members())
            after = _rates(relay, upstream, window_s)
    return paragraphs(
        f"{connections:,} connections, half of them in a command and half in content, each with a byte every"
        f" five seconds (`--set {' --set '.join(options)}`); {left[0]:,} of them were still open at the end.",
        _rates_table(before=before, during=during, after=after),
        weights({"idle, after ordinary mail": idle, "with the connections": beside}),
        _aims(total_pss(beside) - total_pss(idle), before, during),
    )


@contextmanager
def _trickling(relay: Dispatch, connections: int) -> Iterator[list[int]]:
    """In the list is at the end how many connections the relay had kept."""
    left: list[int] = []
    command = [sys.executable, "-m", "bench.trickle", str(relay.port), str(connections)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            opened = process.stdout.readline().strip()
            assert opened == f"open {connections}", opened
            say(f"trickling: {opened}")
            yield left
        finally:
            process.terminate()
        left.append(int(process.stdout.readline().split()[1]))


def measure_large(effort: Effort) -> str:
    messages = 5 if effort.quick else LARGE_MESSAGES
    window_s = _window(effort)
    option = f"listener.max_message_bytes={LARGE_BYTES * 2}"
    took_s: dict[str, float] = {}
    during: list[float] = []
    with plain(effort.parent) as disk:
        where = f"On {disk}."
        upstream = Upstream(disk.folder, free_port())
        relay = Dispatch(disk.folder, upstream.port, options=[option])
        with running(relay), upstream:
            idle = memory(relay.members())
            with Scales(relay.members) as alone:
                took_s["alone"] = _send_large(relay, upstream, messages)
            settle([relay])
            before = _rates(relay, upstream, window_s)
            with Scales(relay.members) as beside:
                for pace, per_s in PACES.items():
                    with Ordinary(relay, upstream, per_s) as ordinary:
                        arrived = ordinary.arrived
                        took_s[pace] = _send_large(relay, upstream, messages)
                        during.append((ordinary.arrived - arrived) / took_s[pace])
            after = _rates(relay, upstream, window_s)
    rows = [[name, f"{took:.1f} s"] for name, took in took_s.items()]
    return paragraphs(
        f"{messages} messages of {LARGE_BYTES >> 20} MB at once, each on a connection of its own"
        f" (`--set {option}`). {where}",
        table(["ordinary mail beside them", "all large ones are delivered after"], rows),
        _rates_table(before=before, during=during, after=after),
        weights({"idle": idle, "peak, alone": alone.peak, "peak, beside ordinary mail": beside.peak}),
        _aims(beside.peak_total_bytes - total_pss(idle), before, during),
    )


def _send_large(relay: Dispatch, upstream: Upstream, messages: int) -> float:
    """How long until the upstream has them all."""
    wanted = upstream.large + messages
    start_s = time.monotonic()
    load = Load(messages, LARGE_BYTES)
    subprocess.run(source(relay.port, load, messages), check=True, timeout=BOUND_S)
    wait_until(lambda: upstream.large >= wanted, "all large messages have arrived")
    say(f"{messages} large messages: {upstream.last_large_s - start_s:.1f} s")
    return upstream.last_large_s - start_s


def measure_hanging(effort: Effort) -> str:
    messages, window_s = effort.scaled(HANGING), _window(effort)
    with plain(effort.parent) as disk:
        upstream = Upstream(disk.folder, free_port())
        hanging = Upstream(disk.folder, free_port(), hangs=True)
        relay = Dispatch(disk.folder, upstream.port, tables=HANGING_ROUTE.format(port=hanging.port))
        with running(relay), upstream, hanging:
            before = _rates(relay, upstream, window_s)
            settle([relay])
            idle = memory(relay.members())
            stuck = Load(20, 4 << 10, recipient="you@hang.example")
            subprocess.run(source(relay.port, stuck, messages), check=True, timeout=BOUND_S)
            wait_until(lambda: hanging.small > 0, "the hanging relay has something to think about")
            during = _rates(relay, upstream, window_s)
            settle([relay])
            beside, taken = memory(relay.members()), hanging.small
    return paragraphs(
        f"{messages:,} messages for a relay that takes content whole and never answers; it has {taken} of"
        " them, the others wait.",
        _rates_table(before=before, during=during),
        weights({"idle, after ordinary mail": idle, "with what waits": beside}),
        _aims(total_pss(beside) - total_pss(idle), before, during),
    )


def _window(effort: Effort) -> float:
    return 1.0 if effort.quick else WINDOW_S
