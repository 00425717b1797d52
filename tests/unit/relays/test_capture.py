"""Mail that is captured instead of sent: whole and with its envelope, or not at all."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable

import pytest
from tests.simulation.disk import SimulatedDisk
from tests.simulation.loop import SimulatedLoop
from tests.unit.relays.memory_upstream import MemoryFile

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import new_message_id
from dispatch.mail.message import ContentFile, Message, Origin, Summary
from dispatch.mail.report import FaultKind, Report, Stage
from dispatch.ports import File, Leave, Transaction
from dispatch.relays.capture import BATCH_MAX, CaptureRelay
from dispatch.relays.capture_store import (
    NoSuchCapture,
    TornCapture,
    delete_captured,
    list_captured,
    read_captured,
)

FOLDER = "captured"
ENVELOPE = Envelope("a@a.example", (Recipient("to@b.example"), Recipient("bcc@b.example", "NEVER")))
CONTENT = b"Subject: x\r\n\r\nHello\nbare \x00 \xff\r\n"


class Inbox:
    """A capture relay on a simulated disk."""

    def __init__(self) -> None:
        self.hardware = SimulatedDisk(1)
        self.loop = SimulatedLoop()
        self.files: dict[str, MemoryFile] = {}
        self.reports: dict[int, Report] = {}
        self.on_sending: Callable[[Transaction], None] = lambda _: None
        self.relay = self._relay()

    def _relay(self) -> CaptureRelay:
        self.disk = self.hardware.process()
        return CaptureRelay(
            self.disk,
            FOLDER,
            self.loop.worker("capture"),
            clock=self.loop,
            open_content=self._open,
            max_concurrency=200,
        )

    def _open(self, content: ContentFile) -> File:
        if content.name not in self.files:
            raise FileNotFoundError(errno.ENOENT, content.name)
        return self.files[content.name]  # type: ignore[return-value]

    def restart(self) -> None:
        self.disk.kill()
        self.relay = self._relay()

    def start(
        self, number: int = 0, content: bytes | ContentFile = CONTENT, indexes: tuple[int, ...] = (0, 1)
    ) -> None:
        identity = new_message_id(1000 + number, bytes([number] * 10))
        message = Message(identity, 0, ENVELOPE, Origin("smtp", "127.0.0.1"), Summary("x"), len(CONTENT))
        self.relay.start(Transaction(message, indexes, content, self._sending, number), self._done)

    def _sending(self, transaction: Transaction, leave: Leave) -> None:
        def let_leave() -> None:
            fault = None
            try:
                self.on_sending(transaction)
            except OSError as error:
                fault = error
            leave(fault)

        self.loop.call_later(0, let_leave)

    def _done(self, transaction: Transaction, report: Report) -> None:
        assert isinstance(transaction.tag, int)
        assert transaction.tag not in self.reports, "reported twice"
        self.reports[transaction.tag] = report

    def codes(self, number: int = 0) -> list[int | None]:
        return [None if reply is None else reply.code for reply in self.reports[number].replies]


def test_captured_message_is_read_back_with_all_its_recipients() -> None:
    inbox = Inbox()
    inbox.start()
    inbox.loop.settle()
    assert inbox.codes() == [250, 250]
    assert inbox.reports[0].stage is Stage.END_OF_DATA
    listing = list_captured(inbox.disk, FOLDER)
    (captured,) = listing.captured
    assert listing.torn == []
    assert captured.size_bytes == len(CONTENT)
    assert captured.head.recipients == ENVELOPE.recipients
    head, content = read_captured(inbox.disk, FOLDER, captured.name)
    assert (head, content) == (captured.head, CONTENT)


def test_power_cut_after_the_report_loses_nothing() -> None:
    inbox = Inbox()
    for number in range(BATCH_MAX + 10):
        inbox.start(number)
    inbox.loop.settle()
    inbox.hardware.power_cut()
    inbox.restart()
    assert len(list_captured(inbox.disk, FOLDER).captured) == len(inbox.reports) == BATCH_MAX + 10


@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename", "sync_folder"])
@pytest.mark.parametrize(("number", "code"), [(errno.EIO, 451), (errno.ENOSPC, 452), (errno.EDQUOT, 452)])
def test_inbox_that_cannot_be_written_defers(operation: str, number: int, code: int) -> None:
    inbox = Inbox()
    inbox.hardware.fault = lambda what, path: OSError(number, "simulated") if what == operation else None
    inbox.start()
    inbox.loop.settle()
    assert inbox.codes() == [code, code]
    inbox.hardware.fault = None
    inbox.reports.clear()
    inbox.start()
    inbox.loop.settle()
    assert inbox.codes() == [250, 250]
    assert len(list_captured(inbox.disk, FOLDER).captured) == 1, "tried again, it replaced itself"
    assert list_captured(inbox.disk, FOLDER).torn == []


def test_sending_is_noted_before_anything_is_written() -> None:
    inbox = Inbox()
    seen: list[list[str]] = []
    inbox.on_sending = lambda _: seen.append(inbox.hardware.paths)
    inbox.start()
    assert seen == [], "not within start"
    inbox.loop.settle()
    assert seen == [[]]


def test_what_cannot_be_noted_as_sending_is_not_captured() -> None:
    def fail(transaction: Transaction) -> None:
        raise OSError(errno.ENOSPC, "ledger full")

    inbox = Inbox()
    inbox.on_sending = fail
    inbox.start()
    inbox.loop.settle()
    assert inbox.reports[0].stage is Stage.CONTENT
    assert list_captured(inbox.disk, FOLDER).captured == []


def test_what_cannot_be_noted_keeps_nothing_else_from_being_captured() -> None:
    def fail(transaction: Transaction) -> None:
        if transaction.tag != BATCH_MAX:
            raise OSError(errno.ENOSPC, "ledger full")

    inbox = Inbox()
    inbox.on_sending = fail
    for number in range(BATCH_MAX + 1):
        inbox.start(number)
    inbox.loop.settle()
    assert {inbox.reports[number].stage for number in range(BATCH_MAX)} == {Stage.CONTENT}
    assert inbox.codes(BATCH_MAX) == [250, 250]
    assert inbox.relay.free() == 200


def test_large_content_is_copied_in_blocks() -> None:
    inbox = Inbox()
    large = bytes(range(256)) * 4096
    inbox.files["c"] = MemoryFile(large)
    inbox.start(0, ContentFile("c", len(large)))
    inbox.loop.settle()
    assert inbox.codes() == [250, 250]
    (captured,) = list_captured(inbox.disk, FOLDER).captured
    assert read_captured(inbox.disk, FOLDER, captured.name)[1] == large
    assert inbox.files["c"].reads == 4
    assert inbox.files["c"].closed


@pytest.mark.parametrize("content", [ContentFile("short", 100), ContentFile("absent", 100)])
def test_content_that_cannot_be_read_is_our_fault_and_not_the_inboxs(content: ContentFile) -> None:
    inbox = Inbox()
    inbox.files["short"] = MemoryFile(b"x" * 99)
    inbox.start(0, content)
    inbox.start(1)
    inbox.loop.settle()
    fault = inbox.reports[0].fault
    assert fault is not None
    assert fault.kind is FaultKind.CONTENT_LOST
    assert inbox.codes(1) == [250, 250]
    assert len(list_captured(inbox.disk, FOLDER).captured) == 1
    assert list_captured(inbox.disk, FOLDER).torn == []


def test_recipients_of_one_message_captured_apart_do_not_overwrite_each_other() -> None:
    inbox = Inbox()
    inbox.start(0, indexes=(0,))
    inbox.loop.settle()
    inbox.reports.clear()
    inbox.start(0, indexes=(1,))
    inbox.loop.settle()
    captured = list_captured(inbox.disk, FOLDER).captured
    assert [one.head.recipients for one in captured] == [ENVELOPE.recipients[:1], ENVELOPE.recipients[1:]]


@pytest.mark.parametrize("damage_at", [0, 8, 30, 60, -1])
def test_torn_file_is_named_and_left_alone(damage_at: int) -> None:
    inbox = Inbox()
    inbox.start(0)
    inbox.start(1)
    inbox.loop.settle()
    path = sorted(inbox.hardware.paths)[0]
    whole = inbox.hardware.content(path)
    at = damage_at % len(whole)
    inbox.hardware.damage(path, at, bytes([whole[at] ^ 0xFF]))
    listing = list_captured(inbox.disk, FOLDER)
    name = path.partition("/")[2].removesuffix(".captured")
    if damage_at != -1:
        assert listing.torn == [f"{name}.captured"]
        assert len(listing.captured) == 1
    with pytest.raises(TornCapture):
        read_captured(inbox.disk, FOLDER, name)
    delete_captured(inbox.disk, FOLDER, name)
    assert list_captured(inbox.disk, FOLDER).torn == []


def test_file_cut_short_is_torn() -> None:
    inbox = Inbox()
    inbox.start()
    inbox.loop.settle()
    (path,) = inbox.hardware.paths
    file = inbox.disk.open(path)
    for size in (file.size() - 1, 20, 0):
        file.truncate(size)
        assert len(list_captured(inbox.disk, FOLDER).torn) == 1


def test_capture_that_crashed_half_way_is_not_listed_and_may_be_tried_again() -> None:
    inbox = Inbox()
    inbox.hardware.fault = lambda what, path: (
        OSError(errno.EIO, "x") if what in ("rename", "remove") else None
    )
    inbox.start()
    inbox.loop.settle()
    inbox.hardware.fault = None
    listing = list_captured(inbox.disk, FOLDER)
    assert listing.captured == []
    inbox.reports.clear()
    inbox.start()
    inbox.loop.settle()
    assert inbox.codes() == [250, 250]
    assert list_captured(inbox.disk, FOLDER).torn == []


def test_deleted_message_is_gone() -> None:
    inbox = Inbox()
    inbox.start()
    inbox.loop.settle()
    (captured,) = list_captured(inbox.disk, FOLDER).captured
    delete_captured(inbox.disk, FOLDER, captured.name)
    inbox.hardware.power_cut()
    inbox.restart()
    assert list_captured(inbox.disk, FOLDER).captured == []
    with pytest.raises(NoSuchCapture):
        read_captured(inbox.disk, FOLDER, captured.name)


@pytest.mark.parametrize("name", ["../parked", "", "a" * 32, "0" * 32 + "-0/../../x", "0" * 32 + "-0\n"])
def test_name_that_is_not_ours_never_becomes_a_path(name: str) -> None:
    inbox = Inbox()
    for act in (read_captured, delete_captured):
        with pytest.raises(NoSuchCapture):
            act(inbox.disk, FOLDER, name)


def test_close_finishes_the_batch_under_way_and_reports_the_rest() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        inbox.start(0)
        inbox.loop.step()
        inbox.loop.step()  # on record, the batch is with the worker
        inbox.start(1)
        closing = asyncio.ensure_future(inbox.relay.close(10))
        await asyncio.sleep(0)
        assert set(inbox.reports) == {1}
        assert inbox.reports[1].stage is Stage.CONNECT
        inbox.loop.settle()
        await closing
        assert inbox.codes(0) == [250, 250]

    asyncio.run(scenario())


def test_what_is_not_on_record_when_the_inbox_is_closed_is_not_captured() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        inbox.start(0)
        inbox.loop.step()  # the queue was asked
        closing = asyncio.ensure_future(inbox.relay.close(0))
        await asyncio.sleep(0)
        inbox.relay._empty.set()  # what the timer does when the grace is over
        await closing
        assert inbox.reports[0].stage is Stage.CONTENT
        inbox.loop.settle()
        assert list_captured(inbox.disk, FOLDER).captured == []

    asyncio.run(scenario())


def test_close_does_not_wait_for_ever_for_a_disk() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        inbox.start(0)
        inbox.loop.step()
        inbox.loop.step()  # on record, the batch is with the worker, who is never given a turn
        closing = asyncio.ensure_future(inbox.relay.close(0))
        await asyncio.sleep(0)
        inbox.relay._empty.set()  # what the timer does when the grace is over
        await closing
        assert inbox.reports[0].stage is Stage.END_OF_DATA
        assert inbox.codes(0) == [None, None]
        inbox.loop.settle()
        assert inbox.codes(0) == [None, None], "the late answer changes nothing"

    asyncio.run(scenario())
