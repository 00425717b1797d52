"""Programs of other people that the scenarios use: found on PATH, or installed where that is allowed.

As root on Debian a missing package is installed with apt-get, once, under a lock, so that parallel workers
do not collide. Elsewhere the scenario is skipped, with the reason. What comes from npm is kept in a cache
folder, and so is Exim, whose package would throw Postfix out.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NODEMAILER = "nodemailer@6.9.16"
POSTAL_MIME = "postal-mime@4.0.0"
EXIM = "exim4-daemon-light"
_EXIM_LIBRARIES = ("libdb5.3", "libgnutls-dane0", "libidn12", "libidn2-0", "libnsl2", "libpcre2-8-0")
_JDK = "default-jdk-headless"
_JARS = (Path("/usr/share/java/jakarta-mail.jar"), Path("/usr/share/java/jakarta-activation.jar"))
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
    with _alone("apt"):
        if found(program) is None:
            _install(package)
    path = found(program)
    assert path is not None, f"{package} was installed and has no {program}"
    return path


def _install(*packages: str) -> None:
    _apt("update", "-qq", missing=packages)
    _apt("install", "-y", "-qq", "--no-install-recommends", *packages, missing=packages)


def _apt(*command: str, missing: Iterable[str], folder: Path | None = None) -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"{' and '.join(missing)} is missing, and only root on Debian may install it here")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        ["apt-get", *command], env=quiet, cwd=folder, capture_output=True, timeout=_APT_S_MAX, check=False
    )
    if done.returncode:
        pytest.skip(f"apt-get {command[0]} failed: {done.stderr.decode()[-300:]}")


def dying_with_us() -> list[str]:
    """Put in front of a command, it ends with the test run that started it; nothing where that cannot be."""
    setpriv = found("setpriv")
    return [] if setpriv is None else [setpriv, "--pdeathsig", "KILL", "--"]


def _cached(name: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "dispatch-scenarios" / name


def exim() -> str:
    """The path of Exim; where there is none, its package is unpacked and only its libraries installed."""
    installed = found("exim4")
    if installed is not None:
        return installed
    folder = _cached(EXIM)
    program = folder / "usr" / "sbin" / "exim4"
    with _alone("apt"):
        if not program.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _install(*_EXIM_LIBRARIES)
            _apt("download", EXIM, missing=[EXIM], folder=folder)
            (package,) = folder.glob("*.deb")
            subprocess.run(["dpkg", "--extract", str(package), str(folder)], check=True)
    return str(program)


def jakarta_mail() -> tuple[str, str]:
    """The path of java, and a class path with Jakarta Mail."""
    java = needed("java", _JDK)
    needed("javac", _JDK)  # programs in source are compiled as they are started
    with _alone("apt"):
        if not all(map(Path.exists, _JARS)):
            _install("libjakarta-mail-java")
    return java, ":".join(map(str, _JARS))


def node_package(package: str) -> tuple[str, Path]:
    """The path of node, and a folder from which it finds the package, which is named with its version."""
    node, npm = needed("node"), needed("npm")
    folder = _cached(package)
    with _alone("npm"):
        if not (folder / "node_modules" / package.partition("@")[0] / "package.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(
                [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), package],
                capture_output=True,
                timeout=_APT_S_MAX,
                check=True,
            )
    return node, folder
