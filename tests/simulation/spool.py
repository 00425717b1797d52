"""A log on a simulated machine, ready to be filled, hurt, killed and started again."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.disk import Operation, SimulatedDisk, io_error
from tests.simulation.loop import SimulatedChance, SimulatedLoop, SimulatedMark

from dispatch.ports import AppendFault, Entry, Lsn
from dispatch.spool.log import SegmentLog, Told
from dispatch.spool.reader import SegmentReader

FOLDER = "mail/0"
LEDGER_INTERVAL_S = 0.05


class SimulatedSpool:
    """One log with its machine. `told` is what the clients heard, by the record's payload."""

    def __init__(self, *, ledger: bool = False, segment_bytes: int = 64 << 10, spares: int = 4) -> None:
        self.disk = SimulatedDisk(1)
        self.mark = SimulatedMark()
        self.told: dict[bytes, Lsn | AppendFault] = {}
        self._ledger = ledger
        self._segment_bytes = segment_bytes
        self._spares = spares
        self._starts = 0
        self.start()

    def start(self, hears: Told | None = None) -> None:
        self._starts += 1
        self.loop = SimulatedLoop(self._starts)
        self.process = self.disk.process()
        self.log = SegmentLog(
            self.process,
            FOLDER,
            clock=self.loop,
            chance=SimulatedChance(self._starts),
            threads=self.loop,
            mark=self.mark,
            sync_interval_s=LEDGER_INTERVAL_S if self._ledger else 0.0,
            segment_bytes=self._segment_bytes,
            spares=self._spares,
            chained=self._ledger,
            told=hears,
        )

    def kill(self) -> None:
        """`kill -9`, and a new start."""
        self.process.kill()
        self.disk.fault = None
        self.start()

    def restart(self) -> None:
        self.log.close()
        self.kill()

    def append(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.log.append([payload], lambda answer, payload=payload: self.told.update({payload: answer}))

    def put(self, *payloads: bytes) -> list[Lsn]:
        """Append and wait until all are durable."""
        self.append(*payloads)
        self.loop.advance(1)
        return [self.lsn(payload) for payload in payloads]

    def lsn(self, payload: bytes) -> Lsn:
        answer = self.told[payload]
        assert not isinstance(answer, AppendFault), answer
        return answer

    def reader(self) -> SegmentReader:
        return SegmentReader(self.disk.process(), FOLDER, mark=self.mark)

    def payloads(self) -> list[bytes]:
        return [entry.payload for entry in read_all(self.reader())]

    def files(self, suffix: str) -> list[str]:
        """Paths in the log's folder with this suffix, in the order of their names."""
        return [path for path in self.disk.paths if path.startswith(FOLDER + "/") and path.endswith(suffix)]

    def fail(
        self, *operations: Operation, times: int = 1, error: Callable[[], OSError] = io_error, path: str = ""
    ) -> None:
        """Let the next operations of these kinds fail, or only those on one path."""
        left = times

        def fault(operation: Operation, on: str) -> OSError | None:
            nonlocal left
            if not left or operation not in operations or path not in on:
                return None
            left -= 1
            return error()

        self.disk.fault = fault


def read_all(reader: SegmentReader, cursor: int = 0, size_bytes_max: int = 1 << 20) -> list[Entry]:
    entries: list[Entry] = []
    while found := reader.read(Lsn(cursor), size_bytes_max):
        entries += found
        cursor = found[-1].next
    return entries


def records(prefix: str, count: int, size_bytes: int = 40) -> list[bytes]:
    return [f"{prefix} {number}".encode().ljust(size_bytes, b".") for number in range(count)]
