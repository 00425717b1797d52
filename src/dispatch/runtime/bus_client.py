"""The client of the bus. It blocks: the command line, which uses it, has no event loop to start."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Generic

import msgspec

from dispatch.runtime.bus_frames import (
    LENGTH,
    TIMEOUT_S,
    Answer,
    BusError,
    BusFault,
    BusGarbled,
    BusUnreachable,
    Kind,
    answer_length,
    reachable,
    read_answer,
    request_frame,
)


class BusClient(Generic[Answer]):
    """One connection, made with the first request and kept; one request after another."""

    def __init__(
        self, path: Path, answers: msgspec.msgpack.Decoder[Answer], timeout_s: float = TIMEOUT_S
    ) -> None:
        """`timeout_s`: for connecting, and for each frame of an answer."""
        self._path = path
        self._answers = answers
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None

    def ask(self, request: object) -> Answer | BusError:
        """The one answer to a request that has one. Raises `BusFault`."""
        answers = list(self.stream(request))
        if len(answers) != 1:
            raise BusGarbled(f"{len(answers)} answers where one was expected")
        return answers[0]

    def stream(self, request: object) -> Iterator[Answer | BusError]:
        """All answers, as they come; an error is the last. Raises `BusFault`.

        Whoever stops half-way loses the connection, not the client.
        """
        frame = request_frame(request)
        finished = False
        try:
            connection = self._connect()
            connection.sendall(frame)
            while not finished:
                kind, answers = self._read_answer(connection)
                finished = kind is not Kind.MORE
                yield from answers
        except OSError as error:
            raise BusUnreachable(f"{self._path}: {error}") from error
        finally:
            if not finished:
                self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> BusClient[Answer]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self) -> socket.socket:
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(self._timeout_s)
            try:
                with reachable(self._path) as address:
                    connection.connect(address)
            except OSError:
                connection.close()
                raise
            self._socket = connection
        self._socket.settimeout(self._timeout_s)
        return self._socket

    def _read_answer(self, connection: socket.socket) -> tuple[Kind, tuple[Answer | BusError, ...]]:
        length = answer_length(self._read(connection, LENGTH.size))
        return read_answer(self._read(connection, length), self._answers)

    def _read(self, connection: socket.socket, size_bytes: int) -> bytes:
        deadline_s = time.monotonic() + self._timeout_s
        read = bytearray()
        while len(read) < size_bytes:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"no answer within {self._timeout_s} s")
            connection.settimeout(left_s)
            piece = connection.recv(min(size_bytes - len(read), 1 << 18))
            if not piece:
                raise ConnectionResetError("closed before the answer was complete")
            read += piece
        return bytes(read)


__all__ = ["BusClient", "BusError", "BusFault", "BusGarbled", "BusUnreachable"]
