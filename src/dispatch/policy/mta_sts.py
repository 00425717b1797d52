"""MTA-STS (RFC 8461): what a domain demands of a session with its mail hosts, as it is written.

A TXT record says that there is a policy, and by its id when it has changed; the policy itself is a page that
is had over HTTPS. Pure: both are arguments. What is wrong with a record means that there is none (section
3.1); a policy that is wrong is one that cannot be had.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple, cast

Mode = Literal["enforce", "testing", "none"]

MAX_AGE_S = 31_557_600
"""Section 3.2: about a year."""
MX_MAX = 100
"""Patterns of one policy. The RFC has no limit, and large providers have ten."""

_RECORD = re.compile(
    r"v=STSv1(?:[ \t]*;[ \t]*[A-Za-z0-9][A-Za-z0-9_.-]{0,31}=[!-:<>-~]+)+(?:[ \t]*;)?[ \t]*", re.ASCII
)
_ID = re.compile(r";[ \t]*id=([A-Za-z0-9]{1,32})[ \t]*(?:;|$)")
_FIELD = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})[ \t]*:[ \t]*(.*?)[ \t]*", re.DOTALL)
_MAX_AGE = re.compile(r"[0-9]{1,10}")
_MX = re.compile(r"(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9_-]*)(?:\.[A-Za-z0-9_-]+)*\.?")


class InvalidPolicy(ValueError):
    """It is no policy; the text says why."""


class Policy(NamedTuple):
    """Section 3.2."""

    mode: Mode
    max_age_s: int
    mx: tuple[str, ...] = ()
    """Names of hosts, in small letters, some with `*.` in front."""

    @property
    def enforced(self) -> bool:
        return self.mode == "enforce"

    def allows(self, host: str) -> bool:
        """Section 4.1: an asterisk stands for one label."""
        name = host.lower().rstrip(".")
        return name in self.mx or f"*.{name.partition('.')[2]}" in self.mx


def policy_id(texts: Iterable[str]) -> str | None:
    """The id in the TXT records of `_mta-sts.<domain>`; None where the domain has no policy (section 3.1)."""
    records = [text for text in texts if text.partition(";")[0].rstrip(" \t") == "v=STSv1"]
    if len(records) != 1 or not _RECORD.fullmatch(records[0]):
        return None
    found = _ID.search(records[0])
    return found[1] if found else None


def parse_policy(page: bytes) -> Policy:
    """Section 3.2. Of a field that comes twice the first one counts; unknown ones are passed over. Raises
    `InvalidPolicy`."""
    try:
        lines = page.decode("utf-8").replace("\r\n", "\n").rstrip("\n").split("\n")
    except UnicodeDecodeError:
        raise InvalidPolicy("it is no text in UTF-8") from None
    fields: dict[str, str] = {}
    mx: list[str] = []
    for line in lines:
        found = _FIELD.fullmatch(line)
        if found is None:
            raise InvalidPolicy(f"{line[:100]!r} is no field of a policy")
        name, value = found[1], found[2]
        if name == "mx":
            mx.append(_pattern(value))
        else:
            fields.setdefault(name, value)
    if fields.get("version") != "STSv1":
        raise InvalidPolicy("its version is not STSv1")
    mode, age = fields.get("mode", ""), fields.get("max_age", "")
    if mode not in ("enforce", "testing", "none"):
        raise InvalidPolicy(f"its mode is {mode[:100]!r}")
    if not _MAX_AGE.fullmatch(age):
        raise InvalidPolicy(f"its max_age is {age[:100]!r}")
    if not mx and mode != "none":
        raise InvalidPolicy("it names no mail host")
    if len(mx) > MX_MAX:
        raise InvalidPolicy(f"it names more than {MX_MAX} mail hosts")
    return Policy(cast(Mode, mode), min(int(age), MAX_AGE_S), tuple(mx))


def _pattern(value: str) -> str:
    if not _MX.fullmatch(value):
        raise InvalidPolicy(f"{value[:100]!r} is no name of a mail host")
    return value.lower().rstrip(".")
