"""Hosts that are hostile or broken, over real sockets: every transaction ends, in time and told rightly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.unit.relays.loopback import CONTENT, PATIENT, LoopbackSite

from dispatch.mail.report import FaultKind, Report, Stage

Talker = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

EHLO = b"250-host\r\n250 PIPELINING\r\n"
GROUP_OK = b"250 ok\r\n250 ok\r\n354 go\r\n"
END = b"\r\n.\r\n"


@contextlib.asynccontextmanager
async def upstream(talker: Talker) -> AsyncIterator[int]:
    """A host on a free port; every connection has the talker to itself until it returns."""
    talks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            await talker(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the relay hung up, or the test is over
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


async def accept_group(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 hi\r\n")
    await reader.readline()
    writer.write(EHLO)
    await reader.readuntil(b"DATA\r\n")


def one_message(talker: Talker, content: bytes = CONTENT) -> tuple[Report, list[object]]:
    """Send one, and return its report and what was noted as sending."""

    async def scenario() -> tuple[Report, list[object]]:
        async with upstream(talker) as port, LoopbackSite(port) as site:
            return await site.send(content), site.sending

    return asyncio.run(scenario())


def says(words: bytes, *, then_hangs_up: bool = False, repeated: int = 1) -> Talker:
    """Greets with these words."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(repeated):
            writer.write(words)
            await writer.drain()
        if not then_hangs_up:
            await reader.read()

    return talk


@pytest.mark.parametrize(
    ("talker", "kind"),
    [
        (says(b""), FaultKind.TIMEOUT),
        (says(b"", then_hangs_up=True), FaultKind.DROPPED),
        (says(b"220 half a gree"), FaultKind.TIMEOUT),
        (says(b"220 half a gree", then_hangs_up=True), FaultKind.DROPPED),
        (says(b"SSH-2.0-OpenSSH_9.2\r\n"), FaultKind.PROTOCOL),
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), FaultKind.PROTOCOL),
        (says(b"220-x\r\n", repeated=10_000), FaultKind.PROTOCOL),
        (says(b"2" * 65536, repeated=64), FaultKind.PROTOCOL),
        (says(b"220-a\r\n221 b\r\n"), FaultKind.PROTOCOL),
        (says(b"-20 negative\r\n"), FaultKind.PROTOCOL),
        (says(b"354 go\r\n"), FaultKind.PROTOCOL),
        (says(b"\x16\x03\x01\x00\x02\x02\x16"), FaultKind.TIMEOUT),
    ],
)
def test_greeting_that_is_none(talker: Talker, kind: FaultKind) -> None:
    report, sending = one_message(talker)
    assert report.stage is Stage.GREETING
    assert report.fault is not None
    assert report.fault.kind is kind
    assert sending == []


def test_replies_ahead_of_commands_deliver_nothing() -> None:
    report, sending = one_message(says(b"220 hi\r\n250 hi\r\n250 ok\r\n250 ok\r\n354 go\r\n250 queued\r\n"))
    assert report.fault is not None
    assert report.fault.kind is FaultKind.PROTOCOL
    assert sending == []


@pytest.mark.parametrize("last", [b"", b"2", b"250-still\r\n"])
@pytest.mark.parametrize("hangs_up", [True, False])
def test_host_that_vanishes_behind_the_end_of_data_leaves_it_uncertain(last: bytes, hangs_up: bool) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_group(reader, writer)
        writer.write(GROUP_OK)
        await reader.readuntil(END)
        writer.write(last)
        await writer.drain()
        if not hangs_up:
            await reader.read()

    report, sending = one_message(talk)
    assert (report.stage, report.replies) == (Stage.END_OF_DATA, (None,))
    assert report.fault is not None
    assert report.fault.kind is (FaultKind.DROPPED if hangs_up else FaultKind.TIMEOUT)
    assert len(sending) == 1


def test_reset_instead_of_the_last_answer_leaves_it_uncertain() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_group(reader, writer)
        writer.write(GROUP_OK)
        await reader.readexactly(10)
        # What was not read when the socket is closed makes the kernel send a reset.

    report, _ = one_message(talk)
    assert (report.stage, report.replies) == (Stage.END_OF_DATA, (None,))


