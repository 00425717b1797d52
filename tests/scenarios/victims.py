"""Who is struck, and how: a process by `kill -9`, the supervisor alone, everything at once, or the power.

A power cut ends every process at once and takes back by chance what was not synced (`tests.shim.power`); the
relay starts on another boot of the machine. Some come twice: the power fails again while it is coming back.
After some intake starts late, so that delivery finds the mail log's mark as the cut has left it.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import Protocol

from tests.scenarios.load import Load
from tests.scenarios.relay import ROLES, Relay, until
from tests.shim.control import MarkSampler, Shim

COMING_BACK_S = 1.0
"""So long, at most, a relay is up before the power fails again."""
INTAKE_LATE_S = 3.0
"""So long, at most, intake stands still, unless delivery has recovered without it before."""
TAKEN_BACK = ("sectors", "lengths", "names", "marks")
"""What is counted of a power cut's `Report`."""


class Strikes(Protocol):
    victims: tuple[str, ...]
    """Each is struck as often as the others, in an order that is drawn anew for each round."""

    def begin(self) -> None:
        """Start the relay."""
        ...

    def strike(self, victim: str, chance: Random) -> None:
        """Return when the relay is up again, or about to be."""
        ...

    def end(self) -> None:
        """No more strikes."""
        ...

    @property
    def taken_back(self) -> Counter[str]:
        """What the relay had written and lost."""
        ...


class Kills:
    victims: tuple[str, ...] = (*ROLES, "supervisor", "everything")

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.taken_back: Counter[str] = Counter()

    def begin(self) -> None:
        self._relay.start()

    def strike(self, victim: str, chance: Random) -> None:
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

    def end(self) -> None:
        pass


class PowerCuts:
    """The relay must not have been started yet. What each cut did is written to `account`."""

    victims: tuple[str, ...] = (*["power"] * 3, "power, twice", "power, intake late")

    def __init__(self, relay: Relay, load: Load, shim: Shim, account: Path) -> None:
        relay.environment.update(shim.environment())
        self._relay = relay
        self._load = load
        self._shim = shim
        self._account = account
        self._power = ExitStack()
        self.taken_back: Counter[str] = Counter()

    def begin(self) -> None:
        self._power_on(wait=True)

    def strike(self, victim: str, chance: Random) -> None:
        self._cut(Random(chance.random()))
        if victim == "power, twice":
            self._power_on(wait=False)
            time.sleep(chance.uniform(0, COMING_BACK_S))
            self._cut(Random(chance.random()))
        if victim == "power, intake late":
            since = self._relay.mark()
            self._power_on(wait=False)
            self._hold_intake(since)
            until(lambda: self._relay.said("ready", since=since), "the relay is ready")
        else:
            self._power_on(wait=True)

    def end(self) -> None:
        self._power.close()

    def _power_on(self, *, wait: bool) -> None:
        self._marks = self._power.enter_context(MarkSampler(self._relay.data))
        self._relay.start(wait=wait)

    def _hold_intake(self, since: int) -> None:
        said = partial(self._relay.said, since=since)
        [started] = until(partial(said, "child_started", role="intake"), "intake is started")
        os.kill(started["pid"], signal.SIGSTOP)
        deadline_s = time.monotonic() + INTAKE_LATE_S
        while time.monotonic() < deadline_s and not said("queue_recovered"):
            time.sleep(0.02)
        os.kill(started["pid"], signal.SIGCONT)

    def _cut(self, random: Random) -> None:
        self._relay.kill()
        # What had left the relay has left it: it belongs to the time before the cut.
        until(lambda: self._load.upstreams_are_alone, "the upstreams have read all that was sent")
        self._power.close()
        report = self._shim.cut(random, self._marks.samples)
        self._load.books.cuts_ms.append(time.time_ns() // 1_000_000)
        self.taken_back.update({what: getattr(report, what) for what in TAKEN_BACK})
        with self._account.open("a") as account:
            account.write(f"cut {len(self._load.books.cuts_ms)} at {self._load.books.cuts_ms[-1]} ms\n")
            account.writelines(f"  {line}\n" for line in report.told)
