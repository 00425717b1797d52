"""The machine's own addresses, as its kernel tells them."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from pathlib import Path

import pytest

from dispatch.runtime import addresses
from dispatch.runtime.addresses import LOOPBACK, own_addresses


def test_each_is_one_that_can_be_bound() -> None:
    found = own_addresses()
    assert found[:2] == LOOPBACK
    assert len(set(found)) == len(found)
    for address in found[2:]:
        family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))


def test_every_address_of_an_interface_is_told_and_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trie = tmp_path / "fib_trie"
    trie.write_text(
        "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 192.0.2.0\n        /24 link UNICAST\n"
        "     |-- 192.0.2.2\n        /32 host LOCAL\n     |-- 192.0.2.3\n        /32 host LOCAL\n"
        "     |-- 192.0.2.255\n        /32 link BROADCAST\n"
    )
    inet6 = tmp_path / "if_inet6"
    inet6.write_text(
        "20010db8000000000000000000000001 02 40 00 80     eth0\n"
        "fe800000000000000000000000000001 02 40 20 80     eth0\n"
    )
    monkeypatch.setattr(addresses, "_IPV4_ROUTES", trie)
    monkeypatch.setattr(addresses, "_IPV6_ADDRESSES", inet6)
    assert own_addresses() == (*LOOPBACK, "192.0.2.2", "192.0.2.3", "2001:db8::1")


def test_without_the_tables_loopback_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_IPV4_ROUTES", tmp_path / "none")
    monkeypatch.setattr(addresses, "_IPV6_ADDRESSES", tmp_path / "none")
    assert own_addresses() == LOOPBACK
