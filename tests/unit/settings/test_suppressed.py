"""The file of the suppression list: what was published is read, and what was damaged is not believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dispatch.policy.suppression import digest
from dispatch.settings.suppressed import SUPPRESSED, SuppressedDamaged, load_suppressed, publish_suppressed

ADDRESSES = [f"a{number}@example.net" for number in range(100)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    publish_suppressed(tmp_path / "settings", 7, sorted(map(digest, ADDRESSES)))
    return tmp_path / "settings"


def test_what_is_published_is_read(folder: Path) -> None:
    number, listed = load_suppressed(folder)
    assert number == 7 and len(listed) == 100
    assert all(map(listed.holds, ADDRESSES)) and not listed.holds("b@example.net")
    assert (folder / SUPPRESSED).stat().st_mode & 0o777 == 0o600
    assert b"example" not in (folder / SUPPRESSED).read_bytes()


def test_where_none_was_published_nobody_is_suppressed(tmp_path: Path) -> None:
    number, listed = load_suppressed(tmp_path)
    assert (number, len(listed)) == (0, 0)


def test_an_empty_list_is_one(folder: Path) -> None:
    publish_suppressed(folder, 8, [])
    number, listed = load_suppressed(folder)
    assert (number, len(listed)) == (8, 0)


@pytest.mark.parametrize("place", [0, 20, 40, 100, -1])
def test_a_changed_byte_is_found(folder: Path, place: int) -> None:
    content = bytearray((folder / SUPPRESSED).read_bytes())
    content[place] ^= 1
    (folder / SUPPRESSED).write_bytes(content)
    with pytest.raises(SuppressedDamaged):
        load_suppressed(folder)


@pytest.mark.parametrize("length", [0, 10, 30, 52, 60, 100])
def test_a_file_that_was_cut_off_is_found(folder: Path, length: int) -> None:
    content = (folder / SUPPRESSED).read_bytes()
    (folder / SUPPRESSED).write_bytes(content[:length])
    with pytest.raises(SuppressedDamaged):
        load_suppressed(folder)
