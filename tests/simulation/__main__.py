"""`python -m tests.simulation SEED`: run one seed of the simulation again, and tell what happens.

With several seeds, or `--quiet`, only how each of them ended is told.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.simulation.world import World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seeds", nargs="+", metavar="SEED", help="a number, or a range like 0-99")
    parser.add_argument("--quiet", action="store_true", help="do not tell what happens")
    given = parser.parse_args()
    seeds = [seed for text in given.seeds for seed in _seeds(text)]
    failed = 0
    for seed in seeds:
        failed += not _run(seed, loud=len(seeds) == 1 and not given.quiet)
    return 1 if failed else 0


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _run(seed: int, *, loud: bool) -> bool:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        begun_s = time.process_time()

        def tell(who: str, what: str) -> None:
            print(f"{world.machine.now_s - 1000:12.6f} {who:<12} {what}")

        world = World(seed, Path(folder), tell if loud else None)
        try:
            world.run()
        except Exception:
            traceback.print_exc()
            print(f"seed {seed} FAILED")
            return False
        took_s = time.process_time() - begun_s
    print(f"seed {seed}: {world.summary()}, {took_s * 1000:.0f} ms")
    return True


if __name__ == "__main__":
    sys.exit(main())
