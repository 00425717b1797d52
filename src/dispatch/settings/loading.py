"""From what the sources gave to checked settings, or to every mistake that stands in their way.

Strongest first: `--set`, environment, file, default. A value that a stronger source replaces is still
checked: it would be a mistake again on the day when the stronger one goes.

`load` reads the file and, where no server name is given, the machine's host name. It resolves nothing,
connects to nothing and creates nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import msgspec

from dispatch.settings import sources
from dispatch.settings.kinds import Unfit
from dispatch.settings.mistakes import DEFAULT, Mistake, Origin, SettingsErrors
from dispatch.settings.model import (
    KEYS,
    PLAIN_KEYS,
    RELAYS,
    REPEATED,
    RULES,
    SECTIONS,
    Relay,
    Rule,
    Settings,
    all_keys,
)
from dispatch.settings.sources import Given

_Row = TypeVar("_Row", Relay, Rule)


class Loaded(msgspec.Struct, frozen=True):
    settings: Settings
    origins: Mapping[str, Origin]
    """For the path of every key, `listener.ports` or `relays.smarthost.port`, where its value is from."""
    warnings: tuple[str, ...]
    """What is possible, and probably not meant."""


def load(
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
    *,
    default_file: Path = sources.DEFAULT_FILE,
    host_name: str | None = None,
) -> Loaded:
    """Read and check all sources; raises `SettingsErrors` with every mistake, or `SettingsUnreadable`.

    `config` must exist where it is given, `default_file` need not. `overrides` are the values of
    `--set`. `host_name` stands in for the machine's own.
    """
    values = _Values()
    values.take(*sources.from_file(config or default_file, required=config is not None))
    given, mistakes, ignored = sources.from_environment(environ or {})
    values.take(given, mistakes)
    values.take(*sources.from_overrides(overrides))
    settings = values.settings(host_name if host_name is not None else socket.gethostname())
    checks = (_check_relays, _check_rules, _check_disk)
    mistakes = [*values.mistakes, *(mistake for check in checks for mistake in check(settings, values))]
    if mistakes:
        raise SettingsErrors(mistakes)
    return Loaded(settings, values.origins, tuple(_warnings(settings, ignored)))


class _Values:
    """What the sources gave, taken from the weakest to the strongest; mistakes gather on the way."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []
        self.origins: dict[str, Origin] = {}
        self.unfit: set[str] = set()
        """Keys that some source gave wrongly: nothing more can be concluded from them."""
        self.begun: dict[str, Origin] = {}
        """Where each table was met first."""
        self._tables: dict[str, dict[str, object]] = {name: {} for name in SECTIONS if name not in REPEATED}

    def take(self, given: Iterable[Given], mistakes: Iterable[Mistake]) -> None:
        self.mistakes.extend(mistakes)
        for one in given:
            self._take(one)

    def _take(self, one: Given) -> None:
        self.begun.setdefault(one.table, one.origin)
        section, dot, _ = one.table.partition(".")
        repeated = section in REPEATED and bool(dot)
        entry = KEYS[section].get(one.name) if repeated else PLAIN_KEYS.get(one.path)
        if entry is None:
            self.mistakes.append(_unknown(one))
            return
        table = self._tables.setdefault(one.table, {})
        if one.name in table and repeated and one.name == "name":
            return
        try:
            table[one.name] = entry.key.kind.read(one.value, text=one.text)
        except Unfit as unfit:
            self.unfit.add(one.path)
            for at, what, remedy in unfit.misfits:
                if entry.key.secret:
                    what = "does not fit"  # without showing it
                self.mistakes.append(Mistake(one.origin, one.spelled + at, what, remedy))
        else:
            self.origins[one.path] = one.origin

    def settings(self, host_name: str) -> Settings:
        """What was taken, with defaults and inherited values for the rest; not checked across keys."""
        listener = self._tables["listener"]
        if "server_name" not in listener:
            listener["server_name"] = _server_name(host_name)
            self.origins["listener.server_name"] = Origin("default", "host name")
        plain = {name: table for name, table in self._tables.items() if name in SECTIONS}
        settings = msgspec.convert(plain, Settings)
        for path in PLAIN_KEYS:
            self.origins.setdefault(path, DEFAULT)
        relays, rules = self._rows(RELAYS, Relay, settings), self._rows(RULES, Rule, settings)
        return msgspec.structs.replace(settings, relays=relays, rules=rules)

    def _rows(self, section: str, model: type[_Row], settings: Settings) -> tuple[_Row, ...]:
        """All tables of a repeated section."""
        inherited = settings.inherited(section)
        rows: list[_Row] = []
        for table, values in self._tables.items():
            if not table.startswith(f"{section}."):
                continue
            for entry in KEYS[section].values():
                source = entry.key.inherits
                origin = Origin("inherited", source) if source else DEFAULT
                self.origins.setdefault(f"{table}.{entry.name}", origin)
            name = table.removeprefix(f"{section}.")
            rows.append(msgspec.convert({"name": name, **inherited, **values}, model))
        return tuple(rows)


def _server_name(host_name: str) -> str:
    """The machine's host name where it can be one on the wire."""
    try:
        return str(PLAIN_KEYS["listener.server_name"].key.kind.read(host_name, text=True))
    except Unfit:
        return "localhost"


