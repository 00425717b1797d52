"""The configured rules and relays, compiled for routing.

All was checked when the settings were loaded; what cannot be read here is a broken invariant. (A time zone
that this machine had when the settings were loaded, and has no more, is one.)
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, tzinfo
from zoneinfo import ZoneInfo

from dispatch.policy import conditions
from dispatch.policy.conditions import Condition, parse_field
from dispatch.policy.patterns import parse_pattern
from dispatch.policy.routing import Action, Router, Rule
from dispatch.policy.windows import parse_window
from dispatch.security.networks import Networks
from dispatch.settings.kinds import UTC_NAME
from dispatch.settings.model import Settings
from dispatch.settings.rule_keys import Rule as RuleSettings


def router(settings: Settings) -> Router:
    """The rules in force. Relays that are enabled may be used, all others are missing."""
    rules = [
        _rule(rule, relays=rule.relays, weights=rule.weights, copy_to=rule.copy_to, reply=rule.reply)
        for rule in settings.rules
    ]
    return Router(rules, settings.default_relay().name, _usable(settings))


def intake_router(settings: Settings) -> Router:
    """The same rules for intake, which asks what is refused, which header fields are looked at, and which
    relays could take mail, in whatever order."""
    rules = [_rule(rule, relays=rule.relays, reply=rule.reply) for rule in settings.rules]
    return Router(rules, settings.default_relay().name, _usable(settings))


def _usable(settings: Settings) -> frozenset[str]:
    return frozenset(relay.name for relay in settings.effective_relays() if relay.enabled)


def _rule(
    rule: RuleSettings,
    *,
    relays: tuple[str, ...] = (),
    weights: tuple[int, ...] = (),
    copy_to: str = "",
    reply: str = "",
) -> Rule:
    return Rule(
        name=rule.name,
        priority=rule.priority,
        sender=tuple(map(parse_pattern, rule.sender)),
        recipient=tuple(map(parse_pattern, rule.recipient)),
        relays=relays,
        action=Action(rule.action),
        enabled=rule.enabled,
        conditions=tuple(_conditions(rule)),
        weights=weights,
        copy_to=copy_to,
        reply=reply,
    )


def _conditions(rule: RuleSettings) -> Iterator[Condition]:
    if rule.source:
        yield conditions.Source(rule.source)
    if rule.login:
        yield conditions.Login(rule.login)
    if rule.client:
        yield conditions.Client(Networks.parse(rule.client))
    if rule.tag:
        yield conditions.Tag(rule.tag)
    if rule.header:
        yield conditions.Header(tuple(map(parse_field, rule.header)))
    if rule.min_bytes is not None or rule.max_bytes is not None:
        yield conditions.Size(rule.min_bytes, rule.max_bytes)
    if rule.time:
        yield conditions.Time(tuple(map(parse_window, rule.time)), _zone(rule.time_zone))


def _zone(name: str) -> tzinfo:
    return UTC if name == UTC_NAME else ZoneInfo(name)
