"""The addresses of this machine, for a certificate to be good for.

Read off the kernel's tables; nothing is resolved and nobody is asked. Link-local addresses of IPv6 are left
out: they mean nothing without an interface, and nobody puts them into a mail program.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from pathlib import Path

LOOPBACK = ("127.0.0.1", "::1")
_IPV4_ROUTES = Path("/proc/net/fib_trie")
"""The only table with every IPv4 address of every interface: those that are routed to ourselves."""
_IPV6_ADDRESSES = Path("/proc/net/if_inet6")
_OWN_IPV4 = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL\b")


def own_addresses() -> tuple[str, ...]:
    """Loopback first; where the kernel has no such tables, nothing more.

    Raises `OSError` where they cannot be read just now.
    """
    ipv4 = _OWN_IPV4.findall(_table(_IPV4_ROUTES))
    ipv6 = [IPv6Address(bytes.fromhex(line.split()[0])) for line in _table(_IPV6_ADDRESSES).splitlines()]
    return tuple(dict.fromkeys((*LOOPBACK, *ipv4, *(str(each) for each in ipv6 if not each.is_link_local))))


def _table(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (FileNotFoundError, PermissionError):
        return ""
