"""Segment files: their names, their headers, and how they follow each other.

A log's LSNs are cut into stretches, one a segment: `[base, base + size)`, the next one beginning where
this one's stretch ends, used up or not. The place of an LSN in its file is `LSN - base`. What that buys:
no LSN is ever used twice, not even those of an abandoned segment, and a cursor says by itself which
file it is in.

::

    <generation, 16 hex digits>-<base, 16 hex digits>.segment
    ┌ header, 4096 bytes ──────────────────┬ batches …
    │ at 0 and again at 2048: magic (8) │ generation │ base │ size │ previous end │ synced │
    │ unanswered from │ unanswered to │ incarnation (8 each) │ chain (32) │ CRC-32 of these (4)

*Previous end* says where the log ended before this segment, and so cuts off whatever stands above
it in earlier files: a torn tail, an abandoned segment, batches that came behind a tear. The end of a segment
is thus the least *previous end* of all later ones. Nothing is ever truncated or overwritten to cut it.
*Chain* is the chain's value there (`frames`): it outlives the batches before, which may all be released.

A header that does not fit its file's name is not this segment's: either the name outlived a power cut and
the header did not, and then no batch of the generation is in the file and the segment never was; or
the header is damaged, and then the name and the first batch say nearly all of it again.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from typing import NamedTuple
from zlib import crc32

from dispatch.ports import Chance, Disk, File, Lsn
from dispatch.spool.frames import GENESIS
from dispatch.spool.scan import SegmentScan

HEADER_BYTES = 4096
SEGMENT_SUFFIX = ".segment"

_MAGIC = b"DSPLOG\x00\x02"
_FIELDS = struct.Struct("<8s8Q32s")
_CHECKSUM = struct.Struct("<I")
_COPY_AT = HEADER_BYTES // 2
"""A second copy in another sector and, on disks with large ones, in another physical block's half."""
_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.segment")


class SegmentName(NamedTuple):
    generation: int
    base: int

    def __str__(self) -> str:
        return f"{self.generation:016x}-{self.base:016x}{SEGMENT_SUFFIX}"


class Segment(NamedTuple):
    """One segment, as its header describes it."""

    generation: int
    """Counts up with every segment of the log; its low 32 bits are random."""
    base: int
    size_bytes: int
    previous_end: int
    synced: int
    """The durable mark when this segment was opened."""
    unanswered_from: int
    unanswered_to: int
    """What recovery found complete and above the durable mark before it opened this segment; may be empty."""
    incarnation: int
    """Generation of the first segment that the same process opened."""
    chain: bytes = GENESIS
    """The chain's value at `previous_end`; means nothing in a log without a chain."""
    damaged: bool = False
    """The header could not be read: this was put together from the name and the first batch."""

    @property
    def name(self) -> str:
        return str(SegmentName(self.generation, self.base))

    @property
    def first(self) -> int:
        """Place of the first batch."""
        return self.base + HEADER_BYTES

    @property
    def limit(self) -> int:
        """First LSN of the next segment's stretch."""
        return self.base + self.size_bytes


def new_generation(previous: int, chance: Chance) -> int:
    """The generation after `previous`: a counter that orders, and 32 bits that nobody can guess."""
    return ((previous >> 32) + 1) << 32 | int.from_bytes(chance.token(4), "little")


def parse_name(name: str) -> SegmentName | None:
    match = _NAME.fullmatch(name)
    return SegmentName(int(match[1], 16), int(match[2], 16)) if match else None


def encode_header(segment: Segment) -> bytes:
    fields = _FIELDS.pack(_MAGIC, *segment[:9])
    copy = (fields + _CHECKSUM.pack(crc32(fields))).ljust(_COPY_AT, b"\0")
    return copy + copy


