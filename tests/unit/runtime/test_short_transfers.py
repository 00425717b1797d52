"""A kernel that reads or writes less than it was asked for costs nothing but another call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from dispatch.runtime.machine import SystemDisk

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def stingy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven bytes a read, five a write."""
    pread, pwrite = os.pread, os.pwrite

    def short_read(descriptor: int, size_bytes: int, offset: int) -> bytes:
        return pread(descriptor, min(size_bytes, 7), offset)

    def short_write(descriptor: int, buffers: Sequence[bytes], offset: int) -> int:
        return pwrite(descriptor, b"".join(buffers)[:5], offset)

    monkeypatch.setattr(os, "pread", short_read)
    monkeypatch.setattr(os, "pwritev", short_write)


def test_all_is_written_and_all_is_read(stingy: None, tmp_path: Path) -> None:
    file = SystemDisk(tmp_path).open("file", create=True)
    parts = [CONTENT[:3], CONTENT[3:4], b"", CONTENT[4:1000], CONTENT[1000:]]
    file.write_at(10, parts)
    assert file.size() == 10 + len(CONTENT)
    assert file.read_at(10, len(CONTENT)) == CONTENT
    file.close()


def test_only_the_end_of_the_file_makes_a_read_short(stingy: None, tmp_path: Path) -> None:
    file = SystemDisk(tmp_path).open("file", create=True)
    file.write_at(0, [CONTENT])
    assert file.read_at(len(CONTENT) - 20, 100) == CONTENT[-20:]
    assert file.read_at(len(CONTENT), 100) == b""
    file.close()
