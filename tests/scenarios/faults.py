"""Which system calls of the real processes can fail with what, found by watching a message on its way.

The calls are not listed by hand. A *journey* (a small message, a large one, one that is parked, one that is
captured, …) is sent once while the shim records; each call of a role below the data folder or on a socket
is a *point*: the nth call of its kind about that target. The places that calls are made from, all points of
the same role, kind and target together, are *sites*. `fault_rig` lets them fail.

What is not failed: pipes and eventfds, whose calls fail only where a program is wrong; mapped stores.
"""

from __future__ import annotations

import errno
import re
import socket
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from tests.shim.control import Call, Kind, Where

PATIENCE_S = 20.0
"""A client that hears nothing for so long hangs. The log's longest wait between two tries is ten seconds."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
ERRORS: dict[Kind, tuple[int, ...]] = {
    "open": (*NO_DESCRIPTOR, errno.EIO, errno.EROFS),
    "create": (*NO_ROOM, *NO_DESCRIPTOR, errno.EIO, errno.EROFS),
    "read": (errno.EIO,),
    "write": (*NO_ROOM, errno.EIO, errno.EROFS),
    "sync": (errno.EIO, *NO_ROOM, errno.EROFS),
    "truncate": (errno.EIO, errno.EROFS),
    "fallocate": (*NO_ROOM, errno.EIO, errno.EROFS),
    "rename": (*NO_ROOM, errno.EIO, errno.EROFS),
    "unlink": (errno.EIO, errno.EROFS),
    "mkdir": (*NO_ROOM, errno.EIO, errno.EROFS),
    "statvfs": (errno.EIO,),
    "list": (*NO_DESCRIPTOR, errno.EIO),
    "mmap": (errno.ENOMEM, errno.ENFILE),
}
"""What each call may fail with, on files and folders (the manual pages of section 2)."""
SOCKET_ERRORS: dict[Kind, tuple[int, ...]] = {
    "socket": (*NO_DESCRIPTOR, errno.ENOBUFS),
    "connect": (errno.EADDRNOTAVAIL, errno.ENETUNREACH),
    "accept": (*NO_DESCRIPTOR, errno.ENOBUFS),
    "read": (errno.ECONNRESET,),
    "write": (errno.EPIPE, errno.ENOBUFS),
    "epoll": (errno.ENOSPC, errno.ENOMEM),
}


def kinds_with(errors: dict[Kind, tuple[int, ...]], error: int) -> set[Kind]:
    """The calls that can fail like this."""
    return {kind for kind, possible in errors.items() if error in possible}


class Target(NamedTuple):
    """What a call is about."""

    name: str
    where: Where
    part: str
    """What the shim looks for in a path."""
    pattern: str
    """Of kind and path."""


_NAMES = "(open|create|rename|unlink) "
TARGETS = (
    Target("spare of the mail log", Where.BELOW, ".spare$", _NAMES + r"mail/0/\w+\.spare"),
    Target("segment of the mail log", Where.BELOW, ".segment$", _NAMES + r"mail/0/[\w-]+\.segment"),
    Target("mail log", Where.BELOW, "mail/0/", r"\w+ mail/0/[\w-]+\.(segment|spare)"),
    Target("folder of the mail log", Where.BELOW, "mail/0$", r"\w+ mail/0"),
    Target("content file", Where.BELOW, "content/0/", r"\w+ content/0/.+"),
    Target("folder of content files", Where.BELOW, "content/0$", r"\w+ content/0"),
    Target("spare of the ledger", Where.BELOW, ".spare$", _NAMES + r"ledger/0/\w+\.spare"),
    Target("segment of the ledger", Where.BELOW, ".segment$", _NAMES + r"ledger/0/[\w-]+\.segment"),
    Target("ledger", Where.BELOW, "ledger/0/", r"\w+ ledger/0/[\w-]+\.(segment|spare)"),
    Target("folder of the ledger", Where.BELOW, "ledger/0$", r"\w+ ledger/0"),
    Target("parked.db-wal", Where.BELOW, "parked.db-wal", r"\w+ parked\.db-wal"),
    Target("parked.db", Where.BELOW, "parked.db$", r"\w+ parked\.db"),
    Target("captured file", Where.BELOW, "captured/", r"\w+ captured/.+"),
    Target("folder of captured mail", Where.BELOW, "captured$", r"\w+ captured"),
    Target("history.db-wal", Where.BELOW, "history.db-wal", r"\w+ history\.db-wal"),
    Target("history.db", Where.BELOW, "history.db$", r"\w+ history\.db"),
    Target("room on the disk", Where.BELOW, "", r"statvfs "),
    Target("socket", Where.SOCKET, "", r"\w+ socket"),
    Target("log output", Where.ELSEWHERE, "/relay/log", r"write .+/relay/log"),
)


class Site(NamedTuple):
    """Where a process makes calls, as the table of `docs/develop/faults.md` has it."""

    role: str
    kind: Kind
    target: Target

    @property
    def errors(self) -> tuple[int, ...]:
        if self.target.where is Where.ELSEWHERE:
            return (errno.ENOSPC, errno.EIO)
        return (SOCKET_ERRORS if self.target.where is Where.SOCKET else ERRORS)[self.kind]

    def __str__(self) -> str:
        return f"{self.role}: {self.kind}, {self.target.name}"

    def right_answers(self, error: int) -> set[int]:
        """What a client may be told; 0: the connection breaks, where it is the connection that has failed."""
        if self.role != "intake":
            return {250}
        if self.target.where is Where.SOCKET:
            return {250, 0}
        return {250, 452 if error in NO_ROOM or self.kind == "statvfs" else 451}


class Point(NamedTuple):
    """The nth call of the site's kind about the site's target, of one journey."""

    site: Site
    nth: int


def points_of(role: str, calls: list[Call]) -> list[Point]:
    """Every call that can be failed, in order."""
    counts: Counter[tuple[Kind, str]] = Counter()
    points = []
    for call in calls:
        for kind, part in {(call.kind, target.part) for target in TARGETS if _armed_by(target, call)}:
            counts[kind, part] += 1
        target = next((each for each in TARGETS if _about(each, call)), None)
        if target is not None and call.kind != "close":
            points.append(Point(Site(role, call.kind, target), counts[call.kind, target.part]))
    return points


def _armed_by(target: Target, call: Call) -> bool:
    part = target.part
    fits = call.path.endswith(part[:-1]) if part.endswith("$") else part in call.path
    return fits and target.where is call.where


def _about(target: Target, call: Call) -> bool:
    return target.where is call.where and re.fullmatch(target.pattern, f"{call.kind} {call.path}") is not None


class Journey(NamedTuple):
    """A message, and what becomes of it while all is well."""

    name: str
    content: bytes
    domain: str = "example.net"
    recipients: int = 1
    messages: int = 1
    fresh: bool = False
    """The upstream has closed its connections before."""


CAPTURED_DOMAIN = "capture.test"
LATER_DOMAIN = "later.test"
"""Deferred once by the upstream, and so parked."""
_LINE = b"x" * 76 + b"\r\n"
SMALL = Journey("small", _LINE)
FRESH = Journey("small, over a new connection", _LINE, fresh=True)
LARGE = Journey("large", (b"x" * 990 + b"\r\n") * 1200)
PARKED = Journey("parked", _LINE, LATER_DOMAIN)
PARKED_LARGE = Journey("parked, large", LARGE.content, LATER_DOMAIN)
PARKED_PILE = Journey("parked, many", _LINE * 12_000, LATER_DOMAIN, messages=20)
"""More than SQLite leaves in its write-ahead log."""
KEPT = Journey("captured", _LINE, CAPTURED_DOMAIN)
KEPT_LARGE = Journey("captured, large", LARGE.content, CAPTURED_DOMAIN)
ROLL = Journey("a new segment", _LINE * 4_000, CAPTURED_DOMAIN, recipients=2600, messages=2)
"""Each needs a segment of the mail log for itself, and both together a new one of the ledger."""


class Group(NamedTuple):
    """Journeys, and what of their calls is failed with them; the rest is another group's."""

    journeys: tuple[Journey, ...]
    targets: tuple[str, ...]


