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
from functools import partial
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


class _Batch:
    """What is written in one go, from the asking whether it may be until its reports."""

    __slots__ = ("jobs", "unnoted")

    def __init__(self, jobs: list[_Job]) -> None:
        self.jobs = jobs
        self.unnoted = len(jobs)
        """Of so many the queue has yet to say whether they are on record as sending."""


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
        self._batch: _Batch | None = None
        self._woken = False
        self._closing = False
        self._empty = asyncio.Event()

    def free(self) -> int:
        if self._closing:
            return 0
        writing = 0 if self._batch is None else len(self._batch.jobs)
        return max(0, self._max_concurrency - len(self._waiting) - writing)

    def start(self, transaction: Transaction, done: Done) -> None:
        self._waiting.append(_Job(transaction, done))
        if not self._woken and self._batch is None:
            self._wake()

    def try_again(self) -> None:
        """Nothing rests here."""

    async def close(self, grace_s: float) -> None:
        self._closing = True
        self._give_up_waiting()
        if self._batch is not None:
            self._empty.clear()
            timer = self._clock.call_later(grace_s, self._empty.set)
            await self._empty.wait()
            timer.cancel()
        batch, self._batch = self._batch, None
        if batch is None:
            return
        stage = Stage.CONTENT if batch.unnoted else Stage.END_OF_DATA
        for job in batch.jobs:
            _report(job, stage, Fault(FaultKind.TIMEOUT, "the disk did not answer in time"))

    def _give_up_waiting(self) -> None:
        while self._waiting:
            _report(self._waiting.popleft(), Stage.CONNECT, Fault(FaultKind.DROPPED, "the relay is closing"))

    def _wake(self) -> None:
        self._woken = True
        self._clock.call_later(0, self._gather)

    def _gather(self) -> None:
        """Ask whether the next batch may be written."""
        self._woken = False
        if self._closing:
            self._give_up_waiting()
            return
        jobs = [self._waiting.popleft() for _ in range(min(BATCH_MAX, len(self._waiting)))]
        if not jobs:
            return
        self._batch = batch = _Batch(jobs)
        for job in jobs:
            job.transaction.sending(job.transaction, partial(self._noted, batch, job))

    def _noted(self, batch: _Batch, job: _Job, error: Exception | None) -> None:
        """Take the batch to the worker when the last of it is on record."""
        if self._batch is not batch:
            return  # closed meanwhile, and reported
        batch.unnoted -= 1
        if error is not None:
            batch.jobs.remove(job)
            fault = Fault(FaultKind.CONTENT_UNREADABLE, f"not noted as sending: {error!r}")
            _report(job, Stage.CONTENT, fault)
        if batch.unnoted:
            return
        if not batch.jobs:
            self._batch = None
            self._go_on()
            return
        jobs, captured_ms = batch.jobs, int(self._clock.wall() * 1000)
        self._worker.call(lambda: self._store(jobs, captured_ms), partial(self._written, batch))

    def _store(self, jobs: list[_Job], captured_ms: int) -> list[OSError | None]:
        """On the worker: what went wrong with each, None where all is well."""
        results = [self._store_one(job.transaction, captured_ms) for job in jobs]
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

    def _written(self, batch: _Batch, results: list[OSError | None] | Exception) -> None:
        if self._batch is not batch:
            return  # closed meanwhile, and reported
        self._batch = None
        for position, job in enumerate(batch.jobs):
            _answer(job, results if isinstance(results, Exception) else results[position])
        self._go_on()

    def _go_on(self) -> None:
        if self._waiting and self._batch is None and not self._woken:
            self._gather()
        if self._batch is None:
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
