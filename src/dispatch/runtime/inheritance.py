"""What a child is born with, and the alphabet it speaks to its supervisor.

One environment variable holds a JSON object: the role, the data folder, and the numbers of the
file descriptors that came through `exec`. The *lifeline* is the reading end of a pipe to which
nothing is ever written: its end of file means that the supervisor is gone, however it died. The
*status* pipe carries single bytes to the supervisor; bytes cannot be torn and need no parser.

Nothing secret passes through the environment, which the user of a process can read. What a child must know
of secrets comes through a pipe of its own, written and closed before the child runs (decision 0015).
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import NamedTuple

import msgspec

VARIABLE = "DISPATCH_CHILD"

READY = b"R"
BEAT = b"."
DRAINING = b"D"
RELOADED = b"L"
RELOAD_FAILED = b"F"


class NotAChild(RuntimeError):
    """The process was not started by a supervisor."""


class Listener(NamedTuple):
    """A listening socket and what it is for: `smtp`, `smtps`, `dashboard`, …"""

    purpose: str
    socket: socket.socket


class InheritedSocket(msgspec.Struct, frozen=True):
    purpose: str
    fd: int


class Inheritance(msgspec.Struct, frozen=True):
    role: str
    data: str
    lifeline_fd: int
    status_fd: int
    sockets: tuple[InheritedSocket, ...]
    drain_s: float
    """How long what is under way may take after SIGTERM."""
    orphan_drain_s: float
    """The same after the supervisor is gone: short, for its successor waits for our lock."""
    beat_s: float
    secret_fd: int = -1
    """The reading end of a pipe with the role's secret; below zero: it has none."""

    def to_environment(self) -> dict[str, str]:
        return {VARIABLE: msgspec.json.encode(self).decode()}

    def listeners(self) -> tuple[Listener, ...]:
        """Take the inherited sockets over; to be called once."""
        return tuple(
            Listener(inherited.purpose, socket.socket(fileno=inherited.fd)) for inherited in self.sockets
        )

    def secret(self) -> bytes:
        """Read the role's secret, and close its pipe; to be called once."""
        if self.secret_fd < 0:
            return b""
        with os.fdopen(self.secret_fd, "rb") as pipe:
            return pipe.read()


def take_inheritance(environment: MutableMapping[str, str] = os.environ) -> Inheritance:
    """Read the variable and remove it, so that no process started by this one believes it is its own.

    Raises `NotAChild` where it is absent or is not what a supervisor of this version writes.
    """
    text = environment.pop(VARIABLE, None)
    if text is None:
        raise NotAChild(f"{VARIABLE} is not set: this process is started by `dispatch serve`, not by hand")
    try:
        inheritance = msgspec.json.decode(text, type=Inheritance)
    except msgspec.MsgspecError as error:
        raise NotAChild(f"{VARIABLE}: {error}") from error
    secret_fds = (inheritance.secret_fd,) if inheritance.secret_fd >= 0 else ()
    sockets = (inherited.fd for inherited in inheritance.sockets)
    for fd in (inheritance.lifeline_fd, inheritance.status_fd, *secret_fds, *sockets):
        os.set_inheritable(fd, False)
    return inheritance
