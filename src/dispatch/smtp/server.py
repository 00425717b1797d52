"""The server's side of SMTP (RFC 5321) as an object without I/O: bytes in, events out; answers in, bytes out.

A driver feeds `receive`, takes `next_event` until it says None, answers the events that ask (see `events`),
and writes `take_output` whenever it stops: what has gathered until then goes out in one write (RFC 2920
section 3.2). The core enforces by itself what needs no policy: sequence (`states`), syntax (`commands`,
`grammar`), sizes, counts, newlines (`body`), and how much nonsense a client may talk.

Rules:

- How the bytes were cut makes no difference to events or output. Exceptions, all for clients that speak
  before they may: bytes behind a STARTTLS (never executed, RFC 3207 section 6 and CVE-2011-0411), content
  behind a DATA and passwords behind an AUTH that were refused. (What comes later, and is no command, cuts.)
- A command line ends in CRLF. A bare CR or LF in it refuses all of it, up to the next CRLF: nothing that
  another server may have read as a second command is executed.
- While the core waits for an answer it keeps what arrives; a driver stops reading then. Otherwise it holds at
  most one command line, or four bytes of content.
- A chunk of BDAT is read to its end even out of sequence (RFC 3030 section 2): no command can begin in it.
- A password is in no reply, and in no event but the one that asks what it is worth.

It does not know the time, the peer's address, who may send, or where mail goes.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Final

from dispatch.mail.reply import Reply
from dispatch.smtp import wording
from dispatch.smtp.body import ChunkDecoder, DataDecoder
from dispatch.smtp.commands import (
    COMMANDS,
    HTTP_METHODS,
    KNOWN_BUT_NEVER,
    parse_chunk,
    parse_mail,
    parse_recipient,
    split,
)
from dispatch.smtp.content import Content
from dispatch.smtp.events import (
    AuthOffered,
    ContentChunk,
    ContentEnded,
    ContentRefused,
    ContentStarted,
    Event,
    Hello,
    Quit,
    TlsOffered,
    TransactionReset,
)
from dispatch.smtp.grammar import read_hello_name
from dispatch.smtp.lines import BadLine, Input
from dispatch.smtp.server_auth import RESPONSE_LINE_BYTES_MAX, Authentication, Denied
from dispatch.smtp.server_settings import ServerSettings, announcement, serves_auth
from dispatch.smtp.states import MOVES, OUT_OF_SEQUENCE, Command, State

__all__ = ["ServerCore", "ServerSettings"]


class _Step(Enum):
    AGAIN = "again"


_AGAIN: Final = _Step.AGAIN
"""Progress was made, and there is nothing to tell."""

_Outcome = Event | _Step | None
"""An event, `_AGAIN`, or None: more bytes are needed."""


class ServerCore:
    """One connection, from greeting to close."""

    def __init__(self, settings: ServerSettings, *, secured: bool = False) -> None:
        """`secured`: TLS was up before the greeting (RFC 8314 section 3.3)."""
        self.settings = settings
        self.state = State.CONNECTED
        self.wants_close = False
        """Write the output, then close."""
        self.cut_off: Reply | None = None
        """Why we close, where it is the client's doing: too many errors, commands ahead of their turn."""
        self.authenticated = False
        """AUTH was answered 235, and TLS did not begin since."""
        self._input = Input(settings.command_line_bytes_max)
        self._eof = False
        self._output: list[bytes] = []

        # Functions, not methods: a core must not be a reference cycle.
        self._read: Callable[[ServerCore], _Outcome] = ServerCore._read_line
        self._on_answer: Callable[[ServerCore, Reply], None] | None = None
        self._owed: Event | None = None
        """To be told before anything else happens."""
        self._leads_to = State.CONNECTED
        """The state behind the command under way, if it is answered positively."""

        self._secured = secured
        self._serves_auth = serves_auth(settings, secured=secured)
        self._authentication = Authentication(settings)
        self._extended = False
        self._bad = 0
        self._idle = 0
        self._transactions = 0

        self._open = False
        """A transaction that the driver accepted is under way."""
        self._data_refused = False
        """The last command was DATA, in some form, and not accepted: what is no command now is content."""
        self._recipients_refused = 0
        self._content: Content | None = None
        self._chunk_left = 0
        self._chunk_last = False
        self._chunk_refusal: Reply | None = None
        """What the chunk under way, which is being swallowed, will be answered."""

    # The driver's side

    def greet(self) -> None:
        """RFC 5321 section 4.2: the greeting begins with our name."""
        self._say(Reply(220, None, (f"{self.settings.server_name} ESMTP Dispatch",)))

    def refuse(self, reply: Reply) -> None:
        """Instead of a greeting: 421 or 554 (RFC 5321 section 3.1)."""
        self.close(reply)

    def receive(self, data: bytes) -> None:
        """Bytes from the client; never none of them, see `eof`."""
        assert data, "no bytes are no news: say eof"
        assert self.state is not State.HANDSHAKE, "these bytes belong to TLS"
        if not self.wants_close:
            self._input.receive(data)

    def eof(self) -> None:
        """The client will send nothing more, but may still read: what it said is executed first."""
        self._eof = True

    def lost(self) -> None:
        """The connection is gone both ways: nothing that waits is executed."""
        self._end()
        self._output.clear()

    def next_event(self) -> Event | None:
        """What happened next. None: more bytes are needed, or an answer, or it is over."""
        while True:
            owed = self._owed
            if owed is not None:
                self._owed = None
                return owed
            if self._on_answer is not None or self.wants_close:
                return None
            event = self._read(self)
            if event is None:
                if not self._eof:
                    return None
                self._end()
            elif event is not _AGAIN:
                return event

    def answer(self, reply: Reply) -> None:
        """Answer the event that asked. 421 closes; after a close answers are ignored."""
        if self.wants_close:
            return
        on_answer = self._on_answer
        assert on_answer is not None and self._owed is None, "nothing was asked"
        if reply.code == 421:  # RFC 5321 section 3.8
            self.close(reply)
            return
        self._on_answer = None
        on_answer(self, reply)

    def take_output(self) -> bytes:
        """Everything that is to be written now."""
        output = self._output
        if not output:
            return b""
        taken = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        return taken

    def close(self, reply: Reply) -> None:
        """Say 421 (shutdown, timeouts), execute nothing more; then `wants_close`."""
        if self.wants_close:
            return
        self._say(reply)
        self._end()

    def secured(self) -> None:
        """TLS is up: everything the client said in clear is forgotten (RFC 3207 section 4.2)."""
        assert self.state is State.HANDSHAKE
        self.state = State.CONNECTED
        self._secured = True
        self._serves_auth = serves_auth(self.settings, secured=True)
        self._extended = self.authenticated = False

    # Command lines

    def _read_line(self) -> _Outcome:
        line = self._input.line()
        if line is None:
            return None
        if isinstance(line, BadLine):
            return self._refuse_verb(split(line.head)[0], line.reply)
        verb, argument = split(line)
        command = COMMANDS.get(verb)
        if command is None:
            known = verb in KNOWN_BUT_NEVER
            return self._refuse_verb(verb, wording.NOT_IMPLEMENTED if known else wording.UNKNOWN_COMMAND)
        self._data_refused = command is Command.DATA
        leads_to = MOVES[self.state].get(command)
        if leads_to is None:
            return self._out_of_sequence(command, argument)
        self._leads_to = leads_to
        return _HANDLERS[command](self, argument)

    def _refuse_verb(self, verb: bytes, reply: Reply) -> _Outcome:
        if verb in HTTP_METHODS:
            return self._give_up(wording.SPEAKS_HTTP)
        if verb.startswith(b"BDAT") or self._data_refused:
            return self._give_up(wording.CONTENT_BEFORE_GO_AHEAD if self._data_refused else reply)
        self._data_refused = verb.startswith(b"DATA")
        if verb == b"AUTH":
            return self._auth_denied(Denied(reply, more_to_come=True))
        return self._refuse(reply)

    def _out_of_sequence(self, command: Command, argument: str) -> _Outcome:
        reply = OUT_OF_SEQUENCE[self.state][command]
        if command is Command.STARTTLS and not self.settings.starttls:
            reply = wording.NOT_IMPLEMENTED
        elif command is Command.AUTH:
            return self._auth_denied(self._authentication.out_of_sequence(argument, reply))
        elif command is Command.BDAT:
            return self._bdat(argument, reply)
        self._refuse(reply)
        return self._distrust(wording.CONTENT_BEFORE_GO_AHEAD) if command is Command.DATA else _AGAIN

    # Session commands

    def _hello(self, argument: str, *, extended: bool) -> _Outcome:
        name = read_hello_name(argument)
        if name is None:
            return self._refuse(wording.HELLO_SYNTAX)
        if self._out_of_patience():
            return _AGAIN
        self._extended = extended
        self._on_answer = ServerCore._hello_answered
        return Hello(name, extended)

    def _hello_answered(self, reply: Reply) -> None:
        if reply.code >= 400:
            self._say(reply)  # RFC 5321 section 4.1.4: and stay in the same state
            return
        self._reset()  # RFC 5321 section 4.1.4: as if RSET had been said
        self.state = self._leads_to
        if self._extended:
            self._say(announcement(self.settings, secured=self._secured, authenticated=self.authenticated))
        else:
            self._say(Reply(250, None, (self.settings.server_name,)))

    def _starttls(self, argument: str) -> _Outcome:
        if not self.settings.starttls:
            return self._refuse(wording.NOT_IMPLEMENTED)
        if self._secured:
            return self._refuse(wording.ALREADY_SECURED)
        if argument:
            return self._refuse(wording.NO_ARGUMENT_ALLOWED)  # RFC 3207 section 4
        if not self._input.empty:
            return self._give_up(wording.BYTES_BEHIND_STARTTLS)
        self._on_answer = ServerCore._starttls_answered
        return TlsOffered()

    def _starttls_answered(self, reply: Reply) -> None:
        if not self._input.empty:  # came before our 220: in clear, so perhaps not from the client
            self._give_up(wording.BYTES_BEHIND_STARTTLS)
            return
        self._say(reply)
        if reply.code < 400:
            self.state = self._leads_to

    def _rset(self, argument: str) -> _Outcome:
        if argument:
            return self._refuse(wording.NO_ARGUMENT_ALLOWED)
        if self._out_of_patience():
            return _AGAIN
        self._reset()
        self.state = self._leads_to
        self._say(wording.RESET)
        return _AGAIN

    def _vrfy(self, argument: str) -> _Outcome:
        """RFC 5321 section 7.3: never tell strangers which mailboxes exist."""
        return self._remark(wording.WILL_NOT_VERIFY) if argument else self._refuse(wording.VERIFY_SYNTAX)

    def _quit(self, argument: str) -> _Outcome:
        if argument:
            return self._refuse(wording.NO_ARGUMENT_ALLOWED)
        self._say(wording.GOODBYE)
        self._end()
        reset = self._owed
        if reset is None:
            return Quit()
        self._owed = Quit()
        return reset

    # Authentication

    def _auth(self, argument: str) -> _Outcome:
        step = self._authentication.begin(argument, secured=self._secured, authenticated=self.authenticated)
        return self._auth_goes_on(step)

    def _read_response(self) -> _Outcome:
        line = self._input.line()
        return None if line is None else self._auth_goes_on(self._authentication.respond(line))

    def _auth_goes_on(self, step: AuthOffered | Reply | Denied) -> _Outcome:
        if isinstance(step, Denied):
            return self._auth_denied(step)
        self.state = self._leads_to
        if isinstance(step, AuthOffered):
            self._input.forget_used()
            self._on_answer = ServerCore._auth_answered
            return step
        self._input.line_bytes_max = RESPONSE_LINE_BYTES_MAX
        self._read = ServerCore._read_response
        self._say(step)
        return _AGAIN

    def _auth_answered(self, reply: Reply) -> None:
        self._auth_over()
        self._authentication.judged(reply)
        if reply.positive:
            self.authenticated = True
            self._say(reply)
        else:
            self._refuse(reply)

    def _auth_denied(self, denied: Denied) -> _Outcome:
        self._auth_over()
        if denied.reply.code == 421:
            return self._give_up(denied.reply)
        self._refuse(denied.reply)
        return self._distrust(wording.RESPONSE_BEFORE_CHALLENGE) if denied.more_to_come else _AGAIN

    def _auth_over(self) -> None:
        if self.state is State.AUTH:
            self.state = State.READY
            self._input.line_bytes_max = self.settings.command_line_bytes_max
            self._read = ServerCore._read_line

    # The envelope

    def _mail(self, argument: str) -> _Outcome:
        offered = parse_mail(argument, self._serves_auth)
        if isinstance(offered, Reply):
            return self._refuse(offered)
        transactions_max = self.settings.transactions_max
        if transactions_max is not None and self._transactions >= transactions_max:
            return self._give_up(wording.TOO_MANY_TRANSACTIONS)
        self._on_answer = ServerCore._mail_answered
        return offered

    def _mail_answered(self, reply: Reply) -> None:
        if reply.code >= 400:
            self._remark(reply)
            return
        self.state = self._leads_to
        self._open = True
        self._transactions += 1
        self._recipients_refused = 0
        self._say(reply)

    def _rcpt(self, argument: str) -> _Outcome:
        if self._recipients_refused >= self.settings.recipients_max:
            self._say(wording.TOO_MANY_RECIPIENTS)  # RFC 5321 section 4.5.3.1.10
            return _AGAIN
        offered = parse_recipient(argument)
        if isinstance(offered, Reply):
            return self._refuse(offered)
        self._on_answer = ServerCore._recipient_answered
        return offered

    def _recipient_answered(self, reply: Reply) -> None:
        self._say(reply)
        if reply.code < 400:
            self.state = self._leads_to
        else:
            self._recipients_refused += 1

    # Content by DATA

    def _data(self, argument: str) -> _Outcome:
        if argument:
            self._refuse(wording.NO_ARGUMENT_ALLOWED)
            return self._distrust(wording.CONTENT_BEFORE_GO_AHEAD)
        self._on_answer = ServerCore._data_answered
        return ContentStarted()

    def _data_answered(self, reply: Reply) -> None:
        self._say(reply)
        if reply.code >= 400:
            self._distrust(wording.CONTENT_BEFORE_GO_AHEAD)
            return
        assert reply.code == 354, "RFC 5321 section 4.3.2: DATA is answered 354"
        self._data_refused = False
        self.state = self._leads_to
        self._content = Content(DataDecoder(self.settings.bare_newline), self.settings.size_bytes_max)
        self._read = ServerCore._read_data

    def _read_data(self) -> _Outcome:
        arrived, content = self._input, self._content
        if arrived.empty:
            return None
        assert content is not None and isinstance(content.decoder, DataDecoder)
        piece, end = content.decoder.feed(arrived.data, arrived.at)
        event = content.told(piece)
        if isinstance(event, ContentRefused):
            self._open = False
        if end < 0:
            arrived.clear()
            return event or _AGAIN
        arrived.at = end
        self._read = ServerCore._read_line
        if content.refusal is None:
            return self._ask_for_verdict(event)
        self._content = None
        self.state = State.READY
        self._remark(content.refusal)
        return event or _AGAIN

    # Content by BDAT

    def _bdat(self, argument: str, out_of_sequence: Reply | None = None) -> _Outcome:
        chunk = parse_chunk(argument)
        if isinstance(chunk, Reply):  # where it ends nobody knows: no byte behind it may be executed
            return self._give_up(chunk)
        self._chunk_left = chunk.size_bytes
        self._chunk_last = chunk.last
        self._read = ServerCore._read_chunk
        if out_of_sequence is not None:  # RFC 3030 section 2: the octets are read and dropped
            self._chunk_refusal = out_of_sequence
            return _AGAIN
        settings = self.settings
        content = self._content or Content(ChunkDecoder(settings.bare_newline), settings.size_bytes_max)
        if 0 < settings.size_bytes_max < content.decoder.size_bytes + chunk.size_bytes:
            return self._fail_chunks(content.refuse(wording.SIZE_EXCEEDED))
        if self._content is not None:
            return _AGAIN
        self._content = content
        self._on_answer = ServerCore._bdat_answered
        return ContentStarted()

    def _bdat_answered(self, reply: Reply) -> None:
        if reply.code < 400:
            self.state = self._leads_to
            return
        self._chunk_refusal = reply
        self._reset()
        self.state = State.READY

    def _fail_chunks(self, refused: ContentRefused) -> ContentRefused:
        """The message is over; of its chunks, the rest of this one is still to come."""
        self._chunk_refusal = refused.reply
        self._open = False
        self._content = None
        self.state = State.READY
        return refused

    def _read_chunk(self) -> _Outcome:
        arrived = self._input
        data, at = arrived.data, arrived.at
        taken = min(len(data) - at, self._chunk_left)
        if not taken and self._chunk_left:
            return None
        arrived.at = at + taken
        self._chunk_left -= taken
        complete = not self._chunk_left

        event: ContentChunk | ContentRefused | None = None
        if self._chunk_refusal is None:
            content = self._content
            assert content is not None and isinstance(content.decoder, ChunkDecoder)
            final = complete and self._chunk_last
            event = content.told(content.decoder.feed(data[at : at + taken], final=final))
            if isinstance(event, ContentRefused):
                self._fail_chunks(event)
        if not complete:
            return event or _AGAIN
        self._read = ServerCore._read_line
        if self._chunk_refusal is not None:
            self._remark(self._chunk_refusal)
            self._chunk_refusal = None
            return event or _AGAIN
        if self._chunk_last:
            return self._ask_for_verdict(event)
        self._say(wording.CHUNK_TAKEN)
        return event or _AGAIN

    # The end of the content, either way

    def _ask_for_verdict(self, last: Event | None) -> Event:
        """The content is whole. `last`: what is still to be told before."""
        assert self._content is not None
        ended = ContentEnded(self._content.decoder.size_bytes)
        self._on_answer = ServerCore._content_answered
        if last is None:
            return ended
        self._owed = ended
        return last

    def _content_answered(self, reply: Reply) -> None:
        self._open = False
        self._content = None
        self.state = State.READY
        if reply.code >= 400:
            self._remark(reply)
            return
        self._bad = self._idle = 0
        self._say(reply)

    # Replies, budgets, the end

    def _say(self, reply: Reply) -> None:
        self._output.append(wording.encode_reply(reply))

    def _refuse(self, reply: Reply) -> _Step:
        """Answer an error of syntax or sequence: so many of them, and the connection is closed."""
        if not self._out_of_errors():
            self._say(reply)
        return _AGAIN

    def _remark(self, reply: Reply) -> _Step:
        """Answer what is no error, but leads to no message either."""
        if not self._out_of_patience():
            self._say(reply)
        return _AGAIN

    def _give_up(self, reply: Reply) -> _Step:
        """Answer what leaves no way to go on."""
        self.cut_off = reply
        self.close(reply)
        return _AGAIN

    def _distrust(self, reply: Reply) -> _Step:
        """Who did not wait for our 3yz sends content or a password now: never execute it (RFC 2920, 3.1)."""
        return self._give_up(reply) if self._input.holds_another_line else _AGAIN

    def _out_of_errors(self) -> bool:
        self._bad += 1
        if self._bad <= self.settings.commands_bad_max:
            return False
        self._give_up(wording.TOO_MANY_BAD_COMMANDS)
        return True

    def _out_of_patience(self) -> bool:
        self._idle += 1
        return self._idle > self.settings.commands_idle_max and self._out_of_errors()

    def _reset(self) -> None:
        """Forget the transaction, if there is one."""
        if self._open:
            self._owed = TransactionReset()
        self._open = False
        self._content = None

    def _end(self) -> None:
        """Nothing more will be read or executed."""
        undecided = self._on_answer is ServerCore._content_answered and self._owed is None
        if undecided:
            self._open = False
        self._reset()
        self._on_answer = None
        self._input.clear()
        self.state = State.CLOSED
        self.wants_close = True


_HANDLERS: dict[Command, Callable[[ServerCore, str], _Outcome]] = {
    Command.EHLO: partial(ServerCore._hello, extended=True),
    Command.HELO: partial(ServerCore._hello, extended=False),
    Command.STARTTLS: ServerCore._starttls,
    Command.AUTH: ServerCore._auth,
    Command.MAIL: ServerCore._mail,
    Command.RCPT: ServerCore._rcpt,
    Command.DATA: ServerCore._data,
    Command.BDAT: ServerCore._bdat,
    Command.RSET: ServerCore._rset,
    Command.NOOP: lambda core, argument: core._remark(wording.NOTHING_DONE),
    Command.VRFY: ServerCore._vrfy,
    Command.EXPN: lambda core, argument: core._refuse(wording.NOT_IMPLEMENTED),
    Command.HELP: lambda core, argument: core._remark(wording.HELP),
    Command.QUIT: ServerCore._quit,
}
