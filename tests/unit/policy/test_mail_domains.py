"""Where mail for an address goes: its domain, and the hosts that DNS names for that."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dispatch.policy.mail_domains import HOSTS_MAX, destination, literal_address, mail_hosts


def drawing(*chances: float) -> Callable[[], float]:
    drawn = iter(chances)
    return lambda: next(drawn)


def certain() -> float:
    return 0.0


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("a@Example.ORG", "example.org"),
        ("a@example.org.", "example.org"),
        ('"a@b"@example.org', "example.org"),
        ("a@Bücher.example", "xn--bcher-kva.example"),
        ("a@bu\u0308cher.example", "xn--bcher-kva.example"),
        ("a@xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a@例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("a@[192.0.2.1]", "[192.0.2.1]"),
        ("a@[IPv6:2001:DB8::1]", "[ipv6:2001:db8::1]"),
        ("postmaster", ""),
    ],
)
def test_all_spellings_of_a_domain_are_one_destination(address: str, expected: str) -> None:
    assert destination(address) == expected


def test_what_is_no_international_domain_stays_as_it_is() -> None:
    assert destination("a@\u2603\u0301-.example") == "\u2603\u0301-.example"


@pytest.mark.parametrize(
    ("domain", "address"),
    [
        ("example.org", None),
        ("192.0.2.1", None),
        ("[192.0.2.1]", "192.0.2.1"),
        ("[ipv6:2001:db8::1]", "2001:db8::1"),
    ],
)
def test_the_address_of_a_literal(domain: str, address: str | None) -> None:
    assert literal_address(domain) == address


@pytest.mark.parametrize("domain", ["[192.0.2.300]", "[x-tag:abc]", "[]"])
def test_a_literal_that_holds_no_address_is_refused(domain: str) -> None:
    with pytest.raises(ValueError, match="address"):
        literal_address(domain)


def test_hosts_go_by_preference() -> None:
    found = mail_hosts([(30, "c"), (10, "a"), (20, "b")], certain)
    assert found == (("a", "b", "c"), False, False)


def test_equals_are_drawn() -> None:
    records = [(10, "a"), (10, "b"), (5, "first")]
    assert mail_hosts(records, drawing(0.9, 0.1, 0.5)).names == ("first", "b", "a")
    assert mail_hosts(records, drawing(0.1, 0.9, 0.5)).names == ("first", "a", "b")


def test_a_null_mx_is_no_host() -> None:
    assert mail_hosts([(0, "")], certain) == ((), True, False)


def test_we_and_all_that_are_not_preferred_to_us_are_left_out() -> None:
    records = [(10, "near.example."), (20, "Relay.Example."), (20, "beside.example"), (30, "far.example")]
    found = mail_hosts(records, certain, {"relay.example"})
    assert found == (("near.example.",), False, False)


def test_where_nobody_is_preferred_to_us_mail_would_loop() -> None:
    records = [(10, "relay.example"), (20, "far.example")]
    assert mail_hosts(records, certain, {"relay.example"}) == ((), False, True)


def test_only_so_many_hosts_are_tried() -> None:
    records = [(number, f"h{number}") for number in range(100)]
    assert mail_hosts(records, certain).names == tuple(f"h{number}" for number in range(HOSTS_MAX))
