"""Hosts that were not written here: aiosmtpd gets every byte as it was, smtp-sink all at full speed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from tests.unit.relays.loopback import PATIENT, LoopbackSite

from dispatch.mail.message import ContentFile

SINK = shutil.which("smtp-sink", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


class Keeper:
    """aiosmtpd's handler: keeps what it takes, refuses recipients that ask for it."""

    def __init__(self) -> None:
        self.kept: list[tuple[str | None, list[str], bytes]] = []

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("refused"):
            return "550 5.1.1 no such person"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.original_content, bytes)
        self.kept.append((envelope.mail_from, envelope.rcpt_tos, envelope.original_content))
        return "250 2.0.0 kept"


@contextlib.contextmanager
def aiosmtpd() -> Iterator[tuple[Keeper, int]]:
    keeper = Keeper()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(keeper, hostname="127.0.0.1", port=port, data_size_limit=1 << 26)
    controller.start()
    try:
        yield keeper, port
    finally:
        controller.stop()


def awkward_content(seed: int) -> bytes:
    """Lines of dots, empty lines, eight-bit text: all that transparency is about."""
    chance = random.Random(seed)
    lines = [b".", b"..", b"", b".x", b"x.", b"\xc3\xbc" * 20, b"QUIT", b"." * 70, b"a" * 900]
    return b"Subject: s\r\n\r\n" + b"".join(chance.choice(lines) + b"\r\n" for _ in range(300))


@pytest.mark.parametrize("pipelining", ["auto", "off"])
def test_aiosmtpd_gets_every_byte(pipelining: str) -> None:
    async def scenario(port: int) -> None:
        async with LoopbackSite(port, pipelining=pipelining, timeouts=PATIENT, max_concurrency=3) as site:
            reports = await asyncio.gather(*(site.start(awkward_content(seed)) for seed in range(30)))
            assert [report.replies[0].text for report in reports if report.replies[0]] == ["kept"] * 30

    with aiosmtpd() as (keeper, port):
        asyncio.run(scenario(port))
    assert sorted(content for *_, content in keeper.kept) == sorted(map(awkward_content, range(30)))


def test_aiosmtpd_gives_each_recipient_its_reply() -> None:
    async def scenario(port: int) -> None:
        async with LoopbackSite(port, timeouts=PATIENT) as site:
            mixed = await site.send(b"x\r\n", "a@x.example", "refused@x.example", "b@x.example")
            nobody = await site.send(b"x\r\n", "refused@x.example")
            after = await site.send(b"y\r\n", "a@x.example")
            assert [reply.code for reply in mixed.replies if reply] == [250, 550, 250]
            assert [reply.code for reply in nobody.replies if reply] == [550]
            assert [reply.code for reply in after.replies if reply] == [250]

    with aiosmtpd() as (keeper, port):
        asyncio.run(scenario(port))
    assert keeper.kept == [
        ("a@a.example", ["a@x.example", "b@x.example"], b"x\r\n"),
        ("a@a.example", ["a@x.example"], b"y\r\n"),
    ]


def test_aiosmtpd_gets_large_content_from_its_file(tmp_path: Path) -> None:
    content = awkward_content(1) * 200
    (tmp_path / "large").write_bytes(content)

    async def scenario(port: int) -> None:
        async with LoopbackSite(port, tmp_path, timeouts=PATIENT) as site:
            report = await site.send(ContentFile("large", len(content)))
            assert report.replies[0] is not None, report
            assert report.replies[0].code == 250

    with aiosmtpd() as (keeper, port):
        asyncio.run(scenario(port))
    assert [kept for *_, kept in keeper.kept] == [content]


@contextlib.contextmanager
def smtp_sink(*options: str) -> Iterator[int]:
    assert SINK is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    user = pwd.getpwuid(os.getuid()).pw_name
    process = subprocess.Popen([SINK, "-u", user, *options, f"127.0.0.1:{port}", "100"])
    try:
        deadline = time.monotonic() + 5
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "smtp-sink does not start"
                time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.mark.skipif(SINK is None, reason="smtp-sink is not installed")
@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), 250),
        (("-p",), 250),
        (("-e",), 250),
        (("-f", "."), 500),
        (("-r", "RCPT"), 450),
        (("-f", "DATA"), 500),
    ],
)
def test_smtp_sink_answers_every_message(options: tuple[str, ...], expected: int, runner: object) -> None:
    async def scenario() -> None:
        async with LoopbackSite(port, timeouts=PATIENT, max_concurrency=4) as site:
            reports = await asyncio.gather(*(site.start() for _ in range(200)))
            answers = {report.replies[0].code if report.replies[0] else report for report in reports}
            assert len(answers) == 1, answers
            (code,) = answers
            assert code == expected

    with smtp_sink(*options) as port:
        runner(scenario())  # type: ignore[operator]
