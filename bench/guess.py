"""Guessers of passwords: wrong ones at a steady pace, from many addresses in turn, each for another name.

`python -m bench.guess PORT PER_SECOND ADDRESSES [--tls]`, from 127.1.0.1 and on. Each guess is a connection.
It prints `guessing` with the first one, and at SIGTERM `SECONDS`, and how often each code was the answer, as
JSON. Names are never the same, so that no lock of a user spares the relay a hash.

It runs only where a core has nothing else to do: guessers are other people's machines, and must not take the
relay's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import TracebackType

import uvloop

from bench.conversation import Conversation, Login, unverified
from bench.trickle import raise_files

OPEN_MAX = 4000
NICE = 19
BEHIND_S_MAX = 0.02
"""What is missed beyond that is not made up for: it would come as a crowd."""


class Guessers:
    """The process, as the bench sees it: at work inside the `with` block."""

    def __init__(self, port: int, *, per_s: int, addresses: int, secured: bool) -> None:
        self._command = [sys.executable, "-m", "bench.guess", str(port), str(per_s), str(addresses)]
        self._command += ["--tls"] if secured else []
        self.seconds = 0.0
        self.answers: Counter[str] = Counter()
        """By code; known behind the block."""

    def __enter__(self) -> Guessers:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdout is not None
        began = self._process.stdout.readline().strip()
        assert began == "guessing", began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        said, _ = self._process.communicate(timeout=60)
        if error is None:
            told = json.loads(said)
            self.seconds, self.answers = told["seconds"], Counter(told["answers"])


async def _guess(port: int, per_s: int, addresses: int, secured: bool) -> None:
    loop = asyncio.get_running_loop()
    tls = unverified() if secured else None
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    answers: Counter[str] = Counter()

    async def one(number: int) -> None:
        address = f"127.1.0.{1 + number % addresses}"
        login = Login(f"guess{number}@example.org", "wrong")
        try:
            session = await Conversation.begin(port, source=address, tls=tls)
            async with session:
                answers[(await session.log_in(login)).decode()] += 1
        except (OSError, AssertionError, TimeoutError):
            answers["none"] += 1

    under_way: set[asyncio.Task[None]] = set()
    began_s = loop.time()
    print("guessing", flush=True)
    due_s = began_s
    for number in itertools.count():
        await asyncio.sleep(due_s - loop.time())
        due_s = max(due_s + 1 / per_s, loop.time() - BEHIND_S_MAX)
        if ended.is_set():
            break
        assert len(under_way) < OPEN_MAX, "the relay answers nobody"
        task = loop.create_task(one(number))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    seconds = loop.time() - began_s
    for task in under_way:
        task.cancel()
    print(json.dumps({"seconds": seconds, "answers": answers}), flush=True)


def _yield_to_all() -> None:
    """Also with a nice value of 19, a process that has begun keeps its core for milliseconds. And where the
    kernel shares the cores among sessions, a process's priority counts within its own only."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    share = Path("/proc/self/autogroup")
    if share.exists():
        share.write_text(str(NICE))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("per_second", type=int)
    parser.add_argument("addresses", type=int)
    parser.add_argument("--tls", action="store_true")
    given = parser.parse_args()
    # That a relay closes first is nothing to warn of.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    _yield_to_all()
    raise_files(2 * OPEN_MAX)
    uvloop.run(_guess(given.port, given.per_second, given.addresses, given.tls))


if __name__ == "__main__":
    main()
