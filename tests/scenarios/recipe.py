"""What the load is made of: which token has which recipients and content, and what the upstream does to them.

Most messages are small and have one recipient. Some have two or three, of which the upstream defers one when
it sees it first; some have a content above the mebibyte from which on the spool keeps it in a file. Where
there are several upstreams, each recipient's domain leads to one of them, and where that fails to the next.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

MANY_EVERY = 10
"""Of so many messages, one has more recipients than one."""
LARGE_EVERY = 250
END_OF_DATA = b"\r\n.\r\n"
DOMAINS = ("example.net", "example.com", "example.org")
_BODY = (b"x" * 76 + b"\r\n") * 12 + b"end"
_LARGE_BODY = (b"x" * 76 + b"\r\n") * 15_000 + b"end"


class Manners(NamedTuple):
    """The upstream's."""

    deferred_share: float = 0.03
    """Of the recipients that come first in their transaction, so many are deferred: 451."""
    thinking_share: float = 0.05
    """It thinks about so many contents before it answers."""
    thinking_s: tuple[float, float] = (0.005, 0.05)
    dropped_share: float = 0.0
    """After the end of data it drops so many connections without an answer; half of these it has taken."""
    away_s: float = 0.0
    """So long it serves nobody (421), once in each `AWAY_EVERY_S`; several do so one after the other."""


AWAY_EVERY_S = 6.0


def recipients_of(token: int) -> tuple[str, ...]:
    """Nobody else's: an address tells the token."""
    many = 0 if token % MANY_EVERY else 1 + token // MANY_EVERY % 2
    return tuple(f"to{place}.{token}@{DOMAINS[(token + place) % len(DOMAINS)]}" for place in range(1 + many))


def first_of_route(address: str, relays: int) -> int:
    """Which of so many relays the recipient's mail goes to at first; the one behind it is its second."""
    return DOMAINS.index(address.partition("@")[2]) % relays


def tables(ports: Sequence[int], more: str = "") -> list[str]:
    """`[[relays]]` bodies: a relay for each port, with these keys `more`; behind the last, its rules."""
    relays = [
        f'name = "upstream{number}"\nhost = "127.0.0.1"\nport = {port}\n{more}'
        for number, port in enumerate(ports)
    ]
    relays[0] += "\ndefault = true"
    for domain in DOMAINS if len(ports) > 1 else ():
        first = first_of_route(f"x@{domain}", len(ports))
        route = json.dumps([f"upstream{first}", f"upstream{(first + 1) % len(ports)}"])
        name = domain.replace(".", "-")
        relays[-1] += f'\n[[rules]]\nname = "{name}"\nrecipient = "{domain}"\nrelays = {route}'
    return relays


def deferred_first(address: str) -> bool:
    """Whether the upstream wants to see this one twice: the last of several."""
    place, _, token = address.removeprefix("to").partition("@")[0].partition(".")
    return 0 < int(place) == len(recipients_of(int(token))) - 1


def envelope_of(token: int) -> bytes:
    """Its commands, in one piece (RFC 2920)."""
    recipients = "".join(f"RCPT TO:<{address}>\r\n" for address in recipients_of(token))
    return b"MAIL FROM:<load@example.org>\r\n" + recipients.encode() + b"DATA\r\n"


def content_of(token: int) -> bytes:
    """Without the line break that belongs to the end of data."""
    body = _BODY if token % LARGE_EVERY else _LARGE_BODY
    return b"Subject: Load\r\nX-Token: %d\r\n\r\n%s" % (token, body)