GROUPS = {
    "small": Group((FRESH,), ("mail log", "ledger", "socket", "history.db-wal")),
    "large": Group((LARGE, PARKED_LARGE), ("content file", "folder of content files")),
    "captured": Group((KEPT, KEPT_LARGE), ("captured file", "folder of captured mail")),
    "parked": Group((PARKED,), ("parked.db-wal", "log output")),
    "segments": Group(
        (ROLL,),
        (
            *("spare of the mail log", "segment of the mail log", "folder of the mail log"),
            *("spare of the ledger", "segment of the ledger", "folder of the ledger"),
        ),
    ),
}

OF_THEIR_OWN = {"room on the disk", "parked.db", "history.db"}
"""What is called now and then, not for each message, has tests of its own."""


class Answer(NamedTuple):
    code: int
    """Of the first reply that is negative, or of the last; 0 where the connection broke before."""
    text: str
    whole: bool
    """The end of data was sent."""

    @property
    def accepted(self) -> bool:
        return self.code == 250


def offer(port: int, sender: str, recipients: list[str], content: bytes) -> Answer:
    """One message over one connection. A connection that hangs is a failure of the test."""
    whole = False
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection,
            connection.makefile("rb") as lines,
        ):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            steps = [(b"", 1), (b"EHLO client.test\r\n", 1), (f"MAIL FROM:<{sender}>\r\n".encode(), 1)]
            everybody = "".join(f"RCPT TO:<{each}>\r\n" for each in recipients).encode()
            for said, replies in [*steps, (everybody, len(recipients)), (b"DATA\r\n", 1)]:
                connection.sendall(said)
                for _ in range(replies):
                    code, text = _reply(lines.readline)
                    if code >= 400:
                        return Answer(code, text, whole=False)
            connection.sendall(content)
            whole = True
            connection.sendall(b".\r\n")
            return Answer(*_reply(lines.readline), whole=True)
    except TimeoutError:
        raise AssertionError(f"the session hangs: nothing was heard for {PATIENCE_S} s") from None
    except OSError as error:
        return Answer(0, str(error), whole)


def _reply(readline: Callable[[], bytes]) -> tuple[int, str]:
    text = []
    while (line := readline())[3:4] == b"-":
        text.append(line[4:].decode().strip())
    if not line:
        raise ConnectionResetError("the connection was closed")
    return int(line[:3]), " ".join([*text, line[4:].decode().strip()])


def _recipients(journey: Journey, token: int) -> list[str]:
    if journey.recipients == 1:
        return [f"m{token}@{journey.domain}"]
    # As long as addresses may be, since it is about bytes.
    host = ".".join(["x" * 60, "y" * 60, "z" * 40, journey.domain])
    return [f"m{token}-{number:050d}@{host}" for number in range(journey.recipients)]
