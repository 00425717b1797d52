"""Lists of networks in CIDR notation, and whether an address is in one of them (RFC 4632, RFC 4291).

An IPv4 client of a dual-stack socket shows up as `::ffff:192.0.2.1` (RFC 4291 section 2.5.5.2). It is
matched as the IPv4 address that it is, and a network written in that form is the IPv4 network that it
means. So `::/0` is every IPv6 address and no IPv4 address: everybody is `0.0.0.0/0, ::/0`.

Rules:
- An empty list contains nobody.
- What is not an IP address (the peer of a Unix socket) is in no list.
- A network with bits set behind its prefix (`10.1.2.3/8`) is refused, not rounded: one cannot know
  whether the address or the prefix was meant, and a wrong guess may let a whole network in.

It deliberately resolves no names: who controls the name would control the list.
"""

from __future__ import annotations

import socket
from bisect import bisect_right
from collections.abc import Iterable
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    NetmaskValueError,
    ip_address,
    ip_network,
)

Network = IPv4Network | IPv6Network

_MAPPED_PREFIX = bytes(10) + b"\xff\xff"
_MAPPED_NETWORK = IPv6Network("::ffff:0:0/96")
_CACHED_ADDRESSES_MAX = 4096
PORT_MAX = 65_535


class InvalidNetwork(ValueError):
    """The text is no network; the message says what is wrong with it and what could be written instead."""


def parse_server(text: str) -> tuple[str, int | None]:
    """`192.0.2.1`, `192.0.2.1:5353`, `2001:db8::1` or `[2001:db8::1]:5353`: the address, and the port where
    one is written; raises `ValueError`."""
    address, colon, port_text = text.rpartition(":")
    if not colon or (":" in address and not address.endswith("]")):
        return str(ip_address(text)), None
    port = int(port_text) if port_text.isascii() and port_text.isdigit() else 0
    if not 0 < port <= PORT_MAX:
        raise ValueError(f"{port_text!r} is no port")
    if address.startswith("[") and address.endswith("]"):
        return str(IPv6Address(address[1:-1])), port
    return str(IPv4Address(address)), port


def parse_network(text: str) -> Network:
    """`192.0.2.0/24`, `2001:db8::/32`, or one address; raises `InvalidNetwork`."""
    written = text.strip()
    address_text, slash, prefix_text = written.partition("/")
    try:
        address = ip_address(address_text)
    except ValueError:
        raise InvalidNetwork(
            f"{text!r} is no IP network: write it like 192.0.2.0/24 or 2001:db8::/32"
        ) from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise InvalidNetwork(f"{text!r} names a network interface: leave out %{address.scope_id}")
    bits = address.max_prefixlen
    if slash and not (prefix_text.isascii() and prefix_text.isdigit() and int(prefix_text) <= bits):
        raise InvalidNetwork(f"{text!r}: what follows the slash must be a number of bits from 0 to {bits}")
    try:
        network = ip_network(written)
    except (AddressValueError, NetmaskValueError):
        raise InvalidNetwork(f"{text!r} is no IP network") from None
    except ValueError:
        meant = ip_network(written, strict=False)
        raise InvalidNetwork(
            f"{text!r} has bits set behind its prefix: write {meant} for the network, "
            f"or {address}/{bits} for the one address"
        ) from None
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED_NETWORK):
        return IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - 96))
    return network


class Networks:
    """A list of networks that is asked often: once a connection, or once a command.

    Not shared between threads. An answer costs a dictionary look-up where the address was asked before
    (`_CACHED_ADDRESSES_MAX` answers are kept), else a binary search.
    """

    __slots__ = ("_cache", "_networks", "_ranges4", "_ranges6")

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(networks)
        self._ranges4 = _ranges(n for n in self._networks if isinstance(n, IPv4Network))
        self._ranges6 = _ranges(n for n in self._networks if isinstance(n, IPv6Network))
        self._cache: dict[str, bool] = {}

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Networks:
        """Raises `InvalidNetwork` for the first text that is none."""
        return cls(map(parse_network, texts))

    def __bool__(self) -> bool:
        """Whether there is any network in the list: an empty one contains nobody."""
        return bool(self._networks)

    def __str__(self) -> str:
        return ", ".join(map(str, self._networks))

    def contains(self, address: str) -> bool:
        """Whether an IP address, as a socket names its peer, lies in one of the networks."""
        known = self._cache.get(address)
        if known is not None:
            return known
        answer = self._search(address)
        # Emptied whole when full: an attacker with many addresses costs searches, never memory.
        if len(self._cache) >= _CACHED_ADDRESSES_MAX:
            self._cache.clear()
        self._cache[address] = answer
        return answer

    def _search(self, address: str) -> bool:
        try:
            if ":" not in address:
                packed = socket.inet_pton(socket.AF_INET, address)
            else:
                packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
        except (OSError, ValueError):
            return False
        if packed.startswith(_MAPPED_PREFIX):
            packed = packed[12:]
        firsts, lasts = self._ranges4 if len(packed) == 4 else self._ranges6
        number = int.from_bytes(packed, "big")
        place = bisect_right(firsts, number)
        return place > 0 and number <= lasts[place - 1]


def _ranges(networks: Iterable[Network]) -> tuple[list[int], list[int]]:
    """First and last addresses of networks of one version, sorted and without overlap."""
    firsts: list[int] = []
    lasts: list[int] = []
    for network in sorted(networks, key=lambda n: (int(n.network_address), n.prefixlen)):
        first, last = int(network.network_address), int(network.broadcast_address)
        # Two networks are apart, or one lies within the other; the wider one comes first.
        if not lasts or last > lasts[-1]:
            firsts.append(first)
            lasts.append(last)
    return firsts, lasts
