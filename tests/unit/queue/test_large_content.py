"""A content file as a relay reads it: rewritten, signed, and at any offset the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.mime.test_dkim import KEYS

from dispatch.mail.message import ContentFile
from dispatch.mail.report import FaultKind
from dispatch.mime.departure import Departure, Signing
from dispatch.mime.dkim import Unsignable
from dispatch.mime.rewrite import SenderRewrite
from dispatch.queue.large_content import DepartingFile, departing, opener, unfit_to_leave
from dispatch.runtime.machine import SystemDisk

HEADER = b"From: Ann <ann@elsewhere.example>\r\nBcc: hidden@example.net\r\nSubject: long\r\n\r\n"
CONTENT = HEADER + b"A line of many, to fill several blocks \r\n" * 20_000
LONGER = SenderRewrite(None, "somebody-with-a-long-name@a-long-domain.example.org", "help@example.org")


@pytest.fixture
def disk(tmp_path: Path) -> SystemDisk:
    (tmp_path / "content").mkdir()
    (tmp_path / "content" / "one").write_bytes(CONTENT)
    return SystemDisk(tmp_path)


@pytest.mark.parametrize(
    "departure",
    [
        Departure(),
        Departure(rewrite=LONGER),
        Departure(verbatim=True, rewrite=LONGER),
        Departure(rewrite=LONGER, signing=Signing(KEYS)),
        Departure(signing=Signing(KEYS, "simple/simple")),
        Departure(append_domain="example.org"),
    ],
    ids=["shorter", "longer", "verbatim", "signed", "simple", "completed"],
)
def test_it_is_what_a_content_in_memory_would_be(disk: SystemDisk, departure: Departure) -> None:
    stored = ContentFile("one", len(CONTENT))
    reference = departing(disk, "content", stored, departure, 1)
    file = opener(disk, "content")(reference)
    whole = departure.content(CONTENT, 1)
    assert reference.size_bytes == file.size() == len(whole)
    for step in (17, 4096, 1 << 20):
        offsets = range(0, min(len(whole), 50 * step), step)
        assert b"".join(file.read_at(at, step) for at in offsets) == whole[: 50 * step]
    assert file.read_at(len(whole) - 5, 100) == whole[-5:] and not file.read_at(len(whole), 10)
    file.close()


def test_a_relay_that_gets_it_as_stored_reads_the_file_itself(disk: SystemDisk) -> None:
    stored = ContentFile("one", len(CONTENT))
    reference = departing(disk, "content", stored, Departure(verbatim=True), 1)
    assert reference is stored and not isinstance(reference, DepartingFile)
    file = opener(disk, "content")(reference)
    assert file.read_at(0, len(CONTENT) + 1) == CONTENT
    file.close()


def test_why_content_cannot_leave_decides_what_becomes_of_it() -> None:
    kinds = {
        FaultKind.UNSUITED: Unsignable("101 fields"),
        FaultKind.CONTENT_LOST: FileNotFoundError("gone"),
        FaultKind.CONTENT_UNREADABLE: PermissionError("not now"),
    }
    for kind, error in kinds.items():
        fault = unfit_to_leave(error)
        assert fault.kind is kind and str(error) in fault.detail
    assert "RuntimeError" in unfit_to_leave(RuntimeError("a bug")).detail
