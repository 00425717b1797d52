"""The command line's way to the intake process."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from dispatch.app.folders import Folders
from dispatch.cli.options import fail
from dispatch.intake.requests import DoorRequest, Doors
from dispatch.runtime.bus import socket_path
from dispatch.runtime.bus_client import BusClient, BusError, BusFault


def ask_intake(data: Path, request: DoorRequest) -> Doors:
    """Ask, or end the program: with 69 (EX_UNAVAILABLE) where the relay does not run."""
    try:
        with BusClient(socket_path(Folders(data).run, "intake"), msgspec.msgpack.Decoder(Doors)) as client:
            answer = client.ask(request)
    except BusFault as fault:
        if isinstance(fault.__cause__, PermissionError):
            fail(os.EX_NOPERM, str(fault), "Run this as the user whose relay it is, or as root.")
        fail(
            os.EX_UNAVAILABLE,
            f"no answer from the intake process: {fault}",
            f"Is the relay running on {data}? `dispatch serve --data {data}` starts it.",
        )
    if isinstance(answer, BusError):
        fail(os.EX_SOFTWARE, f"the intake process could not do it: {answer.message}; its log says more")
    return answer
