"""What of a stranger's text may be shown to a person: in a log line, on a terminal, on a page.

Control characters go, so that nobody can forge a line or speak to a terminal; so do the other line
breaks of Unicode, and the marks that turn the direction of text, so that nothing reads as something else.
"""

from __future__ import annotations

import re

_UNSHOWABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def showable(text: str) -> str:
    """The text with a space in place of each character that may not be shown."""
    # Nearly all text is harmless, and this look at it is the cheapest there is.
    return text if text.isprintable() else _UNSHOWABLE.sub(" ", text)
