"""One round of ordinary mail: Postfix's own `smtp-source` into a relay, and from it into its `smtp-sink`.

Both are C, and cheap beside any relay. `smtp-source` waits for each reply before it goes on; it gives each
message one recipient. A round is over when the sink has its last message; CPU is counted until the relay has
nothing left to do, which for Dispatch includes its history. A load may be secured: then stunnel speaks TLS
for both programs (`bench.tunnel`).
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from bench.contestants import BOUND_S, Contestant, cpu_of, free_port, settle, wait_for_port, wait_until
from bench.postfix_relay import PROGRAMS
from bench.processes import cpu_s, machine_busy_s
from bench.tunnel import Tunnel

SINK_SESSIONS_MAX = 1000
COUNTER_BYTES_MAX = 128
_TAKEN = re.compile(rb"mesg=(\d+)\r")
COUNT_S = 0.005
"""How often the upstream's counter is looked at."""
WARM_UP_S = 1.0
"""About so long the round takes whose rate says how many messages the real ones get."""


class Load(NamedTuple):
    sessions: int
    size_bytes: int
    kept: bool = True
    """Connections are kept, or there is one for each message."""
    recipient: str = "you@example.net"
    secured: bool = False
    """By STARTTLS, into the relay and out of it."""

    def __str__(self) -> str:
        sessions = f"{self.sessions} session" + ("s" if self.sessions > 1 else "")
        more = ("" if self.kept else ", a connection each") + (", TLS" if self.secured else "")
        return f"{sessions}, {size(self.size_bytes)}{more}"


class Round(NamedTuple):
    rate: float
    """Messages a second."""
    cpu_s: float
    """Seconds of CPU for a thousand messages, user and system, all processes."""
    others_cpu: float
    """Cores that were busy meanwhile with what is neither the relay nor the load."""


def size(amount_bytes: int) -> str:
    return f"{amount_bytes >> 10} KB" if amount_bytes < 1 << 20 else f"{amount_bytes >> 20} MB"


def source(port: int, load: Load, messages: int) -> list[str]:
    """The command that sends so many messages and ends."""
    command = [str(PROGRAMS / "smtp-source"), "-s", str(load.sessions), "-l", str(load.size_bytes)]
    command += ["-m", str(messages), "-f", "me@example.org", "-t", load.recipient]
    return [*command, *(["-d"] if load.kept else []), f"127.0.0.1:{port}"]


class Sink:
    """Postfix's `smtp-sink` as the upstream of a round; it counts what it takes.

    Not its `-M`, with which it ends at the last message: it ends without an answer, and what the relay then
    repeats half a minute later comes into the midst of another round.
    """

    def __init__(self, port: int, counted: IO[bytes]) -> None:
        self._counted = counted
        command = [str(PROGRAMS / "smtp-sink"), "-c", "-u", "postfix", "-m", str(SINK_SESSIONS_MAX)]
        command += [f"127.0.0.1:{port}", "1000"]
        self.process = subprocess.Popen(command, stdout=counted, stderr=subprocess.DEVNULL)

    def messages(self) -> int:
        """How many it has taken so far."""
        size = os.fstat(self._counted.fileno()).st_size
        last = os.pread(self._counted.fileno(), COUNTER_BYTES_MAX, max(0, size - COUNTER_BYTES_MAX))
        found = _TAKEN.findall(last)
        return int(found[-1]) if found else 0


@contextmanager
def sink(port: int) -> Iterator[Sink]:
    with tempfile.TemporaryFile(dir="/dev/shm") as counted:
        running = Sink(port, counted)
        try:
            wait_for_port(port, running.process)
            yield running
        finally:
            running.process.kill()
            running.process.wait()


class Ends(NamedTuple):
    """What a round has on either side of its relay."""

    port: int
    """Where the source sends."""
    sink: Sink | None
    pids: tuple[int, ...]
    """Processes of the load that go on while the source sends and ends."""


@contextmanager
def _ends(relay_port: int, upstream_port: int | None, load: Load) -> Iterator[Ends]:
    if upstream_port is None:
        assert not load.secured, "what is secured is secured both ways"
        yield Ends(relay_port, None, ())
    elif not load.secured:
        with sink(upstream_port) as upstream:
            yield Ends(relay_port, upstream, (upstream.process.pid,))
    else:
        sink_port = free_port()
        with (
            tempfile.TemporaryDirectory() as folder,
            sink(sink_port) as upstream,
            Tunnel(
                Path(folder), relay_port=relay_port, upstream_port=upstream_port, sink_port=sink_port
            ) as tunnel,
        ):
            yield Ends(tunnel.port, upstream, (upstream.process.pid, tunnel.process.pid))


def one_round(
    contestant: Contestant,
    everybody: Sequence[Contestant],
    upstream_port: int | None,
    load: Load,
    messages: int,
) -> Round:
    """From the first connection until the last message came out at the other end, or, where there is no
    upstream, until the last one was acknowledged."""
    with _ends(contestant.port, upstream_port, load) as (port, upstream, pids):
        settle(everybody)
        before = _Clocks.read(contestant, pids)
        subprocess.run(source(port, load, messages), check=True, timeout=BOUND_S)
        if upstream is not None:
            wait_until(lambda: upstream.messages() >= messages, "the upstream has all", every_s=COUNT_S)
        after = _Clocks.read(contestant, pids)
        # While the upstream still answers.
        settle(everybody)
    used_s = cpu_of(contestant) - before.relay_s
    return Round(
        messages / (after.now_s - before.now_s), used_s * 1000 / messages, after.others_since(before)
    )


class _Clocks(NamedTuple):
    now_s: float
    relay_s: float
    ours_s: float
    """CPU of the bench, of its children that ended, and of those that run on."""
    machine_s: float

    @staticmethod
    def read(contestant: Contestant, pids: Iterable[int]) -> _Clocks:
        self, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        ours_s = self.ru_utime + self.ru_stime + children.ru_utime + children.ru_stime
        ours_s += sum(map(cpu_s, pids))
        return _Clocks(time.monotonic(), cpu_of(contestant), ours_s, machine_busy_s())

    def others_since(self, before: _Clocks) -> float:
        known_s = self.relay_s - before.relay_s + self.ours_s - before.ours_s
        return max(0.0, self.machine_s - before.machine_s - known_s) / (self.now_s - before.now_s)


def messages_for(
    contestant: Contestant,
    everybody: Sequence[Contestant],
    upstream_port: int | None,
    load: Load,
    last_s: float,
) -> int:
    """How many messages take it about `last_s` seconds. Doubles as the round that warms everything up."""
    messages = 2 * load.sessions + 20
    while True:
        tried = one_round(contestant, everybody, upstream_port, load, messages)
        if messages / tried.rate >= min(WARM_UP_S, last_s):
            return max(2 * load.sessions, round(tried.rate * last_s))
        messages *= 4
