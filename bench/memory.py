"""Memory and CPU of all processes of each relay: at rest after the start, under the main load, after it."""

from __future__ import annotations

import time

from bench.contestants import Contestant, cpu_of, settle
from bench.disks import journaled
from bench.load import messages_for, one_round
from bench.parts import MAIN_LOAD, Effort, Rivals, rivals, say
from bench.processes import Scales, memory, total_pss
from bench.report import MIB, Aim, aims, mib, paragraphs, table, weights

IDLE_S = 10.0
IDLE_MIB_MAX = 150


def measure(effort: Effort) -> str:
    with journaled(effort.parent) as disk, rivals(disk) as pair:
        settle(pair.both)
        fresh = {each.name: memory(each.members()) for each in pair.both}
        idle_cpu_s = _idle_cpu(pair, IDLE_S)
        peaks, processes = {}, {}
        for each in pair.both:
            say(f"{each.name}, under load")
            peaks[each.name], processes[each.name] = _under_load(each, pair, effort)
        settle(pair.both)
        after = {each.name: memory(each.members()) for each in pair.both}
    rows = [
        [
            name,
            mib(total_pss(fresh[name])),
            f"{idle_cpu_s[name]:.3f} s",
            f"{mib(peaks[name].peak_total_bytes)} ({processes[name]} processes)",
            mib(total_pss(after[name])),
        ]
        for name in (pair.ours.name, pair.theirs.name)
    ]
    idle_bytes = total_pss(fresh[pair.ours.name])
    return paragraphs(
        "PSS of all processes together.",
        table(
            ["", "idle", f"CPU in {IDLE_S:.0f} s idle", f"peak under {MAIN_LOAD}", "idle after it"],
            rows,
        ),
        "Dispatch, by process:",
        weights(
            {
                "idle": fresh[pair.ours.name],
                "peak": peaks[pair.ours.name].peak,
                "idle after it": after[pair.ours.name],
            }
        ),
        aims(
            Aim(f"Dispatch idle: under {IDLE_MIB_MAX} MiB", mib(idle_bytes), idle_bytes < IDLE_MIB_MAX * MIB)
        ),
    )


def _idle_cpu(pair: Rivals, for_s: float) -> dict[str, float]:
    before = {each.name: cpu_of(each) for each in pair.both}
    time.sleep(for_s)
    return {each.name: cpu_of(each) - before[each.name] for each in pair.both}


def _under_load(contestant: Contestant, pair: Rivals, effort: Effort) -> tuple[Scales, int]:
    """Weighed during a round of its own, which is not timed; and how many processes it has then."""
    messages = messages_for(contestant, pair.both, pair.upstream_port, MAIN_LOAD, effort.round_s)
    with Scales(contestant.members) as scales:
        one_round(contestant, pair.both, pair.upstream_port, MAIN_LOAD, messages)
    return scales, len(contestant.members())
