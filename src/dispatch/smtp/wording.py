"""The server's own replies, and replies as bytes.

Every reply but the greeting, the answers to HELO and EHLO, 334 and 354 carries an enhanced code (RFC 2034
section 4). The text is for the person who reads a device's log: it says what was wrong, not only that
something was.
"""

from __future__ import annotations

from binascii import b2a_base64
from functools import lru_cache

from dispatch.mail.reply import Reply, reply

REPLY_TEXT_MAX = 500
"""RFC 5321 section 4.5.3.1.5: a reply line holds at most 512 octets."""

# For drivers: the plain yes to each event that asks.
HELLO_ACCEPTED = reply(250, None)
TLS_ACCEPTED = reply(220, "2.0.0", "ready to start TLS")
MAIL_ACCEPTED = reply(250, "2.1.0", "OK")
RECIPIENT_ACCEPTED = reply(250, "2.1.5", "OK")
AUTHENTICATED = reply(235, "2.7.0", "logged in")
GO_AHEAD = reply(354, None, "send the message, end it with a dot on a line of its own")

# For drivers: the no that needs no words of their own (RFC 4954 section 6).
AUTHENTICATION_REQUIRED = reply(530, "5.7.0", "log in first, with AUTH")
AUTHENTICATION_FAILED = reply(535, "5.7.8", "user name or password is wrong")
AUTHENTICATION_UNAVAILABLE = reply(454, "4.7.0", "too many logins at once, try again later")

RESET = reply(250, "2.0.0", "forgotten")
NOTHING_DONE = reply(250, "2.0.0", "OK")
CHUNK_TAKEN = reply(250, "2.0.0", "chunk taken")
GOODBYE = reply(221, "2.0.0", "bye")
HELP = reply(214, "2.0.0", "EHLO MAIL RCPT DATA BDAT RSET NOOP VRFY QUIT: RFC 5321")
WILL_NOT_VERIFY = reply(252, "2.0.0", "cannot verify, but will take mail and try")

# Syntax (RFC 5321 section 4.2.4)
LINE_TOO_LONG = reply(500, "5.5.2", "command line too long")
BARE_NEWLINE_IN_COMMAND = reply(500, "5.5.2", "a command line ends in CR LF and holds no other CR or LF")
UNKNOWN_COMMAND = reply(500, "5.5.1", "command not known")
NOT_IMPLEMENTED = reply(502, "5.5.1", "command not implemented")
NO_ARGUMENT_ALLOWED = reply(501, "5.5.4", "this command takes no argument")
HELLO_SYNTAX = reply(501, "5.5.4", "say EHLO with your name")
VERIFY_SYNTAX = reply(501, "5.5.4", "VRFY whom?")
MAIL_SYNTAX = reply(501, "5.5.4", "write MAIL FROM:<address>")
RECIPIENT_SYNTAX = reply(501, "5.5.4", "write RCPT TO:<address>")
SENDER_ADDRESS_SYNTAX = reply(501, "5.1.7", "the sender's address is malformed")
RECIPIENT_ADDRESS_SYNTAX = reply(501, "5.1.3", "the recipient's address is malformed")
PARAMETERS_SYNTAX = reply(501, "5.5.4", "the parameters are malformed")
CHUNK_SYNTAX = reply(501, "5.5.4", "write BDAT size [LAST]; closing, as the chunk has no known end")
AUTH_SYNTAX = reply(501, "5.5.4", "write AUTH mechanism [initial response]")
MECHANISM_UNKNOWN = reply(504, "5.5.4", "mechanism not known here")
RESPONSE_MALFORMED = reply(501, "5.5.2", "this is no response of that mechanism, written in base64")
RESPONSE_TOO_LONG = reply(500, "5.5.6", "response too long")

