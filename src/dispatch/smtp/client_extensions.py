"""What a server offers in its EHLO reply (RFC 5321 section 4.1.1.1), as one value.

Unknown keywords are skipped; a parameter that makes no sense counts as not given, because a host's slip in
announcing something is no reason to hold its mail.
"""

from __future__ import annotations

import msgspec

from dispatch.mail.reply import Reply


class Extensions(msgspec.Struct, frozen=True):
    """The service extensions of one session; all off is what a HELO session has."""

    pipelining: bool = False
    """RFC 2920."""
    size: bool = False
    """RFC 1870: MAIL may carry `SIZE=`."""
    size_bytes_max: int = 0
    """The largest message that the host takes; 0 where it names no limit."""
    eight_bit: bool = False
    """RFC 6152: `BODY=8BITMIME`."""
    smtputf8: bool = False
    """RFC 6531."""
    dsn: bool = False
    """RFC 3461."""
    chunking: bool = False
    """RFC 3030: BDAT."""
    binary: bool = False
    """RFC 3030: `BODY=BINARYMIME`; meaningless without CHUNKING."""
    starttls: bool = False
    """RFC 3207."""
    auth: tuple[str, ...] = ()
    """RFC 4954: names of SASL mechanisms, in upper case."""


NO_EXTENSIONS = Extensions()


def parse_extensions(reply: Reply) -> Extensions:
    """Read the reply to EHLO; its first line is the host's name and greeting."""
    offered: dict[str, list[str]] = {}
    for line in reply.lines[1:]:
        words = line.upper()
        if words.startswith("AUTH="):
            # How hosts wrote it before RFC 2554; some still do.
            words = "AUTH " + words[5:]
        keyword, *parameters = words.split() or [""]
        offered.setdefault(keyword, []).extend(parameters)
    size = offered.get("SIZE")
    limit = size[0] if size else ""
    chunking = "CHUNKING" in offered
    return Extensions(
        pipelining="PIPELINING" in offered,
        size=size is not None,
        size_bytes_max=int(limit) if limit.isascii() and limit.isdigit() and len(limit) <= 20 else 0,
        eight_bit="8BITMIME" in offered,
        smtputf8="SMTPUTF8" in offered,
        dsn="DSN" in offered,
        chunking=chunking,
        binary=chunking and "BINARYMIME" in offered,
        starttls="STARTTLS" in offered,
        auth=tuple(dict.fromkeys(offered.get("AUTH", ()))),
    )
