"""How many microseconds a record costs: append and commit at several batch sizes, and reading.

    python bench/micro_spool.py [FOLDER]

`cpu` is the time of all threads of this process, so the kernel's share of writing and syncing is in it;
`python` is the loop's part alone, with a disk that does nothing.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path

from dispatch.ports import AppendFault, Buffer, Lsn
from dispatch.runtime.machine import (
    MarkFile,
    SystemChance,
    SystemClock,
    SystemDisk,
    SystemFile,
    SystemThreads,
)
from dispatch.spool.frames import GENESIS, build_batch
from dispatch.spool.log import SegmentLog
from dispatch.spool.reader import SegmentReader

RECORD_BYTES = 4096
RECORDS = 20_000
READS = 2_000
LEDGER_RECORD_BYTES = 200
"""A third of what a message leaves in the ledger."""


class IdleFile(SystemFile):
    def write_at(self, offset: int, buffers: Sequence[Buffer]) -> None: ...

    def sync(self) -> None: ...


class IdleDisk(SystemDisk):
    def open(self, path: str, *, create: bool = False) -> SystemFile:
        file = super().open(path, create=create)
        return IdleFile(file._descriptor)


def commit(
    root: Path, batch: int, records: int, interval_s: float = 0.0, *, idle: bool = False
) -> tuple[float, float, float]:
    """Records a second, CPU and loop-thread microseconds a record; each round appends `batch` records."""
    loop = asyncio.new_event_loop()
    log = SegmentLog(
        IdleDisk(root) if idle else SystemDisk(root),
        "log",
        clock=SystemClock(loop),
        chance=SystemChance(),
        threads=SystemThreads(loop),
        mark=MarkFile(root / "mark", writable=True),
        soon=loop.call_soon,
        sync_interval_s=interval_s,
    )
    loop.run_until_complete(asyncio.sleep(0.7))  # Let the spares be written.
    head = b"h" * 100
    body = b"x" * (RECORD_BYTES - len(head))
    finished = loop.create_future()
    appended = told = 0

    def done(answer: Lsn | AppendFault) -> None:
        nonlocal told
        assert not isinstance(answer, AppendFault), answer
        told += 1
        if told == appended:
            round_() if told < records else finished.set_result(None)

    def round_() -> None:
        nonlocal appended
        appended += batch
        for _ in range(batch):
            log.append([head, body], done)

    wall_s, cpu_s, loop_s = time.perf_counter(), time.process_time(), time.thread_time()
    round_()
    loop.run_until_complete(finished)
    wall_s, cpu_s, loop_s = (
        time.perf_counter() - wall_s,
        time.process_time() - cpu_s,
        time.thread_time() - loop_s,
    )
    log.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    return told / wall_s, cpu_s / told * 1e6, loop_s / told * 1e6


def read(root: Path) -> tuple[float, int]:
    """Microseconds a record, and how many there were."""
    reader = SegmentReader(SystemDisk(root), "log", mark=MarkFile(root / "mark", writable=False))
    cursor, records = reader.oldest, 0
    start_s = time.perf_counter()
    while entries := reader.read(cursor, 256 << 10):
        cursor = entries[-1].next
        records += len(entries)
    return (time.perf_counter() - start_s) / records * 1e6, records


def read_at_end(root: Path) -> float:
    """Microseconds a read of the newest record, as a reader that keeps up makes it."""
    reader = SegmentReader(SystemDisk(root), "log", mark=MarkFile(root / "mark", writable=False))
    cursor = newest = reader.oldest
    while entries := reader.read(cursor, 256 << 10):
        newest, cursor = entries[-1].lsn, entries[-1].next
    start_s = time.perf_counter()
    for _ in range(READS):
        reader.read(newest, 256 << 10)
    return (time.perf_counter() - start_s) / READS * 1e6


def framing(records: int) -> tuple[float, float]:
    """Microseconds for building a batch of ledger records, without and with the chain."""
    batch = [[b"x" * LEDGER_RECORD_BYTES]] * records

    def build(before: bytes | None) -> float:
        def one() -> None:
            build_batch(batch, lsn=0, generation=1, previous_end=0, synced=0, before=before)

        return min(timeit.repeat(one, number=200, repeat=50)) / 200 * 1e6

    return build(None), build(GENESIS)


def in_folder(parent: Path, work: Callable[[Path], None]) -> None:
    root = Path(tempfile.mkdtemp(dir=parent))
    try:
        work(root)
    finally:
        shutil.rmtree(root)


def main() -> None:
    parent = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.gettempdir())
    print(f"{RECORD_BYTES} byte records\n\n batch  records/s   cpu us   loop us   python us")

    def one(batch: int) -> Callable[[Path], None]:
        def work(root: Path) -> None:
            rate, cpu_us, loop_us = commit(root / "real", batch, min(RECORDS, 3000 * batch))
            _, _, python_us = commit(root / "idle", batch, RECORDS, idle=True)
            print(f"{batch:6} {rate:10.0f} {cpu_us:8.1f} {loop_us:9.1f} {python_us:11.1f}")
            if batch == 64:
                us, records = read(root / "real")
                print(f"\nread {records} records: {us:.2f} us a record")
                print(f"read the newest: {read_at_end(root / 'real'):.1f} us a read")

        return work

    for batch in (1, 8, 64):
        in_folder(parent, one(batch))

    def ledger(root: Path) -> None:
        rate, cpu_us, loop_us = commit(root, 4096, 40_960, 0.05)
        print(f"ledger, 50 ms: {rate:.0f} records/s, {cpu_us:.1f} us cpu, {loop_us:.1f} us on the loop")

    in_folder(parent, ledger)

    print(f"\nbatches of {LEDGER_RECORD_BYTES} byte records: us to frame one, and what the chain adds\n")
    print(" batch    plain  chained  more a message of 3 records")
    for batch in (1, 3, 10, 30):
        plain_us, chained_us = framing(batch)
        print(f"{batch:6} {plain_us:8.2f} {chained_us:8.2f} {3 * (chained_us - plain_us) / batch:10.2f}")


if __name__ == "__main__":
    main()
