"""`dispatch config`: check the settings, list them, explain one, print the reference.

Works on the sources (file, environment, `--set`) and needs no running relay.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from typing import Annotated

import typer

from dispatch.cli.options import (
    ConfigOption,
    DataOption,
    JsonOption,
    SetOption,
    fail,
    load_settings,
    new_group,
    print_json,
    read_settings,
)
from dispatch.settings import Loaded, Mistake, SettingsErrors, values_of
from dispatch.settings.keys import Entry
from dispatch.settings.kinds import shown
from dispatch.settings.model import KEYS, REPEATED, all_keys, find_key
from dispatch.settings.reference import reference_page

app = new_group("Check, list and explain the settings.")

_MASKED = "***"


@app.command()
def check(
    config: ConfigOption = None, data: DataOption = None, set_: SetOption = None, as_json: JsonOption = False
) -> None:
    """Report every mistake in the settings.

    The exit code is 78 if there is any."""
    try:
        loaded = read_settings(config, data, set_)
    except SettingsErrors as errors:
        if as_json:
            print_json(
                {"ok": False, "mistakes": [_mistake_fields(m) for m in errors.mistakes], "warnings": []}
            )
            raise typer.Exit(os.EX_CONFIG) from None
        fail(os.EX_CONFIG, *map(str, errors.mistakes))
    if as_json:
        print_json({"ok": True, "mistakes": [], "warnings": loaded.warnings})
        return
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo("The settings are good.")


@app.command(name="list")
def list_(
    config: ConfigOption = None, data: DataOption = None, set_: SetOption = None, as_json: JsonOption = False
) -> None:
    """Show every key, its value and its origin."""
    loaded = load_settings(config, data, set_)
    values = values_of(loaded.settings)
    if as_json:
        print_json(
            [
                {"key": path, "value": _masked(path, value), "origin": loaded.origins[path]._asdict()}
                for path, value in values.items()
            ]
        )
        return
    rows = [(path, shown(_masked(path, value)), str(loaded.origins[path])) for path, value in values.items()]
    # A long list must not push every other origin out of sight.
    widths = [max(len(row[0]) for row in rows), min(44, max(len(row[1]) for row in rows))]
    for path, value, origin in rows:
        typer.echo(f"{path:<{widths[0]}}  {value:<{widths[1]}}  {origin}")


@app.command()
def explain(
    key: Annotated[str, typer.Argument(help="listener.ports, relays.NAME.port, or the last word of a key.")],
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a key means, may be, and is."""
    entry = _entry_named(key)
    try:
        loaded = read_settings(config, data, set_)
    except SettingsErrors:
        loaded = None
    current = _current(entry, key, loaded)
    if as_json:
        fields = _entry_fields(entry)
        print_json({**fields, "current": None if loaded is None else current})
        return
    lines = [("type", entry.key.kind.type_name), ("limits", entry.key.kind.limits)]
    lines += [("default", entry.default_text), ("environment", entry.variable)]
    lines.append(("a change takes effect", "at once" if entry.key.live else "with the next start"))
    lines += [(path, f"{shown(value['value'])}  ({value['origin']})") for path, value in current.items()]
    if loaded is None:
        lines.append(("value", "unknown: the settings have mistakes, see `dispatch config check`"))
    width = max(len(name) for name, _ in lines)
    typer.echo(f"{entry.path}\n\n{entry.key.help}\n")
    for name, text in lines:
        if text:
            typer.echo(f"{name:<{width}}  {text}")


@app.command()
def reference(as_json: JsonOption = False) -> None:
    """Print the reference page of the manual."""
    if as_json:
        print_json([_entry_fields(entry) for entry in all_keys()])
    else:
        typer.echo(reference_page(), nl=False)


def _entry_named(key: str) -> Entry:
    """The key that a person means: in full, or by a last word that only one key has."""
    wanted = key.strip().lower()
    entry = find_key(wanted)
    section = wanted.partition(".")[0]
    if entry is None and section in REPEATED:
        entry = KEYS[section].get(wanted.rpartition(".")[2])
    named_so = [entry for entry in all_keys() if entry.name == wanted]
    if entry is None and len(named_so) == 1:
        entry = named_so[0]
    if entry is None:
        paths = [entry.path for entry in all_keys()]
        meant = [entry.path for entry in named_so] or get_close_matches(wanted, paths, 3)
        suggestion = (
            f"did you mean {' or '.join(meant)}?" if meant else "`dispatch config list` shows every key"
        )
        fail(os.EX_USAGE, f"there is no key {key}; {suggestion}")
    return entry


def _current(entry: Entry, key: str, loaded: Loaded | None) -> dict[str, dict[str, object]]:
    """The value and origin of the key; of a relay's key for the relay that was named, else for each."""
    if loaded is None:
        return {}
    values = values_of(loaded.settings)
    paths = [path for path in values if find_key(path) is entry]
    asked = key.strip().lower()
    return {
        path: {"value": _masked(path, values[path]), "origin": str(loaded.origins[path])}
        for path in ([asked] if asked in paths else paths)
    }


def _masked(path: str, value: object) -> object:
    entry = find_key(path)
    return _MASKED if entry is not None and entry.key.secret else value


def _mistake_fields(mistake: Mistake) -> dict[str, object]:
    return {**mistake._asdict(), "origin": mistake.origin._asdict()}


def _entry_fields(entry: Entry) -> dict[str, object]:
    key = entry.key
    return {
        "key": entry.path,
        "type": key.kind.type_name,
        "limits": key.kind.limits,
        "default": entry.default_text if entry.default_in_words else entry.default,
        "environment": entry.variable,
        "effect": "live" if key.live else "restart",
        "secret": key.secret,
        "roles": sorted(key.roles),
        "help": key.help,
    }
