"""The relay as an operator runs it, for the scenarios: real processes, real files, real sockets, free ports.

Nothing here waits by the clock: `until` waits for something to become true, with a bound that only a fault
reaches. The processes form a session of their own, so that `kill` ends all of them whatever the scenario
did to them before. A scenario that fails shows the relay's log.
"""

from __future__ import annotations

import json
import os
import random
import signal
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.scenarios.programs import dying_with_us

BOUND_S = 30.0
ROLES = ("intake", "delivery", "control")
HELLO = b"Subject: Hello\r\n\r\nIt works.\r\n"


def until(true: Callable[[], Any], what: str, bound_s: float = BOUND_S, pause_s: float = 0.02) -> Any:
    """Wait until `true()` is, and return what it said."""
    deadline = time.monotonic() + bound_s
    while True:
        said = true()
        if said:
            return said
        assert time.monotonic() < deadline, f"waited {bound_s} s in vain until {what}"
        time.sleep(pause_s)


def _is_stopped(task: Path) -> bool:
    return (task / "stat").read_text().rpartition(") ")[2].startswith("T")


def free_port() -> int:
    """A port that nobody has, outside the range from which the kernel gives ports to outgoing connections.

    Parallel workers draw from ranges of their own, so that none takes what another has just found."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 20
    while True:
        port = random.randrange(10_000 + 1_100 * worker, 10_000 + 1_100 * (worker + 1))
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


class Relay:
    """One data directory, and the processes that work on it while it is started."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.data = folder / "data"
        self.config = folder / "dispatch.toml"
        self.port = free_port()
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("DISPATCH_")}
        self.environment.update(environment or {})
        self.within: tuple[str, ...] = ()
        """What every command is put behind, to run it in a namespace."""
        self._log_file = folder / "log"
        self._log: list[dict[str, Any]] = []
        self._log_read = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._groups: list[int] = []
        """Of every start whose processes may live."""

    def configure(self, *relays: str, **sections: Mapping[str, object]) -> Relay:
        """Write the file: listen on loopback; `relays` are the bodies of `[[relays]]` tables."""
        tables: dict[str, dict[str, object]] = {
            "listener": {
                "ports": [self.port],
                "tls_ports": [],
                "bind": ["127.0.0.1"],
                "server_name": "relay.test",
            },
            "api": {"ports": [], "tls_ports": [], "bind": ["127.0.0.1"]},
            "spool": {"retry_delays_seconds": [1], "segment_mb": 4},
            "queue": {"breaker_failures": 1000},
            "bounce": {},
            "logging": {"format": "json", "level": "debug", "mask_recipient": False},
        }
        lines = []
        for name, keys in tables.items():
            lines.append(f"[{name}]")
            lines += [
                f"{key} = {json.dumps(value)}" for key, value in {**keys, **sections.pop(name, {})}.items()
            ]
        assert not sections, f"no such sections: {sections}"
        for relay in relays:
            lines += ["[[relays]]", relay]
        self.config.write_text("\n".join(lines) + "\n")
        return self

    # ---------------------------------------------------------------- life

    def start(self, *arguments: str, wait: bool = True) -> Relay:
        assert self._process is None, "started twice"
        since = self.mark()
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*dying_with_us(), *self._dispatch(), "serve", "--quiet", *self._sources(), *arguments],
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env=self.environment,
                start_new_session=True,
            )
        self._groups.append(self._process.pid)
        if wait:
            until(lambda: self.said("ready", since=since) or not self.running, "the relay is ready")
            assert self.running, f"the relay did not start:\n{self.log_text()}"
        return self

    def _dispatch(self) -> list[str]:
        return [*self.within, sys.executable, "-m", "dispatch.cli"]

    def _sources(self) -> list[str]:
        config = ["--config", str(self.config)] if self.config.exists() else []
        return [*config, "--data", str(self.data)]

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def pid_of(self, role: str) -> int:
        """The process that has the role now, or had it last."""
        return int(until(lambda: self.said("child_started", role=role), f"{role} is started")[-1]["pid"])

    def freeze(self, role: str) -> int:
        """Stop its process where it is, all threads of it; returns its pid."""
        pid = self.pid_of(role)
        os.kill(pid, signal.SIGSTOP)
        until(
            lambda: all(_is_stopped(thread) for thread in Path(f"/proc/{pid}/task").iterdir()), "it is frozen"
        )
        return pid

    def reload(self) -> None:
        """SIGHUP, and wait until intake and delivery work by the new settings."""
        since = self.mark()
        os.kill(self.pid, signal.SIGHUP)
        number = until(lambda: self.said("settings_published", since=since), "settings are published")[-1][
            "number"
        ]
        for role in ("intake", "delivery"):
            until(
                partial(self.said, "settings_applied", since=since, process=role, number=number),
                f"{role} works by the new settings",
            )

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def ended(self, bound_s: float = BOUND_S) -> int:
        """Wait until it has ended by itself; the exit code."""
        assert self._process is not None
        code = self._process.wait(bound_s)
        self._process = None
        return code

    def stop(self) -> int:
        """SIGTERM, and wait for the end; the exit code."""
        self.terminate()
        return self.ended()

    def kill(self, *, wait: bool = True) -> None:
        """Everything at once, as a power switch would for the processes; also what an earlier start left."""
        for group in self._groups:
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self._process is not None:
            self._process.wait(BOUND_S)
            self._process = None
        if wait:
            until(lambda: not any(map(_living_of, self._groups)), "every process has ended")
            self._groups.clear()

    def kill_supervisor(self) -> None:
        """It alone; its children notice by themselves."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(BOUND_S)
        self._process = None

    # ---------------------------------------------------------------- the log

    def mark(self) -> int:
        """The place behind the last line so far, for `since`."""
        self._read_log()
        return len(self._log)

    @property
    def log(self) -> list[dict[str, Any]]:
        self._read_log()
        return self._log

    def _read_log(self) -> None:
        if not self._log_file.exists():
            return
        with self._log_file.open("rb") as log:
            log.seek(self._log_read)
            new, _, _ = log.read().rpartition(b"\n")
        if not new:
            return
        self._log_read += len(new) + 1
        for line in new.splitlines():
            try:
                self._log.append(dict(json.loads(line)))
            except ValueError:
                self._log.append({"event": "unstructured", "text": line.decode(errors="replace")})

    def said(self, event: str, since: int = 0, **fields: object) -> list[dict[str, Any]]:
        """Log lines with this event and these fields."""
        return [
            line
            for line in self.log[since:]
            if line.get("event") == event and all(line.get(key) == value for key, value in fields.items())
        ]

    def log_text(self) -> str:
        return "\n".join(json.dumps(line) for line in self.log[-400:])

    # ---------------------------------------------------------------- the command line

    def cli_result(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [*self._dispatch(), *arguments, *self._sources()]
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            cwd=self.folder,
            env=self.environment,
            check=False,
        )

    def cli(self, *arguments: str, code: int = 0) -> str:
        """`dispatch …` on this relay's data; standard output."""
        done = self.cli_result(*arguments)
        assert done.returncode == code, (
            f"{arguments}: {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        )
        return done.stdout.decode()

    def json(self, *arguments: str) -> Any:
        return json.loads(self.cli(*arguments, "--json"))

    def queue(self, *arguments: str) -> list[dict[str, Any]]:
        """The deliveries that `queue list` shows."""
        return list(self.json("queue", "list", *arguments)["deliveries"])

    def history(self) -> list[dict[str, Any]]:
        return list(self.json("history")["messages"])

    def story(self, message_id: str) -> dict[str, Any]:
        """All that history knows of one message."""
        return dict(self.json("history", "show", message_id))

    def story_in_state(self, message_id: str, state: str) -> dict[str, Any]:
        """The same, once the message has come to that state."""

        def told() -> dict[str, Any] | None:
            done = self.cli_result("history", "show", message_id, "--json")
            story = json.loads(done.stdout) if done.returncode == 0 else {}
            return story if story.get("state") == state else None

        return dict(until(told, f"history says that {message_id} is {state}", pause_s=0.1))

    def counted(self, kind: str) -> int:
        """Today's count, as `dispatch stats` shows it."""
        return int(self.json("stats")["total"][kind])

    # ---------------------------------------------------------------- mail

    def client(self, name: str = "client.test") -> smtplib.SMTP:
        """A connection that has said EHLO. smtplib closes it at the end of its `with` block."""
        client = smtplib.SMTP("127.0.0.1", self.port, local_hostname=name, timeout=BOUND_S)
        client.ehlo()
        return client

    def send(
        self,
        content: bytes = HELLO,
        sender: str = "me@example.org",
        to: tuple[str, ...] = ("you@example.net",),
    ) -> str:
        """Hand a message in; the id that it was accepted with."""
        with self.client() as client:
            client.mail(sender)
            for recipient in to:
                code, text = client.rcpt(recipient)
                assert code == 250, (code, text)
            code, text = client.data(content)
        assert code == 250, (code, text)
        return text.decode().split()[-1]


def lives(pid: int) -> bool:
    """Whether the process runs; one that only waits for its parent to read its exit code does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _living_of(group: int) -> list[int]:
    """Processes of a process group that run."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _, its_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(its_group) == group and state != "Z":
                found.append(int(folder.name))
    return found
