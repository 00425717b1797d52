"""What all verbs share: the options that name the settings, and how mistakes in them are reported.

A verb declares the options that it takes and hands their values to `load_settings`::

    app = new_command()

    @app.command()
    def serve(config: ConfigOption = None, data: DataOption = None, set_: SetOption = None) -> None:
        loaded = load_settings(config, data, set_)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from dispatch import settings

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
    """The settings in force for this call; raises `SettingsErrors`."""
    chosen = list(overrides or ())
    if data is not None:
        chosen.append(f"spool.directory={data.absolute()}")
    return settings.load(config, os.environ, chosen)


def load_settings(config: Path | None, data: Path | None, overrides: Sequence[str] | None) -> settings.Loaded:
    """As `read_settings`; mistakes are printed, all of them, and end the program with 78."""
    try:
        return read_settings(config, data, overrides)
    except settings.SettingsErrors as errors:
        for mistake in errors.mistakes:
            typer.echo(f"dispatch: {mistake}", err=True)
        raise typer.Exit(os.EX_CONFIG) from None


def print_json(value: object) -> None:
    """One JSON document, indented, to standard output."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
