"""Bugs to plant: each is a mistake that somebody could make, and that the seeds must find.

A bug is a context in which the product has it. What it is called says what it does wrong; `BUGS` names all of
them. They are the reason to believe a seed that passes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import msgspec

from dispatch.app.starts import Starts
from dispatch.intake import acceptance
from dispatch.intake.acceptance import Acceptance
from dispatch.intake.smtp_session import SmtpSession
from dispatch.intake.submit import KnownKeys
from dispatch.mail.delivery import Move
from dispatch.mail.outcome import Outcome, Scope
from dispatch.mail.reply import reply
from dispatch.outcomes.bounce import Bounces, NoAnswer
from dispatch.outcomes.tail import CURSOR, Tail
from dispatch.policy.admission import Refusal
from dispatch.ports import Leave, Lsn, Transaction
from dispatch.queue import scheduler
from dispatch.queue.book import Book
from dispatch.queue.failover import Failover
from dispatch.queue.housekeeping import Housekeeping
from dispatch.queue.in_hand import HandState, InHand
from dispatch.queue.lane import Lane
from dispatch.queue.resume import Resumption
from dispatch.queue.scheduler import Scheduler
from dispatch.queue.work import Work
from dispatch.spool import frames, scan
from dispatch.spool.commit import Commit
from dispatch.spool.content import ContentWriter
from dispatch.spool.log import SegmentLog
from dispatch.store import parked

Bug = Callable[[], Any]


def _nobody(_: object) -> None:
    """Waits for the disk in the place of the client."""


@contextmanager
def answered_before_the_sync() -> Iterator[None]:
    """250 as soon as the record is on its way to the disk."""
    append = SegmentLog.append

    def hasty(self: SegmentLog, record: Any, done: Any) -> None:
        if self._keeps:
            append(self, record, done)
        else:
            append(self, record, _nobody)
            self._soon(partial(done, Lsn(0)))

    with patch.object(SegmentLog, "append", hasty):
        yield


def _run_commit(self: Commit, *, folder: bool, tries: int) -> None:
    try:
        self.write()
        for home in dict.fromkeys(batch.home for batch in self.batches):
            assert home.file is not None
            for left in reversed(range(tries)):
                try:
                    home.file.sync()
                    break
                except OSError:
                    if not left:
                        raise
        if folder and any(batch.opens for batch in self.batches):
            self._disk.sync_folder(self._folder)
    except Exception as error:
        self.error = error
    self.finished = True


@contextmanager
def new_segment_without_its_name() -> Iterator[None]:
    """A new segment is synced, the folder that names it is not."""
    with patch.object(Commit, "run", lambda self: _run_commit(self, folder=False, tries=1)):
        yield


@contextmanager
def failed_sync_retried() -> Iterator[None]:
    """A sync that failed is asked for again, and believed."""
    with patch.object(Commit, "run", lambda self: _run_commit(self, folder=True, tries=2)):
        yield


class _PlacelessSeal:
    """Seals that say nothing of generation and place."""

    def __init__(self, seal: Any) -> None:
        self._seal = seal

    def pack(self, generation: int, lsn: int, length: int, kind: int) -> bytes:
        packed: bytes = self._seal.pack(0, 0, length, kind)
        return packed


@contextmanager
def stale_frames_accepted() -> Iterator[None]:
    """A frame of a recycled segment verifies in its next life, and anywhere."""
    placeless = _PlacelessSeal(frames._SEAL)
    with ExitStack() as stack:
        stack.enter_context(patch.object(frames, "_SEAL", placeless))
        for name, module in list(sys.modules.items()):
            if name.startswith("dispatch.") and hasattr(module, "pack_seal"):
                stack.enter_context(patch.object(module, "pack_seal", placeless.pack))
        yield


@contextmanager
def mark_before_the_sync() -> Iterator[None]:
    """The durable mark moves when a batch is begun: mail is taken up that may yet be refused."""
    start = SegmentLog._start_commit

    def hasty(self: SegmentLog) -> None:
        start(self)
        if self._commit is not None and self._commit.batches:
            self._mark.store(max(self._mark.load(), self._commit.batches[-1].end))

    with patch.object(SegmentLog, "_start_commit", hasty):
        yield


@contextmanager
def segment_freed_before_its_park() -> Iterator[None]:
    """The mail log is released up to where it was read, not to where its mail is safe."""
    checkpointed = Housekeeping._checkpointed

    def early(self: Housekeeping, low: Lsn) -> None:
        checkpointed(self, self._scheduler.cursor)

    with patch.object(Housekeeping, "_checkpointed", early):
        yield


@contextmanager
def row_changed_before_its_record() -> Iterator[None]:
    """Nothing waits for the ledger: parked rows and content go while their records may still be lost."""
    with patch.object(Book, "once_durable", lambda self, callback: callback()):
        yield


@contextmanager
def uncertain_called_failed() -> Iterator[None]:
    """A lost final reply is a failure like any other."""
    decide = scheduler.decide

    def careless(work: Any, report: Any, outcomes: Any, **options: Any) -> Any:
        failed = tuple(
            msgspec.structs.replace(outcome, move=Move.DEFER) if outcome.move is Move.LOSE_REPLY else outcome
            for outcome in outcomes
        )
        return decide(work, report, failed, **options)

    with patch.object(scheduler, "decide", careless):
        yield


@contextmanager
def jump_not_noticed() -> Iterator[None]:
    """A clock that went back leaves due times where they were."""
    with patch.object(Housekeeping, "_watch_clock", lambda self: None):
        yield


@contextmanager
def neighbours_of_poison_blamed() -> Iterator[None]:
    """Whoever is noted at a death counts as if it had been alone in hand."""
    read = InHand._read

    def blame(self: InHand) -> Any:
        found = [suspect._replace(deaths_alone=suspect.deaths_alone + 1) for suspect in read(self)]
        for suspect in found:
            self._store(suspect.slot, suspect.id, HandState.SUSPECT, suspect.deaths_alone)
        return found

    with patch.object(InHand, "_read", blame):
        yield


@contextmanager
def torn_tail_kept() -> Iterator[None]:
    """A batch counts if its head is good."""
    with patch.object(scan, "check_batch", lambda data, head, **_: True):
        yield


@contextmanager
def cursor_before_its_rows() -> Iterator[None]:
    """Control notes how far it is, and then writes what it read."""

    def commit(self: Tail, batch: Any, cursor: Lsn) -> None:
        with self._store.transaction():
            self._store.set_cursor(CURSOR, cursor)
        with self._store.transaction():
            for reactor in self._reactors:
                reactor.react(batch)
        self.cursor = cursor

    with patch.object(Tail, "_commit", commit):
        yield


@contextmanager
def content_not_synced() -> Iterator[None]:
    """A large message's record is durable before its content."""

    def sync(self: ContentWriter) -> None:
        if self._error is not None:
            self._discard()
            raise self._error
        self._close()

    with patch.object(ContentWriter, "_sync", sync):
        yield


