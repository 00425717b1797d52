"""Where mail for an address goes when nobody is configured to take it: its domain, and that domain's hosts.

RFC 5321 section 5.1. Pure: what DNS says, and the chance among equals, are arguments.

A *destination* is what the recipients of one transaction share: their domain as DNS is asked for it, with
A-labels and small letters, so that all its spellings are one. An address literal (section 4.1.3) is a
destination of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from ipaddress import ip_address
from typing import NamedTuple

import idna

from dispatch.mail.address import split_address

HOSTS_MAX = 8
"""So many hosts of a domain are tried: DNS may name thousands."""


class MailHosts(NamedTuple):
    """The hosts that take mail for a domain, in the order to try them; where there are none, why."""

    names: tuple[str, ...]
    null: bool = False
    """The domain says that it takes no mail (RFC 7505)."""
    loops: bool = False
    """We are its host ourselves, and nobody comes before us."""


def destination(address: str) -> str:
    """The domain of an address, or its literal; empty where it has none (`postmaster`).

    What IDNA (RFC 5891, mapped by UTS 46) does not take stays as it is: DNS will not know it.
    """
    domain = split_address(address)[1].lower().rstrip(".")
    if domain.isascii():
        return domain
    try:
        return idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError:
        return domain


def literal_address(destination: str) -> str | None:
    """The IP address in an address literal; None for a domain. Raises `ValueError` where it holds none."""
    if not destination.startswith("["):
        return None
    return str(ip_address(destination[1:].removesuffix("]").removeprefix("ipv6:")))


def mail_hosts(
    records: Iterable[tuple[int, str]], chance: Callable[[], float], own_names: Set[str] = frozenset()
) -> MailHosts:
    """From MX records, preference and name, of which there is at least one.

    Those of equal preference in random order. Where one of `own_names` (small letters, no dot at the end) is
    among them, it goes with all that are not preferred to it: mail must come nearer with each step.
    """
    each = [(preference, chance(), name) for preference, name in records if name]
    drawn = sorted(each, key=lambda record: record[:2])
    if not drawn:
        return MailHosts((), null=True)
    ours = min(
        (preference for preference, _, name in drawn if name.lower().rstrip(".") in own_names), default=None
    )
    nearer = [name for preference, _, name in drawn if ours is None or preference < ours]
    return MailHosts(tuple(nearer[:HOSTS_MAX]), loops=not nearer)
