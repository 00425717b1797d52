"""The hash chain of a log, read by an auditor: is everything here that the writer wrote, as it wrote it?

In a chained log each batch holds the SHA-256 of itself and of the chain before (`frames`). So the value
behind the newest batch, the *head*, vouches for every batch before it: whoever alters, removes, inserts
or reorders one must make all that follow anew, and gets another head.

What it proves, and to whom:

- Alone, that nothing came to the files by accident or by a hand that does not make the rest of the chain
  anew: rot, an older copy of one file, a record taken out. A break is named with its place.
- Together with a head that was noted elsewhere, everything up to that head: whoever makes the chain anew
  cannot make one that contains it. That batches were cut from the *end*, and the mark with them, is noticed
  by this alone.
- Nothing about what was released: the chain begins with the oldest segment kept and the value before it.
  Removing the oldest segments looks as releasing them does.

A break is named once. What was unreadable has no value, so the batch behind it is believed as to what was
before; each batch is still checked by itself.

Beside a running writer it sees what is below the mark; where the headers vouch for more than a mark that a
power cut has set back, what they vouch for. It changes nothing.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from dispatch.ports import Disk
from dispatch.spool.frames import GENESIS, BatchHead
from dispatch.spool.scan import SegmentScan
from dispatch.spool.segments import Segment, Succession, read_succession, segment_names

_HEAD = re.compile(r"([0-9a-f]{1,16})-([0-9a-f]{16,64})")
_SHORT_DIGITS = 16


class Why(StrEnum):
    """What is wrong at a break."""

    UNREADABLE = "unreadable"
    """No batch, or not the whole of one, stands where one was."""
    ALTERED = "altered"
    """A batch whose checksums hold is not the one that was written."""
    UNLINKED = "unlinked"
    """What stands here did not follow on what is before it."""
    UNCHAINED = "unchained"
    """A batch without a place in the chain."""
    MISSING = "missing"
    """Files are gone, or the end is: others speak of what was there."""


class Break(NamedTuple):
    start: int
    resume: int
    """LSNs. Behind it the chain is followed on."""
    why: Why


class Head(NamedTuple):
    """The chain at a place, as a person notes it: ``<place>-<value>``, both in hexadecimal digits."""

    lsn: int
    digits: str
    """64, or at least the first 16 of them."""

    def __str__(self) -> str:
        return f"{self.lsn:x}-{self.digits}"

    @property
    def short(self) -> str:
        return f"{self.lsn:x}-{self.digits[:_SHORT_DIGITS]}"


def parse_head(text: str) -> Head:
    """Read what `Head` writes, short or in full; raises `ValueError` for anything else."""
    match = _HEAD.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(
            f"{text!r} is no head of a chain: a place, a hyphen, and 16 to 64 hexadecimal digits"
        )
    return Head(int(match[1], 16), match[2])


class Noted(StrEnum):
    """What the chain that is kept says of a head that was noted earlier."""

    CONTINUED = "continued"
    """It is in the chain: nothing up to it is other than it was."""
    OLDER = "older"
    """It lies before the oldest batch kept: that this chain continues it cannot be shown any more."""
    CUT = "cut"
    """The chain ends before it: its end was removed, or an older copy was put in its place."""
    CONTRADICTED = "contradicted"
    """The chain has been there, and has another value."""


class ChainReport(NamedTuple):
    batches: int
    start: int
    """Place of what is kept: 0 if that is the log from its first day."""
    head: Head | None
    """The newest value; None where nothing tells of one."""
    breaks: tuple[Break, ...]
    noted: Noted | None
    """None where no head was to be looked for."""

    @property
    def sound(self) -> bool:
        return not self.breaks and self.noted not in (Noted.CUT, Noted.CONTRADICTED)


def verify_chain(disk: Disk, folder: str, mark: int, noted: Head | None = None) -> ChainReport:
    """Follow the chain of a log from the oldest batch kept up to its durable mark, which was loaded before.

    `noted`: a head of an earlier time to look for. Raises `OSError` if a file cannot be read at all.
    """
    while True:
        succession = read_succession(disk, folder, segment_names(disk.names(folder)))
        synced = max((segment.synced for segment in succession.segments), default=0)
        end = max(succession.end_below(mark), synced)
        try:
            return _follow(disk, folder, succession, end, _Walk(noted))
        except _ReleasedMeanwhile:
            continue


class _ReleasedMeanwhile(Exception):
    """A segment lost its name while it was read: begin again with those that are left."""


def _follow(disk: Disk, folder: str, succession: Succession, end: int, walk: _Walk) -> ChainReport:
    newest = succession.segments[-1:]
    for segment, stop in zip(succession.segments, succession.ends, strict=True):
        if segment.previous_end > end or (stop <= segment.first and [segment] != newest):
            continue  # Above the mark, or cut off by those that follow.
        breaks = len(walk.breaks)
        walk.enter(segment)
        try:
            file = disk.open(f"{folder}/{segment.name}")
        except FileNotFoundError:
            raise _ReleasedMeanwhile from None
        try:
            scan = SegmentScan(file, segment.generation, segment.base)
            _follow_segment(scan, segment.first, min(stop, end), walk)
        finally:
            file.close()
        if len(walk.breaks) > breaks and segment.name not in disk.names(folder):
            raise _ReleasedMeanwhile
    return walk.close(end)


def _follow_segment(scan: SegmentScan, first: int, stop: int, walk: _Walk) -> None:
    lsn = first
    while lsn < stop:
        head = scan.head(lsn)
        if head is not None and lsn < head.end <= stop:
            walk.batch(head, scan)
            lsn = head.end
        else:
            later = scan.next_batch(lsn + 1, stop)
            resume = later.lsn if later else stop
            walk.pass_over(lsn, resume, Why.UNREADABLE)
            lsn = resume


class _Walk:
    """Goes along the chain, and remembers where it broke."""

    def __init__(self, noted: Head | None) -> None:
        self.breaks: list[Break] = []
        self._batches = 0
        self._start: int | None = None
        self._end = 0
        self._value: bytes | None = None
        """The chain at `_end`; None where nothing tells it."""
        self._head: Head | None = None
        self._noted = noted
        self._met: Noted | None = None

    def enter(self, segment: Segment) -> None:
        """Go on in a segment. Its header knows the chain as well."""
        value = None if segment.damaged else segment.chain
        if self._start is None:
            self._start = self._end = segment.previous_end
            if value == GENESIS and segment.previous_end > 0:
                # Only what begins on a log's first day follows on nothing.
                self._break(0, segment.previous_end, Why.MISSING)
        elif segment.previous_end > self._end:
            self.pass_over(self._end, segment.previous_end, Why.MISSING)
        elif value is not None and self._value is not None:
            if value != self._value:
                self._break(segment.base, segment.first, Why.UNLINKED)
            return
        if value is not None:
            self._reach(segment.previous_end, value)

    def batch(self, head: BatchHead, scan: SegmentScan) -> None:
        """The next batch, whose head verifies."""
        self._batches += 1
        if head.link is None:
            self.pass_over(head.lsn, head.end, Why.UNCHAINED)
            return
        if self._value is None:
            self._meet(head.previous_end, head.link.before)
        elif (self._end, self._value) != (head.previous_end, head.link.before):
            self._break(head.lsn, head.end, Why.UNLINKED)
        if not scan.linked(head):
            whole = scan.batch(head.lsn, head.end)
            self._break(head.lsn, head.end, Why.ALTERED if whole else Why.UNREADABLE)
        self._reach(head.end, head.link.after)

    def pass_over(self, start: int, resume: int, why: Why) -> None:
        """A stretch without a value."""
        self._break(start, resume, why)
        self._end, self._value = resume, None

    def close(self, end: int) -> ChainReport:
        """`end`: how far the log goes, says its mark."""
        if self._end < end:
            self._break(self._end, end, Why.MISSING)
        start = self._start or 0
        met = self._met
        if self._noted is not None and met is None:
            reached = self._head.lsn if self._head else start
            met = Noted.CUT if self._noted.lsn > reached else Noted.CONTRADICTED
            met = Noted.OLDER if self._noted.lsn < start else met
        return ChainReport(self._batches, start, self._head, tuple(self.breaks), met)

    def _reach(self, end: int, value: bytes) -> None:
        self._end, self._value = end, value
        self._head = Head(end, value.hex())
        self._meet(end, value)

    def _meet(self, end: int, value: bytes) -> None:
        if self._noted is not None and self._noted.lsn == end and self._met is not Noted.CONTRADICTED:
            same = value.hex().startswith(self._noted.digits)
            self._met = Noted.CONTINUED if same else Noted.CONTRADICTED

    def _break(self, start: int, resume: int, why: Why) -> None:
        """Named once: what touches the break before is part of it."""
        if self.breaks and self.breaks[-1].resume >= start:
            start, _, why = self.breaks.pop()
        self.breaks.append(Break(start, resume, why))
