"""What every part of the bench is given: how long, how often, where; and the turns that two relays take."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.contestants import Contestant, free_port, running
from bench.disks import Disk
from bench.dispatch_relay import Dispatch
from bench.load import Load, Round, messages_for, one_round
from bench.postfix_relay import Postfix
from bench.processes import machine_busy_s
from bench.report import Pair

MAIN_LOAD = Load(20, 4096)
"""The load of the aims: 20 sessions, 4 KB."""
LOOK_S = 0.5
QUIET_LOOKS = 2
QUIET_CORES = 0.1


class Effort(NamedTuple):
    """How much is done; `quick` is for trying the bench itself out."""

    rounds: int
    round_s: float
    """A round has as many messages as take a relay about that long."""
    quick: bool
    patience_s: float
    """So long a round waits at most for the rest of the machine to be quiet."""
    parent: Path
    """Where the folders of the relays are made."""

    def scaled(self, amount: int) -> int:
        """An amount of work, or a twentieth of it."""
        return max(1, amount // 20) if self.quick else amount


class Rivals(NamedTuple):
    """Both relays, running and at rest, delivering to the same port."""

    ours: Dispatch
    theirs: Postfix
    upstream_port: int | None
    """None: nothing is to leave."""

    @property
    def both(self) -> tuple[Contestant, Contestant]:
        return self.ours, self.theirs


@contextmanager
def rivals(
    disk: Disk, *, options: Sequence[str] = (), settings: Mapping[str, str] | None = None
) -> Iterator[Rivals]:
    """`options` are those of `Dispatch`, `settings` those of `Postfix`."""
    upstream_port = free_port()
    ours = Dispatch(disk.folder, upstream_port, options=options)
    theirs = Postfix(disk.folder, upstream_port, settings=settings)
    with running(ours, theirs):
        yield Rivals(ours, theirs, upstream_port)


def in_turns(pair: Rivals, loads: Sequence[Load], effort: Effort) -> dict[str, Pair]:
    """Every load, each relay once a round; who begins changes from round to round."""
    results = {}
    for load in loads:
        say(str(load))
        counts = {
            each.name: messages_for(each, pair.both, pair.upstream_port, load, effort.round_s)
            for each in pair.both
        }
        taken: dict[str, list[Round]] = {each.name: [] for each in pair.both}
        for number in range(effort.rounds):
            for each in pair.both if number % 2 == 0 else reversed(pair.both):
                wait_for_quiet(effort.patience_s)
                result = one_round(each, pair.both, pair.upstream_port, load, counts[each.name])
                taken[each.name].append(result)
                say(
                    f"  {each.name}: {result.rate:,.0f}/s, {result.cpu_s:.3f} s CPU per 1,000"
                    f" ({counts[each.name]} messages, others {result.others_cpu:.2f} cores)"
                )
        results[str(load)] = Pair(taken[pair.ours.name], taken[pair.theirs.name])
    return results


def wait_for_quiet(patience_s: float) -> None:
    """Return when nobody else works on this machine, or when patience is at its end."""
    deadline_s = time.monotonic() + patience_s
    quiet = 0
    while quiet < QUIET_LOOKS and time.monotonic() < deadline_s:
        before_s = machine_busy_s()
        time.sleep(LOOK_S)
        quiet = quiet + 1 if machine_busy_s() - before_s < QUIET_CORES * LOOK_S else 0


def say(what: str) -> None:
    """Progress; the tables go to standard output."""
    print(what, file=sys.stderr, flush=True)
