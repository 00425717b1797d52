"""Logins that are known beside many that are wrong: how long they wait while others guess passwords.

Dispatch alone. An application's sessions come at a steady pace, each with a login whose password is
remembered and one message; in every second turn 200 wrong passwords a second come from 200 addresses. Two
times are taken of each session: the whole of it, from before it connects until its message is acknowledged,
and of that the end, from the end of data on.

Hashing has a thread of its own, which the guesses keep busy throughout: of two cores, one is theirs.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from contextlib import nullcontext
from typing import NamedTuple

import uvloop

from bench.contestants import free_port, running, settle
from bench.conversation import Conversation, Login, unverified
from bench.disks import journaled
from bench.dispatch_relay import Dispatch
from bench.guess import Guessers
from bench.load import sink
from bench.logins import OPTION, logins, remembered, tables
from bench.parts import Effort, say, wait_for_quiet
from bench.report import Aim, aims, paragraphs, quantiles, table

GUESSES_PER_S = 200
GUESSES_SHARE = 0.9
"""With fewer of them answered, it was another test: the last ones wait for their hash when a turn ends."""
ADDRESSES = 200
SESSIONS_PER_S = 50
WINDOW_S = 10.0
TIMES_MAX = 2.0
MODES = {"in clear": False, "STARTTLS": True}


class Took(NamedTuple):
    """What one session took."""

    session_ms: float
    accept_ms: float
    """From its end of data to the reply."""


class Turns(NamedTuple):
    """All sessions of one mode, and what the guessers were told meanwhile."""

    quiet: list[Took]
    guessed: list[Took]
    guesses: Counter[str]
    guessing_s: list[float]


def measure(effort: Effort) -> str:
    count = effort.rounds * len(MODES) * 2
    fresh = logins(count)
    with journaled(effort.parent) as disk:
        where = f"On {disk}."
        upstream_port = free_port()
        relay = Dispatch(disk.folder, upstream_port, options=[OPTION], tables=tables(count))
        with sink(upstream_port), running(relay):
            found: dict[str, Turns] = {}
            for mode, secured in MODES.items():
                found[mode] = turns = Turns([], [], Counter(), [])
                for number in range(effort.rounds):
                    for guessed in (False, True) if number % 2 == 0 else (True, False):
                        wait_for_quiet(effort.patience_s)
                        settle([relay])
                        _one(relay, next(fresh), turns, secured, guessed, effort)
    return paragraphs(
        where, *(_told(mode, turns) for mode, turns in found.items()), _table(found), _aims(found)
    )


def _one(relay: Dispatch, login: Login, turns: Turns, secured: bool, guessed: bool, effort: Effort) -> None:
    tls = unverified() if secured else None
    uvloop.run(remembered(relay.port, login, tls))
    guessers = Guessers(relay.port, per_s=GUESSES_PER_S, addresses=ADDRESSES, secured=secured)
    with guessers if guessed else nullcontext():
        window_s = 2.0 if effort.quick else WINDOW_S
        taken = uvloop.run(_sessions(relay.port, login, tls, round(window_s * SESSIONS_PER_S)))
    (turns.guessed if guessed else turns.quiet).extend(taken)
    turns.guesses.update(guessers.answers)
    turns.guessing_s.append(guessers.seconds)
    p99_ms = quantiles([took.accept_ms for took in taken])[2]
    say(f"{'guessed at' if guessed else 'quiet'}: p99 of accept {p99_ms:.2f} ms")


async def _sessions(port: int, login: Login, tls: ssl.SSLContext | None, count: int) -> list[Took]:
    loop = asyncio.get_running_loop()
    taken: list[Took] = []

    async def one() -> None:
        began_s = time.monotonic()
        async with await Conversation.begin(port, tls=tls) as session:
            assert await session.log_in(login) == b"235"
            await session.envelope()
            ended_s = time.monotonic()
            await session.content()
            now_s = time.monotonic()
        taken.append(Took((now_s - began_s) * 1000, (now_s - ended_s) * 1000))

    began_s = loop.time()
    async with asyncio.TaskGroup() as under_way:
        for number in range(count):
            await asyncio.sleep(began_s + number / SESSIONS_PER_S - loop.time())
            under_way.create_task(one())
    return taken


def _guesses_per_s(turns: Turns) -> float:
    return turns.guesses.total() / sum(turns.guessing_s)


def _told(mode: str, turns: Turns) -> str:
    told = ", ".join(f"{code} to {amount:,}" for code, amount in turns.guesses.most_common())
    return f"{mode}: {_guesses_per_s(turns):,.0f} guesses a second were answered: {told}."


def _table(found: dict[str, Turns]) -> str:
    rows = []
    for mode, turns in found.items():
        for name, taken in (("quiet", turns.quiet), ("guessed at", turns.guessed)):
            sessions = quantiles([took.session_ms for took in taken])
            accepts = quantiles([took.accept_ms for took in taken])
            cells = (f"{value:.2f}" for value in (*accepts[:3], *sessions[:3]))
            rows.append([f"{mode}, {name}", f"{len(taken):,}", *cells])
    columns = [
        f"{what} {quantile}, ms" for what in ("accept", "session") for quantile in ("p50", "p90", "p99")
    ]
    return table(["", "sessions", *columns], rows)


def _aims(found: dict[str, Turns]) -> str:
    wanted = []
    for mode, turns in found.items():
        per_s = _guesses_per_s(turns)
        enough = per_s >= GUESSES_SHARE * GUESSES_PER_S
        wanted.append(
            Aim(f"{mode}: {GUESSES_PER_S} guesses a second, as wanted", f"{per_s:,.0f} were answered", enough)
        )
        for place, what in enumerate(("of a session", "of accept")):
            quiet_ms, guessed_ms = (
                quantiles([took[place] for took in taken])[2] for taken in (turns.quiet, turns.guessed)
            )
            times = guessed_ms / quiet_ms
            wanted.append(
                Aim(
                    f"{mode}: the p99 {what} at most doubles",
                    f"{quiet_ms:.2f} ms, {guessed_ms:.2f} ms: {times:.1f} times",
                    times <= TIMES_MAX,
                )
            )
    return aims(*wanted)
