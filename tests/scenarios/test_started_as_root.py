"""Started as root, the processes become an unprivileged user, and can read what root published for them."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.scenarios.relay import BOUND_S, free_port

SERVE = """
import sys
from dispatch.app import supervise
supervise.USERS = ("nobody",)
from dispatch.cli import main
main()
"""


@pytest.fixture
def data_of_nobody() -> Iterator[Path]:
    """Outside of pytest's own folders, which are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="dispatch-nobody-"))
    shutil.chown(folder, "nobody")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="not root")
def test_the_processes_run_as_somebody_else(data_of_nobody: Path) -> None:
    log = data_of_nobody.with_suffix(".log")
    command = [sys.executable, "-c", SERVE, "serve", "--quiet", "--data", str(data_of_nobody)]
    command += ["--set", f"listener.ports=[{free_port()}]"]
    with log.open("w") as stderr:
        relay = subprocess.Popen(command, stderr=stderr)
    try:
        deadline = time.monotonic() + BOUND_S
        while " ready process=supervisor" not in log.read_text():
            assert relay.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        if "user_kept" in log.read_text():
            pytest.skip(f"nobody cannot use the code here: {log.read_text()}")
        children = Path(f"/proc/{relay.pid}/task/{relay.pid}/children").read_text().split()
        assert {Path(f"/proc/{child}").stat().st_uid for child in children} == {pwd.getpwnam("nobody").pw_uid}
    finally:
        relay.send_signal(signal.SIGTERM)
        code = relay.wait(BOUND_S)
        log.unlink()
    assert code == 0
