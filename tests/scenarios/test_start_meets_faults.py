"""The machine fails the relay while it starts: briefly, and it starts; for long, and it says why not.

No fault of the machine is taken for a mistake of the operator (78), nor for a port that somebody else has.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.scenarios.fault_rig import Rig
from tests.scenarios.relay import ROLES, Relay, until
from tests.shim.build import NoCompiler, built

SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    try:
        built()
    except NoCompiler as missing:
        pytest.skip(str(missing))
    with Rig.made(tmp_path, started=False) as one:
        yield one


@pytest.mark.parametrize("error", [errno.EMFILE, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("role", ROLES)
def test_settings_that_cannot_be_read_once(rig: Rig, role: str, error: int) -> None:
    rule = rig.shim.arm(role, {"open"}, 1, error, path=f"settings/{role}.json")
    rig.relay.start()
    assert rule.fired == 1
    assert [line["how"] for line in rig.relay.said("child_died")] == [f"exit {os.EX_IOERR}"]
    assert f"settings/{role}.json cannot be read" in rig.relay.log_text()
    assert errno.errorcode[error] in rig.relay.log_text()
    rig.goes_on()


@pytest.mark.parametrize("role", ROLES)
def test_settings_that_cannot_be_read_for_long(rig: Rig, role: str) -> None:
    rule = rig.shim.arm(role, {"read"}, 1, errno.EIO, lasting=True, path=f"settings/{role}.json")
    rig.relay.start(wait=False)
    assert rig.relay.ended() == os.EX_IOERR
    assert rig.relay.said("gave_up", role=role, code=os.EX_IOERR)
    rule.disarm()
    rig.relay.start()
    rig.goes_on()


@pytest.mark.parametrize("error", SHORT, ids=errno.errorcode.get)
def test_no_socket_for_a_moment(rig: Rig, error: int) -> None:
    rule = rig.shim.arm("serve", {"socket"}, 1, error, lasting=True)
    rig.relay.start(wait=False)
    faults = until(lambda: rig.relay.said("supervisor_fault")[1:], "it was tried twice")
    assert f"port {rig.relay.port}" in faults[0]["why"]
    assert os.strerror(error) in faults[0]["why"]
    rule.disarm()
    until(lambda: rig.relay.said("ready"), "it starts")
    for event in ("port_refused", "nothing_bound", "port_fallback"):
        assert not rig.relay.said(event)
    rig.goes_on()


def test_settings_that_cannot_be_published_for_a_moment(rig: Rig) -> None:
    rule = rig.shim.arm("serve", {"sync"}, 1, errno.EIO, path="settings/")
    rig.relay.start()
    assert rule.fired == 1
    assert "settings/" in rig.relay.said("supervisor_fault")[0]["why"]
    rig.goes_on()


def test_settings_that_can_never_be_published(relay: Relay) -> None:
    relay.configure().data.mkdir()
    (relay.data / "settings").write_text("a file where the folder should be")
    relay.start(wait=False)
    assert relay.ended() == os.EX_OSERR
    (told,) = relay.said("supervisor_fault", code=os.EX_OSERR)
    assert str(relay.data / "settings") in told["why"]
    assert not relay.said("child_started")
    assert not relay.said("unstructured"), "one line, and no traceback"


def test_a_settings_file_that_cannot_be_read_just_now(relay: Relay) -> None:
    relay.config.symlink_to("/proc/self/mem")  # its first page fails with EIO
    done = relay.cli_result("serve")
    assert done.returncode == os.EX_IOERR
    assert done.stderr.decode() == f"dispatch: {relay.config} cannot be read: Input/output error (EIO)\n"
    assert not relay.data.exists(), "nothing was begun"


def test_nobody_can_read_the_welcome(relay: Relay) -> None:
    relay.configure()
    log = relay.folder / "welcomed"
    command = [sys.executable, "-m", "dispatch.cli", "serve", "--config", str(relay.config)]
    with open("/dev/full", "w") as full, log.open("w") as lines:
        serving = subprocess.Popen(
            [*command, "--data", str(relay.data)], stdout=full, stderr=lines, env=relay.environment
        )
    try:
        until(lambda: '"event":"ready"' in log.read_text() or serving.poll() is not None, "it is ready")
        serving.terminate()
        assert serving.wait(30) == os.EX_OK
    finally:
        serving.kill()
        serving.wait()
    assert "Traceback" not in log.read_text()
