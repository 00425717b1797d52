"""The command line's way to the delivery process: a question, an answer, or plain words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from dispatch.app.folders import Folders
from dispatch.cli.options import fail
from dispatch.queue.requests import Answer, Refused, Request
from dispatch.runtime.bus import socket_path
from dispatch.runtime.bus_client import BusClient, BusError, BusFault

Wanted = TypeVar("Wanted")


def ask_delivery(data: Path, request: Request, wanted: type[Wanted]) -> Wanted:
    """Ask, or end the program: with 69 (EX_UNAVAILABLE) where the relay does not run, with 65 (EX_DATAERR)
    where delivery refuses."""
    path = socket_path(Folders(data).run, "delivery")
    try:
        with BusClient(path, msgspec.msgpack.Decoder(Answer)) as client:
            answer = client.ask(request)
    except BusFault as fault:
        fail_without_delivery(data, fault)
    if isinstance(answer, BusError):
        fail(os.EX_SOFTWARE, f"the delivery process could not do it: {answer.message}; its log says more")
    if isinstance(answer, Refused):
        fail(os.EX_DATAERR, f"nothing was done: {answer.why}.")
    assert isinstance(answer, wanted), f"{type(answer).__name__} where {wanted.__name__} was expected"
    return answer


def fail_without_delivery(data: Path, fault: BusFault) -> NoReturn:
    """The delivery process does not answer: say what to do about it."""
    if isinstance(fault.__cause__, PermissionError):
        fail(os.EX_NOPERM, str(fault), "Run this as the user whose relay it is, or as root.")
    fail(
        os.EX_UNAVAILABLE,
        f"no answer from the delivery process: {fault}",
        f"Is the relay running on {data}? `dispatch serve --data {data}` starts it.",
    )
