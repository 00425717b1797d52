"""`dispatch serve`: run the relay in the foreground until it is told to stop."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from textwrap import wrap
from typing import Annotated

import typer

from dispatch.app.supervise import make_data_directory, supervise
from dispatch.cli.options import ConfigOption, DataOption, SetOption, fail, load_settings, new_command
from dispatch.operations.logs import reporter
from dispatch.runtime.sockets import Listening
from dispatch.settings import Settings
from dispatch.settings.deployment import WARNING

app = new_command()


@app.command()
def serve(
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No welcome, only the log.")] = False,
) -> None:
    """Accept mail, keep it safe, deliver it. SIGTERM drains and stops, SIGHUP reads the settings again."""
    loaded = load_settings(config, data, set_)
    settings = loaded.settings
    report = reporter("supervisor", settings.logging.level, settings.logging.format)
    for warning in loaded.warnings:
        report("settings_remark", what=str(warning))
    obstacle = make_data_directory(Path(settings.spool.directory))
    if obstacle is not None:
        fail(os.EX_CANTCREAT, obstacle)
    sources: list[str] = []
    if config is not None:
        sources += ["--config", str(config.absolute())]
    if data is not None:
        sources += ["--data", str(data.absolute())]
    for override in set_ or ():
        sources += ["--set", override]

    def welcome(settings: Settings, listening: Listening) -> None:
        if quiet:
            return
        try:
            typer.echo(_welcome(settings, listening, WARNING in loaded.warnings))
        except OSError:
            # Nobody reads it, which is no reason to end; nor is what Python would flush at the end.
            with suppress(OSError), Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())

    raise typer.Exit(supervise(loaded, sources, report, welcome))


def _program() -> str:
    """What to type for `dispatch`: the name where the shell finds this one, else the path."""
    started = Path(sys.argv[0]).absolute()
    found = shutil.which("dispatch")
    if found is not None and Path(found).absolute() == started:
        return "dispatch"
    return os.path.relpath(started) if started.is_relative_to(Path.cwd()) else str(started)


def _http_lines(settings: Settings, listening: Listening, dispatch: str) -> list[str]:
    ports = [f"{port}" for port in listening.listening_ports("http")]
    ports += [f"{port} (TLS)" for port in listening.listening_ports("https")]
    if not ports:
        return []
    keys = sum(key.enabled for key in settings.api_keys)
    how = f"no key yet: {dispatch} key create NAME --data {settings.spool.directory}"
    if keys:
        how = "1 key" if keys == 1 else f"{keys} keys"
    return [f"  HTTP      port {', '.join(ports)}; {how}"]


def _welcome(settings: Settings, listening: Listening, small: bool) -> str:
    """What listens where, where the data lies, what to type next. `small`: started from a few variables."""
    data = settings.spool.directory
    dispatch = _program()
    ports = listening.listening_ports("smtp")
    lines = [""]
    if small:
        lines += [*wrap(f"WARNING: {WARNING}.", 100, initial_indent="  ", subsequent_indent="  "), ""]
    if ports:
        sources = ", ".join(settings.listener.allowed_cidrs) or "nobody yet (listener.allowed_cidrs)"
        if small:
            sources = "anywhere, after logging in"
        lines.append(f"  SMTP      port {', '.join(map(str, ports))}, from {sources}")
    else:
        lines.append("  SMTP      no port could be bound: nothing is accepted (see the log above)")
    lines += _http_lines(settings, listening, dispatch)
    lines.append(f"  Data      {data}")
    relays = settings.effective_relays()
    default = settings.default_relay()
    if default.kind == "capture":
        lines += [
            f"  Relay     {default.name}: NOTHING LEAVES THIS MACHINE. Mail is kept in the local inbox.",
            "",
            "  Send one  printf 'Subject: Hello\\n\\nIt works.\\n' | curl -sS --crlf smtp://127.0.0.1:"
            f"{ports[0] if ports else 2525} --mail-from me@example.org --mail-rcpt you@example.org -T -",
            f"  Look      {dispatch} inbox list --data {data}",
        ]
    else:
        others = "" if len(relays) == 1 else f" (and {len(relays) - 1} more)"
        where = f"{default.host}:{default.port}"
        if default.kind == "direct":
            where = "directly to the mail hosts of each recipient's domain"
        lines += [
            f"  Relay     {default.name}: {where}{others}",
            "",
            f"  Look      {dispatch} queue list --data {data}",
            f"            {dispatch} history --data {data}",
        ]
    return "\n".join([*lines, ""])
