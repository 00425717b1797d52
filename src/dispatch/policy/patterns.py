"""Patterns of addresses: how a rule says whose mail it is about.

Written as                 matches
`alice@example.org`        that address
`example.org`              every address of that domain; `*@example.org` says the same
`*.example.org`            the domains below it, at any depth, and not `example.org` itself
`news-*@example.org`       a glob: `*` is any run of characters, `?` is one
`*`                        every address, also the null reverse-path and those without a domain
`<>`                       the null reverse-path alone (RFC 5321 section 4.5.5)

Rules:
- Local parts are compared exactly, upper and lower case too: only the host that owns the mailbox may
  say that two are the same (RFC 5321 section 2.3.11). Quoting is no difference: `"alice"@example.org` is the
  mailbox `alice@example.org` (section 4.1.2), and no way around a rule. Within quotes `*` and `?` are
  themselves.
- Domains are compared without case, and in one writing where they are international: an A-label is
  decoded (RFC 5891 section 5.3), a U-label is brought into NFC. Nothing is mapped beyond that, because two
  domains that IDNA 2008 tells apart must not become one (`straße` is not `strasse`). Globs meet
  this writing.

Traps: an envelope's address is chosen by a stranger, a glob by the operator; so no glob may backtrack.
Each piece between two stars is taken at its first place and not reconsidered, which for globs finds
every match there is, in time that grows with pattern times address and no faster.
"""

from __future__ import annotations

import re
import unicodedata
from enum import IntEnum

import msgspec

from dispatch.mail.address import split_address
from dispatch.smtp.grammar import read_path

NULL_PATH = "<>"
_WILD = re.compile(r"[*?]")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_QUOTED_LOCAL = re.compile(r'"(?:[^"\\]|\\.)*"(?=@)', re.DOTALL)
_A_LABEL = "xn--"


class NoPattern(ValueError):
    """The text is no pattern; says what to write instead."""


class Reach(IntEnum):
    """How much of all domains a pattern speaks of, from the widest."""

    ANY = 0
    GLOB = 1
    BELOW = 2
    """The sub-domains of one domain."""
    ONE = 3


class Aim(IntEnum):
    """How much of a domain it speaks of."""

    ANY = 0
    GLOB = 1
    ONE = 2


Specificity = tuple[int, int, int]
"""Reach, labels of the domain below which all match, aim: of two patterns the greater is the narrower."""
UNCONDITIONAL: Specificity = (-1, 0, 0)
"""Of no pattern at all: wider than any."""


class Pattern(msgspec.Struct, frozen=True):
    """One pattern, taken apart. Made by `parse_pattern`."""

    written: str
    reach: Reach
    domain: str
    """ONE and BELOW: the domain as `plain_domain` writes it; GLOB: the glob."""
    aim: Aim
    local_part: str
    """ONE: the local part without its quotes; GLOB: the glob."""

    @property
    def specificity(self) -> Specificity:
        labels = self.domain.count(".") + 1 if self.reach is Reach.BELOW else 0
        return self.reach, labels, self.aim

    def matches(self, local_part: str, domain: str) -> bool:
        """`local_part` and `domain` as `plain_address` gives them. The definition, not the fast way."""
        return self.matches_domain(domain) and self.matches_local_part(local_part)

    def matches_domain(self, domain: str) -> bool:
        match self.reach:
            case Reach.ONE:
                return domain == self.domain
            case Reach.BELOW:
                return domain.endswith("." + self.domain) and len(domain) > len(self.domain) + 1
            case Reach.GLOB:
                return glob(self.domain).fullmatch(domain) is not None
            case Reach.ANY:
                return True

    def matches_local_part(self, local_part: str) -> bool:
        match self.aim:
            case Aim.ONE:
                return local_part == self.local_part
            case Aim.GLOB:
                return glob(self.local_part).fullmatch(local_part) is not None
            case Aim.ANY:
                return True


