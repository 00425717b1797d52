"""What rules ask beside sender and recipient, and how they say why."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from dispatch.mail.message import Origin, Summary
from dispatch.policy.conditions import (
    BLANK,
    Client,
    Condition,
    Facts,
    Header,
    Login,
    NoField,
    Size,
    Source,
    Tag,
    Time,
    parse_field,
)
from dispatch.policy.windows import NoWindow, Window, parse_window
from dispatch.security.networks import Networks

VIENNA = ZoneInfo("Europe/Vienna")
FACTS = Facts(
    BLANK.id,
    Origin("api", "192.0.2.7", login="shop"),
    Summary(tags=("bill", "new"), headers=(("x-kind", "Receipt"), ("list-id", "<a.example>"))),
    1000,
    int(datetime(2026, 3, 2, 8, 30, tzinfo=VIENNA).timestamp() * 1000),  # a Monday
)


def header(*written: str) -> Header:
    return Header(tuple(map(parse_field, written)))


def time(*written: str) -> Time:
    return Time(tuple(map(parse_window, written)), VIENNA)


@pytest.mark.parametrize(
    ("condition", "holds", "why"),
    [
        (Source(("smtp", "api")), True, "source is api"),
        (Source(("smtp", "internal")), False, "source is api, not smtp or internal"),
        (Login(("crm", "shop")), True, "login is shop"),
        (Login(("Shop",)), False, "login is shop, not Shop"),
        (Client(Networks.parse(["192.0.2.0/24"])), True, "client 192.0.2.7 is in 192.0.2.0/24"),
        (Client(Networks.parse(["::/0"])), False, "client 192.0.2.7 is not in ::/0"),
        (Tag(("x", "new")), True, "has the tag new"),
        (Tag(("x", "Bill")), False, "has no tag x or Bill"),
        (header("x-KIND"), True, "has the header field x-KIND"),
        (header("X-Other", "X-Kind:Receipt"), True, "has the header field X-Kind: Receipt"),
        (header("X-Kind: receipt", "Y"), False, "has no header field X-Kind: receipt or Y"),
        (Size(1000, 1000), True, "1000 bytes are 1000 to 1000"),
        (Size(1000, None), True, "1000 bytes are at least 1000"),
        (Size(None, 999), False, "1000 bytes are above 999"),
        (Size(1001, None), False, "1000 bytes are below 1001"),
        (time("Mon-Fri 08:00-18:00"), True, "Mon 08:30 (Europe/Vienna) is in Mon-Fri 08:00-18:00"),
        (time("Sat", "07:00-08:30"), False, "Mon 08:30 (Europe/Vienna) is not in Sat, 07:00-08:30"),
    ],
)
def test_a_condition_holds_and_says_why(condition: Condition, holds: bool, why: str) -> None:
    assert condition.holds(FACTS) is holds
    assert condition.why(FACTS) == why


def test_mail_without_a_login_is_of_no_login() -> None:
    assert not Login(("",)).holds(BLANK)
    assert Login(("shop",)).why(BLANK) == "login is none, not shop"


def test_the_clock_on_the_wall_is_followed_when_it_is_changed() -> None:
    summer = int(datetime(2026, 3, 30, 8, 30, tzinfo=VIENNA).timestamp() * 1000)
    assert (summer - FACTS.now_ms) % 86_400_000 == 23 * 3_600_000
    assert time("08:30-08:31").holds(FACTS._replace(now_ms=summer))


@pytest.mark.parametrize(
    ("written", "inside", "outside"),
    [
        ("Mon-Fri 08:00-18:00", [(0, 480), (4, 1079)], [(0, 479), (4, 1080), (5, 600)]),
        ("fri-MON", [(4, 0), (5, 1), (6, 2), (0, 1439)], [(1, 0), (3, 1439)]),
        ("22:00-6:00", [(2, 1320), (2, 0), (2, 359)], [(2, 360), (2, 1319)]),
        ("Sun 22:00-06:00", [(6, 1439), (0, 0), (0, 359)], [(6, 0), (0, 1320), (1, 0)]),
        ("Sat 00:00-24:00", [(5, 0), (5, 1439)], [(4, 1439), (6, 0)]),
        ("Wed", [(2, 0), (2, 1439)], [(1, 1439), (3, 0)]),
        ("23:00-00:00", [(0, 1380), (0, 1439)], [(0, 0), (0, 1379)]),
    ],
)
def test_a_window_contains_its_minutes(
    written: str, inside: list[tuple[int, int]], outside: list[tuple[int, int]]
) -> None:
    window: Window = parse_window(written)
    assert all(window.contains(*minute) for minute in inside)
    assert not any(window.contains(*minute) for minute in outside)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "always",
        "Mon Fri 08:00-18:00",
        "Mon-",
        "Mon-Tue-Wed",
        "08:00",
        "8-18",
        "08:00-18:60",
        "24:00-25:00",
        "08:00-08:00",
        "08:00-18:00 Mon",
        "Mon-Fri 08:00 - 18:00",
        "٠٨:00-18:00",
    ],
)
def test_what_is_no_window_is_refused(written: str) -> None:
    with pytest.raises(NoWindow):
        parse_window(written)


@pytest.mark.parametrize("written", ["", ":", ": x", "X Y", "X-Ä: 1", "X-A:", "X-A: 1\n2"])
def test_what_is_no_header_field_is_refused(written: str) -> None:
    with pytest.raises(NoField):
        parse_field(written)
