"""Whose name a login may use, and to whom it may send."""

from __future__ import annotations

import pytest

from dispatch.policy.logins import AddressList, LoginRules, pin_of
from dispatch.policy.patterns import NoPattern, parse_pattern, plain_address

PATTERNS = [
    "alice@example.org",
    "example.com",
    "*.example.net",
    "*@*.example.net",
    "news-*@example.org",
    "root@*.example.edu",
    "root@mail?.example.edu",
    "*@mail*.example",
    "postmaster@*",
    "münchen.example",
    '"a b"@example.org',
    "<>",
]
ADDRESSES = [
    "alice@example.org",
    "Alice@example.org",
    '"alice"@EXAMPLE.org',
    "bob@example.org",
    "bob@example.com",
    "bob@sub.example.com",
    "bob@example.net",
    "bob@.example.net",
    "bob@a.example.net",
    "bob@a.b.EXAMPLE.net",
    "news-x@example.org",
    "root@a.example.edu",
    "root@mail1.example.edu",
    "who@mail1.example",
    "postmaster@anywhere.example",
    "postmaster",
    "x@xn--mnchen-3ya.example",
    '"a b"@example.org',
    "",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("address", ADDRESSES)
def test_a_list_says_what_its_pattern_says(pattern: str, address: str) -> None:
    listed = AddressList.parse([pattern])
    expected = parse_pattern(pattern).matches(*plain_address(address))
    assert listed.allows(address) is expected
    assert listed.allows(address) is expected, "when it is remembered"


@pytest.mark.parametrize("address", ADDRESSES)
def test_one_pattern_of_many_is_enough(address: str) -> None:
    patterns = [parse_pattern(text) for text in PATTERNS]
    expected = any(pattern.matches(*plain_address(address)) for pattern in patterns)
    assert AddressList(patterns).allows(address) is expected
    assert AddressList.parse([*PATTERNS, "*"]).allows(address)


def test_an_empty_list_is_no_condition() -> None:
    assert not AddressList()
    assert AddressList().allows("anybody@anywhere.example")
    assert AddressList().allows("")
    assert AddressList.parse(["example.org"])


def test_what_is_no_pattern_is_refused() -> None:
    with pytest.raises(NoPattern):
        AddressList.parse(["example.org", "@example.org"])


def test_a_login_may_use_the_names_that_it_is_allowed() -> None:
    login = LoginRules("printer", allowed_senders=AddressList.parse(["printer@example.org", "example.com"]))
    assert login.permits_sender("printer@example.org")
    assert login.permits_sender("anybody@example.com")
    assert not login.permits_sender("boss@example.org")
    assert LoginRules("gateway").permits_sender("boss@example.org")


def test_every_login_may_send_notifications() -> None:
    assert LoginRules("printer", allowed_senders=AddressList.parse(["printer@example.org"])).permits_sender(
        ""
    )


def test_more_addresses_than_are_remembered_are_answered_all_the_same() -> None:
    listed = AddressList.parse(["a*@example.org"])
    for number in range(5000):
        assert listed.allows(f"a{number}@example.org")
        assert not listed.allows(f"b{number}@example.org")


@pytest.mark.parametrize(
    ("relay", "may_name_relay", "named", "pin"),
    [
        ("", False, (), ""),
        ("own", False, (), "own"),
        ("own", False, ("other",), "own"),
        ("", False, ("other",), ""),
        ("", True, ("other",), "other"),
        ("own", True, ("other",), "other"),
        ("own", True, (), "own"),
    ],
)
def test_the_relay_that_a_message_names_counts_only_where_its_login_may(
    relay: str, may_name_relay: bool, named: tuple[str, ...], pin: str
) -> None:
    assert pin_of(relay, may_name_relay, named) == pin
