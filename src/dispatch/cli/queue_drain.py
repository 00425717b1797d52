"""`dispatch queue drain` and `accept`: take no more mail, wait until the queue is empty; and take mail again.

The doors stay closed when the command has ended, however it ends, until `queue accept` opens them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from dispatch.cli.delivery_bus import ask_delivery
from dispatch.cli.intake_bus import ask_intake
from dispatch.cli.options import ConfigOption, DataOption, JsonOption, SetOption, data_directory, print_json
from dispatch.intake.requests import AskDoors, CloseDoors, OpenDoors
from dispatch.queue.requests import AskLanes, Lanes

LOOK_S = 1.0
INTERRUPTED = 130

TimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout", min=0.0, metavar="SECONDS", help="Wait no longer; 0 only closes the doors."),
]


class Remaining(msgspec.Struct, frozen=True):
    """What is still here."""

    connections: int
    """Clients in the middle of a message."""
    in_log: int
    """Messages that were taken up and are under way, or about to be parked."""
    in_log_bytes: int
    """Of the mail log that nobody has taken up."""
    waiting: int
    """Deliveries in the parked store."""
    kept_back: int
    """Deliveries that a person must look at: held, or quarantined."""

    @property
    def moving(self) -> bool:
        """Something is left that goes by itself."""
        return bool(self.connections or self.in_log or self.in_log_bytes or self.waiting)


def drain(
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Take no more mail, wait until nothing waits, and say what remains. `queue accept` takes mail again."""
    folder = data_directory(config, data, set_)
    ask_intake(folder, CloseDoors())
    end_s = None if timeout is None else time.monotonic() + timeout
    remaining, lanes = _look(folder)
    _say_what_is_paused(lanes)
    code = os.EX_OK
    try:
        while remaining.moving and (end_s is None or time.monotonic() < end_s):
            time.sleep(LOOK_S)
            remaining, lanes = _look(folder)
    except KeyboardInterrupt:
        code = INTERRUPTED
    empty = not (remaining.moving or remaining.kept_back)
    if as_json:
        print_json({"empty": empty, **msgspec.structs.asdict(remaining)})
    else:
        _say(remaining, lanes, empty=empty)
    if code or not empty:
        raise typer.Exit(code or os.EX_TEMPFAIL)


def accept(
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Take mail again, after `queue drain`."""
    doors = ask_intake(data_directory(config, data, set_), OpenDoors())
    if as_json:
        print_json(doors)
    else:
        typer.echo("Mail is taken.")


def _look(folder: Path) -> tuple[Remaining, Lanes]:
    # In the order in which mail flows: what passes on meanwhile is seen further down.
    doors = ask_intake(folder, AskDoors())
    lanes = ask_delivery(folder, AskLanes(), Lanes)
    remaining = Remaining(
        doors.connections, lanes.in_log, lanes.waiting_in_log_bytes, lanes.waiting, lanes.kept_back
    )
    return remaining, lanes


def _say_what_is_paused(lanes: Lanes) -> None:
    paused = [lane.relay for lane in lanes.lanes if lane.paused]
    if lanes.paused:
        typer.echo("note: the queue is paused, and does not empty (`dispatch queue resume`).", err=True)
    elif paused:
        typer.echo(f"note: paused, and not emptied: {', '.join(paused)}.", err=True)


def _say(remaining: Remaining, lanes: Lanes, *, empty: bool) -> None:
    if empty:
        typer.echo("The queue is empty.")
    if remaining.connections:
        typer.echo(f"{remaining.connections} clients are in the middle of a message.")
    if remaining.in_log or remaining.in_log_bytes:
        untaken = f", and {remaining.in_log_bytes} bytes to be taken up" if remaining.in_log_bytes else ""
        typer.echo(f"{remaining.in_log} messages are under way{untaken}.")
    if remaining.waiting:
        typer.echo(f"{remaining.waiting} deliveries wait (`dispatch queue list`):")
        for lane in lanes.lanes:
            if lane.waiting:
                typer.echo(f"  {lane.relay}: {lane.waiting}, breaker {lane.breaker}")
    if remaining.kept_back:
        typer.echo(f"{remaining.kept_back} deliveries are held, and wait for a person.")
    typer.echo("No mail is taken (`dispatch queue accept` takes it again).")
