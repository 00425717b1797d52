"""Kill the relay under load, again and again, then audit.

By hand: `python -m tests.scenarios.crash --kills 200 --rate 500`. What must hold afterwards:

- every acknowledged message was delivered;
- what was delivered more often than once is *uncertain* in the ledger, that often too often;
- what was delivered without having been acknowledged was *unanswered* to its client, as often;
- what was refused was not delivered;
- history has counted everything once.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.scenarios.load import Books, Load
from tests.scenarios.relay import ROLES, Relay, until

from dispatch.app.folders import LEDGER, Folders
from dispatch.mail.delivery import DeliveryState
from dispatch.mail.ids import spool_form
from dispatch.ports import Lsn
from dispatch.runtime.machine import MarkFile, SystemDisk
from dispatch.spool.reader import SegmentReader
from dispatch.spool.records import Accepted, Attempted, Moved, decode_ledger

VICTIMS = (*ROLES, "supervisor", "everything")
LOAD_S = 0.6
"""How long, at least, the relay is under full load between its return and the next kill."""
LOAD_S_MORE = 0.6
"""At most so much longer, by chance."""
CLIENTS = 40
CONNECTIONS_TO_UPSTREAM = 20


class Audit(NamedTuple):
    killed: Counter[str]
    books: Books
    rate: float
    """Acknowledged in a second, between each return and the next kill."""
    took_s: float
    longest_return_s: float
    """From a kill to the first message acknowledged after it."""
    lost: list[str]
    """Ids that were acknowledged and did not arrive."""
    uncertain: Counter[str]
    """Id to how often the ledger says that it became uncertain."""
    doubled: dict[str, int]
    """Id to how often too often it arrived."""
    unexplained: list[str]
    """Ids that arrived more often than the ledger's uncertain explain."""
    extra: dict[int, int]
    """Token to how many ids of it arrived without having been acknowledged."""
    uninvited: list[int]
    """Tokens of which more arrived than was acknowledged or unanswered."""
    miscounted: dict[str, tuple[int, int]]
    """Kind to what the ledger says and what history has counted, where they differ."""

    @property
    def sound(self) -> bool:
        return not (self.lost or self.unexplained or self.uninvited or self.miscounted)

    def table(self) -> str:
        books = self.books
        rows = [
            (
                "kills",
                f"{self.killed.total()}  ({', '.join(f'{n} {who}' for who, n in self.killed.items())})",
            ),
            (
                "load",
                f"{self.rate:.0f} messages/s acknowledged while it was up; {self.took_s:.0f} s in all",
            ),
            ("longest return", f"{self.longest_return_s:.1f} s from a kill to the next 250"),
            ("messages offered", books.offered),
            ("  acknowledged", len(books.acknowledged)),
            ("  refused", len(books.refused)),
            ("  unanswered", f"{books.unanswered.total()}  (each offered again by its client)"),
            ("delivered", f"{len(books.delivered)} ids in {books.delivered.total()} transactions"),
            ("  uncertain", f"{self.uncertain.total()} in the ledger"),
            ("  delivered again", f"{sum(self.doubled.values())}, by the uncertain policy"),
            ("  repeated", f"{sum(self.extra.values())}, by clients whose 250 was lost"),
            ("LOST", len(self.lost)),
            ("DOUBLED WITHOUT A NAME", len(self.unexplained)),
            ("DELIVERED UNINVITED", len(self.uninvited)),
            ("MISCOUNTED IN HISTORY", len(self.miscounted)),
        ]
        return "\n".join(f"{name:<24} {value}" for name, value in rows)


def crash(
    folder: Path, *, kills: int, rate: float, seed: int, told: Callable[[str], object] = lambda text: None
) -> Audit:
    """Run, kill, audit. `told` hears of each kill."""
    relay = Relay(folder)
    load = Load(relay.port, rate=rate, clients=CLIENTS, seed=seed)
    try:
        upstream = f'name = "upstream"\nhost = "127.0.0.1"\nport = {load.start_upstream()}\n'
        relay.configure(
            upstream + f"max_concurrency = {CONNECTIONS_TO_UPSTREAM}", logging={"log_delivered": False}
        )
        relay.start()
        load.start()
        return _Run(relay, load, random.Random(seed), told).run(kills)
    finally:
        load.close()
        relay.kill()


