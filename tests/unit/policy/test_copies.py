"""Recipients more for copies: who gets them, where they go, and that they stay as they are."""

from __future__ import annotations

import msgspec

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.message import Message
from dispatch.policy.conditions import BLANK
from dispatch.policy.copies import copies_of, joined_by, with_copies
from dispatch.policy.patterns import parse_pattern
from dispatch.policy.routing import COPY, PIN, Action, Route, Router, Rule
from dispatch.policy.suppression import SuppressionList, without_suppressed

USABLE = {"main", "bulk"}


def router(*rules: tuple[str, Action, str]) -> Router:
    """Rules by the domain of their recipients."""
    made = [
        Rule(
            f"r{number}",
            100,
            (),
            (parse_pattern(domain),),
            ("bulk",) if action is Action.RELAY else (),
            action,
            copy_to=copy_to,
        )
        for number, (domain, action, copy_to) in enumerate(rules)
    ]
    return Router(made, "main", USABLE)


COPYING = router(
    ("kept.example", Action.RELAY, "archive"),
    ("held.example", Action.HOLD, "vault"),
    ("plain.example", Action.RELAY, ""),
)


def message(*recipients: Recipient, pin: str = "") -> Message:
    envelope = Envelope("me@example.org", recipients)
    return Message(BLANK.id, 0, envelope, BLANK.origin, BLANK.summary, 0, pin=pin)


ASKED = Recipient("a@kept.example", "SUCCESS", "rfc822;a@old.example")
SENT = message(ASKED, Recipient("b@plain.example"), Recipient("c@held.example"))


def test_each_recipient_of_a_rule_that_asks_for_it_has_a_copy_without_notices() -> None:
    copied, routes = with_copies(SENT, COPYING.routes(SENT, 0))
    assert copied.envelope.recipients[:3] == SENT.envelope.recipients
    assert copies_of(copied) == (
        Recipient("a@kept.example", "NEVER", None, "archive"),
        Recipient("c@held.example", "NEVER", None, "vault"),
    )
    ways = {index: route.relays for route, indexes in routes for index in indexes}
    assert ways == {0: ("bulk",), 1: ("bulk",), 2: (), 3: ("archive",), 4: ("vault",)}


def test_mail_without_copies_stays_what_it_is() -> None:
    plain = message(Recipient("b@plain.example"), Recipient("d@other.example"))
    routes = COPYING.routes(plain, 0)
    copied, same = with_copies(plain, routes)
    assert copied is plain and same is routes and copies_of(plain) == ()


def test_copies_go_where_they_go_whatever_the_rules_say_later() -> None:
    copied, _ = with_copies(SENT, COPYING.routes(SENT, 0))
    later = router(("kept.example", Action.RELAY, "other"))
    routes = later.routes(copied, 0)
    assert routes[-2:] == ((Route(("archive",), COPY), (3,)), (Route(("vault",), COPY), (4,)))
    assert sorted(index for _, indexes in routes for index in indexes) == [0, 1, 2, 3, 4]
    assert later.released.routes(copied, 0)[-2:] == routes[-2:]


def test_copies_alone_as_another_host_may_get_them_are_routed() -> None:
    alone = message(*copies_of(with_copies(SENT, COPYING.routes(SENT, 0))[0]))
    routes = COPYING.routes(alone, 0)
    assert [(route.relays, indexes) for route, indexes in routes] == [
        (("archive",), (0,)),
        (("vault",), (1,)),
    ]


def test_what_the_log_says_joined_by_its_copies_is_what_the_ledger_says() -> None:
    copied, _ = with_copies(SENT, COPYING.routes(SENT, 0))
    assert joined_by(SENT, copies_of(copied)) == copied
    assert joined_by(SENT, ()) is SENT


def test_a_pin_asks_for_no_copy() -> None:
    pinned = msgspec.structs.replace(SENT, pin="main")
    copied, routes = with_copies(pinned, COPYING.routes(pinned, 0))
    assert copied is pinned and routes == ((Route(("main",), PIN), (0, 1, 2)),)


def test_who_is_suppressed_has_no_copy_and_a_copy_is_never_suppressed() -> None:
    listed = SuppressionList.of(["a@kept.example"])
    routes = without_suppressed(COPYING.routes(SENT, 0), listed.among(SENT.envelope.recipients))
    copied, _ = with_copies(SENT, routes)
    assert [copy.copy_to for copy in copies_of(copied)] == ["vault"]
    whole, _ = with_copies(SENT, COPYING.routes(SENT, 0))
    assert listed.among(whole.envelope.recipients) == {0}
