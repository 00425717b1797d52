"""Large content: from its file to the host in blocks, as fast as the host takes them."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.relays.memory_upstream import MemoryConnection, MemoryFile, Site

from dispatch.mail.message import ContentFile
from dispatch.mail.report import FaultKind, Stage
from dispatch.relays.smtp_content import BLOCK_BYTES

LINE = b".a line with a dot in front\r\n"
LARGE = LINE * (4 * BLOCK_BYTES // len(LINE))


def stuffed(content: bytes) -> bytes:
    return b"".join(b"." + line + b"\r\n" for line in content.split(b"\r\n")[:-1])


async def content_wanted(site: Site, content: bytes, size_bytes: int | None = None) -> MemoryConnection:
    site.files["c"] = MemoryFile(content)
    site.start("m", ContentFile("c", len(content) if size_bytes is None else size_bytes))
    up = await site.connection()
    up.heard()
    up.say(b"250 ok\r\n250 ok\r\n354 go\r\n")
    return up


def test_large_content_arrives_whole_and_stuffed() -> None:
    async def scenario() -> None:
        site = Site()
        up = await content_wanted(site, LARGE)
        await site.settle()
        while not site.sending:
            await site.settle()
        assert up.heard() == stuffed(LARGE) + b".\r\n"
        up.say(b"250 queued\r\n")
        assert site.codes("m") == [250]
        assert site.files["c"].closed

    asyncio.run(scenario())


def test_slow_host_holds_one_block_and_not_the_message() -> None:
    async def scenario() -> None:
        site = Site()
        up = await content_wanted(site, LARGE)
        up.protocol.pause_writing()
        for _ in range(3):
            await site.settle()
        assert len(up.heard()) < 2 * BLOCK_BYTES
        assert site.files["c"].reads == 1
        up.protocol.resume_writing()
        await site.settle()
        assert site.files["c"].reads > 1

    asyncio.run(scenario())


def test_host_that_takes_nothing_more_is_timed_out() -> None:
    async def scenario() -> None:
        site = Site()
        up = await content_wanted(site, LARGE)
        up.protocol.pause_writing()
        await site.settle()
        await site.advance(180)
        report = site.reports["m"]
        assert (report.stage, site.sending) == (Stage.CONTENT, [])
        assert report.fault is not None
        assert report.fault.kind is FaultKind.TIMEOUT
        await site.settle()
        assert site.files["c"].closed

    asyncio.run(scenario())


def test_large_content_goes_in_chunks_where_the_host_takes_them() -> None:
    async def scenario() -> None:
        site = Site()
        site.files["c"] = MemoryFile(LARGE)
        site.start("m", ContentFile("c", len(LARGE)))
        up = await site.connection(0, "PIPELINING", "CHUNKING")
        up.heard()
        up.say(b"250 ok\r\n250 ok\r\n")
        while not site.sending:
            await site.settle()
        heard, content = up.heard(), b""
        while heard:
            command, _, heard = heard.partition(b"\r\n")
            size = int(command.split()[1])
            content += heard[:size]
            heard = heard[size:]
        assert command.endswith(b" LAST")
        assert content == LARGE

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("content", "size_bytes", "kind"),
    [
        (LARGE, len(LARGE) + 1, FaultKind.CONTENT_LOST),
        (LARGE[:-1], None, FaultKind.UNSUITED),
        (LARGE + b"bare \n newline\r\n", None, FaultKind.UNSUITED),
    ],
)
def test_content_that_cannot_be_sent_never_ends(
    content: bytes, size_bytes: int | None, kind: FaultKind
) -> None:
    async def scenario() -> None:
        site = Site()
        up = await content_wanted(site, content, size_bytes)
        while not site.reports:
            await site.settle()
        report = site.reports["m"]
        assert (report.stage, site.sending) == (Stage.CONTENT, [])
        assert report.fault is not None
        assert report.fault.kind is kind
        assert not up.heard().endswith(b"\r\n.\r\n")
        assert up.closed
        await site.settle()
        assert site.files["c"].closed

    asyncio.run(scenario())


def test_connection_lost_while_a_block_is_read_asks_for_no_other() -> None:
    async def scenario() -> None:
        site = Site()
        up = await content_wanted(site, LARGE)
        up.drop()
        reads = site.files["c"].reads
        for _ in range(3):
            await site.settle()
        assert site.files["c"].reads <= reads + 1
        assert site.files["c"].closed or site.files["c"].reads == 0
        assert site.reports["m"].stage is Stage.CONTENT

    asyncio.run(scenario())


def test_empty_file_is_an_empty_message() -> None:
    async def scenario() -> None:
        site = Site()
        up = await content_wanted(site, b"")
        await site.settle()
        assert up.heard() == b".\r\n"

    asyncio.run(scenario())
