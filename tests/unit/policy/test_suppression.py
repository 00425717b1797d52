"""Which addresses are on the suppression list, and what that does to the routes of a message."""

from __future__ import annotations

import pytest

from dispatch.mail.envelope import Recipient
from dispatch.policy.routing import Action, Route
from dispatch.policy.suppression import SUPPRESSION, SuppressionList, suppression_key, without_suppressed

LIST = SuppressionList.of(["Gone@Example.NET", '"left us"@example.net', "a@bücher.example"])
RELAY, OTHER = Route(("one",), "a"), Route(("two",), "b")


@pytest.mark.parametrize(
    "address",
    [
        "gone@example.net",
        "GONE@EXAMPLE.net",
        '"gone"@example.net',
        '"left us"@example.net',
        "a@xn--bcher-kva.example",
        "A@BÜCHER.example",
    ],
)
def test_an_address_is_on_the_list_however_it_is_written(address: str) -> None:
    assert LIST.holds(address)


@pytest.mark.parametrize("address", ["here@example.net", "gone@example.org", "gone@sub.example.net", ""])
def test_others_are_not(address: str) -> None:
    assert not LIST.holds(address)


def test_an_empty_list_holds_nobody() -> None:
    assert not SuppressionList().holds("gone@example.net")
    assert SuppressionList().among([Recipient("gone@example.net")]) == frozenset()


def test_each_of_many_is_found_and_nobody_else() -> None:
    listed = SuppressionList.of(f"a{number}@example.net" for number in range(1000))
    assert len(listed) == 1000
    found = [number for number in range(2000) if listed.holds(f"A{number}@example.net")]
    assert found == list(range(1000))


def test_one_address_has_one_key() -> None:
    assert suppression_key('"Gone"@EXAMPLE.net') == suppression_key("gone@example.net") == "gone@example.net"


def test_who_is_suppressed_takes_no_route_and_the_others_take_theirs() -> None:
    recipients = [Recipient(each) for each in ("a@b.c", "gone@example.net", "d@b.c", "GONE@example.net")]
    suppressed = LIST.among(recipients)
    assert suppressed == {1, 3}
    left = without_suppressed(((RELAY, (0, 1)), (OTHER, (2,))), suppressed)
    assert left[:-1] == ((RELAY, (0,)), (OTHER, (2,)))
    route, indexes = left[-1]
    assert (route.relays, route.action, route.rule, indexes) == ((), Action.SUPPRESS, SUPPRESSION, (1, 3))
    assert route.held, "nobody tries it"


def test_a_route_of_nobody_else_is_gone() -> None:
    assert len(without_suppressed(((RELAY, (0,)),), frozenset({0}))) == 1
    assert without_suppressed(((RELAY, (0,)),), frozenset()) == ((RELAY, (0,)),)
