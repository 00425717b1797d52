"""What the queue does once a second: due deliveries, checkpoints, released segments, clocks that jumped,
content whose time is over.

Nothing here is needed for mail to flow while all is well and hints arrive; everything here is needed
for it to flow on when they do not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from dispatch.mail.message import ContentFile
from dispatch.ports import Clock, Lsn, Mark
from dispatch.queue.lane import Lane
from dispatch.queue.replay import NO_ID
from dispatch.queue.scheduler import Scheduler, Seams
from dispatch.spool.content import message_id_of, orphans
from dispatch.spool.records import Checkpoint, Live, Placed
from dispatch.store.parked import ParkedStore, Settle

TICK_S = 1.0
CHECKPOINT_EVERY_TICKS = 5
RETENTION_EVERY_TICKS = 60
RETENTION_MAX = 1000
"""Failed deliveries that go at a time."""
JUMP_S = 5.0
"""A wall clock that moved this much more or less than the steady one has jumped."""


class ContentNames(NamedTuple):
    """What the sweep for orphaned content files asks of the spool."""

    names: Callable[[], list[str]]
    """The content folder's files. Blocks; called off the loop."""
    incarnation: Callable[[Lsn], int]
    """As `SegmentReader.incarnation`, of the mail log."""


class Housekeeping:
    """Turns with the scheduler; `stop` at the end."""

    def __init__(
        self,
        scheduler: Scheduler,
        seams: Seams,
        *,
        released: Mark,
        checkpoint: Mark,
        followed: Mark,
        ledger_keep_bytes: int,
        retention_s: Callable[[], float | None] = lambda: None,
        content: ContentNames | None = None,
    ) -> None:
        """`retention_s`: how long content that failed is kept (`spool.failed_retention_days`), None for ever.
        `content`: without it, orphaned content files stay."""
        self._scheduler = scheduler
        self._s = seams
        self._released = released
        """Below it, intake may recycle the segments of the mail log."""
        self._checkpoint = checkpoint
        """Where a restart begins to read the ledger."""
        self._followed = followed
        """How far control has read the ledger."""
        self._ledger_keep_bytes = ledger_keep_bytes
        self._retention_s = retention_s
        self._content = content
        self._swept = 0
        """Content files of earlier incarnations of the mail log were looked through."""
        self._ticks = 0
        self._last: tuple[Lsn, int] = (Lsn(-1), -1)
        self._offset_s = self._clock.wall() - self._clock.monotonic()
        self._jumps = 0
        self._clamped = -1
        """After which jump due times were set right. The clock may also have jumped before this start."""
        self._timer = self._clock.call_later(TICK_S, self._tick)
        scheduler.checkpoint = self.write_checkpoint

    @property
    def _clock(self) -> Clock:
        return self._s.clock

    def stop(self) -> None:
        self._timer.cancel()

    def _tick(self) -> None:
        self._timer = self._clock.call_later(TICK_S, self._tick)
        self._ticks += 1
        self._watch_clock()
        now_s = self._clock.monotonic()
        for lane in self._lanes:
            if lane.ready and lane.shut(now_s):
                self._scheduler.relieve(lane)
            self._scheduler.pump(lane)
        self._scheduler.wake()
        if self._ticks % CHECKPOINT_EVERY_TICKS == 0:
            self.write_checkpoint()
            self._sweep()
            self._scheduler.relief.switched_off()
        if self._ticks % RETENTION_EVERY_TICKS == 0:
            self._end_retention()

    def _watch_clock(self) -> None:
        """Due times are stored by the wall clock: after a jump none may lie further off than its delay."""
        offset_s = self._clock.wall() - self._clock.monotonic()
        jump_s, self._offset_s = offset_s - self._offset_s, offset_s
        if abs(jump_s) >= JUMP_S:
            self._s.alarm("clock_jumped", seconds=round(jump_s, 1))
            self._jumps += 1
        if self._clamped == self._jumps:
            return
        self._clamped = self._jumps
        now_ms = int(self._clock.wall() * 1000)
        latest_ms = self._scheduler.latest_due_ms(now_ms)
        # Behind every change that was decided by the old time.
        self._s.book.once_durable(
            lambda: self._s.parking.ask(
                lambda store: store.reclamp(now_ms, latest_ms), self._reclamped, self._not_reclamped
            )
        )

    def _not_reclamped(self, _: Exception) -> None:
        """The store failed: again in a second."""
        self._clamped = -1

    def _reclamped(self, _: int) -> None:
        for lane in self._lanes:
            lane.backlog = True
            self._scheduler.pump(lane)

    # ---------------------------------------------------------------- checkpoints

    def write_checkpoint(self) -> None:
        """Note where a restart may begin, and release what it will not need.

        It says what the records before it say, durable or not: when it is durable, so are they.
        """
        scheduler = self._scheduler
        live = scheduler.custody.standing()
        live += [Live(NO_ID, lsn, ()) for lsn in scheduler.unreadable]
        low = min((each.mail_lsn for each in live), default=scheduler.cursor)
        if (low, self._s.book.written) == self._last:
            return
        sent = tuple(
            Placed(work.message.id, work.indexes, work.relay) for work in scheduler.under_way if work.sent
        )
        claimed = tuple(
            Placed(work.message.id, work.indexes) for work, _ in scheduler.works() if work.owner is None
        )
        now_ms = int(self._clock.wall() * 1000)
        self._s.book.begin(Checkpoint(now_ms, scheduler.cursor, tuple(live), sent, claimed))
        self._last = (low, self._s.book.written)
        self._s.book.once_durable(lambda: self._checkpointed(low))

    def _checkpointed(self, low: Lsn) -> None:
        self._released.store(low)
        at = self._s.book.durable_lsn
        self._s.parking.follow(at, partial(self._followed_to, at))

    def _followed_to(self, checkpoint: Lsn) -> None:
        """A restart may begin there: what the ledger says before it is in the parked store, too."""
        self._checkpoint.store(checkpoint)
        keep = max(checkpoint - self._ledger_keep_bytes, 0)
        self._s.book.release(Lsn(min(keep, self._followed.load())))

    # ---------------------------------------------------------------- content whose time is over

    def _end_retention(self) -> None:
        """What failed long ago goes with its content. Not while an order may be reopening it."""
        retention_s = self._retention_s()
        if retention_s is None or self._scheduler.frozen:
            return
        before_ms = int((self._clock.wall() - retention_s) * 1000)

        def over(settles: list[Settle]) -> None:
            if self._scheduler.frozen:
                return
            for settle in settles:
                self._scheduler.custody.change(settle)
            if sum(len(settle.indexes) for settle in settles) >= RETENTION_MAX:
                self._s.book.once_durable(self._end_retention)

        self._s.parking.ask(lambda store: store.failed_before(before_ms, limit=RETENTION_MAX), over)

    def _sweep(self) -> None:
        """Remove content files that no record names: intake died between a file and its record.

        Files of an incarnation of the mail log whose records were all taken up belong to a message that the
        log still owns, or that is parked, or to nobody. The log's are asked for first: what leaves the
        log for the parked store meanwhile is in both.
        """
        if self._content is None or self._scheduler.unreadable:
            return
        incarnation = self._content.incarnation(self._scheduler.cursor)
        if incarnation <= self._swept:
            return
        names, owned = self._content.names, self._scheduler.custody.file_names()

        def nobodys(store: ParkedStore) -> list[str]:
            return [
                name
                for name in orphans(names(), owned, incarnation)
                if store.get(message_id_of(name), content=False) is None
            ]

        def remove(found: list[str]) -> None:
            self._swept = incarnation
            if found:
                self._s.remove_files([ContentFile(name, 0) for name in found])

        self._s.parking.ask(nobodys, remove)

    @property
    def _lanes(self) -> list[Lane]:
        return list(self._scheduler.lanes.values())
