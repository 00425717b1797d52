"""The SMTP conversation of `sendmail` with the relay: one message, command by command.

The relay has a client core of its own (`dispatch.smtp.client`), made for many messages on many connections.
To import it takes four times as long as all that happens here, and cron starts this program for each
message: so this one is small, knows the few commands that it needs, and waits for each reply.

All recipients are taken, or nothing is sent: who calls knows from the exit code whether to try again, and a
second try then is no duplicate. Only those beyond the relay's `max_recipients` follow in a further
transaction (RFC 5321 section 4.5.3.1.10).
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Sequence

from dispatch.cli.sendmail_message import Message

CONNECT_S = 10.0
REPLY_S = 330.0
"""The relay says something, or closes, within 300 seconds behind an end of data."""
REPLY_BYTES_MAX = 1 << 16
OWN_GREETING = "ESMTP Dispatch"

# RFC 3463: what the status says is told by sysexits; the longest prefix counts.
_BY_STATUS = {
    "5.1.": os.EX_DATAERR,
    "5.1.1": os.EX_NOUSER,
    "5.1.2": os.EX_NOHOST,
    "5.1.10": os.EX_NOHOST,
    "5.2.": os.EX_NOUSER,
    "5.3.4": os.EX_DATAERR,
    "5.5.": os.EX_DATAERR,
    "5.5.1": os.EX_PROTOCOL,
    "5.6.": os.EX_DATAERR,
    "5.7.": os.EX_NOPERM,
}


class NotTaken(Exception):
    """The relay refused, or is not there; nothing was sent unless the words say so. `code` is of sysexits."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class Reply:
    """One reply of the relay."""

    def __init__(self, code: int, lines: Sequence[str]) -> None:
        self.code = code
        self.lines = lines

    @property
    def positive(self) -> bool:
        return self.code < 400

    @property
    def status(self) -> str:
        """The enhanced status code (RFC 2034), or nothing."""
        word = self.lines[0].partition(" ")[0]
        return word if word[:2] in ("2.", "4.", "5.") and word.replace(".", "").isdecimal() else ""

    def __str__(self) -> str:
        return f"{self.code} {' '.join(self.lines)}".rstrip()

    def exit_code(self) -> int:
        """For one that is not positive."""
        if self.code < 500:
            return os.EX_TEMPFAIL
        fitting = [prefix for prefix in _BY_STATUS if self.status.startswith(prefix)]
        return _BY_STATUS[max(fitting, key=len)] if fitting else os.EX_UNAVAILABLE


