"""Telling systemd (`Type=notify`) how we are: sd_notify(3) without its library.

Nothing is said, and nothing fails, where nobody listens. The watchdog is fed by the supervisor
only, and only while every child gives signs of life.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


def notify(message: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send `READY=1`, `STOPPING=1`, `WATCHDOG=1`, …; whether anybody took it."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            # A leading "@" stands for the NUL of Linux's abstract namespace.
            sender.sendto(message.encode(), "\0" + address[1:] if address[0] == "@" else address)
    except OSError:
        return False
    return True


def watchdog_interval_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """How often `WATCHDOG=1` is due: half of what systemd allows (sd_watchdog_enabled(3)); None: never."""
    limit_us = environment.get("WATCHDOG_USEC", "")
    pid = environment.get("WATCHDOG_PID", "")
    if not limit_us.isdecimal() or int(limit_us) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(limit_us) / 2_000_000