def _unknown(one: Given) -> Mistake:
    """A key that does not exist, with the one that was probably meant, spelled as this source spells it."""
    section = one.table.partition(".")[0]
    siblings = [entry.name for entry in all_keys() if entry.section == section]
    elsewhere = [entry.path for entry in all_keys() if entry.name == one.name and not entry.repeated]
    if near := get_close_matches(one.name, siblings, 1):
        meant = one.spelled.removesuffix(one.name) + near[0]
    elif elsewhere:
        meant = elsewhere[0]
    else:
        meant = next(iter(get_close_matches(one.path, PLAIN_KEYS, 1, 0.7)), "")
    if not meant:
        remedy = "remove it; `dispatch config list` shows every key"
    elif one.origin.source == "environment":
        remedy = f"did you mean DISPATCH_{meant.upper().replace('.', '__').replace('-', '_')}?"
    else:
        remedy = f"did you mean {meant}?"
    return Mistake(one.origin, one.spelled, "there is no such key", remedy)


def _check_relays(settings: Settings, values: _Values) -> Iterator[Mistake]:
    for relay in settings.relays:
        path = f"{RELAYS}.{relay.name}"
        if relay.kind == "smtp" and not relay.host and not values.unfit & {f"{path}.host", f"{path}.kind"}:
            remedy = 'write the name or address of the host, or kind = "capture"'
            yield Mistake(values.begun[path], f"{_shown_path(path)}.host", "is missing", remedy)
    if any(path.startswith(f"{RELAYS}.") and path.endswith(".default") for path in values.unfit):
        return
    names = [relay.name for relay in settings.relays]
    defaults = [relay.name for relay in settings.relays if relay.default]
    if len(defaults) > 1:
        origin = values.origins[f"{RELAYS}.{defaults[-1]}.default"]
        what = f"{_both(defaults)} claim to be the default"
        yield Mistake(origin, RELAYS, what, "leave default = true in one of them")
    elif len(names) > 1 and not defaults:
        origin = values.origins[f"{RELAYS}.{names[0]}.name"]
        yield Mistake(origin, RELAYS, f"none of {_both(names)} is the default", "write default = true in one")


def _check_rules(settings: Settings, values: _Values) -> Iterator[Mistake]:
    known = [relay.name for relay in settings.effective_relays()]
    for rule in settings.rules:
        path = f"{RULES}.{rule.name}"
        here, shown = values.begun[path], _shown_path(path)
        if not (rule.sender or rule.recipient or values.unfit & {f"{path}.sender", f"{path}.recipient"}):
            what, remedy = "has no condition", 'write a sender or a recipient; recipient = "*" is everybody'
            yield Mistake(here, shown, what, remedy)
        if values.unfit & {f"{path}.relays", f"{path}.action"}:
            continue
        if rule.action == "hold" and rule.relays:
            what, remedy = "is no use to a rule that holds", 'remove it, or write action = "relay"'
            yield Mistake(values.origins[f"{path}.relays"], f"{shown}.relays", what, remedy)
        if rule.action == "relay" and not rule.relays:
            remedy = f'write relays = ["{settings.default_relay().name}"], or action = "hold"'
            yield Mistake(here, f"{shown}.relays", "is missing", remedy)
        for place, name in enumerate(rule.relays):
            if name not in known:
                near = get_close_matches(name, known, 1)
                remedy = f"did you mean {near[0]}?" if near else f"write one of {', '.join(known)}"
                what = f'there is no relay called "{name}"'
                yield Mistake(values.origins[f"{path}.relays"], f"{shown}.relays[{place}]", what, remedy)


def _shown_path(path: str) -> str:
    """A table that has no name yet goes by its place."""
    return path.replace(".[", "[")


def _check_disk(settings: Settings, values: _Values) -> Iterator[Mistake]:
    """The three levels are reached one after the other while the disk fills."""
    levels = ("disk_warn_mb", "disk_throttle_mb", "disk_suspend_mb")
    for wider, narrower in pairwise(levels):
        above, below = getattr(settings.spool, wider), getattr(settings.spool, narrower)
        paths = [f"spool.{wider}", f"spool.{narrower}"]
        if above < below and not values.unfit & set(paths):
            # Whoever changed one of the two should hear of it where it was changed.
            changed = next((path for path in reversed(paths) if values.origins[path] != DEFAULT), paths[1])
            what = f"{narrower} ({below}) is above {wider} ({above})"
            yield Mistake(values.origins[changed], changed, what, f"write a {narrower} of at most {above}")


def _both(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _warnings(settings: Settings, ignored: Sequence[str]) -> Iterator[str]:
    if ignored:
        yield (
            f"ignored because they are no settings: {', '.join(ignored)}"
            " (a setting is written DISPATCH_<SECTION>__<KEY>)"
        )
    if not settings.listener.allowed_cidrs:
        yield "listener.allowed_cidrs is empty: no client may send mail"
    if {"0.0.0.0/0", "::/0"} & set(settings.listener.allowed_cidrs):
        yield "listener.allowed_cidrs lets everybody in: strangers must be kept from these ports"
    usable = {relay.name for relay in settings.effective_relays() if relay.enabled}
    for rule in settings.rules:
        if rule.enabled and rule.relays and not usable & set(rule.relays):
            yield f"rules.{rule.name}: none of its relays is enabled, its mail is held"
    if not settings.relays:
        yield "no relay is configured: all mail is captured on this machine, nothing leaves it"
