"""Programs of other people that the scenarios use: found on PATH, or installed where that is allowed.

As root on Debian a missing package is installed with apt-get, once, under a lock, so that parallel workers
do not collide. Elsewhere the scenario is skipped, with the reason. nodemailer is kept in a cache folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NODEMAILER = "nodemailer@6.9.16"
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_APT_S_MAX = 240


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """One of all processes of this user at a time."""
    with (Path(tempfile.gettempdir()) / f"dispatch-scenarios-{os.getuid()}-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def found(program: str) -> str | None:
    return shutil.which(program, path=_PATH)


def needed(program: str, package: str | None = None) -> str:
    """The program's path; where it cannot be had, the test that asks is skipped.

    With `package` it may be installed."""
    path = found(program)
    if path is not None:
        return path
    if package is None:
        pytest.skip(f"{program} is not installed")
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"{program} is not installed, and only root on Debian may install {package} here")
    with _alone("apt"):
        if found(program) is None:
            quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", package]):
                done = subprocess.run(
                    ["apt-get", *command], env=quiet, capture_output=True, timeout=_APT_S_MAX, check=False
                )
                if done.returncode:
                    pytest.skip(f"apt-get {command[0]} failed: {done.stderr.decode()[-300:]}")
    path = found(program)
    assert path is not None, f"{package} was installed and has no {program}"
    return path


def dying_with_us() -> list[str]:
    """Put in front of a command, it ends with the test run that started it; nothing where that cannot be."""
    setpriv = found("setpriv")
    return [] if setpriv is None else [setpriv, "--pdeathsig", "KILL", "--"]


def nodemailer() -> tuple[str, Path]:
    """The path of node, and a folder from which it finds the package nodemailer."""
    node, npm = needed("node"), needed("npm")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "dispatch-scenarios" / NODEMAILER
    with _alone("npm"):
        if not (folder / "node_modules" / "nodemailer" / "package.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(
                [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), NODEMAILER],
                capture_output=True,
                timeout=_APT_S_MAX,
                check=True,
            )
    return node, folder
