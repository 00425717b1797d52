"""A child is born with its secret, which nobody can read off the process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dispatch.runtime.inheritance import VARIABLE, take_inheritance
from dispatch.runtime.process import ChildPace, ChildProcess, ChildSpec

CHILD = """
import os, sys
from dispatch.runtime.inheritance import take_inheritance
environment, arguments = open("/proc/self/environ", "rb").read(), open("/proc/self/cmdline", "rb").read()
inheritance = take_inheritance()
secret = inheritance.secret()
with open(sys.argv[1], "wb") as told:
    told.write(b"%d %d %s" % (secret in environment, secret in arguments, secret))
try:
    os.fstat(inheritance.secret_fd)
except OSError:
    sys.exit(0)
sys.exit(1)
"""
SECRET = b"\x00\xffa secret, with any bytes\n" * 2


def _child(tmp_path: Path, secret: bytes) -> tuple[int, bytes]:
    """How it ended, and what it was told."""
    told = tmp_path / "told"
    spec = ChildSpec("intake", (sys.executable, "-c", CHILD, str(told)), secret=secret)
    lifeline, own_end = os.pipe2(os.O_CLOEXEC)
    try:
        process = ChildProcess(spec, tmp_path, ChildPace(), lifeline, 0.0)
        assert process.wait(30.0)
        code = process.ended()
        process.close()
    finally:
        os.close(lifeline)
        os.close(own_end)
    assert code is not None
    return code, told.read_bytes()


def test_through_a_pipe_that_is_gone_when_it_was_read(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    code, told = _child(tmp_path, SECRET)
    assert told == b"0 0 " + SECRET
    assert code == 0, "its end of the pipe is closed"
    assert len(os.listdir("/proc/self/fd")) == before, "so are ours"


def test_each_start_hands_it_over_again(tmp_path: Path) -> None:
    assert _child(tmp_path, SECRET) == _child(tmp_path, SECRET)


def test_a_spec_does_not_show_it() -> None:
    assert "hidden" not in repr(ChildSpec("intake", (), secret=b"hidden"))


def test_who_was_given_none_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    inheritance = (
        '{"role":"intake","data":"/d","lifeline_fd":0,"status_fd":0,"sockets":[],'
        '"drain_s":1,"orphan_drain_s":1,"beat_s":1}'
    )
    assert take_inheritance({VARIABLE: inheritance}).secret() == b""
