"""Large content in files of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.simulation.disk import Operation, SimulatedDisk, disk_full, io_error
from tests.simulation.loop import SimulatedLoop

from dispatch.mail.ids import MessageId
from dispatch.mail.message import ContentFile
from dispatch.ports import AppendFault
from dispatch.spool.content import BEHIND_BYTES_MAX, CHUNK_BYTES, ContentFolder, ContentWriter, orphans

ID = MessageId(bytes(range(16)))
OTHER = MessageId(bytes(16))


class Station:
    """A content folder on a simulated machine."""

    def __init__(self, incarnation: int = 5) -> None:
        self.disk = SimulatedDisk(1)
        self.loop = SimulatedLoop()
        self.finished: list[ContentFile | AppendFault] = []
        self.drained = 0
        self.folder = self.open(incarnation)

    def open(self, incarnation: int) -> ContentFolder:
        return ContentFolder(
            self.disk.process(),
            "mail/0/content",
            worker=self.loop.worker("content"),
            incarnation=incarnation,
        )

    def create(self, message_id: MessageId = ID) -> ContentWriter:
        return self.folder.create(message_id, self._drained)

    def store(self, content: bytes, message_id: MessageId = ID) -> ContentFile:
        writer = self.create(message_id)
        for at in range(0, len(content), 60_000):
            writer.write(content[at : at + 60_000])
        writer.finish(self.finished.append)
        self.loop.settle()
        reference = self.finished[-1]
        assert isinstance(reference, ContentFile)
        return reference

    def load(self, reference: ContentFile) -> bytes:
        file = self.disk.process().open(f"mail/0/content/{reference.name}")
        try:
            return file.read_at(0, file.size())
        finally:
            file.close()

    def fail(self, *operations: Operation, error: Callable[[], OSError] = io_error) -> None:
        self.disk.fault = lambda operation, _: error() if operation in operations else None

    def _drained(self) -> None:
        self.drained += 1


CONTENT = b"Subject: large\r\n\r\n" + bytes(range(256)) * 6000


def test_content_comes_back_as_it_was_written() -> None:
    station = Station()
    reference = station.store(CONTENT)
    assert reference.size_bytes == len(CONTENT)
    assert station.load(reference) == CONTENT


def test_once_the_reference_is_there_a_power_cut_changes_nothing() -> None:
    station = Station()
    reference = station.store(CONTENT)
    station.disk.power_cut()
    station.folder = station.open(6)
    assert station.load(reference) == CONTENT


def test_a_source_that_is_faster_than_the_disk_is_asked_to_wait_and_called_again() -> None:
    station = Station()
    writer = station.create()
    chunk = bytes(CHUNK_BYTES)
    written = 0
    while writer.write(chunk):
        written += CHUNK_BYTES
        assert written <= BEHIND_BYTES_MAX + CHUNK_BYTES
    assert station.drained == 0
    station.loop.settle()
    assert station.drained == 1
    assert writer.write(chunk)
    writer.finish(station.finished.append)
    station.loop.settle()
    assert station.drained == 1


@pytest.mark.parametrize("operation", ["create", "write", "sync", "sync_folder"])
def test_a_fault_of_the_disk_is_an_answer_and_leaves_no_file(operation: Operation) -> None:
    station = Station()
    station.fail(operation)
    writer = station.create()
    writer.write(CONTENT)
    writer.finish(station.finished.append)
    station.loop.settle()
    (fault,) = station.finished
    assert isinstance(fault, AppendFault)
    assert not fault.full
    assert station.disk.paths == []


def test_a_full_disk_is_told_apart() -> None:
    station = Station()
    station.fail("write", error=disk_full)
    writer = station.create()
    writer.write(CONTENT)
    writer.finish(station.finished.append)
    station.loop.settle()
    (fault,) = station.finished
    assert isinstance(fault, AppendFault)
    assert fault.full


def test_an_abandoned_submission_leaves_no_file() -> None:
    station = Station()
    writer = station.create()
    writer.write(CONTENT)
    station.loop.settle()
    assert len(station.disk.paths) == 1
    writer.abandon()
    station.loop.settle()
    assert station.disk.paths == []


def test_empty_content_is_a_file_too() -> None:
    station = Station()
    reference = station.store(b"")
    assert reference.size_bytes == 0
    assert station.load(reference) == b""


def test_what_is_gone_already_does_not_matter_to_its_removal() -> None:
    station = Station()
    reference = station.store(CONTENT)
    removed: list[Exception | None] = []
    station.folder.remove([reference.name, reference.name], removed.append)
    station.loop.settle()
    assert removed == [None]
    assert station.disk.paths == []


@pytest.mark.parametrize("name", ["", "../mark", "x.content", "0" * 16 + "-" + "0" * 32 + ".content/.."])
def test_a_name_that_is_not_ours_never_becomes_a_path(name: str) -> None:
    station = Station()
    with pytest.raises(ValueError, match="not the name"):
        station.folder.remove([name], lambda _: None)


def test_only_files_of_earlier_incarnations_that_nothing_names_are_orphans() -> None:
    earlier, now = (f"{n:016x}-{ID.hex()}.content" for n in (4, 5))
    named = f"{4:016x}-{OTHER.hex()}.content"
    assert orphans([earlier, now, named, "readme"], {named}, 5) == [earlier]
    assert orphans([earlier, now, named], set(), 4) == []
