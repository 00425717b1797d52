"""End to end beside Postfix, interleaved in one run: messages a second, and CPU of all processes.

``python -m bench.against_postfix [--rounds 3] [--messages 10000] [--sessions 20] [--size 4096] [--folder F]``

Needs Debian's package `postfix` (for Postfix itself, `smtp-source` and `smtp-sink`) and root, because Postfix
does. Both relays keep their data below `--folder` (a file system to compare on, or a tmpfs), take mail
from `smtp-source` over kept connections and deliver it to an `smtp-sink` of their own. Postfix is configured
as an expert would for relaying: connection cache, concurrency limits raised, no input delay. Dispatch has its
defaults.

A round is over when the sink has the last message. Dispatch's CPU counts until its history has caught up with
its ledger, Postfix's with what its finished children used. Machines are noisy: look at medians and ratios.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

TICKS = os.sysconf("SC_CLK_TCK")
SOURCE, SINK = "/usr/sbin/smtp-source", "/usr/sbin/smtp-sink"
BOUND_S = 300.0


class Load(NamedTuple):
    messages: int
    sessions: int
    size_bytes: int


class Round(NamedTuple):
    rate: float
    """Messages a second, from the first connection until the sink has the last message."""
    cpu_s: float
    """Seconds of CPU for a thousand messages, user and system, all processes."""


class Contestant(Protocol):
    name: str
    port: int

    def start(self, upstream_port: int) -> None: ...

    def cpu_ticks(self) -> int:
        """Used by all its processes so far, once it has nothing left to do."""
        ...

    def stop(self) -> None: ...


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def ticks_of(pid: int, *, reaped: bool) -> int:
    """User and system time of a process, with that of its children that ended if `reaped`."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0
    return sum(map(int, fields[11:15] if reaped else fields[11:13]))


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Dispatch:
    name = "dispatch"

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "dispatch"
        self.port = free_port()
        self._sent = 0

    def start(self, upstream_port: int) -> None:
        self._folder.mkdir()
        self._config = self._folder / "dispatch.toml"
        self._config.write_text(
            f'[listener]\nports = [{self.port}]\n[spool]\ndirectory = "{self._folder}/data"\n'
            f'[[relays]]\nname = "sink"\nhost = "127.0.0.1"\nport = {upstream_port}\n'
        )
        command = [sys.executable, "-m", "dispatch.cli", "serve", "--quiet", "--config", str(self._config)]
        log = (self._folder / "log").open("w")
        self._process = subprocess.Popen(command, stderr=log)
        wait_for_port(self.port)

    def cpu_ticks(self) -> int:
        self._wait_for_history()
        pid = self._process.pid
        return sum(ticks_of(each, reaped=False) for each in (pid, *children_of(pid)))

    def _wait_for_history(self) -> None:
        """Control is idle once it used no CPU for half a second."""
        busy, deadline = -1, time.monotonic() + 60
        while time.monotonic() < deadline:
            used = sum(ticks_of(child, reaped=False) for child in children_of(self._process.pid))
            if used == busy:
                return
            busy = used
            time.sleep(0.5)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)


