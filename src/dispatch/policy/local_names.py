"""Local names: whose mail a host's own mail is, and what its bare addresses are completed to.

Programs of a host write to `root` and as `www-data`, and mean this machine. Out of doors nobody knows them.
Here a recipient without a domain, or with one of this host's own, becomes the person that an alias names;
what is still bare is completed with a domain. Addresses of anybody else are never touched.

========================  =====================  ====================================================
recipient                 an alias for it        none
========================  =====================  ====================================================
`root`                    its targets            `root@` the domain appended; as it is where there is none
`root@localhost`          its targets            the same: nobody out of doors can mean it
`root@` our server name   its targets            as it is
`root@` domain appended   its targets            as it is
any other                 not looked for         as it is
========================  =====================  ====================================================

Rules:
- Local names are compared without case. `root+cron` is looked for as it is, then as `root`; what stands
  behind the `+` is not carried to the targets.
- A target with a domain is final. A bare one, or one at localhost, is looked for again; one that names
  its own alias (`bob: bob, archive@example.org`) is final, too. All of it is expanded when the aliases are
  read: a loop is a mistake of the settings, never of a message.
- `postmaster` must reach somebody (RFC 5321 section 4.5.1), and so should MAILER-DAEMON: without aliases of
  their own they are `root` and `postmaster`. Not at the domain appended, whose postmaster may be another
  host's.
- A reverse-path is completed where it is bare or at localhost, and never aliased: it says who wrote, and
  takes the bounces. The null reverse-path stays null.

Deliberately not here: header fields, which are completed when they leave (`mime.complete`); programs, files
and lists of /etc/aliases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

import msgspec

from dispatch.mail.envelope import Envelope
from dispatch.policy.patterns import plain_local_part, split_patterns
from dispatch.smtp.grammar import read_path

LOCALHOST = "localhost"
_IMPLIED = {"postmaster": "root", "mailer-daemon": "postmaster"}
_NAME = re.compile(r"[^\s@,:;\"\\<>()\[\]\x00-\x1f\x7f]+")
# A file, a program, a list to be included: the other things that /etc/aliases can name.
_NO_PERSON = ("/", "|", ":", '"|', '"/')


class NoAlias(ValueError):
    """The text is no alias, or the aliases do not go together; says why and, behind `: `, what to do."""


class Alias(NamedTuple):
    """One local name, in small letters, and where its mail goes."""

    name: str
    targets: tuple[str, ...]

    @property
    def written(self) -> str:
        return f"{self.name}: {', '.join(self.targets)}"


def parse_alias(written: str) -> Alias:
    """`root: ops@example.org, bob` taken apart; raises `NoAlias`."""
    name, colon, targets = (part.strip() for part in written.partition(":"))
    if not colon or not _NAME.fullmatch(name):
        raise NoAlias("is no alias: write a local name, a colon, and addresses: root: ops@example.org")
    wanted = dict.fromkeys(map(_target, split_patterns(targets)))
    if not wanted:
        raise NoAlias(f"{name} names nobody: write an address behind the colon, or remove it")
    return Alias(name.lower(), tuple(wanted))


def _target(text: str) -> str:
    if text.startswith(_NO_PERSON):
        raise NoAlias(f"{text} is no address: programs, files and lists get no mail here, name a person")
    if not text.isascii():
        # Whoever writes to root has not asked for SMTPUTF8 (RFC 6531 section 3.2), without which it cannot
        # travel.
        raise NoAlias(f"{text} is not ASCII: write the domain as xn--…, or name another address")
    if read_path(f"<{text}>") != (text, ""):
        raise NoAlias(f"{text} is no address: write one like ops@example.org, or another local name")
    local_part, _, domain = text.rpartition("@")
    return local_part if local_part and domain.lower() == LOCALHOST else text


def expand(aliases: Iterable[Alias]) -> dict[str, tuple[str, ...]]:
    """Each name with all that its mail goes to in the end: addresses, and names that are no aliases.

    Raises `NoAlias` where a name stands there twice, or aliases lead back to themselves.
    """
    targets: dict[str, tuple[str, ...]] = {}
    for alias in aliases:
        if alias.name in targets:
            raise NoAlias(f"{alias.name} stands there twice: remove one of the two, or write both in one")
        targets[alias.name] = alias.targets
    follows = {name: [(each, _alias_of(each, targets)) for each in targets[name]] for name in targets}
    graph = {name: {then for _, then in links if then and then != name} for name, links in follows.items()}
    try:
        order = tuple(TopologicalSorter(graph).static_order())
    except CycleError as cycle:
        way = " to ".join(reversed(cycle.args[1]))
        raise NoAlias(f"aliases go in a circle, {way}: let one of them name an address") from None
    expanded: dict[str, tuple[str, ...]] = {}
    for name in order:
        found: dict[str, None] = {}
        for each, then in follows[name]:
            found.update(dict.fromkeys(expanded[then] if then and then != name else (each,)))
        expanded[name] = tuple(found)
    return expanded


def _alias_of(target: str, aliases: Mapping[str, object]) -> str | None:
    """The alias that a bare local part means."""
    return None if "@" in target else _find(target, aliases)


def _find(local_part: str, aliases: Mapping[str, object]) -> str | None:
    name = plain_local_part(local_part).lower()
    if name in aliases:
        return name
    name = name.partition("+")[0]
    return name if name in aliases else None


class LocalNames:
    """What holds on one host. Immutable; without arguments it changes nothing."""

    __slots__ = ("_aliases", "_append", "_host_aliases", "_own")

    def __init__(
        self, *, append_domain: str = "", server_name: str = LOCALHOST, aliases: Iterable[str] = ()
    ) -> None:
        """`aliases` as `parse_alias` reads them; raises `NoAlias`."""
        self._append = append_domain.lower()
        expanded = expand(map(parse_alias, aliases))
        self._aliases = {
            name: tuple(dict.fromkeys(map(self._completed, targets))) for name, targets in expanded.items()
        }
        self._host_aliases = dict(self._aliases)
        """Those of names that can mean nothing but this host."""
        for name, instead in _IMPLIED.items():
            if name not in self._host_aliases and instead in self._host_aliases:
                self._host_aliases[name] = self._host_aliases[instead]
        self._own = {LOCALHOST, server_name.lower().rstrip("."), self._append} - {""}

    def reverse_path(self, address: str) -> str:
        """The reverse-path as the world may read it."""
        if not address:
            return address
        local_part, at, domain = address.rpartition("@")
        if at and domain.lower() != LOCALHOST:
            return address
        return self._at_home(address, local_part if at else address)

    def recipients(self, address: str) -> tuple[str, ...]:
        """Whom mail for this address goes to: at least one, each once."""
        local_part, at, domain = address.rpartition("@")
        if not at:
            local_part, domain = address, LOCALHOST
        else:
            domain = domain.lower()
            if domain not in self._own:
                return (address,)
        aliases = self._aliases if domain == self._append else self._host_aliases
        if aliases:
            name = _find(local_part, aliases)
            if name is not None:
                return aliases[name]
        return (self._at_home(address, local_part) if domain == LOCALHOST else address,)

    def envelope(self, envelope: Envelope) -> Envelope:
        """One that was made by ourselves, with its recipients replaced; the same where nothing is."""
        people = [(each, self.recipients(each.address)) for each in envelope.recipients]
        if all(addresses == (each.address,) for each, addresses in people):
            return envelope
        replaced = [
            msgspec.structs.replace(each, address=address)
            for each, addresses in people
            for address in addresses
        ]
        return msgspec.structs.replace(envelope, recipients=tuple(dict.fromkeys(replaced)))

    def _at_home(self, address: str, local_part: str) -> str:
        return f"{local_part}@{self._append}" if self._append else address

    def _completed(self, target: str) -> str:
        return target if "@" in target else self._at_home(target, target)
