"""The PROXY header, versions 1 and 2: who the client is, said by a proxy before the client's first byte.

Source: "The PROXY protocol, Versions 1 & 2" by W. Tarreau, doc/proxy-protocol.txt of HAProxy; its sections
stand beside the lines that obey them. Without I/O: bytes in, a result out.

Rules:
- A header is read only from a peer that is listed (`listener.proxy_protocol_from`), and then it must be
  there: were it only looked for, any client could name itself (section 2).
- A byte that cannot be right ends it. How the bytes are cut into chunks makes no difference.
- Memory is bounded: what is kept is at most one header without its extensions, and what came with it.

Traps: `LOCAL`, `UNKNOWN`, and clients that are not on TCP leave the connection's own address, the proxy's,
in force (sections 2.1, 2.2). So a proxy that stands in `listener.allowed_cidrs` admits everybody whose
address it does not say. And a health check may close the connection before or behind the header: nobody is
to blame.

It deliberately reads no extensions (TLVs, section 2.2): they are counted off, and their checksum (section
2.2.3) with them, for it protects what TCP protects already. How long the header may take is the driver's.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NamedTuple

LINE_BYTES_MAX = 107
"""Of version 1, CRLF included (section 2.1)."""

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_HEAD_BYTES = 16
_LOCAL, _PROXY = 0x20, 0x21
"""Version 2 in the upper half, the command in the lower one."""
_ADDRESS_BYTES = {0x11: 12, 0x21: 36}
"""TCP over IPv4 and over IPv6: both addresses, both ports."""
_FAMILY_MAX, _PROTOCOL_MAX = 3, 2
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")


class Peer(NamedTuple):
    """The header was read."""

    address: str | None
    """The client's, an IPv4-mapped one as IPv4; None: the connection's own holds."""
    port: int | None
    rest: bytes
    """What came behind the header: the client's first bytes."""


class Malformed(NamedTuple):
    """There is no header: close the connection without a word (section 2.1: it is no client that speaks)."""

    reason: str
    """For the log; holds nothing that the peer sent but numbers."""


class ProxyHeader:
    """The header of one connection, on its way in."""

    __slots__ = ("_buffer", "_ended", "_peer", "_to_skip")

    def __init__(self) -> None:
        self._buffer = b""
        self._peer: Peer | None = None
        """Known, while its extensions are still arriving."""
        self._to_skip = 0
        self._ended = False

    def feed(self, data: bytes) -> Peer | Malformed | None:
        """None: more is needed. After any other answer it is done, and `rest` is the session's."""
        assert not self._ended, "the header has ended"
        result = self._skip(data) if self._peer is not None else self._read(data)
        self._ended = result is not None
        if self._ended:
            self._buffer = b""
        return result

    def _read(self, data: bytes) -> Peer | Malformed | None:
        self._buffer = buffer = self._buffer + data
        if buffer.startswith(_V1):
            return _read_line(buffer)
        if buffer.startswith(_V2):
            return self._read_binary(buffer)
        if _V1.startswith(buffer) or _V2.startswith(buffer):
            return None
        return Malformed("the connection does not begin with a PROXY header")

    def _read_binary(self, buffer: bytes) -> Peer | Malformed | None:
        """Version 2 (section 2.2)."""
        if len(buffer) < _V2_HEAD_BYTES:
            return None
        command, family = buffer[12], buffer[13]
        length = int.from_bytes(buffer[14:16], "big")
        if command not in (_LOCAL, _PROXY):
            return Malformed(f"version 2 header with unknown version and command 0x{command:02x}")
        # Of LOCAL, the family must be ignored, whatever it is.
        if command == _PROXY and (family >> 4 > _FAMILY_MAX or family & 15 > _PROTOCOL_MAX):
            return Malformed(f"version 2 header with unknown family and protocol 0x{family:02x}")
        address_bytes = _ADDRESS_BYTES.get(family)
        if command == _LOCAL or address_bytes is None:
            return self._skip_to(Peer(None, None, b""), buffer[_V2_HEAD_BYTES:], length)
        if length < address_bytes:
            return Malformed(f"version 2 header of {length} bytes, too short for its addresses")
        end = _V2_HEAD_BYTES + address_bytes
        if len(buffer) < end:
            return None
        size = (address_bytes - 4) // 2
        source = buffer[_V2_HEAD_BYTES : _V2_HEAD_BYTES + size]
        address = str(IPv4Address(source)) if size == 4 else _ipv6_text(IPv6Address(source))
        port = int.from_bytes(buffer[end - 4 : end - 2], "big")
        return self._skip_to(Peer(address, port, b""), buffer[end:], length - address_bytes)

    def _skip_to(self, peer: Peer, data: bytes, size_bytes: int) -> Peer | None:
        self._buffer = b""
        self._peer = peer
        self._to_skip = size_bytes
        return self._skip(data)

    def _skip(self, data: bytes) -> Peer | None:
        assert self._peer is not None, "nothing to skip before the addresses"
        if len(data) < self._to_skip:
            self._to_skip -= len(data)
            return None
        return self._peer._replace(rest=data[self._to_skip :])


def _read_line(buffer: bytes) -> Peer | Malformed | None:
    """Version 1 (section 2.1)."""
    end = buffer.find(b"\n", 0, LINE_BYTES_MAX)
    if end < 0:
        if len(buffer) >= LINE_BYTES_MAX:
            return Malformed(f"version 1 header without its end within {LINE_BYTES_MAX} bytes")
        return None
    line, rest = buffer[len(_V1) : end - 1], buffer[end + 1 :]
    if buffer[end - 1 : end] != b"\r" or b"\r" in line:
        return Malformed("version 1 header with a bare CR or LF")
    if line == b"UNKNOWN" or line.startswith(b"UNKNOWN "):
        return Peer(None, None, rest)
    return _read_words(line.decode("latin-1").split(" "), rest)


def _read_words(words: list[str], rest: bytes) -> Peer | Malformed:
    if len(words) != 5:
        return Malformed(f"version 1 header of {len(words)} words behind PROXY, not 5")
    family, source, destination, source_port, destination_port = words
    parse = _PARSE.get(family)
    if parse is None:
        return Malformed("version 1 header of neither TCP4 nor TCP6 nor UNKNOWN")
    try:
        address = parse(source)
        parse(destination)
    except AddressValueError:
        return Malformed(f"version 1 header with what is no {family} address")
    for port in (source_port, destination_port):
        if not _PORT.fullmatch(port) or int(port) > 65535:
            return Malformed("version 1 header with what is no port")
    return Peer(address, int(source_port), rest)


def _ipv4(text: str) -> str:
    """Raises `AddressValueError`."""
    return str(IPv4Address(text))


def _ipv6(text: str) -> str:
    """Without a scope, which means nothing to another host. Raises `AddressValueError`."""
    if "%" in text:
        raise AddressValueError("scope")
    return _ipv6_text(IPv6Address(text))


def _ipv6_text(address: IPv6Address) -> str:
    """An IPv4-mapped address is the IPv4 address that it is (RFC 4291 section 2.5.5.2)."""
    return str(address if address.ipv4_mapped is None else address.ipv4_mapped)


_PARSE = {"TCP4": _ipv4, "TCP6": _ipv6}
