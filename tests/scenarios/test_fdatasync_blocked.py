"""The disk takes its time: with fdatasync blocked no 250 appears however long; released, all appear.

A `sitecustomize` in front of the intake process makes `os.fdatasync` wait as long as a file exists.
"""

from __future__ import annotations

import smtplib
import threading
import time
from pathlib import Path

import pytest
from tests.scenarios.relay import HELLO, Relay, until
from tests.scenarios.upstream import Upstream

BLOCKED_S = 2.5
"""How long we look whether a 250 appears."""
CLIENTS = 20
SHIM = """
import os, sys, time

if "intake" in sys.orig_argv:
    real, gate = os.fdatasync, {gate!r}

    def fdatasync(descriptor):
        while os.path.exists(gate):
            time.sleep(0.005)
        real(descriptor)

    os.fdatasync = fdatasync
"""


@pytest.fixture
def gate(relay: Relay, upstream: Upstream, tmp_path: Path) -> Path:
    """While this file exists, no fdatasync of intake returns. The relay is started."""
    gate = tmp_path / "blocked"
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "sitecustomize.py").write_text(SHIM.format(gate=str(gate)))
    inherited = relay.environment.get("PYTHONPATH")
    relay.environment["PYTHONPATH"] = f"{shim}:{inherited}" if inherited else str(shim)
    relay.configure(upstream.table()).start()
    return gate


class Clients:
    """Each hands in one message in a thread of its own."""

    def __init__(self, relay: Relay, contents: list[bytes]) -> None:
        self.answers: list[int] = []
        self.asked = threading.Semaphore(0)
        self._relay = relay
        self._threads = [threading.Thread(target=self._send, args=(content,)) for content in contents]
        for thread in self._threads:
            thread.start()
        for _ in contents:
            assert self.asked.acquire(timeout=30)

    def _send(self, content: bytes) -> None:
        try:
            with self._relay.client() as client:
                client.mail("me@example.org")
                client.rcpt("you@example.net")
                client.docmd("DATA")
                client.send(content + b".\r\n")
                self.asked.release()
                self.answers.append(client.getreply()[0])
        except (smtplib.SMTPException, OSError):
            self.answers.append(0)

    def finish(self) -> list[int]:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        return self.answers


def contents() -> list[bytes]:
    large = (b"x" * 76 + b"\r\n") * 20_000  # above a mebibyte: content that has a file of its own
    return [HELLO + b"%d\r\n" % number + (large if number % 10 == 0 else b"") for number in range(CLIENTS)]


def test_no_answer_before_the_disk_has_it(relay: Relay, upstream: Upstream, gate: Path) -> None:
    gate.touch()
    clients = Clients(relay, contents())
    deadline = time.monotonic() + BLOCKED_S
    while time.monotonic() < deadline:
        assert not clients.answers
        assert not upstream.received, "nor is anything delivered before"
        with relay.client() as another:
            assert another.noop()[0] == 250, "everybody else is served meanwhile"
    gate.unlink()
    assert clients.finish() == [250] * CLIENTS
    until(lambda: len(upstream.delivered) == CLIENTS, "all are delivered")


def test_killed_before_the_disk_had_it(relay: Relay, upstream: Upstream, gate: Path) -> None:
    gate.touch()
    clients = Clients(relay, contents())
    relay.kill()
    assert clients.finish() == [0] * CLIENTS, "nobody was told that it was accepted"
    gate.unlink()
    relay.start()
    last = relay.send(b"Subject: Last\r\n\r\nWhat was there is read before this.\r\n")
    until(lambda: relay.said("delivered", id=last), "the last one is delivered")
    until(lambda: not relay.queue(), "nothing waits")
    arrived = [each.content for each in upstream.delivered]
    assert len(set(arrived)) == len(arrived) <= CLIENTS + 1, "each once or not at all"
