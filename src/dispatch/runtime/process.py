"""One child as the supervisor sees it: exec'ed, watched through a pipe, ended by a signal.

The signals that a child handles are blocked while it is started and unblocked by itself once its
handlers stand (`runtime.child`): what is sent into that gap is kept by the kernel, neither lost nor
deadly. SIGINT stays without effect in children: Ctrl-C reaches the whole group, and the supervisor decides.

A secret goes through a pipe that holds all of it before the child runs, and whose writing end is closed by
then: so the child never waits for it, and nobody else can read it again.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dispatch.runtime.inheritance import Inheritance, InheritedSocket, Listener

HELD_BACK = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
"""Blocked from before `exec` until the child's handlers stand."""

# What is meant for the supervisor alone; a child that answered systemd would speak for all.
_NOT_INHERITED = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    # Where the vault's key lies, of which each child has what it needs.
    "CREDENTIALS_DIRECTORY",
)

_SECRET_BYTES_MAX = 4096
"""PIPE_BUF: any pipe takes so much at once."""


@dataclass(frozen=True, slots=True)
class RunAs:
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run for a role; made by whoever composes the product."""

    role: str
    argv: tuple[str, ...]
    listeners: tuple[Listener, ...] = ()
    """The supervisor keeps them open over restarts, and closes them when the role is drained."""
    drain_s: float = 30.0
    reload_on_hangup: bool = False
    """SIGHUP to the supervisor is passed on to this role."""
    run_as: RunAs | None = None
    environment: Mapping[str, str] | None = field(default=None, repr=False)
    """Instead of the supervisor's own."""
    secret: bytes = field(default=b"", repr=False)
    """Handed over through a pipe, at each start anew: never by environment or argument."""


@dataclass(frozen=True, slots=True)
class ChildPace:
    """How children are paced; the defaults are the product's, tests use shorter ones."""

    beat_s: float = 1.0
    orphan_drain_s: float = 5.0


class ChildProcess:
    """A child that was started. `pid` stays valid until `ended` returned its code."""

    def __init__(self, spec: ChildSpec, data: Path, pace: ChildPace, lifeline_fd: int, now_s: float) -> None:
        """Start it; `OSError` where the program cannot be started."""
        self.spec = spec
        self.started_s = now_s
        self.heard_s = now_s
        self.is_ready = False
        self.status_fd, status_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            with _secret_pipe(spec.secret) as secret_fd:
                self._popen = _start(spec, data, pace, lifeline_fd, status_end, secret_fd)
        except BaseException:
            os.close(self.status_fd)
            raise
        finally:
            os.close(status_end)
        self.pid = self._popen.pid

    def hear(self) -> bytes:
        """What the child said since the last time; empty at the end of its pipe, or when it said nothing."""
        try:
            return os.read(self.status_fd, 4096)
        except BlockingIOError:
            return b""

    def send(self, number: signal.Signals) -> None:
        # Not Popen.send_signal, which reaps a child that just died: its end would then be seen by nobody.
        # The pid is its own until `ended` reaped it.
        assert self._popen.returncode is None
        os.kill(self.pid, number)

    def ended(self) -> int | None:
        """Its code, once it ended: below zero, the signal that killed it."""
        return self._popen.poll()

    def wait(self, limit_s: float) -> bool:
        """Wait until it has ended; whether it did within `limit_s`."""
        try:
            self._popen.wait(limit_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        os.close(self.status_fd)


@contextmanager
def _secret_pipe(secret: bytes) -> Iterator[int]:
    """The reading end of a pipe that holds the secret, while the block lasts; -1 where there is none."""
    if not secret:
        yield -1
        return
    assert len(secret) <= _SECRET_BYTES_MAX, "the pipe might not take it whole"
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            os.write(writing, secret)
        finally:
            os.close(writing)
        yield reading
    finally:
        os.close(reading)


def _start(
    spec: ChildSpec, data: Path, pace: ChildPace, lifeline_fd: int, status_fd: int, secret_fd: int
) -> subprocess.Popen[bytes]:
    inheritance = Inheritance(
        role=spec.role,
        data=str(data),
        lifeline_fd=lifeline_fd,
        status_fd=status_fd,
        sockets=tuple(InheritedSocket(each.purpose, each.socket.fileno()) for each in spec.listeners),
        drain_s=spec.drain_s,
        orphan_drain_s=pace.orphan_drain_s,
        beat_s=pace.beat_s,
        secret_fd=secret_fd,
    )
    secret_fds = (secret_fd,) if secret_fd >= 0 else ()
    environment = dict(os.environ if spec.environment is None else spec.environment)
    for name in _NOT_INHERITED:
        environment.pop(name, None)
    environment.update(inheritance.to_environment())
    run_as = spec.run_as
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        return subprocess.Popen(  # noqa: S603 - the argv is the product's own
            spec.argv,
            stdin=subprocess.DEVNULL,
            close_fds=True,
            pass_fds=(lifeline_fd, status_fd, *secret_fds, *(each.fd for each in inheritance.sockets)),
            env=environment,
            user=None if run_as is None else run_as.uid,
            group=None if run_as is None else run_as.gid,
            extra_groups=None if run_as is None else list(run_as.groups),
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
