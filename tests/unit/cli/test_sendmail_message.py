"""What programs write into sendmail, and what of it becomes the message."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.cli import sendmail_message
from dispatch.cli.sendmail_conversation import stuffed
from dispatch.cli.sendmail_message import (
    HEADER_BYTES_MAX,
    MEMORY_BYTES_MAX,
    Message,
    NotMail,
    addresses,
    from_field,
    read_message,
)


def read(*pieces: bytes, dot_is_content: bool = False) -> Message:
    """Each piece is what one read gives, as far as a pipe can be made to."""
    reader, writer = os.pipe()

    def write() -> None:
        with os.fdopen(writer, "wb", buffering=0) as pipe:
            for piece in pieces:
                try:
                    pipe.write(piece)
                except BrokenPipeError:
                    return

    thread = threading.Thread(target=write)
    thread.start()
    try:
        return read_message(reader, dot_is_content=dot_is_content)
    finally:
        os.close(reader)
        thread.join()


def content(*pieces: bytes, dot_is_content: bool = False) -> bytes:
    message = read(*pieces, dot_is_content=dot_is_content)
    whole = b"".join(message.blocks())
    assert message.size_bytes == len(whole)
    return whole


@pytest.mark.parametrize(
    ("written", "becomes"),
    [
        (b"A: b\n\nbody\n", b"A: b\r\n\r\nbody\r\n"),
        (b"A: b\r\n\r\nbody\r\n", b"A: b\r\n\r\nbody\r\n"),
        (b"A: b\n\nbody", b"A: b\r\n\r\nbody\r\n"),
        (b"A: b\n c\n\n\nbody\n\n", b"A: b\r\n c\r\n\r\n\r\nbody\r\n\r\n"),
        (b"A: b\n\n10%\r20%\r\n", b"A: b\r\n\r\n10%\r\n20%\r\n"),
        (b"A: b\n\nend\r", b"A: b\r\n\r\nend\r\n"),
        (b"A: b\rBcc: x@y.z\n\n", b"A: b Bcc: x@y.z\r\n\r\n"),
        (b"no header\n", b"\r\nno header\r\n"),
        (b" no header\n", b"\r\n no header\r\n"),
        (b"A: b\nno field\n", b"A: b\r\n\r\nno field\r\n"),
        (b"From me Fri Nov 20 2026\nA: b\n\nx\n", b"A: b\r\n\r\nx\r\n"),
        (b"From : me\n\nx\n", b"From : me\r\n\r\nx\r\n"),
        (b"A: b\n", b"A: b\r\n\r\n"),
        (b"", b"\r\n"),
        (b"A: b\n\n\0\xff\n", b"A: b\r\n\r\n\0\xff\r\n"),
    ],
)
def test_lines_are_ended_as_smtp_wants_them(written: bytes, becomes: bytes) -> None:
    assert content(written) == becomes


@pytest.mark.parametrize(
    "end", [b".\n", b".\r\n", b".", b".\nmore\n", b".\r\nA: b\r\n.\r\n", b".\n" + b"x" * 300_000]
)
def test_a_single_dot_ends_the_message(end: bytes) -> None:
    assert content(b"A: b\n\nbody\n" + end) == b"A: b\r\n\r\nbody\r\n"
    assert content(b"A: b\n\n" + end) == b"A: b\r\n\r\n"
    assert content(b"A: b\n" + end) == b"A: b\r\n\r\n"


@pytest.mark.parametrize("line", [b"..", b". ", b".x", b"x."])
def test_other_dots_do_not(line: bytes) -> None:
    assert content(b"A: b\n\n" + line + b"\nmore\n") == b"A: b\r\n\r\n" + line + b"\r\nmore\r\n"


def test_with_i_a_single_dot_is_content() -> None:
    assert content(b"A: b\n\n.\nx\n.\n", dot_is_content=True) == b"A: b\r\n\r\n.\r\nx\r\n.\r\n"


PIECES = st.lists(
    st.sampled_from([b"\n", b"\r", b"\r\n", b".", b"x", b"\n.\n", b"\n.", b"A: b", b" c", b"\0"]), max_size=12
)


@settings(max_examples=150, deadline=None)
@given(PIECES, st.booleans(), st.sampled_from([1, 2, 3, 7]))
def test_how_it_is_cut_does_not_matter(pieces: list[bytes], dots: bool, block_bytes: int) -> None:
    whole = b"".join(pieces)
    usual = sendmail_message.BLOCK_BYTES
    expected = content(whole, dot_is_content=dots)
    with pytest.MonkeyPatch.context() as patch:
        read_bytes = os.read
        patch.setattr(os, "read", lambda fd, size: read_bytes(fd, min(size, block_bytes)))
        assert content(whole, dot_is_content=dots) == expected
    assert usual == sendmail_message.BLOCK_BYTES
    assert expected.endswith(b"\r\n") and b"\r\r" not in expected.replace(b"\r\n", b"")
    assert b"\n" not in expected.replace(b"\r\n", b"")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([b"", b"\r", b"\n", b".", b"x", b"\r\n", b".\r\n", b"\r\n."]), max_size=12))
def test_dots_are_doubled_wherever_blocks_end(blocks: list[bytes]) -> None:
    whole = b"".join(blocks)
    lines = whole.split(b"\r\n")
    expected = b"\r\n".join(b"." + line if line.startswith(b".") else line for line in lines)
    assert b"".join(stuffed(iter(blocks))) == expected


def test_large_content_lies_in_a_file() -> None:
    block = b"0123456789abcde\n" * 65_536
    message = read(b"A: b\n\n", *[block] * 3)
    assert message.body.size_bytes == 3 * 17 * 65_536 > MEMORY_BYTES_MAX
    assert not message.body._blocks and not message.eight_bit
    assert b"".join(message.body.blocks()) == (block * 3).replace(b"\n", b"\r\n")
    message.body.close()


def test_a_line_without_end_is_content_and_a_header_without_end_is_not() -> None:
    assert content(b"\0" * 300_000) == b"\r\n" + b"\0" * 300_000 + b"\r\n"
    for endless in (b"A: " + b"x" * 2 * HEADER_BYTES_MAX, b"A: b\n" + b" x\n" * HEADER_BYTES_MAX):
        with pytest.raises(NotMail, match="header"):
            read(endless)


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ("a@b.c", ["a@b.c"]),
        ("root", ["root"]),
        ("a@b.c, root,, d@e.f,", ["a@b.c", "root", "d@e.f"]),
        ('"Doe, John" <j@b.c>, Jane <k@b.c>', ["j@b.c", "k@b.c"]),
        ("=?utf-8?q?J=C3=B6rg?= <j@b.c>", ["j@b.c"]),
        ("j@b.c (John (the, one) Doe), k@b.c(x)", ["j@b.c", "k@b.c"]),
        ("j@b.c (a \\) b)", ["j@b.c"]),
        ('"a,b"@c.d, <"x y"@c.d>', ['"a,b"@c.d', '"x y"@c.d']),
        ("undisclosed-recipients:;", []),
        ("Team: a@b.c, D <d@e.f>; g@h.i", ["a@b.c", "d@e.f", "g@h.i"]),
        ("<@x.y:a@b.c>", ["@x.y:a@b.c"]),
        ("a@[IPv6:::1], a @ b . c", ["a@[IPv6:::1]", "a@b.c"]),
        ("grüße@b.c", ["grüße@b.c"]),
        ("<>", []),
        ("", []),
    ],
)
def test_addresses_are_found_in_a_list(field: str, found: list[str]) -> None:
    assert addresses(field) == found


@pytest.mark.parametrize(
    "field",
    [
        "John Doe",
        "a@b.c d@e.f",
        "<a@b.c",
        "(a@b.c",
        "A <a@b.c> <d@e.f>",
        "<a b@c.d>",
        "a\0b@c.d",
        '"a\x01"@b.c',
    ],
)
def test_what_is_no_address_stops_everything(field: str) -> None:
    with pytest.raises(NotMail):
        addresses(field)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from('ab@.,;:<>()"\\[] \r\n\0ä'), max_size=30))
def test_no_address_can_break_a_command(field: str) -> None:
    try:
        found = addresses(field)
    except NotMail:
        return
    assert not any(set("\r\n\0") & set(address) for address in found)


def test_recipients_are_those_of_to_cc_and_bcc() -> None:
    header = b"to: a@b.c,\n d@e.f\nCC: g@h.i\nSubject: To: no@b.c\nBcc: j@k.l\nX-To: no@b.c\n\nTo: no@b.c\n"
    assert read(header).recipients() == ["a@b.c", "d@e.f", "g@h.i", "j@k.l"]
    resent = b"Resent-To: a@b.c\nResent-Bcc: d@e.f\nTo: no@b.c\n\n"
    assert read(resent).recipients() == ["a@b.c", "d@e.f"]


def test_a_missing_from_is_made_of_name_and_address() -> None:
    assert from_field("root", "") == b"From: root"
    assert from_field("a@b.c", 'Cron "x" Daemon\n') == b'From: "Cron \\"x\\" Daemon" <a@b.c>'
    assert from_field("a@b.c", "Jörg") == b"From: =?utf-8?b?SsO2cmc=?= <a@b.c>"
    words = from_field("a@b.c", "ä" * 60).split()
    assert len(words) == 5 and all(len(word) <= 75 for word in words)
