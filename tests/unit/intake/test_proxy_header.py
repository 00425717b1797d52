"""Who the client is when a proxy says so, and what is no such word."""

from __future__ import annotations

import pytest

from dispatch.intake.proxy_header import Malformed, Peer, ProxyHeader

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
IPV4 = bytes([203, 0, 113, 9, 192, 0, 2, 1]) + (40_000).to_bytes(2, "big") + (25).to_bytes(2, "big")
IPV6 = bytes.fromhex("20010db8" + "00" * 11 + "07" + "20010db8" + "00" * 11 + "01") + b"\x9c\x40\x00\x19"
MAPPED = bytes.fromhex("00" * 10 + "ffff" + "cb007109" + "00" * 16) + b"\x9c\x40\x00\x19"
TLV = b"\x05\x00\x03abc"
HELLO = b"EHLO client.example\r\n"


def binary(command: int, family: int, addresses: bytes, extensions: bytes = b"") -> bytes:
    following = addresses + extensions
    return SIGNATURE + bytes([command, family]) + len(following).to_bytes(2, "big") + following


def read(data: bytes) -> Peer | Malformed | None:
    return ProxyHeader().feed(data)


READ = {
    "v1, IPv4": (b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 25\r\n", "203.0.113.9", 40_000),
    "v1, IPv6": (b"PROXY TCP6 2001:DB8::7 2001:db8::1 40000 25\r\n", "2001:db8::7", 40_000),
    "v1, mapped": (b"PROXY TCP6 ::ffff:203.0.113.9 ::1 1 25\r\n", "203.0.113.9", 1),
    "v1, lowest and highest port": (b"PROXY TCP4 1.2.3.4 5.6.7.8 0 65535\r\n", "1.2.3.4", 0),
    "v1, unknown": (b"PROXY UNKNOWN\r\n", None, None),
    "v1, unknown and longest": (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", None, None),
    "v2, IPv4": (binary(0x21, 0x11, IPV4), "203.0.113.9", 40_000),
    "v2, IPv6": (binary(0x21, 0x21, IPV6), "2001:db8::7", 40_000),
    "v2, mapped": (binary(0x21, 0x21, MAPPED), "203.0.113.9", 40_000),
    "v2, extensions": (binary(0x21, 0x11, IPV4, TLV * 3), "203.0.113.9", 40_000),
    "v2, longest": (binary(0x21, 0x21, IPV6, bytes(65_535 - 36)), "2001:db8::7", 40_000),
    "v2, local": (binary(0x20, 0x00, b""), None, None),
    "v2, local with addresses": (binary(0x20, 0x11, IPV4, TLV), None, None),
    "v2, local of a family unheard of": (binary(0x20, 0xF7, b"abc"), None, None),
    "v2, unspecified": (binary(0x21, 0x00, b""), None, None),
    "v2, unspecified with more": (binary(0x21, 0x00, b"whatever"), None, None),
    "v2, UDP": (binary(0x21, 0x12, IPV4), None, None),
    "v2, Unix": (binary(0x21, 0x31, bytes(216)), None, None),
}

REFUSED = {
    "SMTP at once": HELLO,
    "TLS at once": b"\x16\x03\x01\x02\x00",
    "nearly v1": b"PROXX ",
    "small letters": b"proxy TCP4 203.0.113.9 192.0.2.1 40000 25\r\n",
    "nearly v2": SIGNATURE[:-1] + b"\x0b",
    "v1, no words": b"PROXY \r\n",
    "v1, LF alone": b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 25\n",
    "v1, CR within": b"PROXY TCP4 203.0.113.9\r 192.0.2.1 40000 25\r\n",
    "v1, unknown and LF alone": b"PROXY UNKNOWN\n",
    "v1, unknown and longer": b"PROXY UNKNOWNS\r\n",
    "v1, two spaces": b"PROXY TCP4  203.0.113.9 192.0.2.1 40000 25\r\n",
    "v1, space at the end": b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 25 \r\n",
    "v1, tab": b"PROXY TCP4\t203.0.113.9 192.0.2.1 40000 25\r\n",
    "v1, a word too few": b"PROXY TCP4 203.0.113.9 192.0.2.1 40000\r\n",
    "v1, UDP": b"PROXY UDP4 203.0.113.9 192.0.2.1 40000 25\r\n",
    "v1, IPv6 as IPv4": b"PROXY TCP4 2001:db8::7 2001:db8::1 40000 25\r\n",
    "v1, IPv4 as IPv6": b"PROXY TCP6 203.0.113.9 192.0.2.1 40000 25\r\n",
    "v1, octal": b"PROXY TCP4 203.0.113.09 192.0.2.1 40000 25\r\n",
    "v1, scope": b"PROXY TCP6 fe80::1%eth0 fe80::2 40000 25\r\n",
    "v1, destination is none": b"PROXY TCP4 203.0.113.9 relay.example 40000 25\r\n",
    "v1, port too large": b"PROXY TCP4 203.0.113.9 192.0.2.1 65536 25\r\n",
    "v1, port below 0": b"PROXY TCP4 203.0.113.9 192.0.2.1 -1 25\r\n",
    "v1, port with zero in front": b"PROXY TCP4 203.0.113.9 192.0.2.1 040 25\r\n",
    "v1, destination port is none": b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 smtp\r\n",
    "v1, digits of another script": "PROXY TCP4 203.0.113.9 192.0.2.1 4000٣ 25\r\n".encode(),
    "v1, a byte too long": b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
    "v1, without end": b"PROXY " + b"A" * 200,
    "v2, version 1": binary(0x11, 0x11, IPV4),
    "v2, version 3": binary(0x31, 0x11, IPV4),
    "v2, command unheard of": binary(0x22, 0x11, IPV4),
    "v2, family unheard of": binary(0x21, 0x41, IPV4),
    "v2, protocol unheard of": binary(0x21, 0x13, IPV4),
    "v2, too short for IPv4": binary(0x21, 0x11, IPV4[:-1]),
    "v2, too short for IPv6": binary(0x21, 0x21, IPV4),
}


@pytest.mark.parametrize(("header", "address", "port"), READ.values(), ids=READ)
def test_the_client_is_whom_the_proxy_names(header: bytes, address: str | None, port: int | None) -> None:
    assert read(header + HELLO) == Peer(address, port, HELLO)
    assert read(header) == Peer(address, port, b"")


@pytest.mark.parametrize("header", REFUSED.values(), ids=REFUSED)
def test_what_is_no_header_is_refused_with_a_reason(header: bytes) -> None:
    refused = read(header)
    assert isinstance(refused, Malformed)
    assert refused.reason


@pytest.mark.parametrize("header", [header for header, *_ in READ.values()], ids=READ)
def test_a_header_that_was_cut_off_names_nobody(header: bytes) -> None:
    for end in [*range(min(len(header), 300)), len(header) - 1]:
        assert read(header[:end]) is None


@pytest.mark.parametrize(
    "header", [header for header, *_ in READ.values()] + list(REFUSED.values()), ids=[*READ, *REFUSED]
)
def test_a_header_that_comes_byte_by_byte_says_the_same(header: bytes) -> None:
    parser = ProxyHeader()
    result = None
    sent = 0
    while result is None and sent < len(header):
        sent += 1
        result = parser.feed(header[sent - 1 : sent])
    whole = read(header)
    assert result == whole
    assert sent == len(header) or isinstance(whole, Malformed)


def test_an_extension_that_looks_like_a_command_is_none() -> None:
    assert read(binary(0x21, 0x11, IPV4, HELLO) + HELLO) == Peer("203.0.113.9", 40_000, HELLO)
