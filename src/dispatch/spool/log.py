"""The writer of a log of segment files: group commit, and what happens when the disk says no.

Appends gather. The mail log (`sync_interval_s=0`) commits as soon as there is something and no commit
runs: everything that the loop's present round appended is one batch, which the worker writes and syncs; what
arrives meanwhile waits for the next. Where a commit had several records, the next one waits a moment until as
many are there: their clients, answered at once, come back together, and a sync of all costs as much as a
sync of the first of them (docs/decisions/0013). The ledger (`sync_interval_s=0.05`) writes at the end of each
round, or at once on `flush`, on the loop itself, so that its records outlive the process; the worker
syncs at most every interval.

A write or a sync that fails ends its segment: it is never written or synced again, and what it holds
above the durable mark is cut off by the header of the next one (`previous_end`).

- The ledger keeps records until they are durable, and writes them again into the next segment.
- The mail log refuses. What was never whole in a file is refused at once. What *was* whole when its
  sync failed could still be found by a recovery, so it is refused only when a successor that cuts
  it off is itself on stable storage: until then nobody can say that it will not be delivered.
- While no successor can be had, the mail log refuses every append; either log tries again, less and less
  often. Nothing above the durable mark is read meanwhile.

Traps: buffers belong to the log from `append` until `done`; do not change them. A commit that was given up
on may still finish on the worker: its answer is ignored, because its segment is cut already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from dispatch.ports import AppendFault, Buffer, Chance, Clock, Disk, Lsn, Mark, Soon, Threads, Timer
from dispatch.spool.commit import Append, Commit, OpenSegment, WriteBatch
from dispatch.spool.faults import LogUnwell, append_fault
from dispatch.spool.frames import GENESIS, frames_bytes
from dispatch.spool.recovery import Recovered, recover
from dispatch.spool.segments import HEADER_BYTES, Segment, SegmentName, new_generation, segment_names
from dispatch.spool.spares import Spares
from dispatch.spool.unproven import Unproven

SEGMENT_BYTES = 64 << 20
BATCH_BYTES_MAX = 4 << 20
"""A commit takes no more: the latency of one must not grow with the backlog."""
CROWD_MIN = 2
CROWD_WAIT_S = 0.001
"""Longer than a client near by takes for its next message, shorter than most disks take for a sync."""
RETRY_S_MIN = 0.1
RETRY_S_MAX = 10.0


class _Link(NamedTuple):
    """A segment file in the folder, for `release`."""

    name: SegmentName
    previous_end: int
    synced: int


def _ignore(_: object) -> None:
    """Nobody wants to know."""


class Told(NamedTuple):
    """Who is told what a log finds out."""

    ended: Callable[[int], None] = _ignore
    """Where it ended before this start; called before any reader may know."""
    doubted: Callable[[bool], None] = _ignore
    """Whether what was written may be gone from the files, because a sync failed; later, that it is not.
    The former comes on the worker's thread as well, before anybody else knows."""


