"""A disk that is full, for real: a small tmpfs in a mount namespace of its own. New mail is refused for now,
what was accepted is delivered and stays so, and with room everything goes on by itself."""

from __future__ import annotations

import os
import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.scenarios.programs import dying_with_us, found
from tests.scenarios.relay import Relay, until
from tests.scenarios.upstream import Upstream

SIZE_MB = 48
_HOLD = 'mount -t tmpfs -o size=%dm tmpfs "$0" && echo mounted && exec sleep infinity'
LIMITS_OFF = {"disk_warn_mb": 0, "disk_throttle_mb": 0, "disk_suspend_mb": 0}


@pytest.fixture
def small_disk(relay: Relay) -> Iterator[Path]:
    """The relay's data directory, on a disk of its own, as it is seen from here."""
    if os.geteuid() != 0 or not (found("unshare") and found("nsenter")):
        pytest.skip("mounting a small disk needs root, unshare and nsenter")
    relay.data.mkdir(mode=0o700)
    holder = subprocess.Popen(
        [
            *dying_with_us(),
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            _HOLD % SIZE_MB,
            str(relay.data),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert holder.stdout is not None and holder.stderr is not None
    try:
        if holder.stdout.readline() != b"mounted\n":
            pytest.skip(f"a tmpfs cannot be mounted here: {holder.stderr.read().decode()}")
        relay.within = ("nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", "--")
        yield Path(f"/proc/{holder.pid}/root{relay.data}")
        relay.kill()
    finally:
        holder.kill()
        holder.communicate()


def fill(disk: Path) -> Path:
    """Leave no room at all."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        block = b"\0" * 65_536
        while block:
            try:
                file.write(block)
            except OSError:
                block = block[: len(block) // 2]
    return ballast


def send_until_refused(relay: Relay, sender: str, size: int) -> tuple[int, str]:
    """Some fit into what was written beforehand. How many, and the refusal."""
    for accepted in range(2000):
        with relay.client() as client:
            try:
                client.sendmail(
                    sender, ["you@example.net"], b"Subject: Fill\r\n\r\n" + b"x" * 70 + b"\r\n" * size
                )
            except smtplib.SMTPDataError as error:
                assert error.smtp_code == 452, error
                return accepted, str(error)
    raise AssertionError("the disk is never full")


def test_refused_for_now_and_nothing_is_lost(relay: Relay, upstream: Upstream, small_disk: Path) -> None:
    relay.configure(
        upstream.table(), spool={"segment_mb": 1, "retry_delays_seconds": [1]} | LIMITS_OFF
    ).start()
    for _ in range(5):
        relay.send(sender="early@example.org")
    until(lambda: len(upstream.delivered) == 5, "there is room")
    upstream.stop()
    for _ in range(10):
        relay.send(sender="waiting@example.org")
    until(lambda: len(relay.queue()) == 10, "these are parked")

    ballast = fill(small_disk)
    accepted, refusal = send_until_refused(relay, "full@example.org", size=200_000)
    assert "4.3.1" in refusal

    upstream.start()
    expected = 15 + accepted
    until(
        lambda: len(upstream.delivered) == expected, "all that was accepted is delivered, on a full disk", 60
    )
    until(lambda: relay.json("ledger", "verify")["settled"] == expected, "that is on stable storage")
    relay.kill()
    ballast.unlink()
    relay.start()
    relay.send(sender="late@example.org")
    until(lambda: len(upstream.delivered) == expected + 1, "it accepts again")
    until(lambda: not relay.queue(), "nothing waits")
    assert len(upstream.received) == expected + 1, "that they were delivered had been recorded"


def test_it_goes_on_by_itself_when_there_is_room(relay: Relay, upstream: Upstream, small_disk: Path) -> None:
    relay.configure(upstream.table(), spool={"segment_mb": 1} | LIMITS_OFF).start()
    relay.send()
    until(lambda: upstream.delivered, "there is room")
    pids = [relay.pid_of(role) for role in ("intake", "delivery", "control")]
    ballast = fill(small_disk)
    accepted, refusal = send_until_refused(relay, "full@example.org", size=200_000)
    assert "4.3.1" in refusal
    ballast.unlink()

    def accepts() -> str | None:
        try:
            return relay.send(sender="late@example.org")
        except AssertionError:
            return None

    message_id = until(accepts, "it accepts again")
    relay.story_in_state(message_id, "delivered")
    until(lambda: len(upstream.delivered) >= accepted + 2, "all are delivered")
    assert len(upstream.received) == accepted + 2
    assert [relay.pid_of(role) for role in ("intake", "delivery", "control")] == pids, "no process had to die"
