"""The sources of settings: what each of them gave, with where it stands, not yet checked.

- The file is TOML: tables for sections, `[[relays]]` for each relay, `[[rules]]` for each rule.
- The environment has `DISPATCH_<SECTION>__<KEY>`, and `DISPATCH_RELAYS__<NAME>__<KEY>` where a hyphen of
  the name is written `_`; rules as relays. Other `DISPATCH_*` variables are none of ours (Kubernetes makes
  some for a service of that name): they are ignored, with one warning for all of them. `deployment` reads the
  few of a small one.
- The command line has `--set section.key=value`.
- The database (`dispatch.store.settings`) has relays, rules and logins; `load` is handed what it says.

Traps: tomllib tells no line numbers, so they are found again by looking for the key, which multi-line
strings could mislead. The answer is only ever shown to a person.
"""

from __future__ import annotations

import errno
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dispatch.settings.mistakes import Mistake, Origin, SettingsUnreadable
from dispatch.settings.model import REPEATED, SECTIONS

DEFAULT_FILE = Path("/etc/dispatch/dispatch.toml")
_VARIABLE_PREFIX = "DISPATCH_"
_TABLE = re.compile(r"\s*(\[\[?)\s*([^\]#]+?)\s*\]")
_ASSIGNMENT = re.compile(r"\s*([A-Za-z0-9_.\"' -]+?)\s*=")
# What a person can mend, by another name or another mode.
_MISNAMED = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM}
)
_TOML_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


class Given(NamedTuple):
    """One value that one source gave for one key."""

    table: str
    """The section, or `relays.NAME`."""
    name: str
    value: object
    text: bool
    """It was given as text, which says nothing about its type."""
    origin: Origin
    spelled: str
    """The key as this source spells it: `relays[0].port` in the file."""
    withheld: bool = False
    """A secret is there, and was not opened: the value stands for nothing."""

    @property
    def path(self) -> str:
        return f"{self.table}.{self.name}" if self.table else self.name


def from_file(path: Path, *, required: bool) -> tuple[list[Given], list[Mistake]]:
    """What the file says; one that cannot be understood, is absent or is not ours, is a mistake of its own.

    Where it is not `required`, its absence is no mistake. `SettingsUnreadable` where it may well be good.
    """
    whole = Origin("file", str(path))
    try:
        text = path.read_text("utf-8")
        tables = tomllib.loads(text)
    except OSError as error:
        if error.errno not in _MISNAMED:
            raise SettingsUnreadable(path, error) from error
        if not required and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return [], []
        remedy = "name a file that this user can read"
        return [], [Mistake(whole, "", f"cannot be read: {error.strerror}", remedy)]
    except UnicodeDecodeError as error:
        return [], [Mistake(whole, "", f"is not UTF-8 at byte {error.start}", "save it as UTF-8")]
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        position = _TOML_POSITION.search(said)
        line = position[1] if position else None
        origin = Origin("file", f"{path}:{line}") if line else whole
        what = f"is no TOML: {_TOML_POSITION.sub('', said) if line else said}"
        return [], [Mistake(origin, "", what, "mend this first; what follows it was not looked at")]
    return _FileReader(path, text).read(tables)


