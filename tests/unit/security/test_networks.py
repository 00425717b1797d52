"""Who is inside a list of networks, and what is said about a list that is none."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.security.networks import InvalidNetwork, Networks, parse_network

PRIVATE = Networks.parse(
    ["127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]
)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.255.255.255", "172.31.0.1", "192.168.0.0", "fd12::1", "fc00::"]
)
def test_an_address_of_the_list_is_inside(address: str) -> None:
    assert PRIVATE.contains(address)
    assert PRIVATE.contains(address), "asked twice, answered alike"


@pytest.mark.parametrize(
    "address", ["11.0.0.0", "172.32.0.1", "192.169.0.1", "::2", "2001:db8::1", "fe00::1", "9.255.255.255"]
)
def test_any_other_address_is_outside(address: str) -> None:
    assert not PRIVATE.contains(address)


def test_an_ipv4_client_of_a_dual_stack_socket_is_matched_as_ipv4() -> None:
    assert PRIVATE.contains("::ffff:10.1.2.3")
    assert not PRIVATE.contains("::ffff:8.8.8.8")
    assert not Networks.parse(["::/0"]).contains("::ffff:8.8.8.8")
    assert not Networks.parse(["::/0"]).contains("8.8.8.8")


def test_a_network_in_mapped_notation_is_the_ipv4_network_it_means() -> None:
    mapped = Networks.parse(["::ffff:192.0.2.0/120"])
    assert mapped.contains("192.0.2.7")
    assert mapped.contains("::ffff:192.0.2.7")
    assert not mapped.contains("192.0.3.7")
    assert str(mapped) == "192.0.2.0/24"


def test_an_empty_list_contains_nobody() -> None:
    nobody = Networks.parse([])
    assert not nobody
    assert not nobody.contains("127.0.0.1")


def test_everybody_is_written_as_two_networks() -> None:
    everybody = Networks.parse(["0.0.0.0/0", "::/0"])
    for address in ("8.8.8.8", "::ffff:8.8.8.8", "2001:db8::1", "0.0.0.0", "ff02::1"):
        assert everybody.contains(address)


@pytest.mark.parametrize("address", ["", "localhost", "/run/dispatch.sock", "1.2.3", "10.0.0.1\x00", "::1::"])
def test_what_is_no_address_is_in_no_list(address: str) -> None:
    assert not Networks.parse(["0.0.0.0/0", "::/0"]).contains(address)


def test_a_link_local_address_is_matched_without_its_interface() -> None:
    assert Networks.parse(["fe80::/10"]).contains("fe80::1%eth0")


def test_one_address_is_a_network_of_one() -> None:
    one = Networks.parse(["192.0.2.1", "2001:db8::1"])
    assert one.contains("192.0.2.1")
    assert one.contains("2001:db8::1")
    assert not one.contains("192.0.2.2")


def test_more_addresses_than_are_remembered_are_still_answered_right() -> None:
    networks = Networks.parse(["10.0.0.0/17"])
    for _ in range(2):
        for number in range(6000):
            inside = number % 2 == 0
            address = (
                f"10.0.{'0' if inside else '128'}.{number % 256}" if number < 512 else f"10.{number >> 8}.1.1"
            )
            assert networks.contains(address) == (ip_address(address) in parse_network("10.0.0.0/17"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.1.2.3/8", "write 10.0.0.0/8 for the network, or 10.1.2.3/32 for the one address"),
        ("2001:db8::1/32", "write 2001:db8::/32 for the network"),
        ("localhost", "is no IP network"),
        ("", "is no IP network"),
        ("10.0.0.0/33", "a number of bits from 0 to 32"),
        ("10.0.0.0/255.0.0.0", "a number of bits from 0 to 32"),
        ("10.0.0.0/", "a number of bits from 0 to 32"),
        ("::/129", "a number of bits from 0 to 128"),
        ("10.0.0/8", "is no IP network"),
        ("fe80::1%eth0", "leave out %eth0"),
    ],
)
def test_what_is_no_network_is_refused_with_what_to_write(text: str, said: str) -> None:
    with pytest.raises(InvalidNetwork) as refusal:
        parse_network(text)
    assert said in str(refusal.value)
    assert repr(text) in str(refusal.value)


def _v4_networks() -> st.SearchStrategy[str]:
    return st.builds(
        lambda number, bits: f"{ip_address(number >> (32 - bits) << (32 - bits))}/{bits}",
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    )


@settings(max_examples=100)
@given(texts=st.lists(_v4_networks(), max_size=8), number=st.integers(0, 2**32 - 1))
def test_the_search_agrees_with_asking_each_network(texts: list[str], number: int) -> None:
    address = ip_address(number)
    inside = any(address in parse_network(text) for text in texts)
    networks = Networks.parse(texts)
    assert networks.contains(str(address)) == inside
    assert networks.contains(f"::ffff:{address}") == inside
