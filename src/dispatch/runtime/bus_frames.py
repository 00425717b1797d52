"""The format of the bus, for its server and its client.

::

    request   length (4, big endian) | msgpack
    answer    length (4, big endian) | kind (1) | msgpack

The length counts what follows it. A request is answered by one or more frames, of which the last is
marked by its kind; then the next request may come on the same connection. Which requests and answers
there are, the bus does not know: it is given msgspec encoders and decoders for them.

Exceptions::

    BusFault
    ├── BusUnreachable    nobody listens there, or it went away, or took too long
    └── BusGarbled        the other end does not speak this format; the connection is closed

What the other end *answers*, be it that something went wrong, is a value: `BusError`.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

import msgspec

Answer = TypeVar("Answer")

REQUEST_BYTES_MAX = 4 << 20
ANSWER_BYTES_MAX = 16 << 20
TIMEOUT_S = 10.0
LENGTH = struct.Struct(">I")

# sockaddr_un.sun_path of Linux, with its NUL.
_SUN_PATH_BYTES = 108
_encode = msgspec.msgpack.Encoder().encode


class Kind(IntEnum):
    MORE = 0
    """An answer; another frame follows."""
    LAST = 1
    """An answer, and the last frame."""
    END = 2
    """No answer any more: the last frame of a row whose end was not foreseen."""
    ERROR = 3
    """A `BusError`, and the last frame."""


class BusError(msgspec.Struct, frozen=True):
    """The other end could not do it."""

    code: str
    """`malformed`, `too_large`, `internal`, or one that the service defines."""
    message: str


class BusFault(Exception):
    """The conversation failed; see the tree above."""


class BusUnreachable(BusFault):
    pass


class BusGarbled(BusFault):
    pass


_decode_error = msgspec.msgpack.Decoder(BusError).decode


def request_frame(request: object) -> bytes:
    """Raises `ValueError` where it is larger than any server takes."""
    body = _encode(request)
    if len(body) > REQUEST_BYTES_MAX:
        raise ValueError(f"a request of {len(body)} bytes: the bus takes {REQUEST_BYTES_MAX}")
    return LENGTH.pack(len(body)) + body


def answer_frame(kind: Kind, answer: object = None) -> bytes:
    """An answer that is too large becomes the error that says so."""
    body = b"" if kind is Kind.END else _encode(answer)
    if len(body) >= ANSWER_BYTES_MAX:
        error = BusError("too_large", f"the answer has {len(body)} bytes: the bus takes {ANSWER_BYTES_MAX}")
        return answer_frame(Kind.ERROR, error)
    return LENGTH.pack(len(body) + 1) + bytes([kind]) + body


def answer_length(head: bytes) -> int:
    length = int(LENGTH.unpack(head)[0])
    if not 1 <= length <= ANSWER_BYTES_MAX:
        raise BusGarbled(f"an answer of {length} bytes")
    return length


def read_answer(
    frame: bytes, answers: msgspec.msgpack.Decoder[Answer]
) -> tuple[Kind, tuple[Answer | BusError, ...]]:
    """The kind, and what was answered (nothing at `Kind.END`). Raises `BusGarbled`."""
    try:
        kind = Kind(frame[0])
        match kind:
            case Kind.END:
                return kind, ()
            case Kind.ERROR:
                return kind, (_decode_error(memoryview(frame)[1:]),)
            case _:
                return kind, (answers.decode(memoryview(frame)[1:]),)
    except ValueError as error:  # msgspec's errors are among them
        raise BusGarbled(f"an answer that is none: {error}") from error


def socket_path(run: Path, role: str) -> Path:
    return run / f"{role}.sock"


def hint_path(run: Path, role: str) -> Path:
    return run / f"{role}.hint"


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """An address of a socket for `bind` and `connect`, good while the context lasts.

    The kernel takes 108 bytes; a data folder may lie deeper. Then the folder is opened and named by its
    descriptor. (A second home under /tmp would be another place to guard, and is another place for
    a service with a private /tmp.)
    """
    if len(os.fsencode(path)) < _SUN_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def bind_at(path: Path, kind: socket.SocketKind, *, shared: bool) -> socket.socket:
    """A Unix socket of our own at `path`, in the place of what a predecessor left there.

    The caller holds the role's lock: nobody lives behind the old one. `shared`: other users may
    reach it (and are then looked at one by one); else only ours and root.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, kind)
    try:
        made.setblocking(False)
        with reachable(path) as address:
            made.bind(address)
        path.chmod(0o666 if shared else 0o600)
    except BaseException:
        made.close()
        raise
    return made
