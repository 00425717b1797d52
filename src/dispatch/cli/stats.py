"""`dispatch stats`: how much was received, delivered, deferred, and failed, by relay; who was turned away.

Reads history directly; works whether the relay runs or not.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from dispatch.app.folders import HISTORY, Folders
from dispatch.cli.options import (
    ConfigOption,
    DataOption,
    JsonOption,
    SetOption,
    data_directory,
    fail,
    new_command,
    print_json,
)
from dispatch.outcomes.statistics import Counts, Statistics, between, by_day
from dispatch.store.history_reader import HistoryReader
from dispatch.store.sqlite import StoreFault

app = new_command()

COLUMNS = ("received", "delivered", "captured", "deferred", "failed", "uncertain", "cancelled", "suppressed")


def open_history(config: Path | None, data: Path | None, overrides: list[str] | None) -> HistoryReader:
    """The history of the data directory that is meant; ends the program with 66 where there is none."""
    folders = Folders(data_directory(config, data, overrides, holding=HISTORY))
    try:
        return HistoryReader.open(folders.history_db)
    except StoreFault as fault:
        fail(os.EX_IOERR, str(fault))


@app.command()
def stats(
    days: Annotated[int, typer.Option("--days", min=1, max=3660, help="So many days, today included.")] = 1,
    per_day: Annotated[
        bool, typer.Option("--per-day", help="A line for each day, not for each relay.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Counts of today (UTC): messages received, deliveries by what became of them, clients turned away."""
    last = datetime.fromtimestamp(time.time(), UTC).date()
    first = last - timedelta(days=days - 1)
    reader = open_history(config, data, set_)
    try:
        statistics = between(reader, first, last)
        each_day = by_day(reader, first, last) if per_day else []
    except StoreFault as fault:
        fail(os.EX_IOERR, str(fault))
    finally:
        reader.close()
    if as_json:
        print_json({**msgspec.to_builtins(statistics), **({"days": each_day} if per_day else {})})
        return
    rows = (
        [(str(day.first_day), day.total) for day in each_day] if per_day else list(statistics.relays.items())
    )
    _print(statistics, rows)


def _print(statistics: Statistics, rows: list[tuple[str, Counts]]) -> None:
    period = str(statistics.first_day)
    if statistics.first_day != statistics.last_day:
        period += f" to {statistics.last_day}"
    width = max([len(period) + len(" (UTC)"), *(len(name) for name, _ in rows)])
    typer.echo(" ".join([f"{period} (UTC)".ljust(width), *(column.rjust(10) for column in COLUMNS)]))
    for name, counts in (*rows, ("total", statistics.total)):
        # What is received is not any relay's yet.
        cells = [str(getattr(counts, column)) for column in COLUMNS]
        if name in statistics.relays:
            cells[0] = "–"
        typer.echo(" ".join([name.ljust(width), *(cell.rjust(10) for cell in cells)]))
    if statistics.refused:
        kinds = ", ".join(f"{kind} {count}" for kind, count in statistics.refused.items())
        typer.echo(f"Turned away: {kinds}.")
    if statistics.total.uncertain_power:
        typer.echo(f"{statistics.total.uncertain_power} may have been delivered unseen before a power cut.")
