"""A frame verifies in its own segment and at its own place, and nowhere else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dispatch.spool.frames import (
    BATCH_FRAME_BYTES,
    CHAIN_BYTES,
    SECTOR_BYTES,
    Batch,
    build_batch,
    check_batch,
    check_link,
    find_magic,
    read_batch_head,
    read_frame,
)

GENERATION = 0x1_1234_5678
LSN = 0x7000
BEFORE = bytes(range(CHAIN_BYTES))


def linked(data: bytes, lsn: int = LSN, generation: int = GENERATION) -> bool:
    head = read_batch_head(data, 0, lsn=lsn, generation=generation)
    return head is not None and check_link(data, head, generation=generation)


def batch_of(
    *payloads: bytes, lsn: int = LSN, generation: int = GENERATION, before: bytes | None = None
) -> tuple[Batch, bytes]:
    batch = build_batch(
        [[payload] for payload in payloads],
        lsn=lsn,
        generation=generation,
        previous_end=0x6E00,
        synced=0x6000,
        before=before,
    )
    return batch, b"".join(batch.buffers)


def whole(data: bytes, lsn: int = LSN, generation: int = GENERATION) -> bool:
    head = read_batch_head(data, 0, lsn=lsn, generation=generation)
    return head is not None and check_batch(data, head, generation=generation)


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=20), st.none() | st.just(BEFORE))
def test_a_batch_gives_back_its_records(payloads: list[bytes], before: bytes | None) -> None:
    batch, data = batch_of(*payloads, before=before)
    assert whole(data)
    assert batch.end == LSN + len(data)
    assert batch.end % SECTOR_BYTES == 0
    found = []
    for lsn in batch.lsns:
        frame = read_frame(data, lsn - LSN, lsn=lsn, generation=GENERATION)
        assert frame is not None
        found.append(frame.payload)
    assert found == payloads
    assert frame.next == batch.end


def test_the_head_says_where_the_batch_before_ended_and_what_was_synced() -> None:
    _, data = batch_of(b"one", b"two")
    head = read_batch_head(data, 0, lsn=LSN, generation=GENERATION)
    assert head is not None
    assert (head.records, head.previous_end, head.synced) == (2, 0x6E00, 0x6000)
    assert head.frames_end == LSN + BATCH_FRAME_BYTES + 2 * (9 + 3)


def test_a_frame_is_nothing_at_another_place_or_in_another_generation() -> None:
    _, data = batch_of(b"mail")
    assert not whole(data, lsn=LSN + SECTOR_BYTES)
    assert not whole(data, lsn=LSN + (1 << 32))
    assert not whole(data, generation=GENERATION + 1)
    assert not whole(data, generation=GENERATION + (1 << 32))


@given(st.data())
def test_every_flipped_bit_is_noticed(data: st.DataObject) -> None:
    batch, good = batch_of(b"first " * 20, b"", b"second " * 30)
    used = batch.end - LSN - (len(batch.buffers[-1]))
    bit = data.draw(st.integers(0, used * 8 - 1))
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    assert not whole(bytes(bad))


@given(st.integers(0, 3000))
def test_a_batch_cut_short_is_no_batch(length: int) -> None:
    batch, data = batch_of(b"x" * 2000, b"y" * 700)
    frames = len(data) - len(batch.buffers[-1])
    assert whole(data[:length]) == (length >= frames)


def test_a_chained_batch_says_what_was_before_and_vouches_for_itself() -> None:
    batch, data = batch_of(b"one", b"two", before=BEFORE)
    head = read_batch_head(data, 0, lsn=LSN, generation=GENERATION)
    assert head is not None
    assert head.link == (BEFORE, batch.chain)
    assert linked(data)
    assert not linked(batch_of(b"one", b"two")[1]), "nothing vouches for a batch without a chain"


def test_the_chain_is_another_for_other_records_another_past_or_another_place() -> None:
    chains = {
        batch_of(*payloads, before=before, lsn=lsn, generation=generation)[0].chain
        for payloads in ((b"one", b"two"), (b"onet", b"wo"), (b"two", b"one"), (b"onetwo",))
        for before in (BEFORE, bytes(CHAIN_BYTES))
        for lsn in (LSN, LSN + SECTOR_BYTES)
        for generation in (GENERATION, GENERATION + 1)
    }
    assert len(chains) == 4 * 2 * 2 * 2


@given(st.data())
def test_the_chain_notices_every_flipped_bit(data: st.DataObject) -> None:
    batch, good = batch_of(b"first " * 20, b"", b"second " * 30, before=BEFORE)
    used = batch.end - LSN - len(batch.buffers[-1])
    bit = data.draw(st.integers(0, used * 8 - 1))
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    assert not linked(bytes(bad))


def test_large_content_is_handed_on_without_a_copy() -> None:
    content = memoryview(bytes(100_000))
    batch = build_batch([[b"head", content]], lsn=0, generation=1, previous_end=0, synced=0)
    assert any(buffer is content for buffer in batch.buffers)


def test_batches_are_looked_for_on_sector_borders_only() -> None:
    _, data = batch_of(b"mail")
    assert find_magic(b"\0" * 1024 + data, LSN - 1024) == 1024
    assert find_magic(b"\0" * 100 + data, LSN - 1024) == -1
    assert find_magic(data, LSN, 1) == -1


def test_content_that_looks_like_a_batch_is_not_one() -> None:
    """Whoever knows the format and guesses the place still does not know the generation."""
    _, forged = batch_of(b"forged mail", lsn=LSN + SECTOR_BYTES, generation=GENERATION ^ 1)
    start = SECTOR_BYTES - BATCH_FRAME_BYTES - 9
    _, data = batch_of(b"." * start + forged)
    at = find_magic(data, LSN, 1)
    assert at == SECTOR_BYTES
    assert read_batch_head(data, at, lsn=LSN + at, generation=GENERATION) is None
