"""Kill the relay and cut its power under load, again and again, then audit.

By hand: `python -m tests.scenarios.crash --kills 200 --cuts 100 --rate 600`. Two relays live one after the
other: one is killed, process by process and whole, the other loses power. Each strike comes at a moment at
which `IN_FLIGHT_MIN` deliveries or more are under way at the upstreams; `audit` says what must hold then.

Every second client speaks TLS, and there are several upstreams, of which one is away now and then, so that
mail fails over; both can be left out (`Mix`).

The seed repeats the order and the moments of the strikes, not what the processes happen to be doing then. A
relay that did not hold is kept, with its log and with what each cut did.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.scenarios.audit import Audit, audit
from tests.scenarios.load import Load
from tests.scenarios.recipe import Manners, first_of_route, tables
from tests.scenarios.relay import Relay, free_port, until
from tests.scenarios.victims import TAKEN_BACK, Kills, PowerCuts, Strikes
from tests.shim.control import Shim

RATE_MIN = 500.0
"""What is to be acknowledged in a second, between the strikes."""
IN_FLIGHT_MIN = 10
IN_FLIGHT_WAIT_S = 10.0
"""So long a strike waits for that many."""
LOAD_S = 0.6
"""How long, at least, the relay is under full load between its return and the next strike."""
LOAD_S_MORE = 0.6
"""At most so much longer, by chance."""
LONG_EVERY = 10
LONG_S = 6.0
"""One life in so many is so much longer: long enough for checkpoints."""
CLIENTS = 40
CONNECTIONS_TO_UPSTREAMS = 50
MANNERS = Manners(thinking_share=0.9, dropped_share=0.005)
AWAY_S = 0.5
"""Of several upstreams, each now and then."""
BREAKER = {"breaker_failures": 5, "breaker_open_seconds": 1}
_FAULTS_SHOWN = 20

Told = Callable[[str], object]


class Mix(NamedTuple):
    """What is there beside the ordinary."""

    tls: bool = True
    """Every second client speaks it."""
    upstreams: int = 3
    """With more than one, mail goes to the next where one is away."""


MIXED = Mix()


def silence(text: str) -> None:
    """Nobody wants to hear of each strike."""


class Struck(NamedTuple):
    """What a relay went through."""

    victims: Counter[str]
    in_flight: list[int]
    """At the upstreams, at each strike."""
    rate: float
    """Acknowledged in a second, between each return and the next strike."""
    took_s: float
    longest_return_s: float
    """From a strike to so many messages acknowledged as there are clients."""
    taken_back: Counter[str]
    """By power cuts."""
    upstreams: int
    stuck: list[str]
    """What was waited for in vain. The strikes ended there."""
    audit: Audit

    @property
    def faults(self) -> dict[str, list[str]]:
        few = [
            f"{count} at strike {number}"
            for number, count in enumerate(self.in_flight, 1)
            if count < IN_FLIGHT_MIN
        ]
        return {**self.audit.faults, "STUCK": self.stuck, "TOO FEW IN FLIGHT": few}

    @property
    def failed_over(self) -> int:
        """Copies that arrived behind the first relay of their route."""
        return sum(
            places[-1] != first_of_route(copy.address, self.upstreams)
            for copy, places in self.audit.books.places.items()
        )

    @property
    def rows(self) -> dict[str, object]:
        audit, books, counts = self.audit, self.audit.books, self.audit.ledger.counts
        return {
            "strikes": self.victims.total(),
            "acknowledged between them": f"{self.rate:.0f}/s",
            "in flight at each, least": min(self.in_flight, default=0),
            "  median": f"{statistics.median(self.in_flight or [0]):.0f}",
            "longest return": f"{self.longest_return_s:.1f} s",
            "took": f"{self.took_s:.0f} s",
            "messages offered": books.offered,
            "  acknowledged": len(books.acknowledged),
            "    by TLS": books.acknowledged_by_tls,
            "  refused": len(books.refused),
            "  without an answer": books.unanswered.total(),
            "copies delivered": counts["delivered"],
            "  by another relay than the first": self.failed_over,
            "  uncertain": counts["uncertain"],
            "  uncertain (power)": counts["uncertain_power"],
            "  arrived again": sum(audit.again.values()),
            "    through power cuts": audit.again_after_cuts,
            "messages repeated by clients": audit.repeated,
            **{f"{what} taken back": self.taken_back[what] for what in TAKEN_BACK},
            **{fault: len(found) for fault, found in self.faults.items()},
        }


def table(columns: dict[str, Struck]) -> str:
    """One for all relays."""
    rows = {name: struck.rows for name, struck in columns.items()}
    names = next(iter(rows.values()), {})
    lines = [f"{'':<36}" + "".join(f"{name:>14}" for name in rows)]
    lines += [f"{name:<36}" + "".join(f"{column[name]!s:>14}" for column in rows.values()) for name in names]
    lines += [
        f"{name}: " + ", ".join(f"{count} {who}" for who, count in sorted(struck.victims.items()))
        for name, struck in columns.items()
    ]
    return "\n".join(lines)


def kill(
    folder: Path, *, kills: int, rate: float, seed: int, mix: Mix = MIXED, told: Told = silence
) -> Struck:
    """A relay's life under `kill -9`."""
    relay = Relay(folder)
    load = _load(relay, mix, rate, seed)
    return _Run(relay, load, mix, Kills(relay), seed, told).run(kills)


