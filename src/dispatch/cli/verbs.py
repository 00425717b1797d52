"""The verbs as Typer shows and calls them: each from the registry, imported when it is used.

`sendmail` is not among them: it has a command line of its own (`dispatch.cli.sendmail_arguments`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Annotated, Protocol

import typer
import typer.core
import typer.main

from dispatch import __version__
from dispatch.cli import VERBS


class _HelpWriter(Protocol):
    def section(self, name: str) -> AbstractContextManager[None]: ...

    def write_dl(self, rows: Sequence[tuple[str, str]]) -> None: ...


class _Verbs(typer.core.TyperGroup):
    """Knows the verbs by name and one line of help; imports the one that is wanted."""

    def list_commands(self, ctx: object) -> list[str]:
        return [verb.name for verb in VERBS]

    def get_command(
        self, ctx: object, cmd_name: str
    ) -> typer.core.TyperCommand | typer.core.TyperGroup | None:
        module = next((verb.module for verb in VERBS if verb.name == cmd_name), None)
        if module is None:
            return None
        app: typer.Typer = import_module(module).app
        command = typer.main.get_command(app)
        assert isinstance(command, (typer.core.TyperCommand, typer.core.TyperGroup))
        command.name = cmd_name
        return command

    def format_commands(self, ctx: object, formatter: _HelpWriter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb.name, verb.help) for verb in VERBS])


application = typer.Typer(
    cls=_Verbs,
    help="Dispatch: a self-hosted outbound mail relay that loses nothing it acknowledged.",
    invoke_without_command=True,
    rich_markup_mode=None,  # rich's boxes would cost more time than everything else in --help
    pretty_exceptions_enable=False,
)


@application.callback()
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"dispatch {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run_verb(arguments: Sequence[str]) -> int:
    """Do what the arguments say; returns the exit code."""
    _open_standard_files()
    try:
        code = typer.main.get_command(application).main(
            list(arguments), prog_name="dispatch", standalone_mode=False
        )
    except typer.TyperException as error:
        typer.echo(f"dispatch: {error.format_message()}", err=True)
        typer.echo("`dispatch --help`, or --help behind any command, shows what is possible.", err=True)
        return os.EX_USAGE
    except PermissionError as error:
        typer.echo(f"dispatch: {error}", err=True)
        typer.echo("dispatch: Run this as the user whose relay it is, or as root.", err=True)
        return os.EX_NOPERM
    except OSError as error:
        typer.echo(f"dispatch: {error}", err=True)
        return os.EX_IOERR
    except typer.Abort:
        return 130
    return code if isinstance(code, int) else os.EX_OK


def _open_standard_files() -> None:
    """Where who started us has closed some of 0, 1 and 2, a log or a socket would get that number, and be
    written to by whoever prints."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