def parse_pattern(written: str) -> Pattern:
    """Raises `NoPattern`."""
    text = written.strip()
    if text == NULL_PATH:
        return Pattern(text, Reach.ONE, "", Aim.ONE, "")
    if text == "*":
        return Pattern(text, Reach.ANY, "", Aim.ANY, "")
    local_part, domain = split_address(text) if "@" in text else ("*", text)
    if not _could_be_address(local_part, domain):
        raise NoPattern(_advice(text))
    if local_part == "*":
        aim, local_part = Aim.ANY, ""
    elif local_part[0] == '"':
        aim, local_part = Aim.ONE, _unquoted(local_part)
    else:
        aim = Aim.GLOB if _WILD.search(local_part) else Aim.ONE
    reach, domain = _reach(domain)
    return Pattern(text, reach, domain, aim, local_part)


def _reach(domain: str) -> tuple[Reach, str]:
    if domain == "*":
        return Reach.ANY, ""
    if domain[0] == "[" or not _WILD.search(domain):
        return Reach.ONE, plain_domain(domain)
    if domain.startswith("*.") and not _WILD.search(domain, 2):
        return Reach.BELOW, plain_domain(domain[2:])
    return Reach.GLOB, plain_domain(domain)


def _could_be_address(local_part: str, domain: str) -> bool:
    """Whether there is an address that it could match: the pattern with letters for its wildcards is one."""
    if not local_part or not domain:
        return False
    filled_local = local_part if local_part[0] == '"' else _WILD.sub("x", local_part)
    filled = f"{filled_local}@{domain if domain[0] == '[' else _WILD.sub('x', domain)}"
    return read_path(f"<{filled}>") == (filled, "")


def _advice(text: str) -> str:
    if text.startswith("@"):
        return f"write {text[1:] or 'example.org'} for a whole domain"
    if text.startswith("."):
        return f"write *{text} for the domains below {text[1:]}"
    return "write alice@example.org, example.org, *.example.org or a glob like news-*@example.org"


def split_patterns(text: str) -> list[str]:
    """The words of a comma list; a comma within a quoted local part is no border."""
    words: list[str] = []
    start = position = 0
    while position < len(text):
        if text[position] == '"' and (quoted := _QUOTED_LOCAL.match(text, position)):
            position = quoted.end()
        elif text[position] == ",":
            words.append(text[start:position])
            start = position = position + 1
        else:
            position += 1
    words.append(text[start:])
    return [word.strip() for word in words if word.strip()]


def plain_address(address: str) -> tuple[str, str]:
    """An address of an envelope as patterns compare it: local part without quotes, domain in one writing."""
    local_part, domain = split_address(address)
    return plain_local_part(local_part), plain_domain(domain)


def plain_local_part(local_part: str) -> str:
    return _unquoted(local_part) if local_part[:1] == '"' else local_part


def _unquoted(local_part: str) -> str:
    return _ESCAPED.sub(r"\1", local_part[1:-1])


def plain_domain(domain: str) -> str:
    """Small letters, U-labels in NFC. A label that only claims to be an A-label stays as it is."""
    lower = domain.lower()
    if lower.isascii() and _A_LABEL not in lower:
        return lower
    return unicodedata.normalize("NFC", ".".join(map(_decoded_label, lower.split("."))))


def _decoded_label(label: str) -> str:
    if not label.startswith(_A_LABEL):
        return label
    try:
        return label.removeprefix(_A_LABEL).encode("ascii").decode("punycode").lower()
    except UnicodeError:
        return label


def glob(pattern: str) -> re.Pattern[str]:
    """Compiled, for `fullmatch`; without backtracking, see the trap above."""
    first, *others = (_literal(piece) for piece in pattern.split("*"))
    if not others:
        return re.compile(first, re.DOTALL)
    middle = "".join(f"(?>.*?{piece})" for piece in others[:-1] if piece)
    # What stands behind the last star must be at the end: there is one place for it.
    return re.compile(f"{first}{middle}.*{others[-1]}", re.DOTALL)


def _literal(piece: str) -> str:
    return "".join("." if character == "?" else re.escape(character) for character in piece)
