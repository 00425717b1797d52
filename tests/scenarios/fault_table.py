"""Writes the table of `docs/develop/faults.md`: what each failing call leads to, as the relay shows it.

`python -m tests.scenarios.fault_table`: every site fails once with each of its errnos, then for a while with
the first. Some minutes.
"""

from __future__ import annotations

import errno
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.scenarios.fault_rig import SHOWN, Rig, Seen
from tests.scenarios.faults import GROUPS, Group, Journey, Point, Site
from tests.shim.control import Where

PAGE = Path(__file__).parents[2] / "docs" / "develop" / "faults.md"
_BEGIN, _END = "<!-- The table is made by tests/scenarios/fault_table.py. -->\n", "<!-- -->\n"
NAMING = SHOWN - {"denied", "retrying"}
_ENDLESS = {"accept", "epoll"}
"""Lasting, these stop the client that would have to tell of it."""
_HEAD = "| call | fails with | the client hears | while it lasts, the log has |\n|---|---|---|---|\n"


class _Row(NamedTuple):
    site: Site
    answers: frozenset[int]
    said: frozenset[str]
    waited: bool

    def __str__(self) -> str:
        errors = ", ".join(errno.errorcode[error] for error in self.site.errors)
        waits = "; while it lasts, nothing" if self.waited else ""
        heard = ", ".join("connection closed" if not code else str(code) for code in sorted(self.answers))
        said = ", ".join(f"`{event}`" for event in sorted(self.said)) or "–"
        return f"| {self.site} | {errors} | {heard}{waits} | {said} |\n"


def _row(rig: Rig, point: Point, journey: Journey) -> _Row:
    site = point.site
    answers: set[int] = set()
    for error in site.errors:
        answers |= rig.fault(point, error, journey).answers
    seen = Seen(0, frozenset(), frozenset())
    if site.kind not in _ENDLESS and (site.role != "intake" or site.target.where is not Where.SOCKET):
        arm = partial(rig.arm, Point(site, 1), site.errors[0], lasting=True)
        seen = rig.lasting(lambda: [arm()], (journey,), NAMING)
    return _Row(site, frozenset(answers), seen.said, seen.waited)


def _rows(group: Group) -> dict[Site, _Row]:
    rows: dict[Site, _Row] = {}
    with tempfile.TemporaryDirectory() as folder, Rig.made(Path(folder)) as rig:
        for journey in group.journeys:
            # Twice: what is called once in a life, and what only follows from a message before.
            for point in [*rig.points(journey), *rig.points(journey)]:
                if point.site.target.name in group.targets and point.site not in rows:
                    rows[point.site] = row = _row(rig, point, journey)
                    print(row, end="", file=sys.stderr)
        rig.audit()
    return rows


def main() -> None:
    order = {role: number for number, role in enumerate(("intake", "delivery", "control"))}
    rows = {site: row for group in GROUPS.values() for site, row in _rows(group).items()}
    lines = [str(rows[site]) for site in sorted(rows, key=lambda site: order[site.role])]
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    _, _, behind = rest.partition(_END)
    PAGE.write_text(f"{before}{_BEGIN}\n{_HEAD}{''.join(lines)}\n{_END}{behind}")


if __name__ == "__main__":
    main()
