"""One child as the supervisor sees it: exec'ed, watched through a pipe, ended by a signal.

The signals that a child handles are blocked while it is started and unblocked by itself once its
handlers stand (`runtime.child`): what is sent into that gap is kept by the kernel, neither lost nor
deadly. SIGINT stays without effect in children: Ctrl-C reaches the whole group, and the supervisor decides.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
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
)


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
    environment: Mapping[str, str] | None = None
    """Instead of the supervisor's own."""


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
            self._popen = _start(spec, data, pace, lifeline_fd, status_end)
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


def _start(
    spec: ChildSpec, data: Path, pace: ChildPace, lifeline_fd: int, status_fd: int
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
    )
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
            pass_fds=(lifeline_fd, status_fd, *(each.fd for each in inheritance.sockets)),
            env=environment,
            user=None if run_as is None else run_as.uid,
            group=None if run_as is None else run_as.gid,
            extra_groups=None if run_as is None else list(run_as.groups),
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
