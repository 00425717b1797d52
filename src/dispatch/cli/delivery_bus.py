"""The command line's way to the delivery process: a question, an answer, or plain words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec
import typer

from dispatch.app.folders import Folders
from dispatch.queue.requests import Answer, Request
from dispatch.runtime.bus import socket_path
from dispatch.runtime.bus_client import BlockingBusClient, BusError, BusFault

Wanted = TypeVar("Wanted")


def ask_delivery(data: Path, request: Request, wanted: type[Wanted]) -> Wanted:
    """Ask, or end the program with 69 (EX_UNAVAILABLE) where the relay does not run."""
    path = socket_path(Folders(data).run, "delivery")
    try:
        with BlockingBusClient(path, msgspec.msgpack.Decoder(Answer)) as client:
            answer = client.ask(request)
    except BusFault as fault:
        typer.echo(f"dispatch: no answer from the delivery process: {fault}", err=True)
        typer.echo(f"Is the relay running on {data}? `dispatch serve --data {data}` starts it.", err=True)
        raise typer.Exit(os.EX_UNAVAILABLE) from None
    if isinstance(answer, BusError):
        typer.echo(f"dispatch: {answer.message}", err=True)
        raise typer.Exit(os.EX_SOFTWARE)
    assert isinstance(answer, wanted), f"{type(answer).__name__} where {wanted.__name__} was expected"
    return answer
