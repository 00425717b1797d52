"""Many seeds in several processes, and what there was in all of them: the record of a long run.

Seeds are given out in chunks, in their order; a worker does a number of chunks and is replaced, so that
memory stays flat. Every `LINE_SEEDS` seeds a line says how far it is, and up to which seed all are done: a
run that was killed goes on with the range that begins behind it.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from tests.simulation.disk import Crash
from tests.simulation.world import World

CHUNK_SEEDS = 50
CHUNKS_A_WORKER = 20
LINE_SEEDS = 1_000
PATIENCE_S = 600.0
"""A chunk takes seconds. Where none has ended for so long, a worker hangs or was killed."""


@dataclass
class Totals:
    """Of some seeds."""

    seeds: int = 0
    messages: int = 0
    deaths: int = 0
    disk_faults: int = 0
    power_cuts: int = 0
    acknowledged: int = 0
    taken: int = 0
    """Transactions that upstreams took over."""
    turns: int = 0
    simulated_s: int = 0
    failed: int = 0
    cpu_s: float = 0.0

    def add(self, other: Totals) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Chunk:
    """What became of the seeds of one chunk."""

    seeds: Sequence[int]
    totals: Totals
    failures: list[tuple[int, str]]
    """Each with the first line of why."""


def of(world: World) -> Totals:
    """What there was in a world so far; not its CPU time."""
    return Totals(
        seeds=1,
        messages=len(world.books.offered),
        deaths=len(world.relay.deaths),
        disk_faults=world.disk_faults,
        power_cuts=world.relay.power_cuts,
        acknowledged=len(world.books.acknowledged),
        taken=len(world.taken.takings),
        turns=world.machine.turns,
        simulated_s=round(world.machine.now_s - world.begun_s),
    )


def run_seed(seed: int, make: Callable[[int, Path], World] = World) -> tuple[Totals, BaseException | None]:
    """Run one seed in a folder of its own, in memory where there is such a file system."""
    memory = Path("/dev/shm")
    begun_s = time.process_time()
    failure: BaseException | None = None
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        world = make(seed, Path(folder))
        try:
            world.run()
        except (Exception, Crash) as error:
            failure = error
    totals = of(world)
    totals.failed = int(failure is not None)
    totals.cpu_s = time.process_time() - begun_s
    return totals, failure


def run_chunk(seeds: Sequence[int]) -> Chunk:
    chunk = Chunk(seeds, Totals(), [])
    for seed in seeds:
        totals, failure = run_seed(seed)
        chunk.totals.add(totals)
        if failure is not None:
            chunk.failures.append((seed, first_line(failure)))
    return chunk


def first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def run_many(seeds: Sequence[int], jobs: int, say: Callable[[str], None]) -> bool:
    """Whether all went well. Raises `TimeoutError` where a worker gives no answer any more."""
    begun_s = time.monotonic()
    totals = Totals()
    failures: list[tuple[int, str]] = []
    said = 0
    for chunk in _chunks_done(seeds, jobs):
        totals.add(chunk.totals)
        failures += chunk.failures
        for seed, why in chunk.failures:
            say(f"seed {seed} FAILED: {why}")
        if totals.seeds // LINE_SEEDS > said:
            said = totals.seeds // LINE_SEEDS
            say(f"{_line(totals)}; done up to {chunk.seeds[-1]}")
    for line in _table(totals, time.monotonic() - begun_s):
        say(line)
    if failures:
        say(f"failed: {' '.join(str(seed) for seed, _ in failures)}")
    return not failures


def _chunks_done(seeds: Sequence[int], jobs: int) -> Iterator[Chunk]:
    """In the order of the seeds."""
    chunks = [seeds[at : at + CHUNK_SEEDS] for at in range(0, len(seeds), CHUNK_SEEDS)]
    # A process that is begun anew holds nothing of the one before; and a fork would copy all that is open.
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, maxtasksperchild=CHUNKS_A_WORKER) as pool:
        done = pool.imap(run_chunk, chunks)
        for chunk in chunks:
            try:
                yield done.next(PATIENCE_S)
            except multiprocessing.TimeoutError:
                raise TimeoutError(
                    f"no answer about seeds {chunk[0]} to {chunk[-1]} for {PATIENCE_S:.0f} s"
                ) from None


def _line(totals: Totals) -> str:
    return (
        f"{totals.seeds} seeds: {totals.messages} messages, {totals.deaths} deaths,"
        f" {totals.disk_faults} disk faults, {totals.power_cuts} power cuts,"
        f" {totals.acknowledged} acknowledged, {totals.failed} failed, {totals.cpu_s:.0f} s of CPU"
    )


def _table(totals: Totals, took_s: float) -> Iterator[str]:
    rows: list[tuple[str, str]] = [
        (name.replace("_", " "), str(value))
        for name, value in zip(vars(totals), astuple(totals), strict=True)
        if name not in ("simulated_s", "cpu_s")
    ]
    rows += [
        ("simulated", f"{totals.simulated_s / 3600:.1f} h"),
        ("CPU", f"{totals.cpu_s:.0f} s"),
        ("CPU a seed", f"{totals.cpu_s / max(1, totals.seeds) * 1000:.1f} ms"),
        ("took", f"{took_s:.0f} s"),
    ]
    yield ""
    yield "| what | in all |"
    yield "|---|---:|"
    for what, amount in rows:
        yield f"| {what} | {amount} |"
    yield ""
