"""The pages written by hand: their links lead somewhere, and the list of RFCs leaves none out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
_FIRST_CELL = re.compile(r"^\|([^|]+)\|", re.MULTILINE)
_RFC = re.compile(r"\bRFCs? (\d{3,4})\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    links = _LINK.findall(page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_rfc_that_the_code_names_is_on_the_page() -> None:
    named = {number for path in (ROOT / "src").rglob("*.py") for number in _RFC.findall(path.read_text())}
    first_cells = " ".join(_FIRST_CELL.findall((ROOT / "docs/rfc.md").read_text()))
    listed = set(re.findall(r"\b\d{3,4}\b", first_cells))
    assert named - listed == set()