def cut_power(
    folder: Path, *, cuts: int, rate: float, seed: int, mix: Mix = MIXED, told: Told = silence
) -> Struck:
    """A relay's life with power cuts. Raises `NoCompiler`."""
    relay = Relay(folder)
    load = _load(relay, mix, rate, seed)
    with Shim.on_tmpfs(relay.data) as shim:
        strikes = PowerCuts(relay, load, shim, folder / "cuts")
        return _Run(relay, load, mix, strikes, seed, told).run(cuts)


def _load(relay: Relay, mix: Mix, rate: float, seed: int) -> Load:
    return Load(
        relay.port,
        rate=rate,
        clients=CLIENTS,
        seed=seed,
        manners=MANNERS._replace(away_s=AWAY_S) if mix.upstreams > 1 else MANNERS,
        tls_port=free_port() if mix.tls else None,
        upstreams=mix.upstreams,
    )


class _Run:
    def __init__(self, relay: Relay, load: Load, mix: Mix, strikes: Strikes, seed: int, told: Told) -> None:
        self._relay = relay
        self._load = load
        self._mix = mix
        self._strikes = strikes
        self._seed = seed
        self._told = told
        self._victims: Counter[str] = Counter()
        self._in_flight: list[int] = []
        self._loaded_s = 0.0
        self._loaded_messages = 0
        self._longest_return_s = 0.0

    def run(self, times: int) -> Struck:
        try:
            return self._run(times)
        finally:
            self._load.close()
            self._relay.kill()
            self._strikes.end()

    def _run(self, times: int) -> Struck:
        ports = self._load.start_upstreams()
        relays = tables(ports, f"max_concurrency = {CONNECTIONS_TO_UPSTREAMS // len(ports)}")
        self._relay.configure(
            *relays,
            listener={"tls_ports": self._load.tls_ports},
            logging={"log_delivered": False},
            queue=BREAKER if len(ports) > 1 else {},
        )
        begun_s = time.monotonic()
        stuck = []
        try:
            self._strike_all(times)
            took_s = time.monotonic() - begun_s
            self._come_to_rest()
        except AssertionError as fault:
            took_s = time.monotonic() - begun_s
            stuck.append(str(fault))
            self._relay.kill()
        self._strikes.end()
        return Struck(
            self._victims,
            self._in_flight,
            self._loaded_messages / self._loaded_s if self._loaded_s else 0.0,
            took_s,
            self._longest_return_s,
            self._strikes.taken_back,
            self._mix.upstreams,
            stuck,
            audit(self._relay, self._load.books),
        )

    def _strike_all(self, times: int) -> None:
        begun_s = time.monotonic()
        self._strikes.begin()
        self._load.start()
        self._await_return(begun_s, 0)
        rounds = random.Random(self._seed)
        for number in range(times):
            if number % len(self._strikes.victims) == 0:
                order = rounds.sample(self._strikes.victims, len(self._strikes.victims))
            victim = order[number % len(order)]
            # Its own, so that what a strike draws moves no other.
            chance = random.Random(f"{self._seed} {number}")
            in_flight = self._bear_load(chance, LONG_S if number % LONG_EVERY == LONG_EVERY - 1 else 0.0)
            return_s = self._strike(victim, chance)
            self._told(f"{number + 1}: {victim}, {in_flight} in flight, back after {return_s:.2f} s")

    def _come_to_rest(self) -> None:
        self._load.stop_offering()
        until(lambda: self._load.all_answered, "every client has its answer", 60)
        until(self._nothing_waits, "nothing waits any more", 120, 0.3)
        code = self._relay.stop()
        assert code == 0, f"it ended with {code}"

    def _bear_load(self, chance: random.Random, more_s: float) -> int:
        """Let the relay work for a while, and measure how much; how many are in flight at the end of it."""
        begun_s, before = time.monotonic(), self._acknowledged
        time.sleep(LOAD_S + more_s + chance.uniform(0, LOAD_S_MORE))
        waited_s = time.monotonic()
        while (in_flight := self._load.in_flight) < IN_FLIGHT_MIN:
            if time.monotonic() > waited_s + IN_FLIGHT_WAIT_S:
                break
            time.sleep(0.001)
        self._in_flight.append(in_flight)
        self._loaded_s += time.monotonic() - begun_s
        self._loaded_messages += self._acknowledged - before
        return in_flight

    def _strike(self, victim: str, chance: random.Random) -> float:
        """How long it took to return."""
        self._victims[victim] += 1
        struck_s, before = time.monotonic(), self._acknowledged
        self._strikes.strike(victim, chance)
        return self._await_return(struck_s, before)

    def _await_return(self, since_s: float, before: int) -> float:
        until(lambda: self._acknowledged >= before + CLIENTS, "mail is accepted again", 60)
        return_s = time.monotonic() - since_s
        self._longest_return_s = max(self._longest_return_s, return_s)
        return return_s

    @property
    def _acknowledged(self) -> int:
        return len(self._load.books.acknowledged)

    def _nothing_waits(self) -> bool:
        status = self._relay.json("queue", "relays")
        busy = any(lane["in_flight"] or lane["ready"] for lane in status["lanes"])
        return not (status["waiting_in_log_bytes"] or busy or self._relay.queue("--limit", "1"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill the relay and cut its power under load, then audit.")
    parser.add_argument("--kills", type=int, default=15)
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--rate", type=float, default=600, help="messages offered in a second")
    parser.add_argument("--rate-min", type=float, default=RATE_MIN, help="to be acknowledged in a second")
    parser.add_argument("--no-tls", action="store_true", help="every client speaks in clear")
    parser.add_argument("--upstreams", type=int, default=MIXED.upstreams, help="how many relays there are")
    parser.add_argument("--seed", type=int, default=None, help="of the order and the moments of the strikes")
    options = parser.parse_args()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    mix = Mix(not options.no_tls, options.upstreams)
    print(f"seed {seed}")
    folder = Path(tempfile.mkdtemp(prefix="dispatch-crash-"))
    columns: dict[str, Struck] = {}
    held = False
    try:
        if options.kills:
            columns["kills"] = kill(
                folder / "kills", kills=options.kills, rate=options.rate, seed=seed, mix=mix, told=print
            )
        if options.cuts:
            columns["power cuts"] = cut_power(
                folder / "power cuts", cuts=options.cuts, rate=options.rate, seed=seed, mix=mix, told=print
            )
        held = True
    finally:
        print(table(columns))
        held = _told_faults(columns, options.rate_min) and held
        if held:
            shutil.rmtree(folder)
        else:
            print(f"does not hold; kept in {folder}, seed {seed}")
    return 0 if held else 1


def _told_faults(columns: dict[str, Struck], rate_min: float) -> bool:
    """Print what does not hold; whether there was nothing to print."""
    held = True
    for name, struck in columns.items():
        slow = [] if struck.rate >= rate_min else [f"{struck.rate:.0f}/s, and {rate_min:.0f}/s is demanded"]
        for fault, found in {**struck.faults, "TOO SLOW": slow}.items():
            held = held and not found
            for each in found[:_FAULTS_SHOWN]:
                print(f"{name}: {fault}: {each}")
    return held


if __name__ == "__main__":
    sys.exit(main())
