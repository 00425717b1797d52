"""From what the sources gave to checked settings, or to every mistake that stands in their way.

Strongest first: `--set`, environment, the variables of a small deployment (`deployment`), file, database,
default. A value that a stronger source replaces is
still checked: it would be a mistake again on the day when the stronger one goes. A relay, rule or login that
stands both in the file and in the database is the file's alone: two halves would make one that nobody wrote.

`load` reads the file and, where no server name is given, the machine's host name. It resolves nothing,
connects to nothing and creates nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import msgspec

from dispatch.settings import sources
from dispatch.settings.api_keys import ApiKey
from dispatch.settings.deployment import INTERVAL, UPSTREAM, WARNING, Deployment, deployment
from dispatch.settings.kinds import Unfit
from dispatch.settings.login_keys import Login
from dispatch.settings.mistakes import DEFAULT, Mistake, Origin, SettingsErrors
from dispatch.settings.model import (
    API_KEYS,
    KEYS,
    LOGINS,
    PLAIN_KEYS,
    RELAYS,
    REPEATED,
    RULES,
    SECTIONS,
    Settings,
    all_keys,
    find_key,
)
from dispatch.settings.presets import preset_values
from dispatch.settings.relay_checks import wrong_with
from dispatch.settings.relay_keys import Relay
from dispatch.settings.rule_keys import Rule
from dispatch.settings.sources import Given

_Row = TypeVar("_Row", Relay, Rule, Login, ApiKey)


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
    stored: Sequence[Given] = (),
) -> Loaded:
    """Read and check all sources; raises `SettingsErrors` with every mistake, or `SettingsUnreadable`.

    `config` must exist where it is given, `default_file` need not. `overrides` are the values of
    `--set`. `host_name` stands in for the machine's own. `stored` is what the database says.
    """
    values = _Values()
    from_file, mistakes = sources.from_file(config or default_file, required=config is not None)
    values.take(from_file, mistakes)
    in_file = {one.table for one in from_file}
    twice = sorted({one.table for one in stored} & in_file)
    values.take([one for one in stored if one.table not in in_file], ())
    given, mistakes, ignored = sources.from_environment(environ or {})
    small = deployment(environ or {})
    if small is not None:
        values.take_deployment(small)
        ignored = [name for name in ignored if name != INTERVAL]
    values.take(given, mistakes)
    values.take(*sources.from_overrides(overrides))
    settings = values.settings(host_name if host_name is not None else socket.gethostname())
    checks = (_check_relays, _check_rules, _check_logins, _check_api_keys, _check_lockout, _check_disk)
    mistakes = [*values.mistakes, *(mistake for check in checks for mistake in check(settings, values))]
    if mistakes:
        raise SettingsErrors(mistakes)
    loudly = () if small is None else (WARNING,)
    warnings = (*loudly, *map(_said_twice, twice), *_told_to_everybody(values), *_warnings(settings, ignored))
    return Loaded(settings, values.origins, warnings)


def data_directory(
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
    *,
    default_file: Path = sources.DEFAULT_FILE,
) -> Path:
    """Where the sources say that the data lie, among them the database, which is a source itself.

    Of mistakes nothing is said: `load` does. Raises `SettingsUnreadable`.
    """
    entry = PLAIN_KEYS["spool.directory"]
    found = entry.default
    given, _ = sources.from_file(config or default_file, required=config is not None)
    for source in (given, sources.from_environment(environ or {})[0], sources.from_overrides(overrides)[0]):
        for one in source:
            if one.path == entry.path:
                with suppress(Unfit):
                    found = entry.key.kind.read(one.value, text=one.text)
    return Path(str(found))


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

    def take_deployment(self, found: Deployment) -> None:
        """What it told to be missing is not told again by the checks."""
        self.take(found.given, found.mistakes)
        given = {one.path for one in found.given}
        self.unfit |= {f"{RELAYS}.{UPSTREAM}.host"} - given

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
        if one.withheld:
            # There is one, which was checked when it was stored.
            table[one.name] = _MASK
            self.origins[one.path] = one.origin
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
        logins, keys = self._rows(LOGINS, Login, settings), self._rows(API_KEYS, ApiKey, settings)
        return msgspec.structs.replace(settings, relays=relays, rules=rules, logins=logins, api_keys=keys)

    def _rows(self, section: str, model: type[_Row], settings: Settings) -> tuple[_Row, ...]:
        """All tables of a repeated section."""
        inherited = settings.inherited(section)
        rows: list[_Row] = []
        for table, values in self._tables.items():
            if not table.startswith(f"{section}."):
                continue
            preset = preset_values(values.get("preset"), values.get("region")) if section == RELAYS else {}
            for key in preset:
                self.origins.setdefault(f"{table}.{key}", Origin("inherited", f"preset {values['preset']}"))
            for entry in KEYS[section].values():
                source = entry.key.inherits
                origin = Origin("inherited", source) if source else DEFAULT
                self.origins.setdefault(f"{table}.{entry.name}", origin)
            name = table.removeprefix(f"{section}.")
            rows.append(msgspec.convert({"name": name, **inherited, **preset, **values}, model))
        return tuple(rows)


_MASK = "***"


def _said_twice(table: str) -> str:
    return f"{table} stands in the file and in the database: what counts is the file"


def _told_to_everybody(values: _Values) -> Iterator[str]:
    for path, origin in values.origins.items():
        entry = find_key(path)
        if origin.source == "command line" and entry is not None and entry.key.secret:
            yield f"{path} is a secret, and arguments can be read by every user of this machine"


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
        given = {name for name in KEYS[RELAYS] if values.origins[f"{path}.{name}"] != DEFAULT}
        unfit = {name for name in KEYS[RELAYS] if f"{path}.{name}" in values.unfit}
        for key, what, remedy in wrong_with(relay, given, unfit):
            origin = values.origins[f"{path}.{key}"]
            if origin.source in ("default", "inherited"):
                origin = values.begun[path]
            yield Mistake(origin, f"{_shown_path(path)}.{key}", what, remedy)
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


_OF_ENVELOPE = ("sender", "recipient", "source", "login", "client", "time")
_OF_CONTENT = ("tag", "header", "min_bytes", "max_bytes")
"""Conditions of a rule: what is known at RCPT, and what is not."""


def _check_rules(settings: Settings, values: _Values) -> Iterator[Mistake]:
    known = [relay.name for relay in settings.effective_relays()]
    for rule in settings.rules:
        path = f"{RULES}.{rule.name}"
        given = [name for name in KEYS[RULES] if values.origins[f"{path}.{name}"] != DEFAULT]
        unfit = {name for name in KEYS[RULES] if f"{path}.{name}" in values.unfit}
        conditions = {*_OF_ENVELOPE, *_OF_CONTENT}
        if not unfit & conditions and all(getattr(rule, name) in ((), None) for name in conditions):
            what, remedy = "has no condition", 'write a sender or a recipient; recipient = "*" is everybody'
            yield Mistake(values.begun[path], _shown_path(path), what, remedy)
        wrong = [*_idle_keys(rule, unfit), *_contradictions(rule, unfit), *_unknown_relays(rule, known)]
        for name, place, what, remedy in wrong:
            # Defaults and keys that do not fit stand nowhere, or are told of already.
            if name in given:
                shown = f"{_shown_path(path)}.{name}{place}"
                yield Mistake(values.origins[f"{path}.{name}"], shown, what, remedy)
        if rule.action == "relay" and not rule.relays and not unfit & {"relays", "action"}:
            remedy = f'write relays = ["{settings.default_relay().name}"], or action = "hold"'
            yield Mistake(values.begun[path], f"{_shown_path(path)}.relays", "is missing", remedy)


_Wrong = tuple[str, str, str, str]
"""Key of a rule, which element of it, what is wrong, what to do."""


def _idle_keys(rule: Rule, unfit: Set[str]) -> Iterator[_Wrong]:
    """Keys that do nothing beside the others."""
    doing = {"hold": "holds", "discard": "discards", "refuse": "refuses"}
    if "action" not in unfit:
        if rule.action in doing:
            what = f"is no use to a rule that {doing[rule.action]}"
            yield "relays", "", what, 'remove it, or write action = "relay"'
            yield "weights", "", what, 'remove it, or write action = "relay"'
        if rule.action == "refuse":
            yield "copy_to", "", "cannot be: what is refused is not there", "remove it"
            for name in _OF_CONTENT:
                what = "is not known at RCPT, where a rule refuses"
                yield name, "", what, 'remove it, or write action = "discard"'
        else:
            yield "reply", "", "is no use to a rule that does not refuse", 'remove it, or action = "refuse"'
    if not rule.time and "time" not in unfit:
        yield "time_zone", "", "is no use to a rule without time", 'write time = ["Mon-Fri 08:00-18:00"]'


def _contradictions(rule: Rule, unfit: Set[str]) -> Iterator[_Wrong]:
    """Keys that do not go with one another."""
    if None not in (rule.min_bytes, rule.max_bytes) and (rule.min_bytes or 0) > (rule.max_bytes or 0):
        remedy = f"write at least {rule.min_bytes}, so that there is such a size"
        yield "max_bytes", "", f"{rule.max_bytes} is below min_bytes ({rule.min_bytes})", remedy
    if rule.action == "relay" and not unfit & {"action", "relays", "weights"}:
        if len(rule.weights) != len(rule.relays):
            what = f"{len(rule.weights)} weights do not go with {len(rule.relays)} relays"
            yield "weights", "", what, "write a number for each relay, in their order"
        elif not any(rule.weights):
            yield "weights", "", "says that no relay is tried first", "write one that is above 0"
    if rule.copy_to in rule.relays and not unfit & {"relays", "copy_to"}:
        what = f"{rule.copy_to} may take the mail itself, which would arrive there twice"
        yield "copy_to", "", what, "write another relay"


def _unknown_relays(rule: Rule, known: Sequence[str]) -> Iterator[_Wrong]:
    named = [("relays", f"[{place}]", name) for place, name in enumerate(rule.relays)]
    for key, place, name in [*named, ("copy_to", "", rule.copy_to)]:
        if name not in known:
            yield key, place, *_no_relay(name, known)


def _no_relay(name: str, known: Sequence[str]) -> tuple[str, str]:
    """What is wrong, and what to do."""
    near = get_close_matches(name, known, 1)
    remedy = f"did you mean {near[0]}?" if near else f"write one of {', '.join(known)}"
    return f'there is no relay called "{name}"', remedy


def _check_logins(settings: Settings, values: _Values) -> Iterator[Mistake]:
    known = [relay.name for relay in settings.effective_relays()]
    for login in settings.logins:
        path = f"{LOGINS}.{login.name}"
        if login.relay and login.relay not in known:
            what, remedy = _no_relay(login.relay, known)
            yield Mistake(values.origins[f"{path}.relay"], f"{_shown_path(path)}.relay", what, remedy)
        if not login.password and f"{path}.password" not in values.unfit:
            remedy = "write a hash of its password: `dispatch login hash` makes one"
            yield Mistake(values.begun[path], f"{_shown_path(path)}.password", "is missing", remedy)


def _check_api_keys(settings: Settings, values: _Values) -> Iterator[Mistake]:
    known = [relay.name for relay in settings.effective_relays()]
    ids: dict[str, str] = {}
    for key in settings.api_keys:
        path = f"{API_KEYS}.{key.name}"
        if key.relay and key.relay not in known:
            what, remedy = _no_relay(key.relay, known)
            yield Mistake(values.origins[f"{path}.relay"], f"{_shown_path(path)}.relay", what, remedy)
        for part in ("key_id", "hash"):
            if not getattr(key, part) and f"{path}.{part}" not in values.unfit:
                remedy = "`dispatch key create` makes a key"
                yield Mistake(values.begun[path], f"{_shown_path(path)}.{part}", "is missing", remedy)
        other = ids.setdefault(key.key_id, key.name)
        if key.key_id and other != key.name:
            at = values.origins[f"{path}.key_id"]
            what, remedy = f"the key {other} has the same", "make one of them anew with `dispatch key create`"
            yield Mistake(at, f"{_shown_path(path)}.key_id", what, remedy)


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


def _check_lockout(settings: Settings, values: _Values) -> Iterator[Mistake]:
    shortest, longest = "listener.lockout_seconds", "listener.lockout_max_seconds"
    first_s, longest_s = settings.listener.lockout_seconds, settings.listener.lockout_max_seconds
    if first_s > longest_s and not values.unfit & {shortest, longest}:
        # Whoever changed one of the two should hear of it where it was changed.
        changed = next((path for path in (longest, shortest) if values.origins[path] != DEFAULT), longest)
        what = f"lockout_seconds ({first_s:g}) is above lockout_max_seconds ({longest_s:g})"
        remedy = f"write a lockout_max_seconds of at least {first_s:g}"
        yield Mistake(values.origins[changed], changed, what, remedy)


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
    for login in settings.logins:
        if login.enabled and login.relay and login.relay not in usable:
            yield f"logins.{login.name}: its relay {login.relay} is not enabled, its mail is held"
    for key in settings.api_keys:
        if key.enabled and key.relay and key.relay not in usable:
            yield f"api_keys.{key.name}: its relay {key.relay} is not enabled, its mail is held"
    if not settings.relays:
        yield "no relay is configured: all mail is captured on this machine, nothing leaves it"
