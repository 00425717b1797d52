"""Dispatch as a contestant: the shipped processes with the shipped defaults, and a folder of their own.

Only what any installation has to say is said: the port, the folder, the relays. What a part of the bench
changes beyond that, it passes as `--set` options, and its page names them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.contestants import free_port, wait_for_port, wait_until
from bench.processes import Member, children_of, cpu_s
from dispatch.app.folders import Folders
from dispatch.runtime.machine import MarkFile

ROLES = ("supervisor", "intake", "delivery", "control")


class Dispatch:
    name = "Dispatch"

    def __init__(
        self, folder: Path, upstream_port: int, *, options: Sequence[str] = (), tables: str = ""
    ) -> None:
        """`options` are `KEY=VALUE`s for `--set`; `tables` are further TOML tables of the settings file."""
        self.folder = folder / "dispatch"
        self.folder.mkdir(parents=True)
        self.port = free_port()
        self.folders = Folders(self.folder / "data")
        self._options = tuple(options)
        self._config = self.folder / "dispatch.toml"
        self._config.write_text(
            f'[listener]\nports = [{self.port}]\nbind = ["127.0.0.1"]\n'
            f'[[relays]]\nname = "upstream"\ndefault = true\nhost = "127.0.0.1"\n'
            f"port = {upstream_port}\n{tables}"
        )

    def start(self) -> None:
        command = [sys.executable, "-m", "dispatch.cli", "serve", "--quiet"]
        command += ["--config", str(self._config), "--data", str(self.folders.data)]
        for option in self._options:
            command += ["--set", option]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        # The supervisor listens before it has its children.
        wait_for_port(self.port, self._process)
        wait_until(lambda: {each.role for each in self.members()} >= set(ROLES), "its processes are there")
        self._durable = MarkFile(self.folders.ledger_durable, writable=False)
        self._followed = MarkFile(self.folders.followed, writable=False)

    def members(self) -> list[Member]:
        pid = self._process.pid
        children = [Member(child, _role_of(child)) for child in children_of(pid)]
        return [Member(pid, "supervisor"), *children]

    def caught_up(self) -> bool:
        """History has read the ledger to its end."""
        return self._followed.load() >= self._durable.load()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        self._forget()

    def kill(self) -> None:
        """SIGKILL to every process at once."""
        pids = [member.pid for member in self.members()]
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(60)
        wait_until(lambda: not any(map(cpu_s, pids)), "its processes are gone")
        self._forget()

    def _forget(self) -> None:
        self._durable.close()
        self._followed.close()


def _role_of(pid: int) -> str:
    """What the supervisor executes is `python -m dispatch.app ROLE …`."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return arguments[arguments.index(b"dispatch.app") + 1].decode()
    except (OSError, ValueError):
        return "starting"
