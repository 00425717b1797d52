"""The commands that a client writes (RFC 5321 section 4.1.1), and the one function that writes them.

Duty: nothing that came with the mail, an address, an ORCPT, a name for EHLO, can become a second command.
`command` writes every command line there is; it refuses control characters wherever they stand, and
its callers check what has a bracket or a space to escape through. Intake has judged these strings long
before; this is the last door, and it does not rely on the first one.
"""

from __future__ import annotations

import re

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.smtp.client_extensions import Extensions

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PATH = re.compile(r'[^\x00-\x20\x7f<>"]*|"(?:[^\x00-\x1f\x7f"\\]|\\[^\x00-\x1f\x7f])*"@[^\x00-\x20\x7f<>"]+')
"""Between the angle brackets: no space and no bracket but within a quoted local part that is closed."""
_WORD = re.compile("[^\x00-\x20\x7f]+")


class UnwritableCommand(ValueError):
    """An argument would break out of its command line, or cannot be written as SMTP at all."""


def command(verb: str, argument: str = "") -> bytes:
    """One command line, with its CRLF. Raises `UnwritableCommand`.

    Text beyond ASCII is written as UTF-8; whether the host takes that is the caller's question (RFC 6531).
    """
    line = f"{verb} {argument}" if argument else verb
    if not line.isprintable() and _CONTROL.search(line):
        raise UnwritableCommand(f"control character in {line[:80]!a}")
    try:
        return line.encode() + b"\r\n"
    except UnicodeEncodeError as error:
        raise UnwritableCommand(f"{verb}: {error.reason}") from error


def helo_argument(name: str) -> str:
    """The name to call ourselves; raises `UnwritableCommand` where it is not one word of ASCII."""
    if not name.isascii():
        raise UnwritableCommand(f"EHLO name {name[:80]!a} is not ASCII")
    return _checked_word(name, "EHLO name")


def mail_command(
    envelope: Envelope, size_bytes: int, extensions: Extensions, body: str | None, *, smtputf8: bool
) -> bytes:
    """MAIL with what the host offers of SIZE, RET and ENVID.

    `body` is the value of BODY, or None to leave it out; `smtputf8` asks for UTF-8 (RFC 6531 section 3.4).
    """
    words = f"FROM:<{_checked_path(envelope.reverse_path)}>"
    if extensions.size:
        words += f" SIZE={size_bytes}"
    if body is not None:
        words += f" BODY={body}"
    if smtputf8:
        words += " SMTPUTF8"
    if extensions.dsn:
        if envelope.ret is not None:
            words += f" RET={_checked_word(envelope.ret, 'RET')}"
        if envelope.envid is not None:
            words += f" ENVID={_checked_word(envelope.envid, 'ENVID')}"
    return command("MAIL", words)


def rcpt_command(recipient: Recipient, extensions: Extensions) -> bytes:
    """RCPT with what the host offers of NOTIFY and ORCPT (RFC 3461 section 4)."""
    words = f"TO:<{_checked_path(recipient.address)}>"
    if extensions.dsn:
        if recipient.notify is not None:
            words += f" NOTIFY={_checked_word(recipient.notify, 'NOTIFY')}"
        if recipient.original is not None:
            words += f" ORCPT={_checked_word(recipient.original, 'ORCPT')}"
    return command("RCPT", words)


def _checked_path(address: str) -> str:
    if _PATH.fullmatch(address) is None:
        raise UnwritableCommand(f"address {address[:80]!a} does not fit between angle brackets")
    return address


def _checked_word(value: str, what: str) -> str:
    if _WORD.fullmatch(value) is None:
        raise UnwritableCommand(f"{what} {value[:80]!a} is not one word")
    return value
