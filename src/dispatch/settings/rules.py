"""The configured rules and relays, compiled for routing.

Patterns were checked when the settings were loaded; one that cannot be read here is a broken invariant.
"""

from __future__ import annotations

from dispatch.policy.patterns import parse_pattern
from dispatch.policy.routing import Router, Rule
from dispatch.settings.model import Settings


def router(settings: Settings) -> Router:
    """The rules in force. Relays that are enabled may be used, all others are missing."""
    usable = frozenset(relay.name for relay in settings.effective_relays() if relay.enabled)
    rules = [
        Rule(
            name=rule.name,
            priority=rule.priority,
            sender=tuple(map(parse_pattern, rule.sender)),
            recipient=tuple(map(parse_pattern, rule.recipient)),
            relays=rule.relays,
            hold=rule.action == "hold",
            enabled=rule.enabled,
        )
        for rule in settings.rules
    ]
    return Router(rules, settings.default_relay().name, usable)