class _Run:
    def __init__(
        self, relay: Relay, load: Load, chance: random.Random, told: Callable[[str], object]
    ) -> None:
        self._relay = relay
        self._load = load
        self._chance = chance
        self._told = told
        self._loaded_s = 0.0
        self._loaded_messages = 0
        self._longest_return_s = 0.0

    def run(self, kills: int) -> Audit:
        begun_s = time.monotonic()
        killed: Counter[str] = Counter()
        self._bear_load()
        for number in range(kills):
            if number % len(VICTIMS) == 0:
                order = self._chance.sample(VICTIMS, len(VICTIMS))
            victim = order[number % len(VICTIMS)]
            killed[victim] += 1
            killed_s = time.monotonic()
            before = len(self._books.acknowledged)
            self._kill(victim)
            until(partial(self._acknowledged, before + CLIENTS), "mail is accepted again", 60)
            return_s = time.monotonic() - killed_s
            self._longest_return_s = max(self._longest_return_s, return_s)
            self._bear_load()
            self._told(f"kill {number + 1}: {victim}, back after {return_s:.2f} s")
        took_s = time.monotonic() - begun_s
        self._load.stop_offering()
        until(lambda: self._load.all_answered, "every client has its answer", 60)
        until(self._nothing_waits, "nothing waits any more", 120, 0.3)
        assert self._relay.stop() == 0
        self._relay.cli("spool", "verify")
        self._relay.cli("ledger", "verify")
        return self._audit(killed, took_s)

    @property
    def _books(self) -> Books:
        return self._load.books

    def _acknowledged(self, messages: int) -> bool:
        return len(self._books.acknowledged) > messages

    def _nothing_waits(self) -> bool:
        status = self._relay.json("queue", "relays")
        busy = any(lane["in_flight"] or lane["ready"] for lane in status["lanes"])
        return not (status["waiting_in_log_bytes"] or busy or self._relay.queue("--limit", "1"))

    def _bear_load(self) -> None:
        """Let the relay work for a while, and measure how much."""
        begun_s, before = time.monotonic(), len(self._books.acknowledged)
        while time.monotonic() < begun_s + LOAD_S:
            time.sleep(0.01)
        # The kill comes at no particular moment.
        time.sleep(self._chance.uniform(0, LOAD_S_MORE))
        self._loaded_s += time.monotonic() - begun_s
        self._loaded_messages += len(self._books.acknowledged) - before

    def _kill(self, victim: str) -> None:
        relay = self._relay
        if victim == "supervisor":
            relay.kill_supervisor()
            relay.start()
        elif victim == "everything":
            relay.kill(wait=False)
            relay.start()
        else:
            since = relay.mark()
            os.kill(relay.pid_of(victim), signal.SIGKILL)
            until(lambda: relay.said("child_ready", since=since, role=victim), f"{victim} is back")

    def _audit(self, killed: Counter[str], took_s: float) -> Audit:
        books = self._books
        acknowledged = set(books.acknowledged.values())
        ledger = read_ledger(self._relay.data)
        uncertain = ledger.uncertain
        history = self._relay.json("stats", "--days", "2")["total"]
        counts = {
            "received": ledger.accepted,
            "delivered": ledger.delivered,
            "uncertain": uncertain.total(),
        }
        times: Counter[str] = Counter()
        extra: Counter[int] = Counter()
        for (token, message_id), count in books.delivered.items():
            times[message_id] += count
            if message_id not in acknowledged:
                extra[token] += 1
        doubled = {message_id: count - 1 for message_id, count in times.items() if count > 1}
        return Audit(
            killed,
            books,
            self._loaded_messages / self._loaded_s,
            took_s,
            self._longest_return_s,
            lost=sorted(acknowledged - times.keys()),
            uncertain=uncertain,
            doubled=doubled,
            unexplained=[message_id for message_id, more in doubled.items() if more > uncertain[message_id]],
            extra=dict(extra),
            uninvited=[token for token, count in extra.items() if count > books.unanswered[token]],
            miscounted={
                kind: (count, history[kind]) for kind, count in counts.items() if count != history[kind]
            },
        )


class LedgerCounts(NamedTuple):
    accepted: int
    """Messages."""
    delivered: int
    """Recipients."""
    uncertain: Counter[str]
    """Id to how often a recipient of it became uncertain."""


def read_ledger(data: Path) -> LedgerCounts:
    """Count what happened. The relay must have stopped."""
    mark = MarkFile(Folders(data).ledger_durable, writable=False)
    reader = SegmentReader(SystemDisk(data), LEDGER, mark=mark)
    accepted: set[bytes] = set()
    delivered = 0
    uncertain: Counter[str] = Counter()
    cursor = reader.oldest
    while entries := reader.read(cursor, 1 << 20):
        for entry in entries:
            match decode_ledger(entry.payload):
                case Accepted(message=message):
                    accepted.add(message.id)
                case Attempted(id=message_id, results=results):
                    for result in results:
                        if result.state is DeliveryState.UNCERTAIN:
                            uncertain[spool_form(message_id)] += len(result.indexes)
                        delivered += len(result.indexes) * (result.state is DeliveryState.DELIVERED)
                case Moved(id=message_id, state=DeliveryState.UNCERTAIN, indexes=indexes):
                    uncertain[spool_form(message_id)] += len(indexes)
        cursor = Lsn(entries[-1].next)
    reader.close()
    mark.close()
    return LedgerCounts(len(accepted), delivered, uncertain)


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill the relay under load, then audit.")
    parser.add_argument("--kills", type=int, default=15)
    parser.add_argument("--rate", type=float, default=500, help="messages offered in a second")
    parser.add_argument("--seed", type=int, default=None, help="of the order and the moments of the kills")
    options = parser.parse_args()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="dispatch-crash-") as folder:
        audit = crash(Path(folder), kills=options.kills, rate=options.rate, seed=seed, told=print)
    print(audit.table())
    for name, found in (("lost", audit.lost), ("doubled", audit.unexplained), ("uninvited", audit.uninvited)):
        for each in found[:20]:
            print(f"{name}: {each}")
    return 0 if audit.sound else 1


if __name__ == "__main__":
    sys.exit(main())
