"""Where a setting came from, and what is wrong with it.

A mistake is for the person who made it: it names the place, the key, what is wrong there, and what to do
about it. All mistakes of all sources are reported at once, so that a file is repaired in one go.

    SettingsErrors      the settings cannot be used; holds every `Mistake`
    SettingsUnreadable  an `OSError`: a file of them cannot be read just now, and nobody made a mistake
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple


class Origin(NamedTuple):
    """Which source a value came from."""

    source: Literal["command line", "environment", "file", "database", "default", "inherited"]
    place: str = ""
    """File and line, name of the variable, or the key that the value is inherited from."""

    def __str__(self) -> str:
        match self.source:
            case "file" | "environment":
                return self.place
            case "inherited":
                return f"as {self.place}"
            case _:
                return self.place or self.source


DEFAULT = Origin("default")


class Mistake(NamedTuple):
    origin: Origin
    path: str
    """The key, with the element where it is one of a list: `listener.ports[0]`. Empty: the source itself."""
    what: str
    remedy: str
    """What to do, as an order: `write a whole number, 1 to 65535`."""

    def __str__(self) -> str:
        return (
            ": ".join(part for part in (str(self.origin), self.path, self.what) if part) + f"; {self.remedy}"
        )


class SettingsErrors(Exception):
    """The settings cannot be used as they are. What was in force before stays in force."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = tuple(mistakes)


class SettingsUnreadable(OSError):
    """The disk failed, or descriptors or memory are short (EIO, EMFILE, …): what stands there is unknown.

    The next try may be good, so nothing may be concluded from it, least of all that a file is absent.
    """

    def __init__(self, path: Path, cause: OSError) -> None:
        super().__init__(cause.errno, cause.strerror, str(path))

    def __str__(self) -> str:
        name = errno.errorcode.get(self.errno or 0, "no errno")
        return f"{self.filename} cannot be read: {self.strerror} ({name})"