@pytest.mark.parametrize("heard", [b"", b"250 ok\r\n", b"250 ok\r\n250 ok\r\n"])
def test_host_that_vanishes_before_354_got_no_content(heard: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_group(reader, writer)
        writer.write(heard)
        await writer.drain()

    report, sending = one_message(talk)
    assert report.stage in (Stage.MAIL, Stage.RCPT, Stage.DATA)
    assert report.fault is not None
    assert report.fault.kind is FaultKind.DROPPED
    assert sending == []


def test_host_that_trickles_is_left_in_time() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_group(reader, writer)
        for _ in range(1000):
            writer.write(b"2")
            await writer.drain()
            await asyncio.sleep(0.02)

    report, _ = one_message(talk)
    assert report.fault is not None
    assert report.fault.kind is FaultKind.TIMEOUT


def test_host_that_swallows_groups_gets_the_mail_in_lock_step() -> None:
    """It empties its input buffer after each command that it reads: a bug of old that still occurs."""
    kept: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        await reader.read(1000)
        writer.write(EHLO)
        while line := (await reader.read(10_000)).partition(b"\r\n")[0]:
            if line == b"DATA":
                writer.write(b"354 go\r\n")
                kept.append(await reader.readuntil(END))
            writer.write(b"250 ok\r\n")

    async def scenario() -> None:
        async with upstream(talk) as port, LoopbackSite(port) as site:
            report = await site.send()
            assert report.replies[0] is not None
            assert report.replies[0].code == 250
            assert len(kept) == len(site.sending) == 1

    asyncio.run(scenario())


def test_host_that_closes_after_each_message_gets_them_all_once() -> None:
    kept: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_group(reader, writer)
        writer.write(GROUP_OK)
        kept.append(await reader.readuntil(END))
        writer.write(b"250 queued\r\n")
        await writer.drain()

    async def scenario() -> None:
        async with upstream(talk) as port, LoopbackSite(port, max_concurrency=2, timeouts=PATIENT) as site:
            contents = [b"Number: %d\r\n" % number for number in range(30)]
            reports = await asyncio.gather(*(site.start(content) for content in contents))
            assert all(report.replies[0] is not None for report in reports)
            assert sorted(kept) == sorted(content + b".\r\n" for content in contents)

    asyncio.run(scenario())


def test_stalled_connection_leaves_the_others_alone() -> None:
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        stalls = connections == 1
        writer.write(b"220 hi\r\n")
        await reader.readline()
        writer.write(EHLO)
        while True:
            await reader.readuntil(b"DATA\r\n")
            if stalls:
                await reader.read()
            writer.write(GROUP_OK)
            await reader.readuntil(END)
            writer.write(b"250 queued\r\n")

    async def scenario() -> None:
        async with upstream(talk) as port, LoopbackSite(port, max_concurrency=2) as site:
            reports = await asyncio.gather(*(site.start() for _ in range(20)))
            faults = [report.fault.kind for report in reports if report.fault is not None]
            assert faults == [FaultKind.TIMEOUT]
            assert site.relay.free() >= 2

    asyncio.run(scenario())


def test_host_that_is_not_there_is_refused_at_once() -> None:
    async def scenario() -> None:
        async with upstream(says(b"")) as port:
            pass
        async with LoopbackSite(port) as site:
            report = await site.send()
            assert report.stage is Stage.CONNECT
            assert report.fault is not None
            assert report.fault.kind is FaultKind.REFUSED

    asyncio.run(scenario())


def test_host_that_never_reads_is_left_in_time() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept_group(reader, writer)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GROUP_OK)
        await asyncio.sleep(30)

    report, _ = one_message(talk, CONTENT + b"x" * 70 * 500_000 + b"\r\n")
    assert report.stage is Stage.END_OF_DATA
    assert report.fault is not None
    assert report.fault.kind is FaultKind.TIMEOUT
