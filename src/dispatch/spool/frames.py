"""The bytes of a log: frames, and batches of frames. Pure: bytes in, bytes out.

A batch is what one commit writes, and it counts as a whole or not at all::

    ┌ 512-byte border                                                           512-byte border ┐
    │ frame BATCH │ frame RECORD │ frame RECORD │ … │ frame LAST │ zeros                         │

    frame   checksum (4) │ payload length (4) │ kind (1) │ payload
    BATCH   magic (4) │ length of the frames (4) │ records (4) │ previous end (8) │ synced (8)
            and in a chained log │ chain before (32) │ chain (32)

All numbers are little endian.

- The checksum is the CRC-32 of generation, LSN, length, kind and payload. Generation and LSN are not
  stored: the reader knows them from where it reads. So a frame verifies in one segment and at one
  place only, and the old frames of a recycled file, or those of an abandoned one, verify nowhere.
- Batches begin on a sector border. A write that a power cut tears can never touch a sector that
  holds an earlier batch, and a reader that lost its way has few places to look for the next batch.
- *Previous end* is where the batch before this one ended: within a segment the batch's own place, in
  a segment's first batch the place in the segment before. (Its end rather than its beginning: recovery
  knows the end of what it keeps without reading it.)
- *Synced* is the durable mark when the batch was written. A bad batch that lies below the
  `synced` of a later one was on stable storage and is damage; any other bad batch is a torn tail.
  ("A later batch exists" would not do: the ledger writes several batches between two syncs.)
- *Chain* is the SHA-256 of generation, LSN, the head's fields, the chain before and all frames of records: of
  everything that the batch says and of where it says it. The chain before is that of the batch before,
  `GENESIS` in the log's first. What it proves, and to whom, is told in `chain`.

Traps: a CRC is no signature. Content is chosen by clients, and recovery searches raw bytes for batches,
so half of a generation is random (`segments.new_generation`): nobody outside can write content
that verifies as a batch of ours.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple
from zlib import crc32

from dispatch.ports import Buffer, Lsn

SECTOR_BYTES = 512
MAGIC = b"\xd1BT\x01"

BATCH = 1
RECORD = 2
LAST = 3
"""The batch's last record: the next frame is on the next sector border."""

_FRAME = struct.Struct("<IIB")
_SEAL = struct.Struct("<QQIB")
_BATCH = struct.Struct("<4sIIQQ")
_PLACE = struct.Struct("<QQ")

CHAIN_BYTES = 32
GENESIS = bytes(CHAIN_BYTES)
"""The chain before a log's first batch."""

FRAME_BYTES = _FRAME.size
BATCH_FRAME_BYTES = FRAME_BYTES + _BATCH.size
CHAINED_FRAME_BYTES = BATCH_FRAME_BYTES + 2 * CHAIN_BYTES
_MAGIC_AT = FRAME_BYTES
_ZEROS = bytes(SECTOR_BYTES)

unpack_frame = _FRAME.unpack_from
"""Checksum, payload length and kind; the hot path of the reader inlines the rest of `read_frame`."""
pack_seal = _SEAL.pack
"""Generation, LSN, payload length and kind: what the checksum covers before the payload."""


def align(lsn: int) -> int:
    """The next sector border, or the place itself if it is on one."""
    return (lsn + SECTOR_BYTES - 1) & -SECTOR_BYTES


class Batch(NamedTuple):
    buffers: list[Buffer]
    """What to write, in order; the records' own buffers are among them, not copies."""
    lsns: list[Lsn]
    """The place of each record."""
    end: int
    """Where the next batch begins."""
    chain: bytes | None


class Link(NamedTuple):
    """A batch's place in the chain."""

    before: bytes
    after: bytes


class BatchHead(NamedTuple):
    lsn: int
    frames_at: int
    """Its first record's frame."""
    frames_end: int
    """Behind the last frame."""
    end: int
    """Where the next batch begins."""
    records: int
    previous_end: int
    synced: int
    link: Link | None
    """None in a log without a chain."""


class Frame(NamedTuple):
    kind: int
    payload: bytes
    next: int
    """LSN of the frame behind it."""


def frames_bytes(records: int, payload_bytes: int, *, chained: bool) -> int:
    """Room that a batch of so many records takes before padding."""
    head_bytes = CHAINED_FRAME_BYTES if chained else BATCH_FRAME_BYTES
    return head_bytes + FRAME_BYTES * records + payload_bytes


