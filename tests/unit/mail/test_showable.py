"""No stranger's text forges a line, speaks to a terminal, or reads as something else."""

from __future__ import annotations

import pytest

from dispatch.mail.showable import showable


@pytest.mark.parametrize(
    "character", ["\n", "\r", "\x00", "\x1b", "\x7f", "\x9b", "\u2028", "\u202e", "\u2066"]
)
def test_what_may_not_be_shown_becomes_a_space(character: str) -> None:
    assert showable(f"a{character}b") == "a b"


@pytest.mark.parametrize("text", ["", "plain", "Grüße", "日本語", "🙂", "non\u00a0breaking"])
def test_what_people_write_stays(text: str) -> None:
    assert showable(text) == text