class _FileReader:
    """Walks the tables of one file."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = _line_numbers(text)
        self._given: list[Given] = []
        self._mistakes: list[Mistake] = []

    def read(self, tables: Mapping[str, object]) -> tuple[list[Given], list[Mistake]]:
        for section, table in tables.items():
            if section in REPEATED:
                self._rows(section, table)
            elif isinstance(table, dict):
                for name, value in table.items():
                    self._add(section, name, value, f"{section}.{name}")
            elif section in SECTIONS:
                self._complain(section, "is no table", f"begin it with a line [{section}]")
            else:
                self._add("", section, table, section)
        return self._given, self._mistakes

    def _rows(self, section: str, rows: object) -> None:
        noun = REPEATED[section]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self._complain(section, "is no list of tables", f"begin each {noun} with a line [[{section}]]")
            return
        places: dict[str, int] = {}
        for place, row in enumerate(rows):
            here = f"{section}[{place}]"
            name = row.pop("name", None)
            if not isinstance(name, str):
                what = "is missing" if name is None else f"{name} is no text"
                self._complain(f"{here}.name", what, f'write name = "my-{noun}", or what else you call it')
                name = f"[{place}]"
            elif name in places:
                first = self._origin(f"{section}[{places[name]}].name")
                what = f'another {noun} is called "{name}" ({first})'
                self._complain(f"{here}.name", what, "give it a name of its own")
            else:
                places[name] = place
                self._add(f"{section}.{name}", "name", name, f"{here}.name")
            for key, value in row.items():
                self._add(f"{section}.{name}", key, value, f"{here}.{key}")

    def _add(self, table: str, name: str, value: object, spelled: str) -> None:
        self._given.append(Given(table, name, value, False, self._origin(spelled), spelled))

    def _complain(self, spelled: str, what: str, remedy: str) -> None:
        self._mistakes.append(Mistake(self._origin(spelled), spelled, what, remedy))

    def _origin(self, spelled: str) -> Origin:
        line = self._lines.get(spelled) or self._lines.get(spelled.rpartition(".")[0])
        return Origin("file", f"{self._path}:{line}" if line else str(self._path))


def _line_numbers(text: str) -> dict[str, int]:
    """The line on which each table and each key begins, as well as it can be told from outside."""
    found: dict[str, int] = {}
    table = ""
    tables: Counter[str] = Counter()
    for number, line in enumerate(text.splitlines(), 1):
        if opening := _TABLE.match(line):
            table = opening[2]
            if opening[1] == "[[":
                tables[table] += 1
                table = f"{table}[{tables[table] - 1}]"
            found.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            spelled = re.sub(r"[\"' ]", "", assignment[1])
            found.setdefault(f"{table}.{spelled}" if table else spelled, number)
    return found


def from_environment(environ: Mapping[str, str]) -> tuple[list[Given], list[Mistake], list[str]]:
    """What the environment says, its mistakes, and the names of the variables that only look like ours."""
    given: list[Given] = []
    mistakes: list[Mistake] = []
    ignored: list[str] = []
    for variable, value in sorted(environ.items()):
        if not variable.startswith(_VARIABLE_PREFIX):
            continue
        words = variable.removeprefix(_VARIABLE_PREFIX).lower().split("__")
        if len(words) < 2 or not all(words):
            ignored.append(variable)
            continue
        if words[0] in REPEATED:
            words[1:-1] = [word.replace("_", "-") for word in words[1:-1]]
        given_here, mistakes_here = _from_text(words, value, Origin("environment", variable))
        given += given_here
        mistakes += mistakes_here
    return given, mistakes, ignored


def from_overrides(overrides: Sequence[str]) -> tuple[list[Given], list[Mistake]]:
    """What `--set` says. Of two that set the same key, the last one counts."""
    given: list[Given] = []
    mistakes: list[Mistake] = []
    for override in overrides:
        path, equals, value = override.partition("=")
        words = path.strip().lower().split(".")
        origin = Origin("command line", "--set")
        if not equals or len(words) < 2 or not all(words):
            mistakes.append(
                Mistake(origin, path.strip(), "names no key and value", "write --set section.key=value")
            )
            continue
        given_here, mistakes_here = _from_text(words, value, origin)
        given += given_here
        mistakes += mistakes_here
    return given, mistakes


def _from_text(words: Sequence[str], value: str, origin: Origin) -> tuple[list[Given], list[Mistake]]:
    """A key that was named outside the file. Naming a relay or a rule is enough to make it."""
    section, name = words[0], words[-1]
    spelled = ".".join(words)
    if section not in REPEATED:
        return [Given(section, ".".join(words[1:]), value, True, origin, spelled)], []
    if len(words) < 3 or name == "name":
        remedy = f"write {section}.NAME.key; the name is the word in the middle"
        return [], [Mistake(origin, spelled, f"names no {REPEATED[section]} and key", remedy)]
    # A login's name may hold dots.
    called = ".".join(words[1:-1])
    table = f"{section}.{called}"
    return [
        Given(table, "name", called, True, origin, table),
        Given(table, name, value, True, origin, spelled),
    ], []
