"""What a login costs intake: sessions with one whose password is remembered, beside sessions without AUTH.

Dispatch alone. Its relay is switched off, so what is accepted is parked by another process; counted is the
CPU of intake. The client waits for each reply, and says AUTH PLAIN with its initial response: one command
more. A session with one message is the harshest case, and in clear it is harsher still than by TLS, where a
handshake costs more than all the rest.
"""

from __future__ import annotations

import asyncio
import ssl
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import uvloop

from bench.contestants import free_port, running, settle
from bench.conversation import Conversation, Login, unverified
from bench.disks import journaled
from bench.dispatch_relay import Dispatch
from bench.logins import OPTION, logins, remembered, tables
from bench.parts import Effort, say, wait_for_quiet
from bench.processes import cpu_s
from bench.report import Aim, aims, paragraphs, spread, table

AT_ONCE = 20
TIMES_MAX = 1.3


class Kind(NamedTuple):
    """Of session."""

    secured: bool
    messages: int
    sessions: int
    """How many of them a round has."""

    def __str__(self) -> str:
        messages = f"{self.messages} message" + ("s" if self.messages > 1 else "")
        return f"{messages}, {'STARTTLS' if self.secured else 'in clear'}"


KINDS = (Kind(False, 1, 4000), Kind(False, 10, 600), Kind(True, 1, 2000), Kind(True, 10, 600))


class Costs(NamedTuple):
    """Microseconds of CPU for a session, round by round."""

    without_us: Sequence[float]
    with_us: Sequence[float]

    @property
    def times(self) -> list[float]:
        return [more / less for less, more in zip(self.without_us, self.with_us, strict=True)]


def measure(effort: Effort) -> str:
    count = effort.rounds * len(KINDS)
    fresh = logins(count)
    found: dict[Kind, Costs] = {}
    with journaled(effort.parent) as disk:
        where = f"On {disk}."
        options = ["relays.upstream.enabled=false", OPTION]
        relay = Dispatch(disk.folder, free_port(), options=options, tables=tables(count))
        with running(relay):
            for kind in KINDS:
                say(str(kind))
                costs: tuple[list[float], list[float]] = ([], [])
                for number in range(effort.rounds):
                    login = next(fresh)
                    turns = ((costs[0], None), (costs[1], login))
                    for taken_us, used in turns if number % 2 == 0 else reversed(turns):
                        wait_for_quiet(effort.patience_s)
                        taken_us.append(_cost_us(relay, kind, used, effort.scaled(kind.sessions)))
                found[kind] = Costs(*costs)
                say(f"  {costs[0][-1]:,.0f} and {costs[1][-1]:,.0f} µs")
    rows = [
        [str(kind), spread(costs.without_us), spread(costs.with_us), f"{spread(costs.times, 2)}×"]
        for kind, costs in found.items()
    ]
    return paragraphs(
        where,
        table(["a session of", "without AUTH, µs of intake", "with a login, µs of intake", "times"], rows),
        aims(*(_aim(kind, statistics.median(costs.times)) for kind, costs in found.items())),
    )


def _aim(kind: Kind, times: float) -> Aim:
    return Aim(f"{kind}: at most {TIMES_MAX} times the CPU", f"{times:.2f} times", times <= TIMES_MAX)


def _cost_us(relay: Dispatch, kind: Kind, login: Login | None, sessions: int) -> float:
    intake = next(member.pid for member in relay.members() if member.role == "intake")
    tls = unverified() if kind.secured else None
    if login is not None:
        uvloop.run(remembered(relay.port, login, tls))
    settle([relay])
    before_s = cpu_s(intake)
    uvloop.run(_crowd(relay.port, sessions, kind.messages, login, tls))
    settle([relay])
    return (cpu_s(intake) - before_s) / sessions * 1e6


async def _crowd(
    port: int, sessions: int, messages: int, login: Login | None, tls: ssl.SSLContext | None
) -> None:
    left = iter(range(sessions))

    async def one_after_the_other() -> None:
        for _ in left:
            async with await Conversation.begin(port, tls=tls) as session:
                assert login is None or await session.log_in(login) == b"235"
                for _ in range(messages):
                    await session.envelope()
                    await session.content()

    async with asyncio.TaskGroup() as crowd:
        for _ in range(AT_ONCE):
            crowd.create_task(one_after_the_other())
