"""Content decoded and encoded. The oracle looks at the whole at once, so no chunking can fool it."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.smtp.body import (
    BareNewline,
    ChunkDecoder,
    DataDecoder,
    DotStuffer,
    NewlinePolicy,
    first_bare_newline,
    has_bare_newline,
)

# Letters of which every trap is made.
tricky = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"x", b"\x00", b"\r\n", b"\r\n.", b"\r\n.\r\n"]), max_size=20
).map(b"".join)
cuts = st.lists(st.integers(0, 60), max_size=8)
BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


def pieces(data: bytes, places: list[int]) -> list[bytes]:
    borders = sorted({0, len(data), *(place for place in places if place < len(data))})
    return [data[a:b] for a, b in itertools.pairwise(borders)]


def expected(wire: bytes) -> tuple[bytes, bytes] | None:
    """Content and what stands behind it; None where the end of data is missing."""
    before, end, behind = (b"\r\n" + wire).partition(b"\r\n.\r\n")
    if not end:
        return None
    return re.sub(rb"\r\n\.", b"\r\n", before + b"\r\n")[2:], behind


def decode(decoder: DataDecoder, chunks: list[bytes]) -> tuple[bytes, bytes] | None:
    content = b""
    for number, chunk in enumerate(chunks):
        piece, end = decoder.feed(chunk)
        content += piece
        if end >= 0:
            return content, chunk[end:] + b"".join(chunks[number + 1 :])
    return None


@given(tricky, tricky, cuts)
def test_data_ends_at_crlf_dot_crlf_and_nowhere_else(
    content: bytes, behind: bytes, places: list[int]
) -> None:
    wire = content + b"\r\n.\r\n" + behind
    whole = expected(wire)
    assert whole is not None
    decoder = DataDecoder("reject")
    assert decode(decoder, pieces(wire, places)) == whole
    assert decoder.size_bytes == len(whole[0])
    bare = BARE.search(whole[0])
    assert decoder.bare_at == (bare.start() if bare else -1)


@given(tricky, cuts)
def test_data_without_an_end_does_not_end(content: bytes, places: list[int]) -> None:
    if expected(content) is None:
        assert decode(DataDecoder("reject"), pieces(content, places)) is None


@given(tricky, cuts)
def test_normalising_changes_newlines_only_and_never_the_end(content: bytes, places: list[int]) -> None:
    wire = content + b"\r\n.\r\n"
    whole = expected(wire)
    assert whole is not None
    decoder = DataDecoder("normalise")
    kept = decode(decoder, pieces(wire, places))
    assert kept == (re.sub(rb"\r\n|\r|\n", b"\r\n", whole[0]), whole[1])
    assert decoder.bare_at == -1
    assert decoder.size_bytes == len(kept[0])


@given(tricky, cuts, st.integers(0, 5))
def test_data_is_read_from_the_middle_of_a_buffer(content: bytes, places: list[int], offset: int) -> None:
    wire = b"DATA\r\n"[:offset] + content + b"\r\n.\r\nNOOP"
    at = min(offset, 6)
    piece, end = DataDecoder("reject").feed(wire, at)
    assert (piece, wire[end:]) == expected(wire[at:])


@given(tricky, tricky, cuts)
def test_discarded_data_ends_where_kept_data_does(first: bytes, second: bytes, places: list[int]) -> None:
    wire = first + second + b"\r\n.\r\nbehind"
    decoder = DataDecoder("reject")
    decoder.discard()
    whole = expected(wire)
    assert whole is not None
    assert decode(decoder, pieces(wire, places)) == (b"", whole[1])


@given(tricky, cuts, st.sampled_from(["reject", "normalise"]))
def test_chunks_are_kept_as_they_come_but_for_bare_newlines(
    content: bytes, places: list[int], policy: NewlinePolicy
) -> None:
    decoder = ChunkDecoder(policy)
    kept = b"".join(decoder.feed(piece, final=False) for piece in pieces(content, places))
    kept += decoder.feed(b"", final=True)
    bare = BARE.search(content)
    if policy == "reject":
        assert kept == content
        assert decoder.bare_at == (bare.start() if bare else -1)
    else:
        assert kept == re.sub(rb"\r\n|\r|\n", b"\r\n", content)
    assert decoder.size_bytes == len(kept)


@given(tricky)
def test_bare_newlines_are_found(text: bytes) -> None:
    bare = BARE.search(text)
    assert first_bare_newline(text) == (bare.start() if bare else -1)
    assert has_bare_newline(text) is (bare is not None)


def dot_stuffed(content: bytes) -> bytes:
    stuffer = DotStuffer()
    return stuffer.feed(content) + stuffer.end()


@given(tricky, cuts)
def test_what_is_sent_arrives_or_is_not_sent(content: bytes, places: list[int]) -> None:
    if BARE.search(content):
        with pytest.raises(BareNewline):
            dot_stuffed(content)
        return
    wire = dot_stuffed(content)
    complete = content if not content or content.endswith(b"\r\n") else content + b"\r\n"
    assert expected(wire) == (complete, b"")
    stuffer = DotStuffer()
    assert b"".join(stuffer.feed(piece) for piece in pieces(content, places)) + stuffer.end() == wire


@given(tricky, cuts)
def test_bare_newlines_are_not_sent_in_pieces_either(content: bytes, places: list[int]) -> None:
    if not BARE.search(content):
        return
    stuffer = DotStuffer()
    with pytest.raises(BareNewline):
        for piece in pieces(content, places):
            stuffer.feed(piece)
        stuffer.end()


def test_content_without_dots_is_not_copied() -> None:
    content = b"Subject: x\r\n\r\nhello\r\n"
    assert DotStuffer().feed(content) is content


def test_content_that_arrives_in_many_pieces_is_given_out_as_it_comes() -> None:
    decoder = DataDecoder("reject")
    for _ in range(100):
        piece, end = decoder.feed(b"x" * 1000)
        assert (len(piece), end) == (1000, -1)
