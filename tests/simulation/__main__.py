"""`python -m tests.simulation SEED`: run one seed of the simulation again, and tell what happens.

With several seeds, or `--quiet`, only how each of them ended is told. With `--jobs`, many seeds in several
processes: a line every 1,000 seeds, the first line of each failure, and a table of it all.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from functools import partial
from pathlib import Path

from tests.simulation.many import run_many, run_seed
from tests.simulation.world import World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seeds", nargs="+", metavar="SEED", help="a number, or a range like 0-99")
    parser.add_argument("--quiet", action="store_true", help="do not tell what happens")
    parser.add_argument("--jobs", type=int, metavar="N", help="run them in so many processes")
    given = parser.parse_args()
    seeds = [seed for text in given.seeds for seed in _seeds(text)]
    if given.jobs is not None:
        return 0 if run_many(seeds, given.jobs, partial(print, flush=True)) else 1
    failed = 0
    for seed in seeds:
        failed += not _run(seed, loud=len(seeds) == 1 and not given.quiet)
    return 1 if failed else 0


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _run(seed: int, *, loud: bool) -> bool:
    worlds: list[World] = []

    def tell(who: str, what: str) -> None:
        passed_s = worlds[0].machine.now_s - worlds[0].begun_s if worlds else 0.0
        print(f"{passed_s:12.6f} {who:<12} {what}")

    def make(number: int, folder: Path) -> World:
        worlds.append(World(number, folder, tell if loud else None))
        return worlds[0]

    totals, failure = run_seed(seed, make)
    if failure is not None:
        traceback.print_exception(failure)
        print(f"seed {seed} FAILED")
        return False
    print(f"seed {seed}: {worlds[0].summary()}, {totals.cpu_s * 1000:.0f} ms")
    return True


if __name__ == "__main__":
    sys.exit(main())
