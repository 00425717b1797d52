"""From a client through the relay to an upstream: rate and CPU of both relays, on several loads and disks."""

from __future__ import annotations

from bench.disks import in_memory, journaled, plain
from bench.load import Load
from bench.parts import MAIN_LOAD, Effort, in_turns, rivals, say
from bench.report import Aim, Pair, aims, disturbance, pairs_table, paragraphs

SESSIONS = (1, 20, 100)
SIZES_BYTES = (1 << 10, 4 << 10, 100 << 10)
KEPT = tuple(Load(sessions, size_bytes) for sessions in SESSIONS for size_bytes in SIZES_BYTES)
NOT_KEPT = tuple(Load(sessions, 4 << 10, kept=False) for sessions in SESSIONS)
SEQUENTIAL = Load(1, 4 << 10)


def measure(effort: Effort) -> str:
    """Sessions and sizes, on a journaled disk."""
    loads = (SEQUENTIAL, MAIN_LOAD) if effort.quick else (*KEPT, *NOT_KEPT)
    with journaled(effort.parent) as disk, rivals(disk) as pair:
        where = f"On {disk}."
        taken = in_turns(pair, loads, effort)
    main, sequential = taken[str(MAIN_LOAD)], taken[str(SEQUENTIAL)]
    return paragraphs(
        where,
        pairs_table("load", taken),
        disturbance(taken.values()),
        aims(
            *_aims(main, 8, f"{MAIN_LOAD}"),
            _alone(sequential, "one sequential client, 4 KB"),
        ),
    )


def measure_disks(effort: Effort) -> str:
    """The main load, and one client, on each kind of disk that there is."""
    taken: dict[str, Pair] = {}
    wanted = []
    for kind, times in ((journaled, 8), (plain, 8), (in_memory, 5)):
        with kind(effort.parent) as disk:
            if disk.name in taken:
                continue
            say(disk.name)
            with rivals(disk) as pair:
                found = in_turns(pair, (MAIN_LOAD, SEQUENTIAL), effort)
            alone = f"{disk.name}, one client"
            taken[disk.name], taken[alone] = found[str(MAIN_LOAD)], found[str(SEQUENTIAL)]
            wanted += [*_aims(taken[disk.name], times, disk.name), _alone(taken[alone], alone)]
    return paragraphs(
        f"{MAIN_LOAD}, on several file systems; and one client that waits for each reply, 4 KB a message.",
        pairs_table("disk", taken),
        disturbance(taken.values()),
        aims(*wanted),
    )


def _alone(pair: Pair, where: str) -> Aim:
    return Aim(f"{where}: at least twice the rate of Postfix", f"{pair.faster:.1f} times", pair.faster >= 2)


def _aims(pair: Pair, times: int, where: str) -> list[Aim]:
    return [
        Aim(
            f"{where}: at least {times} times the rate of Postfix",
            f"{pair.faster:.1f} times",
            pair.faster >= times,
        ),
        Aim(f"{where}: at most 1/{times} of its CPU", f"1/{pair.cheaper:.1f}", pair.cheaper >= times),
    ]