@contextmanager
def sending_kept_to_ourselves() -> Iterator[None]:
    """The end of data leaves before the record that says so has left the process."""
    ask = Scheduler._sending

    def sending(self: Scheduler, transaction: Transaction, leave: Leave) -> None:
        ask(self, transaction, lambda error: None)
        leave(None)

    with patch.object(Scheduler, "_sending", sending):
        yield


@contextmanager
def fault_answered_with_250() -> Iterator[None]:
    """What the log did not take is acknowledged."""

    def appended(message_id: Any, answered: Any, result: Any) -> None:
        answered(reply(250, "2.0.0", f"queued as spl_{message_id.hex()}"), message_id, None)

    with patch.object(acceptance, "_appended", appended):
        yield


@contextmanager
def refused_and_kept() -> Iterator[None]:
    """A message that is refused at its end is in the log all the same."""
    mark = Acceptance.mark

    def accept(self: Acceptance, submission: Any, content: bytes, answered: Any) -> None:
        found = mark(self, submission, content)
        if isinstance(found, Refusal):
            with patch.object(Acceptance, "refuse", lambda *_: None):
                kept = mark(self, submission, content)
            self._append(submission, kept, (kept.trace, content), None, len(content), lambda *_: None)  # type: ignore[union-attr]
            answered(found.reply, None, found)
            return
        self._append(submission, found, (found.trace, content), None, len(content), answered)

    with patch.object(Acceptance, "accept", accept):
        yield


@contextmanager
def cut_and_kept() -> Iterator[None]:
    """What a client had said of its content when it went is a message."""
    lost = SmtpSession.lost

    def keep(self: SmtpSession) -> None:
        incoming, self._incoming = self._incoming, None
        if incoming is not None and self._mail is not None and self._storing_since_s is None:
            incoming.end(self._submission(0), lambda *_: None)
        lost(self)

    with patch.object(SmtpSession, "lost", keep):
        yield


