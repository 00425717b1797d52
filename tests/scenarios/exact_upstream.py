"""An upstream that takes everything and keeps the octets as they came, for scenarios about where mail ends.

It reads by the letter: a command ends in CRLF, the end of data is CRLF.CRLF, a chunk has the length that its
BDAT names. What a looser host would make of the same octets is for the scenario to ask (`Taken.faults`).
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

CRLF = b"\r\n"
END_OF_DATA = b"\r\n.\r\n"
BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
"""A CR or LF that is no CRLF pair."""
_GREETING = b"220 upstream.test ESMTP\r\n"
_EXTENSIONS = ("upstream.test", "PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 100000000")
_READ_BYTES = 1 << 16


def unstuffed(lines: bytes) -> bytes:
    """Without the first dot of each line that begins with one (RFC 5321 section 4.5.2)."""
    return (CRLF + lines).replace(b"\r\n.", CRLF)[len(CRLF) :]


@dataclass(frozen=True)
class Taken:
    """One message, and the octets in which it came."""

    reverse_path: str
    recipients: tuple[str, ...]
    by: str
    """DATA or BDAT."""
    raw: bytes
    """All behind the 354, the end of data included; or the chunks, without their commands."""

    @property
    def content(self) -> bytes:
        if self.by == "BDAT":
            return self.raw
        return unstuffed(self.raw[: -len(b".\r\n")])

    def faults(self) -> list[str]:
        """What another host could read otherwise than this one did."""
        found = [f"bare newline at {match.start()} of what left" for match in BARE.finditer(self.raw)][:1]
        if self.by == "DATA":
            ends = [match.start() for match in re.finditer(rb"(?<=\r\n)\.(?=\r\n)", CRLF + self.raw)]
            if ends != [len(self.raw) - 1]:
                found.append(f"ends of data at {ends} of {len(self.raw)} octets")
        return found


class ExactUpstream:
    """Listens from its making until `close`; a thread a connection."""

    def __init__(self, *, chunking: bool = False) -> None:
        self.taken: list[Taken] = []
        self.strange: list[bytes] = []
        """Lines that are no command of a client that is in order."""
        self.greeting = b"".join(
            b"250%c%s\r\n" % (b"- "[last], word.encode())
            for last, word in zip(
                (False,) * len(_EXTENSIONS) + (True,),
                (*_EXTENSIONS, "CHUNKING" if chunking else "8BITMIME"),
                strict=True,
            )
        )
        self._server = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port: int = self._server.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._conversations: list[threading.Thread] = []
        self._acceptor = _started(self._accept)

    def table(self, **settings: object) -> str:
        """The body of a `[[relays]]` table that leads here."""
        keys = {"name": "upstream", "host": "127.0.0.1", "port": self.port} | settings
        return "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._server.close()
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        for thread in self._conversations:
            thread.join(10)
            assert not thread.is_alive(), "a conversation of the upstream hangs"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(connection)
            self._conversations.append(_started(_Conversation(self, connection).run))

    def ended(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)


def _started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


class _Gone(OSError):
    """The client has closed."""


class _Conversation:
    def __init__(self, upstream: ExactUpstream, connection: socket.socket) -> None:
        self._upstream = upstream
        self._connection = connection
        self._arrived = bytearray()
        self._reverse_path = ""
        self._recipients: list[str] = []
        self._chunks = b""

    def run(self) -> None:
        try:
            with self._connection:
                self._connection.sendall(_GREETING)
                while self._command(self._to(CRLF)):
                    pass
        except OSError:
            pass
        finally:
            self._upstream.ended(self._connection)

    def _command(self, line: bytes) -> bool:
        """Whether the conversation goes on behind it."""
        verb, _, argument = line.partition(b" ")
        answer = b"250 2.0.0 Ok\r\n"
        match verb:
            case b"EHLO":
                answer = self._upstream.greeting
            case b"MAIL":
                self._reverse_path, self._recipients, self._chunks = _path(argument), [], b""
            case b"RCPT":
                self._recipients.append(_path(argument))
            case b"DATA" if not argument:
                self._connection.sendall(b"354 Go ahead\r\n")
                self._arrived[:0] = CRLF
                self._take("DATA", (self._to(END_OF_DATA) + END_OF_DATA)[len(CRLF) :])
            case b"BDAT":
                size, _, last = argument.partition(b" ")
                self._chunks += self._exactly(int(size))
                if last:
                    self._take("BDAT", self._chunks)
            case b"RSET" | b"NOOP" if not argument:
                pass
            case b"QUIT":
                answer = b"221 2.0.0 Bye\r\n"
            case _:
                self._upstream.strange.append(line)
                answer = b"500 5.5.1 What?\r\n"
        self._connection.sendall(answer)
        return verb != b"QUIT"

    def _take(self, by: str, raw: bytes) -> None:
        self._upstream.taken.append(Taken(self._reverse_path, tuple(self._recipients), by, raw))

    def _to(self, end: bytes) -> bytes:
        """What comes before `end`, which is used up."""
        searched = 0
        while (at := self._arrived.find(end, searched)) < 0:
            searched = max(0, len(self._arrived) - len(end))
            self._receive()
        return self._use(at, at + len(end))

    def _exactly(self, size_bytes: int) -> bytes:
        while len(self._arrived) < size_bytes:
            self._receive()
        return self._use(size_bytes, size_bytes)

    def _use(self, given: int, used: int) -> bytes:
        text = bytes(self._arrived[:given])
        del self._arrived[:used]
        return text

    def _receive(self) -> None:
        data = self._connection.recv(_READ_BYTES)
        if not data:
            raise _Gone
        self._arrived += data


def _path(argument: bytes) -> str:
    text = argument.decode()
    return text[text.index("<") + 1 : text.index(">")]