class Postfix:
    name = "postfix"

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "postfix"
        self.port = free_port()

    def start(self, upstream_port: int) -> None:
        for name in ("etc", "spool", "data"):
            (self._folder / name).mkdir(parents=True)
        self._folder.parent.chmod(0o755)
        shutil.chown(self._folder / "data", "postfix")
        for path in Path("/etc/postfix").glob("dynamicmaps*"):
            if path.is_file():
                shutil.copy(path, self._folder / "etc")
        shutil.copy("/etc/postfix/postfix-files", self._folder / "etc")
        master = Path("/etc/postfix/master.cf").read_text()
        (self._folder / "etc/master.cf").write_text(
            master.replace("\nsmtp      inet  n", f"\n127.0.0.1:{self.port}      inet  n")
        )
        (self._folder / "etc/main.cf").write_text(self._settings(upstream_port))
        self._postfix("start")
        wait_for_port(self.port)
        self._master = int((self._folder / "spool/pid/master.pid").read_text())

    def _settings(self, upstream_port: int) -> str:
        settings = {
            "compatibility_level": "3.6",
            "queue_directory": f"{self._folder}/spool",
            "data_directory": f"{self._folder}/data",
            "command_directory": "/usr/sbin",
            "daemon_directory": "/usr/lib/postfix/sbin",
            "mail_owner": "postfix",
            "myhostname": "postfix.test",
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "relayhost": f"[127.0.0.1]:{upstream_port}",
            "in_flow_delay": "0",
            "default_process_limit": "200",
            "smtpd_client_connection_count_limit": "0",
            "initial_destination_concurrency": "20",
            "default_destination_concurrency_limit": "100",
            "smtp_connection_cache_on_demand": "yes",
            "smtp_connection_cache_destinations": "127.0.0.1",
            "alias_maps": "",
            "alias_database": "",
            "local_recipient_maps": "",
            "smtpd_relay_restrictions": "permit_mynetworks, reject",
            "maillog_file": f"{self._folder}/log",
            "maillog_file_prefixes": str(self._folder),
        }
        return "".join(f"{key} = {value}\n" for key, value in settings.items())

    def _postfix(self, verb: str) -> None:
        command = ["/usr/sbin/postfix", "-c", f"{self._folder}/etc", verb]
        subprocess.run(command, check=True, capture_output=True)

    def cpu_ticks(self) -> int:
        children = children_of(self._master)
        return ticks_of(self._master, reaped=True) + sum(ticks_of(each, reaped=True) for each in children)

    def stop(self) -> None:
        self._postfix("stop")


@contextmanager
def running(contestant: Contestant, upstream_port: int) -> Iterator[Contestant]:
    contestant.start(upstream_port)
    try:
        yield contestant
    finally:
        contestant.stop()


def one_round(contestant: Contestant, upstream_port: int, load: Load) -> Round:
    sink = subprocess.Popen(
        [SINK, "-u", "postfix", "-M", str(load.messages), f"127.0.0.1:{upstream_port}", "1000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for_port(upstream_port)
    before = contestant.cpu_ticks()
    start_s = time.monotonic()
    source = [SOURCE, "-d", "-s", str(load.sessions), "-l", str(load.size_bytes), "-m", str(load.messages)]
    subprocess.run([*source, f"127.0.0.1:{contestant.port}"], check=True, timeout=BOUND_S)
    sink.wait(BOUND_S)
    took_s = time.monotonic() - start_s
    used = contestant.cpu_ticks() - before
    return Round(load.messages / took_s, used / TICKS * 1000 / load.messages)


def table(rounds: dict[str, list[Round]]) -> str:
    lines = ["| | messages/s (median, range) | CPU s per 1,000 (median, range) |", "|---|---|---|"]
    for name, results in rounds.items():
        rates = sorted(result.rate for result in results)
        cpu = sorted(result.cpu_s for result in results)
        lines.append(
            f"| {name} | {statistics.median(rates):.0f} ({rates[0]:.0f}–{rates[-1]:.0f})"
            f" | {statistics.median(cpu):.3f} ({cpu[0]:.3f}–{cpu[-1]:.3f}) |"
        )
    if len(rounds) == 2:
        ours, theirs = rounds.values()
        pairs = list(zip(ours, theirs, strict=True))
        faster = statistics.median(a.rate / b.rate for a, b in pairs)
        cheaper = statistics.median(b.cpu_s / a.cpu_s for a, b in pairs)
        lines.append(f"| ratio, pair by pair | {faster:.1f} times the rate | 1/{cheaper:.1f} of the CPU |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    if not Path(SINK).exists() or os.geteuid() != 0:
        sys.exit("This bench needs Debian's package postfix, and root: apt-get install postfix")
    load = Load(given.messages, given.sessions, given.size)
    folder = Path(tempfile.mkdtemp(prefix="dispatch-bench-", dir=given.folder))
    upstreams = {"dispatch": free_port(), "postfix": free_port()}
    contestants: list[Contestant] = [Dispatch(folder), Postfix(folder)]
    rounds: dict[str, list[Round]] = {contestant.name: [] for contestant in contestants}
    try:
        with running(contestants[0], upstreams["dispatch"]), running(contestants[1], upstreams["postfix"]):
            for _ in range(given.rounds):
                for contestant in contestants:
                    result = one_round(contestant, upstreams[contestant.name], load)
                    rounds[contestant.name].append(result)
                    print(
                        f"{contestant.name}: {result.rate:.0f}/s, {result.cpu_s:.3f} s CPU per 1,000",
                        flush=True,
                    )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(table(rounds))


if __name__ == "__main__":
    main()