@contextmanager
def parked_without_sync() -> Iterator[None]:
    """The parked store does not wait for the disk."""
    open_database = parked.open_database

    def careless(*arguments: Any, **options: Any) -> Any:
        connection = open_database(*arguments, **options)
        connection.pragma("synchronous", "OFF")
        return connection

    with patch.object(parked, "open_database", careless):
        yield


@contextmanager
def power_cut_not_noticed() -> Iterator[None]:
    """What may have been tried without a trace goes on as if it had not."""
    init = Starts.__init__

    def blind(self: Starts, *arguments: Any) -> None:
        init(self, *arguments)
        self.power_was_cut = False

    with patch.object(Starts, "__init__", blind):
        yield


@contextmanager
def sendings_forgotten_at_a_start() -> Iterator[None]:
    """A start does not look for attempts that have no outcome."""
    run = Resumption.run

    def forgetful(self: Resumption, recovered: Any, **options: Any) -> None:
        recovered.sent.clear()
        run(self, recovered, **options)

    with patch.object(Resumption, "run", forgetful):
        yield


@contextmanager
def lost_reply_failed_over() -> Iterator[None]:
    """No reply to the end of data counts as a failure of the relay: the next one is tried at once."""
    judge = scheduler.judge

    def careless(*arguments: Any, **options: Any) -> tuple[Outcome, ...]:
        return tuple(
            msgspec.structs.replace(outcome, move=Move.DEFER, scope=Scope.RELAY)
            if outcome.move is Move.LOSE_REPLY
            else outcome
            for outcome in judge(*arguments, **options)
        )

    with patch.object(scheduler, "judge", careless):
        yield


@contextmanager
def doubt_forgotten_by_failover() -> Iterator[None]:
    """What may have been delivered goes to another relay as soon as its own one fails or rests."""
    after_failure, elsewhere = Failover.after_failure, Failover.elsewhere

    def certain(work: Work) -> Work:
        rows = tuple(msgspec.structs.replace(row, uncertain=False) for row in work.deliveries)
        return Work(work.message, rows, work.content, work.owner)

    with (
        patch.object(
            Failover, "after_failure", lambda self, work, said: after_failure(self, certain(work), said)
        ),
        patch.object(Failover, "elsewhere", lambda self, work: elsewhere(self, certain(work))),
    ):
        yield


@contextmanager
def refused_recipient_failed_over() -> Iterator[None]:
    """A recipient whom one relay refuses is offered to the next one."""
    after_failure, learn = Failover.after_failure, Lane.learn

    def any_failure(self: Failover, work: Work, outcomes: tuple[Outcome, ...]) -> Any:
        failed = tuple(
            msgspec.structs.replace(outcome, move=Move.DEFER, scope=Scope.RELAY)
            if outcome.scope is Scope.RECIPIENT and outcome.move in (Move.BOUNCE, Move.DEFER)
            else outcome
            for outcome in outcomes
        )
        return after_failure(self, work, failed)

    def always(*arguments: Any, **options: Any) -> bool:
        learn(*arguments, **options)
        return True

    with patch.object(Failover, "after_failure", any_failure), patch.object(Lane, "learn", always):
        yield


@contextmanager
def repeated_notice_accepted_again() -> Iterator[None]:
    """Intake does not know the notice that it has: control, which got no answer, sends a second one."""
    with patch.object(KnownKeys, "get", lambda self, key: None):
        yield


@contextmanager
def notice_forgotten_without_an_answer() -> Iterator[None]:
    """A notice that intake did not answer for is taken off the list."""
    hand_in = Bounces._hand_in

    def hasty(self: Bounces, notice: Any, message: Any) -> Any:
        try:
            return hand_in(self, notice, message)
        except NoAnswer as fault:
            return reply(554, "5.0.0", str(fault))

    with patch.object(Bounces, "_hand_in", hasty):
        yield


BUGS: tuple[Bug, ...] = (
    answered_before_the_sync,
    new_segment_without_its_name,
    failed_sync_retried,
    stale_frames_accepted,
    mark_before_the_sync,
    segment_freed_before_its_park,
    row_changed_before_its_record,
    uncertain_called_failed,
    jump_not_noticed,
    neighbours_of_poison_blamed,
    torn_tail_kept,
    cursor_before_its_rows,
    content_not_synced,
    sending_kept_to_ourselves,
    fault_answered_with_250,
    refused_and_kept,
    cut_and_kept,
    parked_without_sync,
    power_cut_not_noticed,
    sendings_forgotten_at_a_start,
    lost_reply_failed_over,
    doubt_forgotten_by_failover,
    refused_recipient_failed_over,
    repeated_notice_accepted_again,
    notice_forgotten_without_an_answer,
)
