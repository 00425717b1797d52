"""What the figures were taken on, in a paragraph: they mean nothing without it."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

from bench.disks import name_of, sync_ms
from dispatch import __version__


def description(folder: Path) -> str:
    """The machine, its disk at `folder`, its software."""
    sentences = [
        f"{os.cpu_count()} cores of {_processor()}",
        f"{_memory_gib():.0f} GiB of memory",
        f"{name_of(folder)} that syncs 4.5 KB in {sync_ms(folder):.2f} ms",
        f"Linux {platform.release()}, {_distribution()}",
        f"Python {platform.python_version()}, Postfix {_postfix_version()}",
        f"Dispatch {__version__} ({_commit()})",
    ]
    return "; ".join(sentences) + "."


def moment() -> str:
    """Date, time and how busy the machine was."""
    one, five, _ = os.getloadavg()
    now = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    return f"{now} UTC, load average {one:.1f} ({five:.1f} over five minutes) before it"


def _processor() -> str:
    named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = named[0].partition(":")[2].strip() if named else platform.machine()
    virtual = " hypervisor" in Path("/proc/cpuinfo").read_text()
    return f"a virtual machine ({model})" if virtual else model


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)


def _distribution() -> str:
    return platform.freedesktop_os_release()["PRETTY_NAME"]


def _postfix_version() -> str:
    return _said("/usr/sbin/postconf", "-h", "mail_version")


def _commit() -> str:
    here = str(Path(__file__).parent)
    changed = (
        "+" if _said("git", "--no-optional-locks", "-C", here, "status", "--porcelain", "../src") else ""
    )
    return (_said("git", "-C", here, "rev-parse", "--short", "HEAD") or "no commit") + changed


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""
