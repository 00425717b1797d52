"""Which command is allowed when, and what it leads to: the server's whole sequence, as two tables.

A command that is missing from its state's row is out of sequence and changes nothing. The state written
beside it is entered when the command is answered positively; a negative answer leaves the state as it was.

What is no command: the end of the content leads from DATA and from CHUNKS to READY, whatever the answer;
so does a BDAT that was refused, since the chunks behind it must not become a message (RFC 3030 section 2).
The end of a TLS handshake leads from HANDSHAKE to CONNECTED, all forgotten (RFC 3207 section 4.2). The end of
an authentication leads from AUTH to READY, whatever the answer.

Commands and states are strings because their hashes are cached: the table is on the hot path.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from dispatch.mail.reply import Reply
from dispatch.smtp import wording


class Command(StrEnum):
    EHLO = "EHLO"
    HELO = "HELO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    BDAT = "BDAT"
    RSET = "RSET"
    NOOP = "NOOP"
    VRFY = "VRFY"
    EXPN = "EXPN"
    HELP = "HELP"
    QUIT = "QUIT"


class State(StrEnum):
    CONNECTED = "connected"
    """The client has not said who it is."""
    HANDSHAKE = "TLS handshake"
    """Bytes are TLS records now; the core sees none."""
    READY = "ready"
    """EHLO or HELO is done, no transaction is under way."""
    AUTH = "authentication"
    """A line is a response of the client (RFC 4954 section 4), or what they claim is being checked."""
    MAIL = "mail"
    """A reverse-path is accepted, no recipient yet."""
    RCPT = "recipients"
    """At least one recipient is accepted."""
    DATA = "data"
    """Everything is content until CRLF.CRLF: there are no commands."""
    CHUNKS = "chunks"
    """A first BDAT is accepted, the last one is not."""
    CLOSED = "closed"


_ANYTIME = (Command.NOOP, Command.VRFY, Command.EXPN, Command.HELP)


def _row(state: State, moves: Mapping[Command, State]) -> dict[Command, State]:
    """A state's moves, with what is allowed anywhere and leads nowhere (RFC 5321 section 4.1.4)."""
    return {**dict.fromkeys(_ANYTIME, state), Command.QUIT: State.CLOSED, **moves}


MOVES: Mapping[State, Mapping[Command, State]] = {
    State.CONNECTED: _row(
        State.CONNECTED,
        {
            Command.EHLO: State.READY,
            Command.HELO: State.READY,
            Command.RSET: State.CONNECTED,
        },
    ),
    State.HANDSHAKE: {},
    State.READY: _row(
        State.READY,
        {
            Command.EHLO: State.READY,
            Command.HELO: State.READY,
            Command.STARTTLS: State.HANDSHAKE,
            Command.AUTH: State.AUTH,
            Command.MAIL: State.MAIL,
            Command.RSET: State.READY,
        },
    ),
    State.AUTH: {},
    State.MAIL: _row(
        State.MAIL,
        {
            Command.EHLO: State.READY,
            Command.HELO: State.READY,
            Command.RCPT: State.RCPT,
            Command.RSET: State.READY,
        },
    ),
    State.RCPT: _row(
        State.RCPT,
        {
            Command.EHLO: State.READY,
            Command.HELO: State.READY,
            Command.RCPT: State.RCPT,
            Command.DATA: State.DATA,
            Command.BDAT: State.CHUNKS,
            Command.RSET: State.READY,
        },
    ),
    State.DATA: {},
    State.CHUNKS: _row(
        State.CHUNKS,
        {
            Command.EHLO: State.READY,
            Command.HELO: State.READY,
            Command.BDAT: State.CHUNKS,
            Command.RSET: State.READY,
        },
    ),
    State.CLOSED: {},
}

OUT_OF_SEQUENCE: Mapping[State, Mapping[Command, Reply]] = {
    State.CONNECTED: dict.fromkeys(Command, wording.HELLO_FIRST),
    State.READY: dict.fromkeys(Command, wording.MAIL_FIRST),
    State.MAIL: {
        **dict.fromkeys(Command, wording.NOT_WITHIN_TRANSACTION),
        Command.MAIL: wording.NESTED_MAIL,
        Command.DATA: wording.RECIPIENT_FIRST,
        Command.BDAT: wording.RECIPIENT_FIRST,
    },
    State.RCPT: {
        **dict.fromkeys(Command, wording.NOT_WITHIN_TRANSACTION),
        Command.MAIL: wording.NESTED_MAIL,
    },
    State.CHUNKS: dict.fromkeys(Command, wording.CHUNKS_UNDER_WAY),
}
"""What a command is told that `MOVES` does not list in this state."""
