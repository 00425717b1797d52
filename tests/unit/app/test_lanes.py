"""Which relays stand in for which, as the settings say."""

from __future__ import annotations

import msgspec

from dispatch.app.lanes import deputies
from dispatch.settings import Settings
from dispatch.settings.model import Rule


def settings(*rules: Rule) -> Settings:
    return msgspec.structs.replace(Settings(), rules=rules)


def test_relays_of_one_rule_stand_in_for_each_other_and_for_nobody_else() -> None:
    given = settings(
        Rule(name="a", recipient=("x.example",), relays=("one", "two")),
        Rule(name="b", recipient=("y.example",), relays=("three", "one")),
        Rule(name="c", recipient=("z.example",), relays=("four",)),
    )
    assert deputies(given, "one") == {"two", "three"}
    assert deputies(given, "two") == {"one"}
    assert deputies(given, "four") == frozenset()


def test_a_rule_that_is_switched_off_lends_nobody() -> None:
    given = settings(Rule(name="a", recipient=("x.example",), relays=("one", "two"), enabled=False))
    assert deputies(given, "one") == frozenset()
