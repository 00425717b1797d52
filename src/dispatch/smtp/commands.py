"""A command line, without its CRLF, to a typed command; or to the reply that refuses its syntax.

`split` divides the line, then one `parse_*` a command reads the argument. What MAIL and RCPT say is typed
as the event that offers it. Sequence, limits and policy are not decided here; nothing here has a state.

The usual shapes of MAIL and RCPT are read by one pattern each; the others go the general way. The two must
agree wherever the pattern matches, and a property test holds them to it.

Octets that are not UTF-8 become surrogates (`surrogateescape`), which no grammar rule lets through.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import cast

import msgspec

from dispatch.mail.envelope import BodyType
from dispatch.mail.reply import Reply
from dispatch.smtp import grammar, wording
from dispatch.smtp.events import MailOffered, RecipientOffered
from dispatch.smtp.states import Command

COMMANDS = {command.value.encode(): command for command in Command}

KNOWN_BUT_NEVER = frozenset((b"ETRN", b"TURN", b"ATRN", b"SEND", b"SOML", b"SAML"))
"""502, not 500: the client is right that they exist. XCLIENT is not among them."""

HTTP_METHODS = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"PRI")
)
"""No SMTP client says these; a browser that was lured to this port does (cross-protocol attack)."""

_IGNORING_CASE = re.ASCII | re.IGNORECASE
_plain_mail = re.compile(
    rf"FROM:<({grammar.PLAIN_ADDRESS})?>(?: SIZE=([0-9]{{1,20}}))?(?: BODY=(7BIT|8BITMIME))?", _IGNORING_CASE
).fullmatch
_plain_recipient = re.compile(rf"TO:<({grammar.PLAIN_ADDRESS})>", _IGNORING_CASE).fullmatch
_plain_size = re.compile("[0-9]{1,20}", re.ASCII).fullmatch  # RFC 1870 section 3
_chunk = re.compile("([0-9]{1,20})(?: +(LAST))?", _IGNORING_CASE).fullmatch
_notify_list = re.compile(
    "NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY))*", re.ASCII
).fullmatch


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """BDAT (RFC 3030 section 2)."""

    size_bytes: int
    last: bool


def split(line: bytes) -> tuple[bytes, str]:
    """The verb in upper case, and its argument without white space behind it (RFC 5321 section 4.1.1)."""
    verb, _, argument = line.rstrip(b" \t").partition(b" ")
    return verb.upper(), argument.decode("utf-8", "surrogateescape")


def parse_mail(argument: str, auth: bool = False) -> MailOffered | Reply:
    """RFC 5321 section 4.1.1.2. `auth`: AUTH is served, so its parameter is known (RFC 4954 section 3)."""
    usual = _plain_mail(argument)
    if usual is not None:
        address, size, body = usual.groups()
        if address is None or len(address) <= grammar.DOMAIN_BYTES_MAX:
            return MailOffered(
                address or "", int(size) if size else None, cast("BodyType", body.upper()) if body else "7BIT"
            )
    return parse_any_mail(argument, auth=auth)


def parse_any_mail(argument: str, *, auth: bool = False) -> MailOffered | Reply:
    if argument[:5].upper() != "FROM:":
        return wording.MAIL_SYNTAX
    path = grammar.read_path(argument[5:])
    if path is None:
        return wording.SENDER_ADDRESS_SYNTAX
    reverse_path, rest = path
    fields = _read_parameters(rest, _MAIL_PARAMETERS_WITH_AUTH if auth else _MAIL_PARAMETERS)
    if isinstance(fields, Reply):
        return fields
    fields.pop("auth", None)
    if not reverse_path.isascii():
        fields["smtputf8"] = True
    return msgspec.convert({"reverse_path": reverse_path, **fields}, MailOffered)


def parse_recipient(argument: str) -> RecipientOffered | Reply:
    """RFC 5321 section 4.1.1.3."""
    usual = _plain_recipient(argument)
    if usual is not None:
        address = usual[1]
        if len(address) <= grammar.DOMAIN_BYTES_MAX:
            return RecipientOffered(address)
    return parse_any_recipient(argument)


def parse_any_recipient(argument: str) -> RecipientOffered | Reply:
    if argument[:3].upper() != "TO:":
        return wording.RECIPIENT_SYNTAX
    path = grammar.read_path(argument[3:])
    if path is None or not path[0]:
        return wording.RECIPIENT_ADDRESS_SYNTAX
    address, rest = path
    fields = _read_parameters(rest, _RECIPIENT_PARAMETERS)
    if isinstance(fields, Reply):
        return fields
    return msgspec.convert(
        {"address": address, "smtputf8": not argument.isascii(), **fields}, RecipientOffered
    )


def parse_chunk(argument: str) -> Chunk | Reply:
    match = _chunk(argument)
    if match is None:
        return wording.CHUNK_SYNTAX
    return Chunk(int(match[1]), match[2] is not None)


# One reader a parameter: the value to the field and what is kept of it, or None where it is malformed.
Field = tuple[str, str | int | bool]
_Reader = Callable[[str | None], Field | None]


def _size(value: str | None) -> Field | None:
    """RFC 1870 section 3."""
    return ("size_bytes", int(value)) if value and _plain_size(value) else None


def _smtputf8(value: str | None) -> Field | None:
    """RFC 6531 section 3.4: without a value."""
    return ("smtputf8", True) if value is None else None


def _ret(value: str | None) -> Field | None:
    """RFC 3461 section 4.3."""
    word = _word(value)
    return ("ret", word) if word in ("FULL", "HDRS") else None


def _envid(value: str | None) -> Field | None:
    """RFC 3461 section 4.4."""
    return ("envid", value) if value and len(value) <= 100 and grammar.is_xtext(value) else None


def _notify(value: str | None) -> Field | None:
    """RFC 3461 section 4.1."""
    word = _word(value)
    return ("notify", word) if _notify_list(word) else None


def _original(value: str | None) -> Field | None:
    """RFC 3461 section 4.2."""
    return (
        ("original", value) if value and len(value) <= 500 and grammar.is_original_recipient(value) else None
    )


def _body(value: str | None) -> Field | None:
    """RFC 6152 section 2. BINARYMIME (RFC 3030 section 3) is not announced and not taken."""
    word = _word(value)
    return ("body", word) if word in ("7BIT", "8BITMIME") else None


def _auth(value: str | None) -> Field | None:
    """RFC 4954 section 5: who submitted the mail. We take nobody's word for it, and drop it."""
    known = value and len(value) <= 500 and (value == "<>" or grammar.is_xtext(value))
    return ("auth", True) if known else None


def _word(value: str | None) -> str:
    """In upper case; empty where it is not ASCII, since other letters may become ASCII ones on the way up."""
    return value.upper() if value and value.isascii() else ""


_MAIL_PARAMETERS: dict[str, _Reader] = {
    "SIZE": _size,
    "BODY": _body,
    "SMTPUTF8": _smtputf8,
    "RET": _ret,
    "ENVID": _envid,
}
_MAIL_PARAMETERS_WITH_AUTH = {**_MAIL_PARAMETERS, "AUTH": _auth}
_RECIPIENT_PARAMETERS: dict[str, _Reader] = {"NOTIFY": _notify, "ORCPT": _original}


def _read_parameters(text: str, readers: dict[str, _Reader]) -> dict[str, str | int | bool] | Reply:
    parameters = grammar.read_parameters(text)
    if parameters is None:
        return wording.PARAMETERS_SYNTAX
    fields: dict[str, str | int | bool] = {}
    for keyword, value in parameters:
        reader = readers.get(keyword)
        if reader is None:
            return wording.parameter_unknown(keyword)
        field = reader(value)
        if field is None or field[0] in fields:
            return wording.parameter_syntax(keyword)
        fields[field[0]] = field[1]
    return fields
