"""The reference pages in the repository are what the program itself would write."""

from __future__ import annotations

import ast
from pathlib import Path

from scripts.reference import FOLDER, stale

from dispatch.observe import EVENTS
from dispatch.settings.model import all_keys

SOURCE = Path(__file__).parents[2] / "src/dispatch"
REPORTERS = {"report", "_report", "alarm", "_say"}
"""What code calls a `Reporter`."""


def test_the_pages_are_up_to_date() -> None:
    assert stale() == [], "run `make reference`"


def test_every_key_has_its_place_on_the_settings_page() -> None:
    page = (FOLDER / "settings.md").read_text()
    headings = [line.removeprefix("### ") for line in page.splitlines() if line.startswith("### ")]
    assert headings == [entry.path for entry in all_keys()]


def _texts() -> set[str]:
    """Every text in the code that could be the name of an event."""
    texts: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        if path.name == "observe.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
    return texts


def _reported() -> set[str]:
    """Every event that the code reports by name."""
    names: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = (
                    node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                )
                if called in REPORTERS and isinstance(node.args[0].value, str):
                    names.add(node.args[0].value)
    return names


def test_every_event_that_is_reported_is_declared() -> None:
    assert _reported() - EVENTS.keys() == set()


def test_every_event_that_is_declared_is_reported() -> None:
    assert EVENTS.keys() - _texts() == set()
