"""The session of an administrator in `docs/operate/session.md` happens as it is written.

One shell executes the commands of the page, in its order. `…` in the expected output stands for anything.
A command that looks at the state of the relay is repeated until it shows what the page says, within bounds.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.scenarios.relay import free_port

PAGE = Path(__file__).parents[2] / "docs/operate/session.md"
BOUND_S = 30.0
LOOKING = ("dispatch", "grep", "tail", "send Four")
"""Commands that may be repeated: they look, or are refused until a change has arrived."""

HELPERS = r"""
dispatch() { "$PYTHON" -m dispatch.cli "$@"; }
start_upstream() {
  "$PYTHON" -m aiosmtpd -n -l 127.0.0.1:$UPSTREAM -c aiosmtpd.handlers.Sink > upstream.log 2>&1 &
  upstream=$!
  "$PYTHON" -c "
import socket, time
for _ in range(500):
    try: socket.create_connection(('127.0.0.1', $UPSTREAM)).close(); break
    except OSError: time.sleep(0.02)"
}
stop_upstream() { kill -9 $upstream; wait $upstream 2>/dev/null; }
send() { "$PYTHON" -c "
import smtplib, sys
with smtplib.SMTP('127.0.0.1', $PORT) as client:
    client.ehlo()
    code, text = client.mail('me@example.org')
    if code == 250:
        client.rcpt('you@example.net')
        code, text = client.data('Subject: $1\r\n\r\nHello\r\n')
    print(code, text.decode())"; }
settings_with() {
  cp good.toml dispatch.toml
  for line in "$@"; do sed -i "s|^directory|$line\n&|" dispatch.toml; done
}
"""


def commands() -> list[tuple[str, list[str]]]:
    """Each command of the page with the lines of output that follow it."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif line.startswith(">"):
                found[-1] = (f"{found[-1][0]}\n{line[2:]}", [])
            else:
                found[-1][1].append(line)
    return found


def matches(expected: list[str], output: str) -> bool:
    pattern = r"\s*\n".join(
        ".*".join(re.escape(part) for part in re.sub(r"\s+", " ", line).split("…")) for line in expected
    )
    shown = "\n".join(re.sub(r"\s+", " ", line) for line in output.splitlines())
    return re.fullmatch(pattern.replace(r"\ .*\ ", ".*"), shown.strip(), re.DOTALL) is not None


class Shell:
    """One bash that lives for the whole page."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )

    def run(self, command: str) -> str:
        assert self._bash.stdin is not None and self._bash.stdout is not None
        self._bash.stdin.write(f"{command}\necho; echo ---end---\n")
        self._bash.stdin.flush()
        lines: list[str] = []
        for line in self._bash.stdout:
            if line == "---end---\n":
                break
            lines.append(line)
        return "".join(lines).strip("\n")

    def close(self) -> None:
        os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.communicate()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    environment = {**os.environ, "PYTHON": sys.executable}
    one = Shell(tmp_path, environment)
    yield one
    one.close()


def test_the_session_happens_as_it_is_written(shell: Shell, tmp_path: Path) -> None:
    port, upstream = free_port(), free_port()
    shell.run(f"PORT={port}; UPSTREAM={upstream}\n{HELPERS}")

    def here(text: str) -> str:
        text = text.replace("/srv/dispatch", f"{tmp_path}/mail").replace("2525", str(port))
        return text.replace("3525", str(upstream))

    for command, expected in commands():
        deadline = time.monotonic() + BOUND_S
        while True:
            output = shell.run(here(command))
            if not expected or matches(expected, output):
                break
            repeatable = command.startswith(LOOKING) and not command.endswith("&")
            assert repeatable and time.monotonic() < deadline, (
                f"$ {command}\nshould say:\n" + "\n".join(expected) + f"\nand said:\n{output}"
            )
            time.sleep(0.1)
        if command.startswith("cat > dispatch.toml"):
            shell.run("cp dispatch.toml good.toml")
