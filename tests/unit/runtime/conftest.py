"""A small set of real processes under a real supervisor, and a bounded ear for what they report."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 30.0

CHILD = """
import asyncio, json, os, signal, sys, time
from dispatch.runtime.child import ChildFault, child_main
from dispatch.runtime.locks import lock_folder

role, *habits = sys.argv[1:]

def report(event, /, **fields):
    fields = {key: str(value) for key, value in fields.items()}
    os.write(1, (json.dumps({"event": event, **fields}) + "\\n").encode())

def throw():
    raise ValueError("escaped from a callback")

class Service:
    def __init__(self, context, server):
        self.context = context
        self.server = server

    async def drain(self, grace_s):
        if self.server is not None:
            self.server.close()
        allowed = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, allowed.set)
        report("drain", who=role, grace_s=grace_s)
        if "drains_when_allowed" in habits:  # by SIGUSR1
            await allowed.wait()
        if "drains_for_ever" in habits:
            await asyncio.Event().wait()
        if "hangs_in_drain" in habits:
            time.sleep(1000)
        report("drained", who=role)

    async def reload(self):
        report("reload", who=role)
        if "throws" in habits:
            asyncio.get_running_loop().call_soon(throw)
        if "hangs" in habits:
            time.sleep(1000)
        if "refuses_settings" in habits:
            raise ValueError("settings")

    async def close(self):
        report("close", who=role)

async def start(context):
    for habit in habits:
        if habit.startswith("exits:"):
            raise ChildFault(int(habit[6:]), "as it was told")
    if "starts_for_ever" in habits:
        report("starting", who=role)
        await asyncio.Event().wait()
    systemd = [name for name in os.environ if name.startswith(("NOTIFY", "WATCHDOG"))]
    report("environment", who=role, systemd=systemd)
    context.lock = lock_folder(context.data / role, wait_s=0)
    server = None
    if context.sockets:
        ports = [each.getsockname()[1] for each in context.sockets]
        report("serving", who=role, ports=ports, purposes=[each.purpose for each in context.listeners])
        greet = lambda reader, writer: (writer.write(b"220\\r\\n"), writer.close())
        server = await asyncio.start_server(greet, sock=context.sockets[0])
    return Service(context, server)

sys.exit(child_main(role, start, report))
"""

SUPERVISOR = """
import json, os, sys
from pathlib import Path
from dispatch.runtime.process import ChildPace, ChildSpec
from dispatch.runtime.restarts import RestartLimits
from dispatch.runtime.sockets import Wanted, bind_listeners
from dispatch.runtime.supervisor import Supervisor, SupervisorLimits

assert "asyncio" not in sys.modules, "the supervisor has no event loop"
plan = json.loads(sys.argv[1])
data = Path(plan["data"])

def report(event, /, **fields):
    fields = {key: str(value) for key, value in fields.items()}
    os.write(1, (json.dumps({"event": event, **fields}) + "\\n").encode())

def prepare():
    if plan["prepare_fails"]:
        raise OSError(plan["prepare_fails"].pop(0), "as it was told")
    listening = bind_listeners([Wanted("smtp", port, ("127.0.0.1",)) for port in plan["ports"]], report)
    return [
        ChildSpec(
            role,
            (sys.executable, plan["child"], role, *habits),
            listeners=listening.listeners if role == "intake" else (),
            drain_s=plan["drain_s"],
            reload_on_hangup=role == "control",
        )
        for role, habits in plan["roles"].items()
    ]

limits = SupervisorLimits(
    restarts=RestartLimits(first_s=0.01, longest_s=0.1, failures_max=3, lock_wait_s=plan["lock_wait_s"]),
    pace=ChildPace(beat_s=0.05, orphan_drain_s=1.0),
    silence_s=plan["silence_s"], abort_s=1.0, drain_margin_s=plan["drain_margin_s"],
    hurry_s=5.0, repeat_after_s=plan["repeat_after_s"],
    older_set_s=plan["older_set_s"], late_s=plan["late_s"], patience_s=plan["patience_s"],
)
exec(plan["sabotage"])
supervisor = Supervisor(
    data, prepare, report=report, limits=limits, ready=lambda: report("banner"),
    role_folders={role: data / role for role in plan["roles"]}, drain_order=("intake", "delivery", "control"),
)
sys.exit(supervisor.run())
"""

Event = dict[str, str]


class Supervised:
    """A running supervisor and all that it and its children reported, in order."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.popen = popen
        self.events: list[Event] = []
        self._rest = b""
        self.all_gone = False
        """Nobody holds the output any more: neither the supervisor nor an orphan of its."""
        assert popen.stdout is not None
        self._fd = popen.stdout.fileno()

    def expect(self, event: str, **fields: str) -> Event:
        """The next such event; those before it are kept in `events`."""
        found = self._until(lambda seen: seen["event"] == event and fields.items() <= seen.items())
        assert found is not None, f"{event} {fields} did not come: {self.events}"
        return found

    def end(self) -> int:
        """Wait until the supervisor and every process that holds its output are gone; its code."""
        assert self._until(lambda seen: False) is None
        return self.popen.wait(PATIENCE_S)

    def names(self, *names: str) -> list[tuple[str, str]]:
        return [(e["event"], e.get("who", e.get("role", ""))) for e in self.events if e["event"] in names]

    def _until(self, matches: Callable[[Event], bool]) -> Event | None:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            while b"\n" in self._rest:
                line, _, self._rest = self._rest.partition(b"\n")
                event: Event = json.loads(line)
                self.events.append(event)
                if matches(event):
                    return event
            ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline_s - time.monotonic()))
            assert ready, f"nothing for {PATIENCE_S} s after {self.events}"
            piece = os.read(self._fd, 65536)
            if not piece:
                self.all_gone = True
                return None
            self._rest += piece


Launch = Callable[..., Supervised]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start a supervisor over three roles; keywords name the habits of a role, or change the plan.

    `prepare_fails`: errnos, one for each time. `sabotage`: run in the supervisor before it begins."""
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    started: list[Supervised] = []

    def start(
        intake: Sequence[str] = (),
        delivery: Sequence[str] = (),
        control: Sequence[str] = (),
        **changes: Any,
    ) -> Supervised:
        plan = {
            "data": str(tmp_path / "data"), "child": str(child), "ports": [],
            "roles": {"delivery": delivery, "intake": intake, "control": control},
            "drain_s": 20.0, "silence_s": 60.0, "lock_wait_s": 15.0, "older_set_s": 15.0,
            "repeat_after_s": 60.0, "late_s": 5.0, "drain_margin_s": 10.0,
            "prepare_fails": [], "patience_s": 15.0, "sabotage": "",
        } | changes  # fmt: skip
        popen = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, json.dumps(plan)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        supervised = Supervised(popen)
        started.append(supervised)
        return supervised

    yield start
    for supervised in started:
        if not supervised.all_gone:
            # Also where only orphans are left: a test that failed must not leave processes behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(supervised.popen.pid, signal.SIGKILL)
        supervised.popen.wait(PATIENCE_S)
        assert supervised.popen.stdout is not None
        supervised.popen.stdout.close()