# Sequence
HELLO_FIRST = reply(503, "5.5.1", "say EHLO first")
MAIL_FIRST = reply(503, "5.5.1", "send MAIL first")
RECIPIENT_FIRST = reply(503, "5.5.1", "no recipient was accepted")
NESTED_MAIL = reply(503, "5.5.1", "one message at a time: finish this one, or send RSET")
NOT_WITHIN_TRANSACTION = reply(503, "5.5.1", "not in the middle of a message")
CHUNKS_UNDER_WAY = reply(503, "5.5.1", "this message is being sent in chunks: go on with BDAT, or send RSET")
ALREADY_SECURED = reply(503, "5.5.1", "TLS is already in use")
ALREADY_AUTHENTICATED = reply(503, "5.5.1", "you are logged in already")
ENCRYPTION_REQUIRED = reply(538, "5.7.11", "not in clear: start TLS, then log in")
AUTH_CANCELLED = reply(501, "5.7.0", "cancelled, as you wish")

# Limits
TOO_MANY_RECIPIENTS = reply(452, "4.5.3", "too many recipients: send the rest in another transaction")
SIZE_EXCEEDED = reply(552, "5.3.4", "the message is larger than this server takes")
BARE_NEWLINE_IN_CONTENT = reply(550, "5.6.11", "the message holds a CR or LF that is no CR LF pair")
TOO_MANY_BAD_COMMANDS = reply(421, "4.7.0", "too many errors, closing")
TOO_MANY_FAILED_LOGINS = reply(421, "4.7.0", "too many failed logins, closing")
TOO_MANY_TRANSACTIONS = reply(421, "4.7.0", "enough messages for one connection: open another")
SPEAKS_HTTP = reply(421, "4.7.0", "this is an SMTP server, not HTTP")
BYTES_BEHIND_STARTTLS = reply(421, "4.7.0", "something was sent behind STARTTLS, before TLS: closing")
RESPONSE_BEFORE_CHALLENGE = reply(421, "4.7.0", "more was sent behind an AUTH that was refused: closing")
CONTENT_BEFORE_GO_AHEAD = reply(421, "4.7.0", "the message was sent though DATA was refused: closing")


def parameter_unknown(keyword: str) -> Reply:
    """RFC 5321 section 4.1.1.11."""
    return reply(555, "5.5.4", f"parameter {keyword} not known here")


def parameter_syntax(keyword: str) -> Reply:
    return reply(501, "5.5.4", f"parameter {keyword} is given twice, or with a value that is not taken here")


def challenge(question: bytes) -> Reply:
    """RFC 4954 section 4: in base64, and without an enhanced code."""
    return reply(334, None, b2a_base64(question, newline=False).decode("ascii"))


def locked_out(wait_s: int) -> Reply:
    """RFC 4954 section 6: for a while, no password of this client or user is looked at."""
    return reply(454, "4.7.0", f"too many failed logins from you, try again in {wait_s} seconds")


def sender_not_permitted(reverse_path: str) -> Reply:
    """To MAIL: the login may send, but not in this name."""
    return reply(553, "5.7.1", f"your login may not send as <{reverse_path}>")


@lru_cache(maxsize=256)
def encode_reply(answer: Reply) -> bytes:
    """The reply as it goes over the wire (RFC 5321 section 4.2.1).

    Whatever the texts hold, each becomes one line of printable ASCII: no reply can be made to say
    something else by what it quotes. Cached, because most of what a server says it says all day.
    """
    code, enhanced, lines = answer.code, answer.enhanced, answer.lines
    prefix = f"{enhanced} " if enhanced else ""
    last = len(lines) - 1
    if last == 0:
        text = lines[0]
        if len(text) > REPLY_TEXT_MAX or not (text.isascii() and text.isprintable()):
            text = _one_line(text)
        return f"{code} {prefix}{text}\r\n".encode("ascii")
    return b"".join(
        f"{code}{' ' if at == last else '-'}{prefix}{_one_line(text)}\r\n".encode("ascii")
        for at, text in enumerate(lines)
    )


def _one_line(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text[:REPLY_TEXT_MAX])