def decode_header(data: bytes, name: SegmentName) -> Segment | None:
    """The segment's own header from the file's first 4096 bytes, or None."""
    for at in (0, _COPY_AT):
        fields = data[at : at + _FIELDS.size]
        checksum = data[at + _FIELDS.size : at + _FIELDS.size + _CHECKSUM.size]
        if not fields.startswith(_MAGIC) or checksum != _CHECKSUM.pack(crc32(fields)):
            continue
        segment = Segment(*_FIELDS.unpack(fields)[1:])
        if (segment.generation, segment.base) == name:
            return segment
    return None


def read_segment(disk: Disk, path: str, name: SegmentName) -> Segment | None:
    """What the file says of itself, or None where the segment never came to be. May raise `OSError`."""
    file = disk.open(path)
    try:
        return _read_own_header(file, name) or _rescue(file, name)
    finally:
        file.close()


def _read_own_header(file: File, name: SegmentName) -> Segment | None:
    try:
        return decode_header(file.read_at(0, HEADER_BYTES), name)
    except OSError:
        return None


def _rescue(file: File, name: SegmentName) -> Segment | None:
    size_bytes = max(file.size(), HEADER_BYTES)
    first = name.base + HEADER_BYTES
    scan = SegmentScan(file, name.generation, name.base)
    head = scan.next_batch(first, name.base + size_bytes)
    if head is None:
        return None
    # Only the first batch tells where the previous segment ended.
    previous_end = head.previous_end if head.lsn == first else name.base
    return Segment(name.generation, name.base, size_bytes, previous_end, head.synced, 0, 0, 0, damaged=True)


class Succession:
    """The segments of one log in order, each the successor of the one before, and where each of them ends."""

    def __init__(self, segments: list[Segment]) -> None:
        self.segments = segments
        self.ends: list[int] = []
        """Behind each segment's last batch; for the newest, the end of its stretch. Not above its `first`
        where the segment holds nothing that counts."""
        cut = segments[-1].limit if segments else 0
        for segment in reversed(segments):
            self.ends.append(min(cut, segment.limit))
            cut = min(cut, segment.previous_end)
        self.ends.reverse()
        self._bases = [segment.base for segment in segments]

    @property
    def start(self) -> int:
        """No record from here on was released. (Not the oldest header's word: its segment may be cut off.)"""
        return min((segment.previous_end for segment in self.segments), default=0)

    @property
    def first(self) -> int:
        """Place of the oldest batch kept."""
        for segment, end in zip(self.segments, self.ends, strict=True):
            if end > segment.first:
                return segment.first
        return 0

    def locate(self, lsn: int) -> int:
        """Index of the segment whose stretch holds the LSN; -1 below the oldest."""
        return bisect_right(self._bases, lsn) - 1

    @property
    def limit(self) -> int:
        """Above all places of the newest segment; 0 where there is none."""
        return self.segments[-1].limit if self.segments else 0

    def end_below(self, mark: int) -> int:
        """Where the records below a mark end: the mark itself, but for one before a segment's first batch.

        A start shows by such a mark that it opened a segment, before anything is in it.
        """
        for segment in reversed(self.segments):
            if segment.first < mark:
                break
            mark = min(mark, segment.previous_end)
        return mark

    def unanswered(self, lsn: Lsn) -> bool:
        return any(segment.unanswered_from <= lsn < segment.unanswered_to for segment in self.segments)


def segment_names(names: list[str]) -> list[SegmentName]:
    """Those of a folder's names that are segments, oldest first."""
    return sorted(parsed for name in names if (parsed := parse_name(name)))


def read_succession(
    disk: Disk, folder: str, names: list[SegmentName], known: Succession | None = None
) -> Succession:
    """Read the headers of these segments but for those known already, which never change.

    A segment that was recycled since the names were read is left out.
    """
    old = {segment.base: segment for segment in known.segments} if known else {}
    segments = []
    for name in names:
        segment = old.get(name.base)
        if segment is None or segment.generation != name.generation:
            try:
                segment = read_segment(disk, f"{folder}/{name}", name)
            except FileNotFoundError:
                continue
        if segment is not None:
            segments.append(segment)
    return Succession(segments)
