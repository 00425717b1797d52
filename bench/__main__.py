"""The command line of the benchmarks: `python -m bench [PART …] [--rounds N] [--folder F] [--write PAGE]`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import accept, auth, backlog, end_to_end, guessing, hostile, latency, memory, tls
from bench.machine import description, moment
from bench.parts import Effort, say
from bench.postfix_relay import PROGRAMS
from bench.report import write
from bench.tunnel import STUNNEL

PARTS: dict[str, tuple[str, Callable[[Effort], str]]] = {
    "accept": ("Accepting alone", accept.measure),
    "end-to-end": ("End to end", end_to_end.measure),
    "disks": ("End to end, on several disks", end_to_end.measure_disks),
    "tls": ("By TLS, in and out", tls.measure),
    "latency": ("Idle latency", latency.measure),
    "memory": ("Memory and CPU at rest", memory.measure),
    "backlog": ("Backlog and restart", backlog.measure),
    "trickling": ("Trickling clients", hostile.measure_trickling),
    "large": ("Huge messages", hostile.measure_large),
    "auth": ("What a login costs", auth.measure),
    "guessing": ("Logins beside guessers", guessing.measure),
    "hanging": ("A relay that hangs", hostile.measure_hanging),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks, as Markdown.")
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)} (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each relay (default 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="about how long a round is (default 3)")
    parser.add_argument(
        "--patience",
        type=float,
        default=10.0,
        help="seconds to wait for a quiet machine before a round",
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where mail is kept")
    parser.add_argument("--quick", action="store_true", help="little of everything, to try the bench out")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the results between the page's marks")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if os.geteuid() != 0 or not shutil.which("smtp-source", path=PROGRAMS) or not shutil.which(STUNNEL):
        sys.exit(
            "The benchmarks need root, and Debian's packages postfix and stunnel4:"
            " apt-get install postfix stunnel4"
        )
    effort = (
        Effort(1, 0.5, True, 0.0, given.folder)
        if given.quick
        else Effort(given.rounds, given.seconds, False, given.patience, given.folder)
    )
    sections = {"machine": description(given.folder)}
    for name in given.parts or PARTS:
        title, measure = PARTS[name]
        say(f"== {title}")
        began = moment()
        result = measure(effort)
        sections[name] = f"## {title}\n\n{result}\n\n`{_command(name, effort)}`; {began}."
        print(f"\n{sections[name]}", flush=True)
        if given.write:
            # After each part: a run takes most of an hour.
            write(given.write, sections)
    print(f"\n{sections['machine']}")


def _command(name: str, effort: Effort) -> str:
    how = "--quick" if effort.quick else f"--rounds {effort.rounds} --seconds {effort.round_s:g}"
    return f"python -m bench {name} {how}"


if __name__ == "__main__":
    main()