class SegmentLog:
    """`ports.Log` over segment files. Recovers in its constructor, which blocks; see `recovery`.

    A disk that takes no new segment, or not the tail that was found, does not keep the log from opening: it
    opens unwell and goes on trying.
    """

    def __init__(
        self,
        disk: Disk,
        folder: str,
        *,
        clock: Clock,
        chance: Chance,
        threads: Threads,
        mark: Mark,
        soon: Soon | None = None,
        sync_interval_s: float = 0.0,
        segment_bytes: int = SEGMENT_BYTES,
        spares: int = 4,
        chained: bool = False,
        told: Told | None = None,
    ) -> None:
        """`soon` runs a callback in the loop's next round (`loop.call_soon`); `spares` bounds spare files.
        `chained`: each batch holds the hash of all before it (`chain`)."""
        start_s = clock.monotonic()
        self._disk = disk
        self._folder = folder
        self._clock = clock
        self._chance = chance
        self._mark = mark
        self._told = told or Told()
        self._doubted = False
        self._soon: Soon = soon or partial(clock.call_later, 0.0)
        self._interval_s = sync_interval_s
        self._keeps = sync_interval_s > 0
        self._segment_bytes = segment_bytes

        _root_folder(disk, folder)
        recovered = recover(disk, folder, mark.load(), segment_bytes)
        self._frames_bytes = partial(frames_bytes, chained=chained)
        self._spares = Spares(disk, folder, segment_bytes, spares)
        self._go_on_from(recovered, chained=chained)
        self._begin = 0
        """First place of the first segment that this start put on stable storage."""
        self._position = 0
        self._home: OpenSegment | None = None
        self._incarnation = 0
        self._released = Lsn(0)

        self._pending: list[Append] = []
        self._pending_bytes = 0
        self._gathering = False
        self._written: list[WriteBatch] = []
        self._held: list[Append] = []
        self._held_fault = AppendFault(full=False, detail="")
        self._retired: list[OpenSegment] = []
        self._commit: Commit | None = None
        self._synced_at_s = start_s - sync_interval_s
        self._timer: Timer | None = None
        self._retry_s = 0.0
        self._crowd = 0
        """How many records the last commit had, where they are enough to be waited for."""
        self._fault: AppendFault | None = None
        self._closed = False
        self.upkeep_error: Exception | None = None
        """Why the background worker could not recycle or write spares, the last time it tried."""

        self._worker = threads.worker(f"{folder} commit")
        self._upkeep = threads.worker(f"{folder} upkeep")
        self._told.ended(recovered.durable)
        self._open_first()
        self.recovery = recovered.report(clock.monotonic() - start_s)

    def _go_on_from(self, recovered: Recovered, *, chained: bool) -> None:
        self._durable = recovered.durable
        self._end = recovered.durable
        self._chain = self._durable_chain = recovered.chain if chained else None
        """Behind the batch that ends at `_end`, and at `_durable`."""
        self._generation = recovered.generation
        self._next_base = recovered.next_base
        self._unanswered = (recovered.unanswered_from, recovered.durable)
        self._unproven: Unproven | None = recovered.unproven
        """None once it was placed."""
        self._links = deque(_links(recovered))
        self._durable_links = {segment.base for segment in recovered.succession.segments}

    # ------------------------------------------------------------ the port

    @property
    def durable(self) -> Lsn:
        return Lsn(self._durable)

    @property
    def incarnation(self) -> int:
        """Which start of the writer this is; counts up. Content files bear it in their names."""
        return self._incarnation

    @property
    def unwell(self) -> AppendFault | None:
        """Why nothing can be made durable now; None while all is well."""
        return self._fault

    def append(self, record: Sequence[Buffer], done: Callable[[Lsn | AppendFault], None]) -> None:
        assert not self._closed, "append to a closed log"
        if self._fault is not None and not self._keeps:
            self._soon(partial(done, self._fault))
            return
        size_bytes = len(record[0]) if len(record) == 1 else sum(map(len, record))
        self._pending.append((record, size_bytes, done))
        self._pending_bytes += size_bytes
        if not self._gathering:
            self._gathering = True
            self._soon(self._gathered)

    def flush(self) -> None:
        """Raises `LogUnwell` where no segment takes the records; they are kept, and written when one does."""
        self._write_pending()
        if self._pending or not self._commit_is_written():
            raise LogUnwell(self._fault.detail if self._fault else "no segment is open")
        self._go_on()

    def release(self, below: Lsn) -> None:
        self._released = max(self._released, below)
        released: list[str] = []
        while (count := self._superseded()) > 0:
            for _ in range(count):
                name = self._links.popleft().name
                self._durable_links.discard(name.base)
                released.append(str(name))
        if released or self._spares.behind:
            self._upkeep.call(partial(self._spares.recycle, released), self._upkept)

    def _superseded(self) -> int:
        """How many of the oldest segments one durable successor makes needless.

        Some header must say `synced` of all that they held: recovery takes a gap for a tear otherwise.
        """
        durable = [i for i, link in enumerate(self._links) if i and link.name.base in self._durable_links]
        if not durable:
            return 0
        end = self._links[durable[0]].previous_end
        vouched = any(self._links[i].synced >= end for i in durable)
        return durable[0] if end <= self._released and vouched else 0

    def close(self) -> None:
        """Blocks until what was appended is on stable storage or has failed."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._worker.close()
        if self._commit is not None and self._commit.finished:
            self._committed(self._commit)
        while self._commit is None and (self._pending or self._written or self._held):
            self._commit = commit = self._next_commit()
            commit.run()
            self._committed(commit)
            if commit.error is not None:
                self._refuse_pending(append_fault(commit.error))
                break
        self._upkeep.close()
        if self._home is not None:
            self._home.close()

    # ------------------------------------------------------------ gathering and writing

    def _gathered(self) -> None:
        self._gathering = False
        if not self._closed:
            self._go_on()

    def _go_on(self) -> None:
        """Start whatever can be started now."""
        if self._closed or self._fault is not None:
            return
        if self._keeps:
            self._write_pending()
            if self._written and self._commit is None and self._timer is None:
                delay_s = self._synced_at_s + self._interval_s - self._clock.monotonic()
                if delay_s > 0:
                    self._timer = self._clock.call_later(delay_s, self._sync_due)
                else:
                    self._start_commit()
        elif self._commit is None and (self._pending or self._written) and self._crowd_is_back():
            self._start_commit()

    def _crowd_is_back(self) -> bool:
        """Whether as many are here as the last commit sent on their way; if not, they get a moment."""
        if len(self._pending) >= self._crowd or self._written:
            return True
        if self._timer is None:
            self._timer = self._clock.call_later(CROWD_WAIT_S, self._crowd_stays_away)
        return False

    def _crowd_stays_away(self) -> None:
        self._timer = None
        self._crowd = 0
        self._go_on()

    def _sync_due(self) -> None:
        self._timer = None
        if self._commit is None and self._written:
            self._start_commit()

    def _write_pending(self) -> None:
        """Write all that is pending on the loop; what cannot be written stays pending."""
        while self._pending and self._fault is None and self._commit_is_written():
            assert self._home is not None, "neither a segment nor a commit that opens one"
            batch = self._take_batch(self._home)
            try:
                batch.put(self._spares)
            except OSError as error:
                self._abandon(error, batch)
            else:
                self._written.append(batch)

    def _commit_is_written(self) -> bool:
        """See to it that the commit under way has written its batch: the next one comes behind it."""
        if self._commit is not None:
            try:
                self._commit.write()
            except OSError:
                return False
        return True

    def _take_batch(self, home: OpenSegment) -> WriteBatch:
        """Frame what is pending, as much as fits the segment and a commit; roll if none of it fits."""
        taken = self._fitting(min(home.segment.limit - self._position, BATCH_BYTES_MAX))
        opens = not taken
        if opens:
            taken = self._fitting(min(self._segment_bytes - HEADER_BYTES, BATCH_BYTES_MAX)) or 1
            home = self._new_segment(
                self._frames_bytes(taken, sum(size for _, size, _ in self._pending[:taken]))
            )
        appends = self._pending[:taken]
        del self._pending[:taken]
        self._count_pending()
        return self._frame(home, appends, opens=opens)

    def _fitting(self, room_bytes: int) -> int:
        """How many of the pending records fit."""
        count = len(self._pending)
        if self._frames_bytes(count, self._pending_bytes) <= room_bytes:
            return count
        total_bytes = 0
        for index, (_, size_bytes, _) in enumerate(self._pending):
            total_bytes += size_bytes
            if self._frames_bytes(index + 1, total_bytes) > room_bytes:
                return index
        return count

    def _opening_batch(self) -> WriteBatch:
        """The first batch of a successor: what must be in it as soon as its header cuts off the old place."""
        appends: list[Append] = []
        if self._keeps:
            appends, self._pending = self._pending, []
            self._pending_bytes = 0
        needed_bytes = self._frames_bytes(len(appends), sum(size_bytes for _, size_bytes, _ in appends))
        return self._frame(self._new_segment(needed_bytes), appends, opens=True)

    def _new_segment(self, needed_bytes: int) -> OpenSegment:
        """The next segment in line; larger than usual if the batch that it must hold is."""
        self._generation = new_generation(self._generation, self._chance)
        self._incarnation = self._incarnation or self._generation
        pages = -(-(HEADER_BYTES + needed_bytes) // HEADER_BYTES)
        segment = Segment(
            self._generation,
            self._next_base,
            max(self._segment_bytes, pages * HEADER_BYTES),
            self._end,
            self._durable,
            *self._unanswered,
            self._incarnation,
            self._chain or GENESIS,
        )
        self._next_base = segment.limit
        self._links.append(_link(segment))
        if self._home is not None:
            self._retired.append(self._home)
        self._home = OpenSegment(segment)
        self._position = segment.first
        return self._home

    def _frame(self, home: OpenSegment, appends: list[Append], *, opens: bool) -> WriteBatch:
        batch = WriteBatch(
            home,
            self._position,
            appends,
            opens=opens,
            previous_end=self._end,
            synced=self._durable,
            before=self._chain,
        )
        self._position = batch.end
        if appends:
            self._end = batch.end
            self._chain = batch.chain
        return batch

    def _count_pending(self) -> None:
        self._pending_bytes = sum(size_bytes for _, size_bytes, _ in self._pending) if self._pending else 0

    # ------------------------------------------------------------ commits

    def _next_commit(self) -> Commit:
        """All that is written and not durable, and the batch to be written next if there is one."""
        unwritten = None
        if self._home is None:
            unwritten = self._opening_batch()
        elif self._pending:
            unwritten = self._take_batch(self._home)
        if unwritten is not None:
            self._written.append(unwritten)
        batches, failed = list(self._written), partial(self._told.doubted, True)
        return Commit(self._disk, self._folder, self._spares, batches, unwritten, failed, self._unproven)

    def _start_commit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._commit = commit = self._next_commit()
        self._synced_at_s = self._clock.monotonic()
        self._worker.call(commit.run, lambda _: self._committed(commit))

    def _committed(self, commit: Commit) -> None:
        if commit is not self._commit:
            return
        self._commit = None
        if commit.error is not None:
            self._abandon(commit.error, commit.unwritten)
            self._go_on()
            return
        self._retry_s = 0.0
        self._fault = None
        if self._doubted or self._unproven is not None:
            # What was kept is in the batch that opened the successor.
            self._doubted = False
            self._unproven = None
            self._told.doubted(False)
        del self._written[: len(commit.batches)]
        committed = sum([len(batch.appends) for batch in commit.batches])
        self._crowd = committed if committed >= CROWD_MIN and not self._keeps else 0
        for batch in commit.batches:
            if batch.appends:
                self._durable = batch.end
                self._durable_chain = batch.chain
            if batch.opens:
                self._opened(batch)
        # Readers look for new segments when the mark leaves those that they know. So a start moves it, before
        # anything new is in the log: its segment may say of what is below that it is unanswered.
        self._mark.store(max(self._durable, self._begin))
        self._close_retired()
        for batch in commit.batches:
            for lsn, (_, _, done) in zip(batch.lsns, batch.appends, strict=True):
                done(lsn)
        self._go_on()

    def _opened(self, batch: WriteBatch) -> None:
        """A new segment is on stable storage, and with it where the old one ends."""
        self._begin = self._begin or batch.home.segment.first
        self._durable_links.add(batch.home.segment.base)
        self._unanswered = (0, 0)
        held, self._held = self._held, []
        for append in held:
            self._refuse(append, self._held_fault)
        if not self._closed:
            self.release(self._released)
            self._upkeep.call(self._spares.refill, self._upkept)

    def _open_first(self) -> None:
        """Open this start's first segment, while the caller waits; this is the first of the tries."""
        self._retry_s = RETRY_S_MIN
        self._commit = commit = self._next_commit()
        commit.run()
        self._committed(commit)

    # ------------------------------------------------------------ trouble

    def _abandon(self, error: Exception, unwritten: WriteBatch | None) -> None:
        """Give up the open segment, and with it everything that is not durable."""
        fault = append_fault(error, "synced" if unwritten is None else "written")
        self._doubted = True
        self._told.doubted(True)
        batches, self._written = self._written, []
        if unwritten is not None and unwritten not in batches:
            batches.append(unwritten)
        self._commit = None
        if self._home is not None:
            self._retired.append(self._home)
        self._home = None
        self._end = self._durable
        self._chain = self._durable_chain
        kept: list[Append] = []
        for batch in batches:
            for append in batch.appends:
                if self._keeps:
                    kept.append(append)
                elif batch is unwritten:
                    self._refuse(append, fault)
                else:
                    self._held.append(append)
        self._held_fault = fault
        self._pending[:0] = kept
        self._count_pending()
        self._close_retired()
        if self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._retry_s:
            self._fault = fault
            self._refuse_pending(fault)
            self._timer = self._clock.call_later(self._retry_s, self._retry)
        else:
            self._start_commit()
        self._retry_s = min(max(RETRY_S_MIN, 2 * self._retry_s), RETRY_S_MAX)

    def _retry(self) -> None:
        self._timer = None
        self._start_commit()

    def _refuse(self, append: Append, fault: AppendFault) -> None:
        self._soon(partial(append[2], fault))

    def _refuse_pending(self, fault: AppendFault) -> None:
        """The mail log only: the ledger refuses nothing."""
        if not self._keeps:
            for append in self._pending:
                self._refuse(append, fault)
            self._pending = []
            self._pending_bytes = 0

    # ------------------------------------------------------------ upkeep

    def _close_retired(self) -> None:
        """Close files that no commit will sync any more, behind whatever the worker still does with them."""
        needed = {batch.home for batch in self._written}
        for home in [home for home in self._retired if home not in needed]:
            self._retired.remove(home)
            if self._closed:
                home.close()
            else:
                self._worker.call(home.close, _ignore)

    def _upkept(self, result: Exception | None) -> None:
        self.upkeep_error = result


def _root_folder(disk: Disk, folder: str) -> None:
    """Put a folder that is still empty, and those above it, on stable storage: a log is lost with them."""
    if segment_names(disk.names(folder)):
        return
    while folder:
        folder = folder.rpartition("/")[0]
        disk.sync_folder(folder)


def _link(segment: Segment) -> _Link:
    return _Link(SegmentName(segment.generation, segment.base), segment.previous_end, segment.synced)


def _links(recovered: Recovered) -> list[_Link]:
    links = {segment.base: _link(segment) for segment in recovered.succession.segments}
    return [links.get(name.base) or _Link(name, 0, 0) for name in recovered.names]
