"""The PROXY header: how its bytes are cut makes no difference, and no bytes make it grow or break."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.intake.proxy_header import Malformed, Peer, ProxyHeader

EXAMPLES = settings(max_examples=200, deadline=None)
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

ports = st.integers(0, 65_535)
behind = st.binary(max_size=40)
lines = st.builds(
    "PROXY {} {} {} {} {}\r\n".format,
    st.sampled_from(["TCP4", "TCP6", "UNKNOWN", "TCP5"]),
    st.ip_addresses(),
    st.ip_addresses(),
    st.integers(-1, 70_000),
    ports,
).map(str.encode)
binaries = st.builds(
    lambda head, follows: SIGNATURE + bytes(head) + len(follows).to_bytes(2, "big") + follows,
    st.tuples(st.sampled_from([0x20, 0x21, 0x11]), st.sampled_from([0x00, 0x11, 0x21, 0x31, 0x99])),
    st.binary(max_size=80),
)
scraps = st.sampled_from([b"PROXY ", b"UNKNOWN", b"\r\n", b"\n", b"\r", SIGNATURE, b"\x21\x11", b" 1"])
noise = st.lists(scraps | st.binary(max_size=30), max_size=8).map(b"".join)
streams = st.builds(bytes.__add__, lines | binaries | noise, behind)


def fed(chunks: list[bytes]) -> tuple[Peer | Malformed | None, bytes]:
    """The result, and every byte that was left for the session."""
    parser = ProxyHeader()
    for number, chunk in enumerate(chunks, 1):
        result = parser.feed(chunk)
        if isinstance(result, Peer):
            return result._replace(rest=b""), result.rest + b"".join(chunks[number:])
        if result is not None:
            return result, b""
    return None, b""


@EXAMPLES
@given(streams, st.data())
def test_how_the_bytes_are_cut_makes_no_difference(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=6)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    single = [stream[at : at + 1] for at in range(len(stream))]
    assert fed([stream]) == fed(chunks) == fed(single)


@EXAMPLES
@given(st.ip_addresses(v=4), ports, behind)
def test_every_ipv4_client_is_known_from_either_version(
    address: IPv4Address, port: int, behind: bytes
) -> None:
    line = f"PROXY TCP4 {address} 192.0.2.1 {port} 25\r\n".encode()
    packed = address.packed + bytes(4) + port.to_bytes(2, "big") + bytes(2)
    binary = SIGNATURE + b"\x21\x11" + len(packed).to_bytes(2, "big") + packed
    for header in (line, binary):
        assert fed([header + behind]) == (Peer(str(address), port, b""), behind)


@EXAMPLES
@given(st.ip_addresses(v=6), ports, behind)
def test_every_ipv6_client_is_known_from_either_version(
    address: IPv6Address, port: int, behind: bytes
) -> None:
    line = f"PROXY TCP6 {address} 2001:db8::1 {port} 25\r\n".encode()
    packed = address.packed + bytes(16) + port.to_bytes(2, "big") + bytes(2)
    binary = SIGNATURE + b"\x21\x21" + len(packed).to_bytes(2, "big") + packed
    expected = str(address.ipv4_mapped or address)
    for header in (line, binary):
        assert fed([header + behind]) == (Peer(expected, port, b""), behind)
