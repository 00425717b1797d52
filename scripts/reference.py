"""Write the reference pages of the manual from the program: `make reference`.

With `--check` nothing is written; the pages that are not up to date are named, and the exit code is 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dispatch.mail.delivery import render_states
from dispatch.observe import render_events
from dispatch.policy.verdict import render_verdicts
from dispatch.settings.presets import render_presets
from dispatch.settings.reference import reference_page

FOLDER = Path(__file__).parents[1] / "docs/reference"

PAGES = {
    "settings.md": reference_page,
    "presets.md": render_presets,
    "verdicts.md": render_verdicts,
    "events.md": render_events,
    "states.md": render_states,
}


def stale() -> list[str]:
    """The pages that are not what the program would write."""
    return [
        name
        for name, render in PAGES.items()
        if not (FOLDER / name).exists() or (FOLDER / name).read_text() != render()
    ]


def main() -> int:
    names = stale()
    if "--check" in sys.argv[1:]:
        for name in names:
            print(f"docs/reference/{name} is not up to date: run `make reference`", file=sys.stderr)
        return 1 if names else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names:
        (FOLDER / name).write_text(PAGES[name]())
        print(f"docs/reference/{name} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
