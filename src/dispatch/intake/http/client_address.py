"""Who a request comes from, where proxies stand between.

The peer of the TCP connection is a fact. What `Forwarded` (RFC 7239) and `X-Forwarded-For` say is believed
only of a proxy that the settings trust, and read from the right: each proxy appends whom it spoke with, so
what is left of the first address that is no trusted proxy may be invented. An entry that is no address ends
the walk: the last address that was certain counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address, ip_address

ENTRIES_MAX = 64
"""Looked at, from the right."""
_FOR = re.compile(r'(?:^|[;,])\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^;,\s]*)', re.IGNORECASE | re.ASCII)


def client_address(
    peer: str, forwarded: Iterable[str], x_forwarded_for: Iterable[str], trusted: Callable[[str], bool]
) -> str:
    """`forwarded` and `x_forwarded_for` are the fields' values in their order; the first wins where both are
    there."""
    if not trusted(peer):
        return peer
    entries = [match[1].strip('"') for value in forwarded for match in _FOR.finditer(value)]
    if not entries:
        entries = [entry.strip() for value in x_forwarded_for for entry in value.split(",")]
    certain = peer
    for entry in entries[: -ENTRIES_MAX - 1 : -1]:
        address = _address(entry)
        if address is None:
            return certain
        certain = address
        if not trusted(address):
            return address
    return certain


def _address(entry: str) -> str | None:
    """Of an entry with or without a port: `192.0.2.1`, `192.0.2.1:4711`, `[2001:db8::1]:4711`,
    `2001:db8::1`."""
    if entry.startswith("["):
        entry = entry[1:].partition("]")[0]
    elif entry.count(":") == 1:
        entry = entry.partition(":")[0]
    try:
        address = ip_address(entry)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)
