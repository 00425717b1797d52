"""Kinds of values that several sections share."""

from __future__ import annotations

import typing

from dispatch.policy.uncertain import UncertainPolicy
from dispatch.settings.kinds import Choice, ListOf, Number, Text

_YEAR_HOURS = 24 * 365
_DAY_SECONDS = 86_400
_GIGABYTE = 1 << 30

HOST_NAME = r"(?=.{1,255}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?"
OWN_NAME = Text("host name", HOST_NAME, "letters, digits, hyphens and dots, like relay.example.org")
PORT = Number(1, 65_535)
AMOUNT = Number(1, 1_000_000)
MESSAGE_SIZE = Number(0, 2 * _GIGABYTE, "bytes", zero="no limit")
RETRIES = Number(0, 1_000_000, none=True)
RETRY_DELAYS = ListOf(Number(0, _YEAR_HOURS * 3600, "seconds", whole=False), at_least=1, distinct=False)
AGE = Number(0, _YEAR_HOURS, "hours", whole=False, none=True)
UNCERTAIN_POLICY = Choice(typing.get_args(UncertainPolicy))


def timeout(low: int = 1) -> Number:
    return Number(low, _DAY_SECONDS, "seconds", whole=False)
