"""What all verbs share: the options that name the settings, how an end is told, how a time is shown.

A verb declares the options that it takes and hands their values to `load_settings`, or to `data_directory`
where that is all it needs to know::

    app = new_command()

    @app.command()
    def serve(config: ConfigOption = None, data: DataOption = None, set_: SetOption = None) -> None:
        loaded = load_settings(config, data, set_)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer

from dispatch import settings
from dispatch.app.folders import Folders
from dispatch.settings.sources import Given

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file; default /etc/dispatch/dispatch.toml."),
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Data directory; the same as --set spool.directory=DIR."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting, stronger than all others. Repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

DATE_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"]


def new_command() -> typer.Typer:
    """The `app` of a verb that does one thing: it has a single command."""
    return typer.Typer(rich_markup_mode=None, add_completion=False)


def new_group(help_text: str) -> typer.Typer:
    """The `app` of a verb with commands of its own; called without one, it shows them."""
    app = typer.Typer(
        help=help_text, invoke_without_command=True, rich_markup_mode=None, add_completion=False
    )

    @app.callback()
    def _show_commands(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    return app


def read_settings(config: Path | None, data: Path | None, overrides: Sequence[str] | None) -> settings.Loaded:
    """The settings in force for this call; raises `SettingsErrors`.

    Of what stands in the database all but the secrets, which stay sealed and are only known to be there.
    """
    chosen = list(overrides or ())
    if data is not None:
        chosen.append(f"spool.directory={data.absolute()}")
    database = Folders(settings.data_directory(config, os.environ, chosen)).settings_db
    return settings.load(config, os.environ, chosen, stored=_stored(database))


def _stored(database: Path) -> list[Given]:
    try:
        if not database.exists():
            return []
    except PermissionError:
        typer.echo(f"note: {database} is not this user's to read, and was left out.", err=True)
        return []
    # Only who has a database pays for its driver.
    from dispatch.store.settings import read_settings as read_settings_db
    from dispatch.store.sqlite import StoreFault

    try:
        return read_settings_db(database)
    except StoreFault as error:
        fail(os.EX_IOERR, str(error))


def load_settings(config: Path | None, data: Path | None, overrides: Sequence[str] | None) -> settings.Loaded:
    """As `read_settings`; mistakes are printed, all of them, and end the program with 78."""
    try:
        return read_settings(config, data, overrides)
    except settings.SettingsErrors as errors:
        fail(os.EX_CONFIG, *map(str, errors.mistakes))


def data_directory(
    config: Path | None, data: Path | None, overrides: Sequence[str] | None, *, holding: str = ""
) -> Path:
    """The data directory that is meant; one that is not there ends the program with 66 (EX_NOINPUT).

    `holding`: what it must hold, as a path below it.
    """
    folder = Path(load_settings(config, data, overrides).settings.spool.directory)
    if not (folder / holding).exists():
        missing = f"holds no {holding}" if folder.exists() else "does not exist"
        fail(os.EX_NOINPUT, f"{folder} {missing}; name the data directory of the relay with --data.")
    return folder


def fail(code: int, *reasons: str) -> NoReturn:
    """Say why on standard error, and end the program with a code of sysexits (`os.EX_*`)."""
    for reason in reasons:
        typer.echo(f"dispatch: {reason}", err=True)
    raise typer.Exit(code)


def shown_time(wall_ms: int) -> str:
    """A stored time for a person, in UTC as everything here is."""
    return datetime.fromtimestamp(wall_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def wall_ms(when: datetime | None) -> int | None:
    """A time that a person gave, in UTC, as times are stored."""
    return None if when is None else int(when.replace(tzinfo=UTC).timestamp() * 1000)


def print_json(value: object) -> None:
    """One JSON document, indented, to standard output."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
