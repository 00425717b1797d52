"""Whose limit a message must keep: that of the relays which its route names, the largest of them."""

from __future__ import annotations

import pytest

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.message import Message, Origin, Summary
from dispatch.policy.conditions import BLANK, Condition, Header, Source, parse_field
from dispatch.policy.patterns import parse_pattern
from dispatch.policy.routing import Action, Router, Rule
from dispatch.policy.size_limits import NO_LIMITS, NONE, SizeLimits

SIZES = {"main": 1000, "small": 100, "large": 5000}
USABLE = {*SIZES, "endless"}


def rule(
    name: str,
    recipient: str,
    *relays: str,
    action: Action = Action.RELAY,
    conditions: tuple[Condition, ...] = (),
) -> Rule:
    to = (parse_pattern(recipient),)
    return Rule(name, 100, (), to, relays, action, conditions=conditions)


LIMITS = SizeLimits(
    Router(
        [
            rule("a", "a.example", "small"),
            rule("b", "b.example", "small", "large", "main"),
            rule("c", "c.example", "small", "endless"),
            rule("d", "d.example", action=Action.HOLD),
            rule("e", "e.example", "large", conditions=(Header((parse_field("X-Big"),)),)),
            rule("f", "f.example", "large", conditions=(Source(("smtp",)),)),
            rule("g", "g.example", "off"),
        ],
        "main",
        USABLE,
    ),
    SIZES,
)


def at_rcpt(
    size_bytes: int | None, domain: str, pin: str = "", source: str = "smtp"
) -> tuple[str, int | None]:
    origin = Origin(source, "192.0.2.1")  # type: ignore[arg-type]  # one of them
    return LIMITS.at_rcpt(size_bytes, "me@example.org", f"x@{domain}", origin, 0, pin)


def of_message(size_bytes: int, *domains: str, pin: str = "", header: bool = False) -> tuple[str, int | None]:
    envelope = Envelope("me@example.org", tuple(Recipient(f"x@{domain}") for domain in domains))
    summary = Summary(headers=(("x-big", "yes"),) if header else ())
    message = Message(BLANK.id, 0, envelope, Origin("smtp", "192.0.2.1"), summary, size_bytes, pin=pin)
    return LIMITS.of_message(message, size_bytes, 0)


@pytest.mark.parametrize(
    ("domain", "limit"),
    [
        ("other.example", ("main", 1000)),
        ("a.example", ("small", 100)),
        ("b.example", ("large", 5000)),
        ("c.example", NONE),
        ("d.example", NONE),
        ("f.example", ("large", 5000)),
        ("g.example", NONE),
    ],
)
def test_the_most_generous_relay_of_the_route_counts(domain: str, limit: tuple[str, int | None]) -> None:
    assert at_rcpt(9000, domain) == limit
    assert of_message(9000, domain) == limit


def test_before_the_content_is_known_a_rule_about_it_may_match_or_not() -> None:
    assert at_rcpt(9000, "e.example") == NONE
    assert of_message(9000, "e.example") == ("main", 1000)
    assert of_message(9000, "e.example", header=True) == ("large", 5000)


def test_a_condition_that_is_known_at_rcpt_is_looked_at_there() -> None:
    assert at_rcpt(9000, "f.example", source="api") == ("main", 1000)


def test_what_is_not_declared_or_fits_everywhere_has_no_limit() -> None:
    assert at_rcpt(None, "a.example") == at_rcpt(100, "a.example") == NONE
    assert LIMITS.fits_everywhere(100) and not LIMITS.fits_everywhere(101)
    assert NO_LIMITS.fits_everywhere(1 << 40)


def test_each_part_of_a_message_must_fit() -> None:
    assert of_message(900, "other.example", "b.example", "c.example") == NONE
    assert of_message(900, "other.example", "a.example") == ("small", 100)


def test_a_pin_goes_before_every_rule() -> None:
    assert (
        at_rcpt(9000, "a.example", "large") == of_message(9000, "a.example", pin="large") == ("large", 5000)
    )
    assert at_rcpt(9000, "a.example", "endless") == of_message(9000, "a.example", pin="endless") == NONE
