"""`dispatch suppression`: addresses that must not be tried, and why."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from dispatch.cli.control_bus import Sources, ask_control, print_changed
from dispatch.cli.options import (
    ConfigOption,
    DataOption,
    JsonOption,
    SetOption,
    fail,
    new_group,
    print_json,
    shown_time,
)
from dispatch.settings.requests import (
    AddSuppressions,
    Changed,
    ListSuppressions,
    RemoveSuppressions,
    Suppressed,
    Suppressions,
)

ORDER_MAX = 10_000
"""Addresses that control is told at a time."""

app = new_group("Addresses that no mail is sent to.")

AddressesArgument = Annotated[list[str] | None, typer.Argument(metavar="[ADDRESS]...")]
FileOption = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="Addresses, one a line; - is the standard input."),
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for whoever asks later.")]
PartArgument = Annotated[str, typer.Argument(metavar="[PART]", help="Those that contain it.")]


@app.command()
def add(
    addresses: AddressesArgument = None,
    file: FileOption = None,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Put addresses on the list: mail to them is refused, and what waits for them is not tried."""
    changed = [
        ask_control(Sources(config, data, set_ or ()), AddSuppressions(some, reason), Changed)
        for some in _orders(addresses, file)
    ]
    _print(changed, "added to", "there already", as_json)


@app.command()
def remove(
    addresses: AddressesArgument = None,
    file: FileOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Take addresses off the list."""
    changed = [
        ask_control(Sources(config, data, set_ or ()), RemoveSuppressions(some), Changed)
        for some in _orders(addresses, file)
    ]
    _print(changed, "removed from", "not there", as_json)


@app.command("list")
def list_(
    part: PartArgument = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Show the list: each address, since when, who put it there, and why."""
    found = _listed(Sources(config, data, set_ or ()), part)
    if as_json:
        print_json(list(found))
        return
    shown = False
    for each in found:
        shown = True
        why = f"  {each.reason}" if each.reason else ""
        typer.echo(f"{shown_time(each.since_ms)}  {each.address}  ({each.origin}){why}")
    if not shown:
        typer.echo("No such address is suppressed." if part else "No address is suppressed.")


def _listed(sources: Sources, part: str) -> Iterator[Suppressed]:
    """All of it, page by page."""
    after, more = "", True
    while more:
        page = ask_control(sources, ListSuppressions(part, after), Suppressions)
        yield from page.suppressions
        more = page.more
        after = page.suppressions[-1].address if page.suppressions else ""


def _orders(addresses: list[str] | None, file: Path | None) -> Iterator[tuple[str, ...]]:
    """What was named, in as many orders as it takes; ends the program with 64 where nothing was."""
    if (file is None) is (not addresses):
        fail(os.EX_USAGE, "name addresses, or a file of them with --file.")
    given = list(addresses or ()) if file is None else _read(file)
    if not given:
        fail(os.EX_DATAERR, f"{file} holds no address.")
    for begin in range(0, len(given), ORDER_MAX):
        yield tuple(given[begin : begin + ORDER_MAX])


def _read(file: Path) -> list[str]:
    text = sys.stdin.read() if str(file) == "-" else file.read_text()
    return [line for line in map(str.strip, text.splitlines()) if line]


def _print(orders: list[Changed], done: str, otherwise: str, as_json: bool) -> None:
    count = sum(order.count for order in orders)
    last = msgspec.structs.replace(orders[-1], count=count)
    addresses = "1 address" if count == 1 else f"{count} addresses"
    what = f"{addresses} {done} the suppression list." if count else f"Nothing is changed: {otherwise}."
    print_changed(what, last, as_json)
