"""Who a request comes from: what proxies say is believed of proxies, from the right."""

import pytest

from dispatch.intake.http.client_address import ENTRIES_MAX, client_address

PROXIES = {"10.0.0.1", "10.0.0.2", "2001:db8::1"}


def of(peer: str, *, forwarded: tuple[str, ...] = (), xff: tuple[str, ...] = ()) -> str:
    return client_address(peer, forwarded, xff, PROXIES.__contains__)


def test_a_stranger_is_who_he_is_whatever_he_says() -> None:
    assert of("192.0.2.9", forwarded=("for=198.51.100.1",), xff=("198.51.100.1",)) == "192.0.2.9"


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        (("198.51.100.7",), "198.51.100.7"),
        (("198.51.100.7:4711",), "198.51.100.7"),
        (("203.0.113.1, 198.51.100.7",), "198.51.100.7"),
        (("203.0.113.1", "198.51.100.7"), "198.51.100.7"),
        (("198.51.100.7, 10.0.0.2",), "198.51.100.7"),
        (("127.0.0.1, 198.51.100.7, 10.0.0.2",), "198.51.100.7"),
        (("10.0.0.2",), "10.0.0.2"),
        (("2001:db8::7",), "2001:db8::7"),
        (("[2001:db8::7]:4711",), "2001:db8::7"),
        (("::ffff:198.51.100.7",), "198.51.100.7"),
        (("unknown",), "10.0.0.1"),
        (("198.51.100.7, nonsense, 10.0.0.2",), "10.0.0.2"),
        (("",), "10.0.0.1"),
        ((), "10.0.0.1"),
    ],
)
def test_behind_proxies_the_first_from_the_right_that_is_none(fields: tuple[str, ...], address: str) -> None:
    assert of("10.0.0.1", xff=fields) == address


@pytest.mark.parametrize(
    ("field", "address"),
    [
        ("for=198.51.100.7;proto=https;by=10.0.0.1", "198.51.100.7"),
        ('proto=https; For="[2001:db8::7]:4711"', "2001:db8::7"),
        ("for=203.0.113.1, for=198.51.100.7, for=10.0.0.2", "198.51.100.7"),
        ("for=_hidden", "10.0.0.1"),
    ],
)
def test_the_standard_field_goes_before_the_other(field: str, address: str) -> None:
    assert of("10.0.0.1", forwarded=(field,), xff=("192.0.2.99",)) == address


def test_a_list_without_end_is_not_walked() -> None:
    entries = ["192.0.2.1"] + ["10.0.0.2"] * (ENTRIES_MAX + 5)
    assert of("10.0.0.1", xff=(", ".join(entries),)) == "10.0.0.2"
