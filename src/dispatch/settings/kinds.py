"""The kinds of values that settings can have: how each is read, and how it is described.

A kind turns what a source gave into the value that the model holds, or says what does not fit and what
would. Files give typed values (TOML); the environment and the command line give text, which is read
generously: `25,587` and `[25, 587]` are the same list, `yes` is `true`.

A kind knows nothing about keys, sources or other values: what depends on two keys at once stands in
`dispatch.settings.loading`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from dispatch.policy.conditions import NoField, parse_field
from dispatch.policy.limits import parse_rates, written_rates
from dispatch.policy.local_names import Alias, NoAlias, expand, parse_alias
from dispatch.policy.patterns import NoPattern, parse_pattern, split_patterns
from dispatch.policy.windows import NoWindow, parse_window
from dispatch.security.networks import InvalidNetwork, parse_network, parse_server
from dispatch.security.passwords import what_is_wrong_with_hash

NONE = "none"
"""How *unlimited* is written: TOML has no null."""
UTC_NAME = "UTC"
"""Known on every machine, with or without the database of time zones."""


class Misfit(NamedTuple):
    """One thing that is wrong with a value."""

    at: str
    """Which element of it, as `[0]`; empty for the whole."""
    what: str
    remedy: str


class Unfit(ValueError):
    """The value does not fit its kind; every misfit of it at once."""

    def __init__(self, *misfits: Misfit) -> None:
        super().__init__("; ".join(misfit.what for misfit in misfits))
        self.misfits = misfits


class Kind(Protocol):
    @property
    def type_name(self) -> str:
        """What is to be written, in words: `whole number of seconds`."""
        ...

    @property
    def limits(self) -> str:
        """Which values of that type: `1 to 65535`; empty where there is nothing to say."""
        ...

    def read(self, given: object, *, text: bool) -> object:
        """The value as the model holds it. `text`: it was given as text. Raises `Unfit`."""
        ...


def shown(value: object) -> str:
    """A value as it would be written in the file."""
    match value:
        case None:
            return f'"{NONE}"'
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer():
            return str(int(value))
        case str():
            return msgspec.json.encode(value).decode()
        case tuple() | list():
            return "[" + ", ".join(map(shown, value)) + "]"
        case _:
            return str(value)


class Number(msgspec.Struct, frozen=True):
    """A number between two limits, both inclusive."""

    low: int
    high: int
    unit: str = ""
    whole: bool = True
    none: bool = False
    """`"none"` may be given, and is read as None: unlimited."""
    zero: str = ""
    """What 0 means, where it has a meaning of its own."""

    @property
    def type_name(self) -> str:
        name = "whole number" if self.whole else "number"
        return f"{name} of {self.unit}" if self.unit else name

    @property
    def limits(self) -> str:
        words = f"{self.low} to {self.high}"
        if self.zero:
            words += f", 0: {self.zero}"
        return words + (', or "none": unlimited' if self.none else "")

    def read(self, given: object, *, text: bool) -> int | float | None:
        if isinstance(given, str):
            given = given.strip()
            if self.none and given.lower() == NONE:
                return None
        remedy = f"write a {self.type_name}, {self.limits}"
        try:
            number = msgspec.convert(given, int if self.whole else float, strict=not text)
        except msgspec.ValidationError:
            if isinstance(given, str) and not text and given.replace(".", "", 1).isdecimal():
                remedy = f"write {given} without quotes"
            raise Unfit(Misfit("", f"{shown(given)} is no {self.type_name}", remedy)) from None
        if not self.low <= number <= self.high:
            # Not a number is neither below nor above.
            place = f"below {self.low}" if number < self.low else f"not within {self.low} and {self.high}"
            beyond = f"above {self.high}" if number > self.high else place
            raise Unfit(Misfit("", f"{shown(number)} is {beyond}", remedy))
        return number


class Flag(msgspec.Struct, frozen=True):
    """True or false."""

    type_name: str = "true or false"
    limits: str = ""

    def read(self, given: object, *, text: bool) -> bool:
        if isinstance(given, bool):
            return given
        word = given.strip().lower() if text and isinstance(given, str) else ""
        if word in ("true", "yes", "on", "1"):
            return True
        if word in ("false", "no", "off", "0"):
            return False
        raise Unfit(Misfit("", f"{shown(given)} is neither true nor false", "write true or false"))


class Choice(msgspec.Struct, frozen=True):
    """One of a few words."""

    words: tuple[str, ...]
    type_name: str = "word"

    @property
    def limits(self) -> str:
        if len(self.words) == 1:
            return f"only {shown(self.words[0])}"
        return " or ".join(map(shown, self.words))

    def read(self, given: object, *, text: bool) -> str:
        word = given.strip().lower() if isinstance(given, str) else ""
        if word not in self.words:
            raise Unfit(Misfit("", f"{shown(given)} is not possible here", f"write {self.limits}"))
        return word


class Text(msgspec.Struct, frozen=True):
    """Text of a certain form."""

    type_name: str
    pattern: str
    """What the whole of it must match."""
    limits: str

    def read(self, given: object, *, text: bool) -> str:
        remedy = f"write a {self.type_name}: {self.limits}"
        if not isinstance(given, str):
            raise Unfit(Misfit("", f"{shown(given)} is no text", remedy))
        written = given.strip()
        if not re.fullmatch(self.pattern, written):
            raise Unfit(Misfit("", f"{shown(given)} is no {self.type_name}", remedy))
        return written


NAME = Text(
    "name", r"(?=.{1,64}$)[a-z0-9]+(-[a-z0-9]+)*", "small letters, digits and single hyphens between them"
)
"""Of relays and rules."""


class IpAddress(msgspec.Struct, frozen=True):
    """One address of this machine, to listen on."""

    type_name: str = "IP address"
    limits: str = "IPv4 or IPv6"

    def read(self, given: object, *, text: bool) -> str:
        try:
            if isinstance(given, str):
                return str(ip_address(given.strip()))
        except ValueError:
            pass
        remedy = "write an address like 192.0.2.1 or ::1; 0.0.0.0 and :: stand for all of them"
        raise Unfit(Misfit("", f"{shown(given)} is no IP address", remedy))


class Server(msgspec.Struct, frozen=True):
    """An address, with or without a port."""

    type_name: str = "address of a server"
    limits: str = "IPv4 or IPv6, with or without a port"

    def read(self, given: object, *, text: bool) -> str:
        written = given.strip() if isinstance(given, str) else ""
        try:
            parse_server(written)
        except ValueError:
            pass
        else:
            return written
        remedy = "write an address like 192.0.2.1, 192.0.2.1:5353 or [2001:db8::1]:5353"
        raise Unfit(Misfit("", f"{shown(given)} is no address of a server", remedy))


class Network(msgspec.Struct, frozen=True):
    """A network in CIDR notation; held in its canonical writing."""

    type_name: str = "network"
    limits: str = "CIDR notation, or one address"

    def read(self, given: object, *, text: bool) -> str:
        remedy = "write a network like 192.0.2.0/24 or 2001:db8::/32"
        if not isinstance(given, str):
            raise Unfit(Misfit("", f"{shown(given)} is no network", remedy))
        try:
            return str(parse_network(given))
        except InvalidNetwork as refusal:
            what, _, own_remedy = str(refusal).partition(": ")
            raise Unfit(Misfit("", what, own_remedy or remedy)) from None


class HeaderField(msgspec.Struct, frozen=True):
    """A header field that must be there, with or without a value (`dispatch.policy.conditions`)."""

    type_name: str = "header field"
    limits: str = "X-Name, or X-Name: value"

    def read(self, given: object, *, text: bool) -> str:
        remedy = f"write {self.limits}"
        try:
            if isinstance(given, str):
                return parse_field(given).written
        except NoField as refusal:
            remedy = str(refusal)
        raise Unfit(Misfit("", f"{shown(given)} is no header field", remedy))


class TimeWindow(msgspec.Struct, frozen=True):
    """Days and hours of the week (`dispatch.policy.windows`)."""

    type_name: str = "window of time"
    limits: str = "days, hours or both, like Mon-Fri 08:00-18:00"

    def read(self, given: object, *, text: bool) -> str:
        remedy = f"write {self.limits}"
        try:
            if isinstance(given, str):
                return parse_window(given).written
        except NoWindow as refusal:
            remedy = str(refusal)
        raise Unfit(Misfit("", f"{shown(given)} is no window of time", remedy))


class TimeZone(msgspec.Struct, frozen=True):
    """A name of the IANA time zone database, as this machine has it."""

    type_name: str = "time zone"
    limits: str = "UTC, or a name like Europe/Vienna"

    def read(self, given: object, *, text: bool) -> str:
        name = given.strip() if isinstance(given, str) else ""
        if name == UTC_NAME:
            return name
        try:
            return str(ZoneInfo(name))
        except (ZoneInfoNotFoundError, ValueError, OSError):  # a folder of zones is an OSError
            what = f"{shown(given)} is no time zone of this machine"
            raise Unfit(Misfit("", what, f"write {self.limits}")) from None


class AddressPatterns(msgspec.Struct, frozen=True):
    """Patterns of addresses, as `dispatch.policy.patterns` reads them; held as they were written.

    One text with commas is taken from the file, too: that is how such lists are usually written."""

    type_name: str = "list of address patterns, or one text with commas between them"
    limits: str = "each like alice@example.org, example.org, *.example.org, news-*@example.org, * or <>"

    def read(self, given: object, *, text: bool) -> tuple[str, ...]:
        if isinstance(given, str):
            given = _elements(given) if text and given.lstrip().startswith('["') else split_patterns(given)
        if not isinstance(given, list):
            raise Unfit(Misfit("", f"{shown(given)} is no {self.type_name}", 'write ["example.org"]'))
        if not given:
            raise Unfit(
                Misfit("", "the list is empty", "write a pattern, or remove the key: any address will do")
            )
        values: list[str] = []
        misfits: list[Misfit] = []
        for index, element in enumerate(given):
            what, remedy = f"{shown(element)} is no address pattern", f"write {self.limits}"
            try:
                pattern = parse_pattern(element).written if isinstance(element, str) else ""
            except NoPattern as refusal:
                pattern, remedy = "", str(refusal)
            if pattern in values:
                what, remedy = f"{shown(pattern)} stands there twice", "remove one of the two"
            elif pattern:
                values.append(pattern)
                continue
            misfits.append(Misfit(f"[{index}]", what, remedy))
        if misfits:
            raise Unfit(*misfits)
        return tuple(values)


class RateList(msgspec.Struct, frozen=True):
    """How many in a time, as `dispatch.policy.limits` reads it; held in one writing."""

    type_name: str = "rates, with commas between them"
    limits: str = 'each like "100/minute" or "5/second burst 20", or "none": unlimited'

    def read(self, given: object, *, text: bool) -> str:
        if isinstance(given, list) and all(isinstance(each, str) for each in given):
            given = ", ".join(given) or NONE
        if not isinstance(given, str):
            raise Unfit(Misfit("", f"{shown(given)} is no rate", f"write {self.limits}"))
        try:
            return written_rates(parse_rates(given))
        except ValueError as refusal:
            what, _, remedy = str(refusal).partition(": ")
            raise Unfit(Misfit("", what, remedy)) from None


class Aliases(msgspec.Struct, frozen=True):
    """Local names and where their mail goes (`dispatch.policy.local_names`); held as lines, `root: a@b`.

    The file gives a table, or a list of lines; text is such a list, or the lines themselves."""

    type_name: str = "table of local names with an address or a list of them, or list of lines"
    limits: str = 'root = "ops@example.org", or "root: ops@example.org, bob"'

    def read(self, given: object, *, text: bool) -> tuple[str, ...]:
        found: list[Alias] = []
        misfits: list[Misfit] = []
        for at, line in self._lines(given, text):
            try:
                found.append(parse_alias(line))
            except NoAlias as refusal:
                what, _, remedy = str(refusal).partition(": ")
                misfits.append(Misfit(at, what, remedy))
        if not misfits:
            try:
                expand(found)
            except NoAlias as refusal:
                what, _, remedy = str(refusal).partition(": ")
                misfits.append(Misfit("", what, remedy))
        if misfits:
            raise Unfit(*misfits)
        return tuple(alias.written for alias in found)

    def _lines(self, given: object, text: bool) -> Iterator[tuple[str, str]]:
        """Where each alias stands, and its line."""
        if isinstance(given, str):
            if text and given.lstrip().startswith("["):
                given = _elements(given)
            else:
                lines = (line.strip() for line in re.split(r"[;\r\n]", given))
                given = [line for line in lines if line and not line.startswith("#")]
        match given:
            case dict():
                for name, targets in given.items():
                    listed = targets if isinstance(targets, list) else [targets]
                    if not all(isinstance(each, str) for each in listed):
                        remedy = f'write {name} = "ops@example.org"'
                        raise Unfit(Misfit(f".{name}", f"{shown(targets)} is no address", remedy))
                    yield f".{name}", f"{name}: {', '.join(listed)}"
            case list() if all(isinstance(each, str) for each in given):
                yield from ((f"[{place}]", str(line)) for place, line in enumerate(given))
            case _:
                raise Unfit(Misfit("", f"{shown(given)} is no {self.type_name}", f"write {self.limits}"))


class PasswordHash(msgspec.Struct, frozen=True):
    """What a password is checked against; never the password itself."""

    type_name: str = "password hash"
    limits: str = "as `dispatch login hash` makes it, or bcrypt ($2b$…)"

    def read(self, given: object, *, text: bool) -> str:
        if not isinstance(given, str):
            raise Unfit(Misfit("", "it is no text", f"write a hash {self.limits}"))
        wrong = what_is_wrong_with_hash(given.strip())
        if wrong is not None:
            raise Unfit(Misfit("", wrong, "make one with `dispatch login hash`"))
        return given.strip()


class Secret(msgspec.Struct, frozen=True):
    """Text that is shown nowhere."""

    type_name: str = "secret"
    limits: str = "any text of one line"

    def read(self, given: object, *, text: bool) -> str:
        if not isinstance(given, str) or not given:
            raise Unfit(Misfit("", "it is no text", f"write {self.limits}"))
        if "\0" in given or "\n" in given or "\r" in given:
            raise Unfit(Misfit("", "it holds a line break or a NUL", "write it in one line"))
        return given


class ListOf(msgspec.Struct, frozen=True):
    """Any number of values of one kind, in their order."""

    kind: Kind
    at_least: int = 0
    distinct: bool = True

    @property
    def type_name(self) -> str:
        return f"list, each: {self.kind.type_name}"

    @property
    def limits(self) -> str:
        amount = f"; at least {self.at_least} of them" if self.at_least else ""
        return f"{self.kind.limits}{amount}"

    def read(self, given: object, *, text: bool) -> tuple[object, ...]:
        elements = _elements(given) if text and isinstance(given, str) else given
        if not isinstance(elements, list):
            raise Unfit(Misfit("", f"{shown(given)} is no list", f"write [{shown(given)}]"))
        if len(elements) < self.at_least:
            raise Unfit(Misfit("", "the list is empty", f"write at least {self.at_least}"))
        values: list[object] = []
        misfits: list[Misfit] = []
        for index, element in enumerate(elements):
            try:
                value = self.kind.read(element, text=text)
            except Unfit as unfit:
                misfits.extend(misfit._replace(at=f"[{index}]{misfit.at}") for misfit in unfit.misfits)
                continue
            if self.distinct and value in values:
                misfits.append(
                    Misfit(f"[{index}]", f"{shown(value)} stands there twice", "remove one of the two")
                )
            values.append(value)
        if misfits:
            raise Unfit(*misfits)
        return tuple(values)


def _elements(text: str) -> list[object]:
    """A list given as text: in the file's notation, or as words between commas."""
    if text.lstrip().startswith("["):
        try:
            elements: list[object] = tomllib.loads(f"list = {text}")["list"]
        except tomllib.TOMLDecodeError:
            raise Unfit(
                Misfit("", f"{shown(text)} is no list", "write the elements with commas between them")
            ) from None
        return elements
    return [word.strip() for word in text.split(",") if word.strip()]