class Conversation:
    """A connection that was greeted."""

    def __init__(self, connection: socket.socket, *, verbose: bool = False) -> None:
        """Raises `NotTaken` where the greeting is a refusal, or none."""
        self.connection = connection
        self._verbose = verbose
        self._ahead = b""
        self.greeting = self._reply()
        self._keywords: set[str] = set()

    @property
    def greeting_as_it_came(self) -> bytes:
        """For whom it is passed on to."""
        lines = self.greeting.lines
        marks = ["-"] * (len(lines) - 1) + [" "]
        words = (f"{self.greeting.code}{mark}{line}\r\n" for mark, line in zip(marks, lines, strict=True))
        return "".join(words).encode() + self._ahead

    @property
    def is_dispatch(self) -> bool:
        return OWN_GREETING in str(self.greeting)

    def close(self) -> None:
        self.connection.close()

    def submit(
        self, message: Message, sender: str, recipients: Sequence[str], dsn: Sequence[str] = ("", "", "")
    ) -> list[Reply]:
        """Hand the message over for all; `dsn` are the values of NOTIFY, RET and ENVID, or empty. Returns
        what the relay said at the end of each transaction, of which there is one nearly always.

        Raises `NotTaken`."""
        self._demand(self.greeting, "it does not take mail now")
        hello = self._ask("EHLO localhost")
        self._demand(hello, "it refused EHLO")
        self._keywords = {line.partition(" ")[0].upper() for line in hello.lines[1:]}
        left = list(dict.fromkeys(recipients))
        said: list[Reply] = []
        sent = 0
        while left:
            try:
                taken, beyond = self._transaction(message, sender, left, dsn)
            except NotTaken as refusal:
                if not sent:
                    raise
                words = f"{refusal}; {sent} recipients have the message, and not {', '.join(left)}"
                raise NotTaken(refusal.code, words) from None
            said.append(taken)
            sent += len(left) - len(beyond)
            left = beyond
        self._tell("QUIT")
        return said

    def _transaction(
        self, message: Message, sender: str, recipients: Sequence[str], dsn: Sequence[str]
    ) -> tuple[Reply, list[str]]:
        """The relay's last word, and the recipients that it wants in a further one."""
        notify, ret, envid = dsn if "DSN" in self._keywords else ("", "", "")
        wide = not all(map(str.isascii, (sender, *recipients)))
        parameters = [
            f"SIZE={message.size_bytes}" if "SIZE" in self._keywords else "",
            "BODY=8BITMIME" if message.eight_bit and "8BITMIME" in self._keywords else "",
            "SMTPUTF8" if wide and "SMTPUTF8" in self._keywords else "",
            f"RET={ret}" if ret else "",
            f"ENVID={envid}" if envid else "",
        ]
        command = " ".join((f"MAIL FROM:<{sender}>", *filter(None, parameters)))
        self._demand(self._ask(command), f"the sender <{sender}> is refused")
        for place, recipient in enumerate(recipients):
            reply = self._ask(f"RCPT TO:<{recipient}>" + (f" NOTIFY={notify}" if notify else ""))
            if reply.code == 452 and reply.status == "4.5.3" and place:
                beyond = list(recipients[place:])
                break
            self._demand(reply, f"the recipient <{recipient}> is refused")
        else:
            beyond = []
        self._demand(self._ask("DATA"), "the message is refused")
        taken = self._content(message)
        self._demand(taken, "the message is refused")
        return taken, beyond

    def _content(self, message: Message) -> Reply:
        try:
            for block in stuffed(message.blocks()):
                self.connection.sendall(block)
            self.connection.sendall(b".\r\n")
        except (BrokenPipeError, ConnectionResetError):
            # It may have said why before it closed.
            pass
        except OSError as error:
            raise NotTaken(os.EX_TEMPFAIL, f"the connection to the relay broke: {error}") from error
        return self._reply()

    def _demand(self, reply: Reply, what: str) -> None:
        if not reply.positive:
            self._tell("QUIT")
            raise NotTaken(reply.exit_code(), f"{what}: {reply}")

    def _ask(self, command: str) -> Reply:
        self._tell(command)
        return self._reply()

    def _tell(self, command: str) -> None:
        if self._verbose:
            sys.stderr.write(f">>> {ascii(command)[1:-1]}\n")
        try:
            self.connection.sendall(command.encode(errors="surrogateescape") + b"\r\n")
        except OSError:
            pass  # The reply that is read next, or is not there, tells more.

    def _reply(self) -> Reply:
        lines: list[str] = []
        while True:
            line = self._line()
            code, mark, text = line[:3], line[3:4], line[4:]
            if not (code.isascii() and code.isdecimal() and "200" <= code < "600" and mark in ("", " ", "-")):
                raise NotTaken(os.EX_PROTOCOL, f"this is no SMTP: {line[:80]!a}")
            lines.append(text)
            if self._verbose:
                sys.stderr.write(f"<<< {ascii(line)[1:-1]}\n")
            if mark != "-":
                return Reply(int(code), lines)

    def _line(self) -> str:
        while b"\n" not in self._ahead:
            try:
                block = self.connection.recv(4096)
            except OSError as error:
                raise NotTaken(os.EX_TEMPFAIL, f"no answer from the relay: {error}") from error
            if not block:
                raise NotTaken(os.EX_TEMPFAIL, "the relay closed the connection without an answer")
            self._ahead += block
            if len(self._ahead) > REPLY_BYTES_MAX:
                raise NotTaken(os.EX_PROTOCOL, "the reply does not end")
        line, _, self._ahead = self._ahead.partition(b"\n")
        return line.rstrip(b"\r").decode(errors="replace")


def stuffed(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """A dot more where a line begins with one (RFC 5321 section 4.5.2), wherever the blocks are cut."""
    before = b"\r\n"
    for block in blocks:
        if block:
            yield (before + block).replace(b"\r\n.", b"\r\n..")[2:]
            before = (before + block)[-2:]


Place = tuple[str, int]
"""Host and port."""


def meet(places: Sequence[Place], *, only_dispatch: bool, verbose: bool = False) -> Conversation:
    """The first of them that answers. `only_dispatch`: another server's greeting is not ours to speak to.

    Raises `NotTaken`."""
    strangers = []
    why = ""
    for host, port in places:
        try:
            connection = socket.create_connection((host, port), timeout=CONNECT_S)
        except OSError as error:
            why = why or str(error)
            continue
        try:
            conversation = Conversation(connection, verbose=verbose)
        except NotTaken as refusal:
            why = f"{host} port {port}: {refusal}"
            connection.close()
            continue
        if conversation.is_dispatch or not (only_dispatch and conversation.greeting.positive):
            connection.settimeout(REPLY_S)
            return conversation
        strangers.append(f"{host} port {port}")
        conversation.close()
    tried = ", ".join(f"{host} port {port}" for host, port in places)
    words = f"the relay does not run, or not at {tried} ({why or 'nobody answers'})"
    if strangers:
        words += f"; at {', '.join(strangers)} is another mail server (--port names it if it is meant)"
    raise NotTaken(os.EX_TEMPFAIL, words)
