"""The fields that we put in front of a content: `Received` always, `Date` and `Message-ID` where missing.

`Received` is the time stamp line of RFC 5321 section 4.4 with the protocol names of RFC 3848 and
RFC 6531 section 4.3. Trace fields go in front of everything, and what a client sent is not touched.

Whatever is inserted was written by strangers (announced name, recipient) or by an operator (our own
name), and none of it can break out of its field: line breaks, control characters and what would end
the clause it stands in are replaced or make the clause fall away. The fields are folded so that lines
stay below 78 columns unless a single name is longer than that (RFC 5322 section 2.1.1).

The recipient is named only if there is exactly one: with more, each would learn of the others
(RFC 5321 section 7.6).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

WithType = Literal[
    "SMTP",
    "ESMTP",
    "ESMTPA",
    "ESMTPS",
    "ESMTPSA",
    "UTF8SMTP",
    "UTF8SMTPA",
    "UTF8SMTPS",
    "UTF8SMTPSA",
    "HTTP",
    "HTTPS",
]

NAME_CHARS_MAX = 255
_COLUMNS_MAX = 77

_NAME = re.compile(r"[A-Za-z0-9._:\[\]-]+")
_NOT_NAME = re.compile(r"[^A-Za-z0-9._:\[\]-]")
_NOT_COMMENT = re.compile(r"[^A-Za-z0-9._:,=/ +-]")
_NOT_PATH = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@lru_cache(maxsize=64)
def date_text(epoch_s: int) -> str:
    """A `date-time` in UTC (RFC 5322 section 3.3) of whole seconds since 1970; the same in every locale."""
    at = datetime.fromtimestamp(epoch_s, UTC)
    return (
        f"{_WEEKDAYS[at.weekday()]}, {at.day:02d} {_MONTHS[at.month - 1]} {at.year:04d}"
        f" {at.hour:02d}:{at.minute:02d}:{at.second:02d} +0000"
    )


def received_field(
    *,
    client_name: str,
    client_address: str,
    own_name: str,
    with_type: WithType,
    id_text: str,
    recipient: str | None,
    epoch_s: int,
    tls: str | None = None,
) -> bytes:
    """One `Received` field, line break included.

    `client_name` is what the client announced in EHLO, `client_address` its IP address as text, `id_text`
    our message id, `recipient` the forward-path if the message has exactly one, `tls` version and cipher.
    """
    client = f"from {_name(client_name)}"
    literal = f"([{'IPv6:' if ':' in client_address else ''}{_name(client_address)}])"
    break_ = " " if len(client) + len(literal) + 11 <= _COLUMNS_MAX else "\r\n\t"
    by = f"by {_name(own_name)} (Dispatch) with {with_type}"
    using = "" if tls is None else f"\r\n\t({_NOT_COMMENT.sub('?', tls[:NAME_CHARS_MAX])})"
    for_ = ""
    if recipient is not None and _NOT_PATH.search(recipient) is None:
        for_ = f"\r\n\tfor <{recipient}>"
    return (
        f"Received: {client}{break_}{literal}\r\n\t{by}{using}\r\n\tid {id_text}{for_};\r\n\t"
        f"{date_text(epoch_s)}\r\n"
    ).encode()


def front_fields(
    received: bytes,
    *,
    has_date: bool,
    has_message_id: bool,
    starts_with_body: bool,
    own_name: str,
    id_text: str,
    epoch_s: int,
) -> bytes:
    """Everything that goes in front of the content: `received`, what is missing, and what must divide them.

    A content that starts with its body gets the empty line that its author left out; otherwise
    its first words would be read as header.
    """
    if has_date and has_message_id and not starts_with_body:
        return received
    date = "" if has_date else f"Date: {date_text(epoch_s)}\r\n"
    message_id = "" if has_message_id else f"Message-ID: <{id_text}@{_domain(own_name)}>\r\n"
    divider = "\r\n" if starts_with_body else ""
    return received + f"{date}{message_id}{divider}".encode()


@lru_cache(maxsize=1024)
def _name(text: str) -> str:
    """A host name, address or address literal as it may stand in the clause; anything else made harmless."""
    text = text[:NAME_CHARS_MAX]
    if _NAME.fullmatch(text):
        return text
    return _NOT_NAME.sub("?", text) or "unknown"


@lru_cache(maxsize=16)
def _domain(own_name: str) -> str:
    """The right-hand side of a `msg-id` (RFC 5322 section 3.6.4): a dot-atom."""
    return re.sub(r"[^A-Za-z0-9-]+", ".", own_name[:NAME_CHARS_MAX]).strip(".") or "localhost"
