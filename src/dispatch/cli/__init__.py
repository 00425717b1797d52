"""The command line: one file a verb, imported when the verb is used and not before.

`dispatch --help` and every verb pay only for what they need; a start of the relay's own processes must
not wait for a table renderer. So this module imports Typer and nothing of the product, and the
one-line help of each verb stands here, in the registry. A verb's module has an `app`, a `typer.Typer`.

Exit codes are those of sysexits (`os.EX_*`): 0 done, 64 called wrongly, 74 a file cannot be read or written
just now, 77 not this user's data, 78 the settings have mistakes. The handbook has all of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Annotated, NamedTuple, Protocol

import typer
import typer.core
import typer.main

from dispatch import __version__


class Verb(NamedTuple):
    name: str
    help: str
    module: str


VERBS = (
    Verb("serve", "Run the relay: accept mail, keep it safe, deliver it.", "dispatch.cli.serve"),
    Verb("queue", "See what waits and why; retry, hold, release or cancel it.", "dispatch.cli.queue"),
    Verb("history", "What became of each message.", "dispatch.cli.history"),
    Verb("stats", "Counts of today, by relay.", "dispatch.cli.stats"),
    Verb("inbox", "Mail that was captured instead of sent.", "dispatch.cli.inbox"),
    Verb("spool", "Verify the logs on disk, or export the mail in them.", "dispatch.cli.spool"),
    Verb("ledger", "Prove that nothing was lost.", "dispatch.cli.ledger"),
    Verb("route", "See which relay would take a message, and why.", "dispatch.cli.route"),
    Verb("config", "Check, list and explain the settings.", "dispatch.cli.config"),
)
"""In the order of `dispatch --help`. A new verb is a line here and its file."""


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


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments say; returns the exit code."""
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


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))
