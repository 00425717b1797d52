"""Habits of this code that a machine can hold us to.

Read off the syntax trees: sizes, docstrings, what pure packages may not touch, names that say nothing,
and files that nothing uses. Each test lists every offender. The layers are import-linter's business
(`pyproject.toml`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "dispatch"
TREES = ("src", "tests", "bench", "scripts", "fuzz")

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
PURE = ("mail", "smtp", "mime", "policy", "relays/providers")
IMPURE_MODULES = {
    *("asyncio", "uvloop", "selectors", "socket", "ssl", "threading", "concurrent", "subprocess"),
    *("os", "pathlib", "shutil", "tempfile", "time", "random", "secrets", "uuid"),
}
CLOCK_METHODS = {"now", "utcnow", "today"}
BANNED_NAMES = {"util", "utils", "common", "helper", "helpers", "core", "base", "misc", "stuff", "lib"}
# In pieces, so that this file does not find itself.
UNFINISHED = re.compile("TO" + "DO|FIX" + "ME|XX" + r"X\b")


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _pure_modules() -> list[Path]:
    return sorted(path for package in PURE for path in (PACKAGE / package).rglob("*.py"))


def _sources() -> list[Path]:
    return sorted(path for tree in TREES for path in (ROOT / tree).rglob("*.py"))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _place(path: Path, node: ast.stmt | ast.expr | None = None) -> str:
    return str(path.relative_to(ROOT)) + (f":{node.lineno}" if node else "")


def _imported(path: Path) -> Iterator[tuple[ast.stmt, str, str]]:
    """Where, which module, and the name taken from it; that is empty where the module itself is imported."""
    for node in ast.walk(_tree(path)):
        match node:
            case ast.Import():
                yield from ((node, alias.name, "") for alias in node.names)
            case ast.ImportFrom(module=str(module)):
                yield from ((node, module, alias.name) for alias in node.names)


def test_no_file_is_longer_than_one_can_read() -> None:
    lines = {_place(path): len(path.read_text().splitlines()) for path in _sources()}
    assert not {name: count for name, count in lines.items() if count > FILE_LINES_MAX}


def test_no_function_is_longer_than_a_screen() -> None:
    lengths = {
        f"{_place(path, node)} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in _sources()
        for node in ast.walk(_tree(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert not {name: length for name, length in lengths.items() if length > FUNCTION_LINES_MAX}


def test_every_module_says_what_it_is_for() -> None:
    assert not [_place(path) for path in _modules() if not ast.get_docstring(_tree(path))]


def test_nothing_is_left_for_later() -> None:
    assert not [_place(path) for path in _sources() if UNFINISHED.search(path.read_text())]


def test_names_of_files_say_something() -> None:
    assert not [_place(path) for path in _modules() if {path.stem, path.parent.name} & BANNED_NAMES]


def test_imports_name_their_module_in_full() -> None:
    relative = [
        _place(path, node)
        for path in _modules()
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


def test_only_the_command_line_prints() -> None:
    outside = [path for path in _modules() if not path.is_relative_to(PACKAGE / "cli")]
    assert not [place for path in outside for place in _calls_of(path, {"print"}, set())]


def test_pure_code_imports_nothing_that_acts() -> None:
    acting = [
        f"{_place(path, node)} imports {module}"
        for path in _pure_modules()
        for node, module, _ in _imported(path)
        if module.partition(".")[0] in IMPURE_MODULES
    ]
    assert not acting


def test_pure_code_reads_no_clock_and_opens_no_file() -> None:
    calls = (place for path in _pure_modules() for place in _calls_of(path, {"open", "input"}, CLOCK_METHODS))
    assert not list(calls)


def _calls_of(path: Path, functions: set[str], methods: set[str]) -> Iterator[str]:
    for node in ast.walk(_tree(path)):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in functions:
                yield f"{_place(path, node)} {name}()"
            case ast.Call(func=ast.Attribute(attr=name)) if name in methods:
                yield f"{_place(path, node)} .{name}()"


ENTRANCES = {
    "dispatch.cli",  # the console script
    "dispatch.cli.__main__",  # the same for `python -m`
    "dispatch.app.__main__",  # what the supervisor executes
    "dispatch.spool.memory",  # an adapter that ships: for tests, simulations and whoever embeds the relay
}


def test_no_file_is_dead() -> None:
    alive = set(ENTRANCES)
    for path in _modules():
        alive |= set(_mentioned(path)) - {_dotted(path)}
    assert not [_place(p) for p in _modules() if p.stem != "__init__" and _dotted(p) not in alive]


def _dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _mentioned(path: Path) -> Iterator[str]:
    """Every module that a file imports, or names in a string: the registry of verbs, what `-m` starts."""
    for _, module, name in _imported(path):
        yield module
        yield f"{module}.{name}"
    for node in ast.walk(_tree(path)):
        match node:
            case ast.Constant(value=str(text)) if re.fullmatch(r"dispatch(\.\w+)+", text):
                yield text
