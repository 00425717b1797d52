"""Markdown: tables of medians and ranges, what was aimed at, and the page between its marks.

The page is written by hand except between `<!-- bench NAME -->` and `<!-- /bench NAME -->`; there the part of
that name puts what it measured. Parts that did not run keep what they had.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.dispatch_relay import ROLES
from bench.load import Round
from bench.processes import Memory

MIB = 1 << 20
DISTURBED_CORES = 0.3


class Aim(NamedTuple):
    """What the product wants to reach; `met` says what this one run says."""

    what: str
    reached: str
    met: bool


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def aims(*given: Aim) -> str:
    """A line for each."""
    return table(
        ["aim", "this run", ""],
        [[aim.what, aim.reached, "met" if aim.met else "**missed**"] for aim in given],
    )


def paragraphs(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median, and the range if there is one."""
    middle = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def quantiles(values: Sequence[float]) -> tuple[float, float, float, float]:
    """p50, p90, p99, and the largest."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[89], cuts[98], max(values)


def mib(amount_bytes: float) -> str:
    return f"{amount_bytes / MIB:,.0f} MiB"


def weights(stages: Mapping[str, Mapping[str, Memory]]) -> str:
    """Dispatch's memory by process; a column for each stage, which is named."""
    together = [mib(sum(each.pss_bytes for each in stage.values())) for stage in stages.values()]
    rows = [[role, *(_weight(stage.get(role, Memory(0, 0))) for stage in stages.values())] for role in ROLES]
    return table(["PSS (RSS)", *stages], [*rows, ["together", *together]])


def _weight(weight: Memory) -> str:
    return f"{mib(weight.pss_bytes)} ({mib(weight.rss_bytes)})"


class Pair(NamedTuple):
    """Rounds of the same load, taken in turns."""

    ours: Sequence[Round]
    theirs: Sequence[Round]

    @property
    def faster(self) -> float:
        """How many times our rate is theirs: the median of the pairs."""
        return statistics.median(
            our.rate / their.rate for our, their in zip(self.ours, self.theirs, strict=True)
        )

    @property
    def cheaper(self) -> float:
        """How many times their CPU is ours."""
        return statistics.median(
            their.cpu_s / our.cpu_s for our, their in zip(self.ours, self.theirs, strict=True)
        )

    @property
    def others_cpu(self) -> float:
        return max(each.others_cpu for each in (*self.ours, *self.theirs))


_PAIR_HEADER = [
    *("Dispatch, messages/s", "Postfix, messages/s", "rate"),
    *("Dispatch, CPU s per 1,000", "Postfix, CPU s per 1,000", "CPU"),
]


def pairs_table(what: str, pairs: dict[str, Pair]) -> str:
    """A row for each load; `what` heads the column of their names."""
    rows = [
        [
            name,
            spread([each.rate for each in pair.ours]),
            spread([each.rate for each in pair.theirs]),
            f"{pair.faster:.1f}×",
            spread([each.cpu_s for each in pair.ours], 3),
            spread([each.cpu_s for each in pair.theirs], 3),
            f"1/{pair.cheaper:.1f}",
        ]
        for name, pair in pairs.items()
    ]
    return table([what, *_PAIR_HEADER], rows)


def disturbance(pairs: Iterable[Pair]) -> str:
    """How far other programs may have spoiled it."""
    most = max(pair.others_cpu for pair in pairs)
    if most > DISTURBED_CORES:
        return (
            f"**The machine was not quiet**: during a round others used up to {most:.1f} cores of it. Rates"
            " are too low, and more so those of the relay with fewer processes; CPU is too high."
        )
    return (
        f"During a round all else on the machine, kernel threads included, used at most {most:.2f} cores; the"
        " relay whose turn it was not is part of that."
    )


def write(page: Path, sections: dict[str, str]) -> None:
    """Put each section between its marks; one without marks goes to the end of the page."""
    text = page.read_text()
    for name, content in sections.items():
        marked = f"<!-- bench {name} -->\n{content}\n<!-- /bench {name} -->"
        found = re.search(rf"<!-- bench {name} -->.*?<!-- /bench {name} -->", text, re.DOTALL)
        if found:
            text = text[: found.start()] + marked + text[found.end() :]
        else:
            text = f"{text.rstrip()}\n\n{marked}\n"
    page.write_text(text)