def build_batch(
    records: Sequence[Sequence[Buffer]],
    *,
    lsn: int,
    generation: int,
    previous_end: int,
    synced: int,
    before: bytes | None = None,
) -> Batch:
    """Frame at least one record for the place `lsn`, which is on a sector border.

    `before` is the chain before, None in a log without one.
    """
    assert records, "a batch without records"
    assert lsn % SECTOR_BYTES == 0, f"a batch at {lsn:#x}, not on a sector border"
    buffers: list[Buffer] = [b""]
    lsns: list[Lsn] = []
    at = lsn + (BATCH_FRAME_BYTES if before is None else CHAINED_FRAME_BYTES)
    left = len(records)
    for record in records:
        left -= 1
        kind = RECORD if left else LAST
        length = len(record[0]) if len(record) == 1 else sum(map(len, record))
        checksum = crc32(_SEAL.pack(generation, at, length, kind))
        for buffer in record:
            checksum = crc32(buffer, checksum)
        buffers.append(_FRAME.pack(checksum, length, kind))
        buffers.extend(record)
        lsns.append(Lsn(at))
        at += FRAME_BYTES + length
    head = _BATCH.pack(MAGIC, at - lsn, len(records), previous_end, synced)
    chain: bytes | None = None
    if before is not None:
        # The ledger's records are small: one buffer costs less to hash, and then to write, than many.
        frames = b"".join(buffers)
        head += before
        chain = _chain(generation, lsn, head, frames)
        head += chain
        buffers = [b"", frames]
    checksum = crc32(head, crc32(_SEAL.pack(generation, lsn, len(head), BATCH)))
    buffers[0] = _FRAME.pack(checksum, len(head), BATCH) + head
    end = align(at)
    if end > at:
        buffers.append(_ZEROS[: end - at])
    return Batch(buffers, lsns, end, chain)


def _chain(generation: int, lsn: int, head: bytes, frames: bytes) -> bytes:
    """`head`: its fields and the chain before."""
    return sha256(_PLACE.pack(generation, lsn) + head + frames).digest()


def read_frame(data: bytes, offset: int, *, lsn: int, generation: int) -> Frame | None:
    """The frame at an offset of `data`, or None if no frame of this segment stands there, whole."""
    if len(data) - offset < FRAME_BYTES:
        return None
    checksum, length, kind = _FRAME.unpack_from(data, offset)
    start = offset + FRAME_BYTES
    if length > len(data) - start:
        return None
    payload = data[start : start + length]
    if crc32(payload, crc32(_SEAL.pack(generation, lsn, length, kind))) != checksum:
        return None
    next_ = lsn + FRAME_BYTES + length
    return Frame(kind, payload, align(next_) if kind == LAST else next_)


def read_batch_head(data: bytes, offset: int, *, lsn: int, generation: int) -> BatchHead | None:
    """The batch that begins at an offset of `data`; only its head is checked."""
    if data[offset + _MAGIC_AT : offset + _MAGIC_AT + len(MAGIC)] != MAGIC:
        return None
    frame = read_frame(data, offset, lsn=lsn, generation=generation)
    if frame is None or frame.kind != BATCH or len(frame.payload) < _BATCH.size:
        return None
    payload = frame.payload
    _, length, records, previous_end, synced = _BATCH.unpack_from(payload)
    link = None
    if len(payload) >= CHAINED_FRAME_BYTES - FRAME_BYTES:
        middle = _BATCH.size + CHAIN_BYTES
        link = Link(payload[_BATCH.size : middle], payload[middle : middle + CHAIN_BYTES])
    end = lsn + length
    return BatchHead(lsn, frame.next, end, align(end), records, previous_end, synced, link)


def check_batch(data: bytes, head: BatchHead, *, generation: int) -> bool:
    """Whether `data`, which begins at the batch, holds every frame that the head announces."""
    lsn = head.lsn
    at = head.frames_at
    for left in range(head.records - 1, -1, -1):
        frame = read_frame(data, at - lsn, lsn=at, generation=generation)
        if frame is None or frame.kind != (RECORD if left else LAST):
            return False
        at = frame.next
    return at == head.end


def check_link(data: bytes, head: BatchHead, *, generation: int) -> bool:
    """Whether `data`, which begins at the batch, gives the chain that the head claims."""
    if head.link is None:
        return False
    fields = data[FRAME_BYTES : BATCH_FRAME_BYTES + CHAIN_BYTES]
    frames = data[head.frames_at - head.lsn : head.frames_end - head.lsn]
    return _chain(generation, head.lsn, fields, frames) == head.link.after


def find_magic(data: bytes, lsn: int, start: int = 0) -> int:
    """Offset, from `start` on, of what looks like a batch on a sector border, or -1. `data` is from `lsn`."""
    at = start
    while (at := data.find(MAGIC, at)) >= 0:
        offset = at - _MAGIC_AT
        if offset >= start and (lsn + offset) % SECTOR_BYTES == 0:
            return offset
        at += 1
    return -1
