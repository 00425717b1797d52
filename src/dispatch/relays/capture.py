"""Capture: a relay that keeps mail in the local inbox instead of sending it.

It answers as a host would: 250 when message and envelope are on stable storage, 452 or 451 when they
cannot be. Files are written in batches on a worker thread: what arrives while one batch is written waits
for the next, and a batch syncs the folder once.

A transaction tried again after a crash replaces its own file, so nothing is ever captured twice.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from dispatch.mail.message import ContentFile
from dispatch.mail.reply import reply
from dispatch.mail.report import Fault, FaultKind, Report, Stage
from dispatch.ports import Clock, Disk, File, Transaction, Worker
from dispatch.relays.capture_store import CapturedHead, SourceLost, SourceUnreadable, write_captured

BATCH_MAX = 64
"""Transactions written, and folder entries synced, in one go."""

PEER = "local inbox"
"""What reports name in place of an address."""

Done = Callable[[Transaction, Report], None]


class _Job(NamedTuple):
    transaction: Transaction
    done: Done


class CaptureRelay:
    """`ports.Relay` into a folder of the disk."""

    def __init__(
        self,
        disk: Disk,
        folder: str,
        worker: Worker,
        *,
        clock: Clock,
        open_content: Callable[[ContentFile], File],
        max_concurrency: int = 2 * BATCH_MAX,
    ) -> None:
        """`open_content` is called on the worker thread; it may raise `OSError`."""
        self._disk = disk
        self._folder = folder
        self._worker = worker
        self._clock = clock
        self._open_content = open_content
        self._max_concurrency = max_concurrency
        self._waiting: deque[_Job] = deque()
        self._writing: list[_Job] = []
        self._woken = False
        self._closing = False
        self._empty = asyncio.Event()

    def free(self) -> int:
        if self._closing:
            return 0
        return max(0, self._max_concurrency - len(self._waiting) - len(self._writing))

    def start(self, transaction: Transaction, done: Done) -> None:
        self._waiting.append(_Job(transaction, done))
        if not self._woken and not self._writing:
            self._woken = True
            self._clock.call_later(0, self._write)

    async def close(self, grace_s: float) -> None:
        self._closing = True
        self._give_up_waiting()
        if self._writing:
            self._empty.clear()
            timer = self._clock.call_later(grace_s, self._empty.set)
            await self._empty.wait()
            timer.cancel()
        writing, self._writing = self._writing, []
        for job in writing:
            _report(job, Stage.END_OF_DATA, Fault(FaultKind.TIMEOUT, "the disk did not answer in time"))

    def _give_up_waiting(self) -> None:
        while self._waiting:
            _report(self._waiting.popleft(), Stage.CONNECT, Fault(FaultKind.DROPPED, "the relay is closing"))

    def _write(self) -> None:
        """Take the next batch to the worker."""
        self._woken = False
        if self._closing:
            self._give_up_waiting()
            return
        batch: list[_Job] = []
        while self._waiting and len(batch) < BATCH_MAX:
            job = self._waiting.popleft()
            try:
                job.transaction.sending(job.transaction)
            except Exception as error:
                fault = Fault(FaultKind.CONTENT_UNREADABLE, f"not noted as sending: {error!r}")
                _report(job, Stage.CONTENT, fault)
            else:
                batch.append(job)
        if not batch:
            return
        self._writing = batch
        captured_ms = int(self._clock.wall() * 1000)

        def written(results: list[OSError | None] | Exception) -> None:
            self._written(batch, results)

        self._worker.call(lambda: self._store(batch, captured_ms), written)

    def _store(self, batch: list[_Job], captured_ms: int) -> list[OSError | None]:
        """On the worker: what went wrong with each, None where all is well."""
        results = [self._store_one(job.transaction, captured_ms) for job in batch]
        try:
            self._disk.sync_folder(self._folder)
        except OSError as error:
            return [result or error for result in results]
        return results

    def _store_one(self, transaction: Transaction, captured_ms: int) -> OSError | None:
        head = CapturedHead(captured_ms, transaction.message, transaction.indexes)
        content = transaction.content
        try:
            if isinstance(content, bytes):
                write_captured(self._disk, self._folder, head, content)
                return None
            try:
                source = self._open_content(content)
            except FileNotFoundError as error:
                return SourceLost(str(error))
            except OSError as error:
                return SourceUnreadable(str(error))
            try:
                write_captured(self._disk, self._folder, head, (content, source))
            finally:
                source.close()
        except OSError as error:
            return error
        return None

    def _written(self, batch: list[_Job], results: list[OSError | None] | Exception) -> None:
        if self._writing is not batch:
            return  # closed meanwhile, and reported
        self._writing = []
        for position, job in enumerate(batch):
            _answer(job, results if isinstance(results, Exception) else results[position])
        if self._waiting and not self._writing and not self._woken:
            self._write()
        if not self._writing:
            self._empty.set()


def _answer(job: _Job, error: Exception | None) -> None:
    if isinstance(error, SourceUnreadable):
        lost = isinstance(error, SourceLost)
        kind = FaultKind.CONTENT_LOST if lost else FaultKind.CONTENT_UNREADABLE
        _report(job, Stage.CONTENT, Fault(kind, str(error)))
        return
    if error is None:
        answer = reply(250, "2.0.0", "captured")
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        answer = reply(452, "4.3.1", "the local inbox is full")
    else:
        answer = reply(451, "4.3.0", f"the local inbox cannot be written: {type(error).__name__}")
    recipients = len(job.transaction.indexes)
    job.done(job.transaction, Report(Stage.END_OF_DATA, (answer,) * recipients, peer=PEER))


def _report(job: _Job, stage: Stage, fault: Fault) -> None:
    nobody = (None,) * len(job.transaction.indexes)
    job.done(job.transaction, Report(stage, nobody, fault, PEER))
