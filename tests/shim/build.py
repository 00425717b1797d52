"""Compiles the shim, once for each state of its source, into a cache outside the tree."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

FLAGS = (
    *("-std=c11", "-O2", "-g", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread"),
    *("-Wall", "-Wextra", "-Werror"),
)
_SOURCE = Path(__file__).parent
_INSTALL_S_MAX = 300


class NoCompiler(RuntimeError):
    """The shim cannot be compiled here; the text says what to install."""


def built() -> Path:
    """The shared object's path. Raises `NoCompiler`."""
    sources = sorted(_SOURCE.glob("*.[ch]"))
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for source in sources:
        digest.update(source.read_bytes())
    cache = Path(tempfile.gettempdir()) / f"dispatch-shim-{os.getuid()}"
    cache.mkdir(mode=0o755, exist_ok=True)
    assert cache.stat().st_uid == os.getuid(), f"{cache} is somebody else's"
    library = cache / f"{digest.hexdigest()[:16]}.so"
    if not library.exists():
        _compile([str(source) for source in sources if source.suffix == ".c"], library)
    return library


def _compile(sources: list[str], library: Path) -> None:
    # Parallel test runs may all compile; each renames a whole object into place.
    unfinished = library.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        [_compiler(), *FLAGS, "-o", str(unfinished), *sources, "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and "stdio.h" in done.stderr:
        raise NoCompiler(f"the C library's headers are missing: install libc6-dev\n{done.stderr}")
    assert done.returncode == 0, f"the shim does not compile:\n{done.stderr}"
    unfinished.replace(library)


def _compiler() -> str:
    found = shutil.which("cc") or shutil.which("gcc")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _install("gcc", "libc6-dev")
        found = shutil.which("cc") or shutil.which("gcc")
    if found is None:
        raise NoCompiler("no C compiler: install gcc and libc6-dev (Debian), or gcc and glibc-devel (Fedora)")
    return found


def _install(*packages: str) -> None:
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # Parallel test runs wait for each other at apt's own lock.
    apt = ["apt-get", "-o", f"DPkg::Lock::Timeout={_INSTALL_S_MAX}", "-qq"]
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(
            [*apt, *command], env=quiet, capture_output=True, text=True, timeout=_INSTALL_S_MAX, check=False
        )
        if done.returncode:
            raise NoCompiler(f"apt-get {command[0]} failed: {done.stderr[-300:]}")
