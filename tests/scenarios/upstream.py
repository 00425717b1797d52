"""An upstream that does as it is told: refuses, defers, stalls, drops at any step, or delivers.

A plain thread a connection; the scripts are few lines, so that a scenario can be read. It is deliberately
nothing of the product's own SMTP code.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

Step = str
"""`greeting`, `EHLO`, `MAIL`, `RCPT`, `DATA`, `lines` (the content's first line was received), `content` (the
end of data was received)."""
DROP = "drop"
STALL = "stall"
"""Say nothing until `release` is called, then the usual reply."""
Script = Callable[[Step, str, int], str | None]
"""Step, argument, how often the step was reached: a reply, DROP, STALL, or None for the usual reply."""

USUAL = {
    "greeting": "220 upstream.test ESMTP",
    "EHLO": "250-upstream.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 100000000",
    "MAIL": "250 2.1.0 Ok",
    "RCPT": "250 2.1.5 Ok",
    "DATA": "354 Go ahead",
    "lines": "",
    "content": "250 2.0.0 Ok",
    "RSET": "250 2.0.0 Ok",
    "NOOP": "250 2.0.0 Ok",
    "QUIT": "221 2.0.0 Bye",
}
STALL_S_MAX = 120


def usual(step: Step, argument: str, count: int) -> str | None:
    """The script of an upstream that takes everything."""
    return None


def at(step: Step, *answers: str | None) -> Script:
    """The first times that the step is reached, these answers; then the usual ones."""

    def script(reached: Step, argument: str, count: int) -> str | None:
        return answers[count - 1] if reached == step and count <= len(answers) else None

    return script


def always(step: Step, answer: str, containing: str = "") -> Script:
    """Each time that the step is reached with an argument that contains this text."""

    def script(reached: Step, argument: str, count: int) -> str | None:
        return answer if reached == step and containing in argument else None

    return script


@dataclass
class Received:
    """One transaction that came to its end of data, with what was answered to it."""

    reverse_path: str
    recipients: list[str]
    content: bytes
    answer: str | None


@dataclass
class Upstream:
    script: Script = usual
    port: int = 0
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    address: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None
    """With it, STARTTLS is offered; before, the script is not asked."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._open: set[socket.socket] = set()
        self._conversations: set[threading.Thread] = set()
        self._released = threading.Event()
        self._server: socket.socket | None = None
        self.start()

    @property
    def delivered(self) -> list[Received]:
        """What it took responsibility for."""
        return [each for each in self.received if each.answer is not None and each.answer.startswith("2")]

    def count(self, step: Step) -> int:
        """How often the step was reached."""
        return self._counts.get(step, 0)

    def table(self, **settings: object) -> str:
        """The body of a `[[relays]]` table that leads here."""
        keys = {"name": "upstream", "host": "127.0.0.1", "port": self.port} | settings
        return "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())

    def start(self) -> None:
        """Listen (again), always at the same port."""
        server = socket.create_server((self.address, self.port), backlog=100)
        self.port = server.getsockname()[1]
        self._server = server
        self._acceptor = _started(self._accept, server)

    def stop(self) -> None:
        """Refuse connections, and cut those that are open."""
        if self._server is not None:
            self._server.shutdown(socket.SHUT_RDWR)
            self._acceptor.join()
            self._server.close()
            self._server = None
        with self._lock:
            for connection in list(self._open):
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self) -> None:
        """For good: no thread of it is left."""
        self.stop()
        self._released.set()
        deadline = time.monotonic() + 10
        for thread in self._conversations:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), "a conversation of the upstream hangs"

    def release(self) -> None:
        """Everything that stalls goes on, with the usual reply."""
        self._released.set()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(connection)
            self._conversations.add(_started(self._serve, connection))

    def _serve(self, connection: socket.socket) -> None:
        try:
            with ExitStack() as stack:
                stack.enter_context(connection)
                lines = stack.enter_context(connection.makefile("rb"))
                _Conversation(self, connection, lines.readline, stack).run()
        except OSError:
            pass
        finally:
            with self._lock:
                self._open.discard(connection)

    def secured(self, connection: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
        """The same connection, over TLS."""
        secured = tls.wrap_socket(connection, server_side=True)
        with self._lock:
            self._open.discard(connection)
            self._open.add(secured)
        return secured

    def answer(self, step: Step, argument: str) -> str:
        with self._lock:
            count = self._counts[step] = self._counts.get(step, 0) + 1
        said = self.script(step, argument, count)
        if said == STALL:
            self._released.wait(STALL_S_MAX)
            said = None
        return USUAL.get(step, "500 5.5.1 What?") if said is None else said


def _started(work: Callable[[socket.socket], None], connection: socket.socket) -> threading.Thread:
    thread = threading.Thread(target=work, args=(connection,), daemon=True)
    thread.start()
    return thread


class _Dropped(OSError):
    pass


class _Conversation:
    def __init__(
        self,
        upstream: Upstream,
        connection: socket.socket,
        readline: Callable[[], bytes],
        stack: ExitStack,
    ) -> None:
        self._stack = stack
        self._upstream = upstream
        self._connection = connection
        self._readline = readline
        self._reverse_path = ""
        self._recipients: list[str] = []

    def run(self) -> None:
        if self._say(self._upstream.answer("greeting", "")):
            return
        while line := self._readline():
            verb, _, argument = line.decode().strip().partition(" ")
            verb = "EHLO" if verb == "HELO" else verb.upper()
            if self._upstream.tls is not None and not isinstance(self._connection, ssl.SSLSocket):
                self._before_tls(verb, self._upstream.tls)
                continue
            answer = self._upstream.answer(verb, argument)
            if verb == "MAIL" and answer.startswith("2"):
                self._reverse_path, self._recipients = _path(argument), []
            elif verb == "RCPT" and answer.startswith("2"):
                self._recipients.append(_path(argument))
            elif verb == "DATA" and answer.startswith("3") and not self._recipients:
                answer = "554 5.5.1 No valid recipients"
            elif verb == "DATA" and answer.startswith("3"):
                self._say(answer)
                if self._take_content():
                    return
                continue
            if self._say(answer) or verb == "QUIT":
                return

    def _before_tls(self, verb: str, tls: ssl.SSLContext) -> None:
        if verb == "EHLO":
            self._say("250-upstream.test\r\n250 STARTTLS")
        elif verb != "STARTTLS":
            self._say("530 5.7.0 Must issue a STARTTLS command first")
        else:
            self._say("220 2.0.0 Go ahead")
            self._connection = self._stack.enter_context(self._upstream.secured(self._connection, tls))
            self._readline = self._stack.enter_context(self._connection.makefile("rb")).readline

    def _take_content(self) -> bool:
        lines: list[bytes] = []
        while (line := self._readline()) != b".\r\n":
            if not line:
                raise _Dropped
            if not lines and self._upstream.answer("lines", self._reverse_path) == DROP:
                self._say(DROP)
            lines.append(line[1:] if line.startswith(b".") else line)
        received = Received(self._reverse_path, list(self._recipients), b"".join(lines), None)
        self._upstream.received.append(received)
        answer = self._upstream.answer("content", self._reverse_path)
        if answer != DROP:
            received.answer = answer
        return self._say(answer)

    def _say(self, answer: str) -> bool:
        """Say it; whether the conversation ends with it."""
        if answer == DROP:
            self._connection.shutdown(socket.SHUT_RDWR)
            raise _Dropped
        self._connection.sendall(answer.encode() + b"\r\n")
        return answer.startswith(("421", "554 5.3.2"))


def _path(argument: str) -> str:
    return argument[argument.index("<") + 1 : argument.index(">")]
