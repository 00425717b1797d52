"""What a rule may ask beside sender and recipient: who submitted a message, how, when, and what is in it.

Each kind of condition is a struct. A rule has at most one of each kind; it names what it asks for, and
holds where any of that is there. All that it may look at are the `Facts`.

Rules:
- A fact is one that the stored message still has, or the time: so the route can be derived again after a
  restart, and is then the same unless a window of time began or ended meanwhile.
- Conditions *of content* (tag, header field, size) look at what is known only after the end of data.
- Logins, tags and values of header fields are compared exactly; names of header fields without case
  (RFC 5322 section 1.2.2).

It deliberately parses no networks: whether a client is in one is asked of what the rule was given.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from datetime import datetime, tzinfo
from typing import ClassVar, NamedTuple, Protocol

import msgspec

from dispatch.mail.ids import MessageId
from dispatch.mail.message import Message, Origin, Summary
from dispatch.policy.windows import DAYS, Window

_FIELD_NAME = re.compile(r"[!-9;-~]+")
"""RFC 5322 section 3.6.8."""


class Facts(NamedTuple):
    """What is known of a message beside its envelope."""

    id: MessageId
    origin: Origin
    summary: Summary
    size_bytes: int
    now_ms: int
    """Wall clock, milliseconds since 1970."""


def facts_of(message: Message, now_ms: int) -> Facts:
    return Facts(message.id, message.origin, message.summary, message.size_bytes, now_ms)


BLANK = Facts(MessageId(bytes(16)), Origin("smtp", ""), Summary(), 0, 0)
"""For rules that ask for sender and recipient alone."""


class AddressSet(Protocol):
    """Networks, as their owner compiled them. `str` writes them down."""

    def contains(self, address: str) -> bool:
        """Whether an IP address, as a socket names its peer, is in one of them."""
        ...


class Condition(Protocol):
    """One condition of a rule, of one kind. Equal ones hold for the same facts."""

    of_content: ClassVar[bool]

    @staticmethod
    def subject(facts: Facts) -> Hashable:
        """What of the facts all conditions of the kind look at; None where it is not worth remembering."""
        ...

    def holds(self, facts: Facts) -> bool: ...

    def why(self, facts: Facts) -> str:
        """In words, why it holds or does not."""
        ...


class Source(msgspec.Struct, frozen=True):
    """By which way it came in: `smtp`, `api`, or `internal` for what this relay wrote itself."""

    names: tuple[str, ...]
    of_content: ClassVar[bool] = False

    @staticmethod
    def subject(facts: Facts) -> Hashable:
        return facts.origin.source

    def holds(self, facts: Facts) -> bool:
        return facts.origin.source in self.names

    def why(self, facts: Facts) -> str:
        expected = "" if self.holds(facts) else f", not {' or '.join(self.names)}"
        return f"source is {facts.origin.source}{expected}"


class Login(msgspec.Struct, frozen=True):
    """Which SMTP login or API key submitted it."""

    names: tuple[str, ...]
    of_content: ClassVar[bool] = False

    @staticmethod
    def subject(facts: Facts) -> Hashable:
        return facts.origin.login or ""

    def holds(self, facts: Facts) -> bool:
        return facts.origin.login in self.names

    def why(self, facts: Facts) -> str:
        login = facts.origin.login
        if self.holds(facts):
            return f"login is {login}"
        return f"login is {login or 'none'}, not {' or '.join(self.names)}"


class Client(msgspec.Struct, frozen=True):
    """From which network it was submitted."""

    networks: AddressSet
    of_content: ClassVar[bool] = False

    @staticmethod
    def subject(facts: Facts) -> Hashable:
        return facts.origin.client_address

    def holds(self, facts: Facts) -> bool:
        return self.networks.contains(facts.origin.client_address)

    def why(self, facts: Facts) -> str:
        place = "in" if self.holds(facts) else "not in"
        return f"client {facts.origin.client_address or '(none)'} is {place} {self.networks}"


class Tag(msgspec.Struct, frozen=True):
    """Which tags it carries."""

    names: tuple[str, ...]
    of_content: ClassVar[bool] = True

    @staticmethod
    def subject(facts: Facts) -> Hashable:
        return facts.summary.tags

    def holds(self, facts: Facts) -> bool:
        return any(tag in self.names for tag in facts.summary.tags)

    def why(self, facts: Facts) -> str:
        if found := [tag for tag in facts.summary.tags if tag in self.names]:
            return f"has the tag {found[0]}"
        return f"has no tag {' or '.join(self.names)}"


class NoField(ValueError):
    """The text is no header field; says what to write instead."""


class Field(NamedTuple):
    """One header field that is asked for. Made by `parse_field`."""

    name: str
    """In small letters."""
    value: str | None
    """None: any will do."""
    written: str


def parse_field(written: str) -> Field:
    """`Name` or `Name: value`; raises `NoField`."""
    name, colon, value = written.partition(":")
    name, value = name.strip(), value.strip()
    if not _FIELD_NAME.fullmatch(name) or not value.isprintable():
        raise NoField("write X-Name for a field that is there, X-Name: value for one that says just that")
    if colon and not value:
        raise NoField(f"write {name} for a field that is there, whatever it says")
    return Field(name.lower(), value if colon else None, f"{name}: {value}" if colon else name)


class Header(msgspec.Struct, frozen=True):
    """Which header fields it has, and what they say."""

    fields: tuple[Field, ...]
    of_content: ClassVar[bool] = True

    @staticmethod
    def subject(_facts: Facts) -> Hashable:
        return None  # values may be long, and hardly one is met twice

    def holds(self, facts: Facts) -> bool:
        return self._found(facts) is not None

    def why(self, facts: Facts) -> str:
        if found := self._found(facts):
            return f"has the header field {found.written}"
        return f"has no header field {' or '.join(field.written for field in self.fields)}"

    def _found(self, facts: Facts) -> Field | None:
        present = facts.summary.headers
        for field in self.fields:
            if any(field.name == name and field.value in (None, value) for name, value in present):
                return field
        return None


class Size(msgspec.Struct, frozen=True):
    """How large its content is; both limits belong to it."""

    min_bytes: int | None
    max_bytes: int | None
    of_content: ClassVar[bool] = True

    @staticmethod
    def subject(_facts: Facts) -> Hashable:
        return None  # comparing is quicker than remembering

    def holds(self, facts: Facts) -> bool:
        low, high = self.min_bytes or 0, self.max_bytes
        return low <= facts.size_bytes and (high is None or facts.size_bytes <= high)

    def why(self, facts: Facts) -> str:
        low, high = self.min_bytes or 0, self.max_bytes
        if facts.size_bytes < low:
            return f"{facts.size_bytes} bytes are below {low}"
        if high is not None and facts.size_bytes > high:
            return f"{facts.size_bytes} bytes are above {high}"
        return f"{facts.size_bytes} bytes are {f'at least {low}' if high is None else f'{low} to {high}'}"


class Time(msgspec.Struct, frozen=True):
    """Whether it is now the time."""

    windows: tuple[Window, ...]
    zone: tzinfo
    of_content: ClassVar[bool] = False

    @staticmethod
    def subject(facts: Facts) -> Hashable:
        return facts.now_ms // 60_000

    def holds(self, facts: Facts) -> bool:
        now = self._local(facts)
        day, minute = now.weekday(), now.hour * 60 + now.minute
        return any(window.contains(day, minute) for window in self.windows)

    def why(self, facts: Facts) -> str:
        now = self._local(facts)
        place = "in" if self.holds(facts) else "not in"
        windows = ", ".join(window.written for window in self.windows)
        return f"{DAYS[now.weekday()]} {now:%H:%M} ({self.zone}) is {place} {windows}"

    def _local(self, facts: Facts) -> datetime:
        return datetime.fromtimestamp(facts.now_ms / 1000, self.zone)


KINDS: tuple[type[Condition], ...] = (Source, Login, Client, Tag, Header, Size, Time)


def field_names(conditions: Sequence[Condition]) -> set[str]:
    """The header fields that are asked for, in small letters."""
    return {field.name for each in conditions if isinstance(each, Header) for field in each.fields}
