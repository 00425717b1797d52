"""`dispatch vault`: the key under which all secrets are sealed."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from dispatch.app.publishing import Publisher
from dispatch.app.vault_key import rotate_key
from dispatch.cli.control_bus import Sources, holding
from dispatch.cli.options import (
    ConfigOption,
    DataOption,
    JsonOption,
    SetOption,
    fail,
    new_group,
    print_json,
)
from dispatch.operations.logs import reporter
from dispatch.security.key_file import KeyFault, load_key
from dispatch.security.vault import key_id_of
from dispatch.settings import SettingsErrors

app = new_group("Show or rotate the key under which all secrets are sealed.")


@app.command()
def show(
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Print the key itself, a line for a password safe.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Where the key is, and its fingerprint; not the key."""
    try:
        found = load_key(Sources(config, data, set_ or ()).folder, os.environ)
        line = found.path.read_text("ascii").strip()
    except KeyFault as error:
        fail(os.EX_CONFIG, str(error))
    facts = {"path": str(found.path), "id": key_id_of(found.key)}
    if reveal:
        facts["key"] = line
    if as_json:
        print_json(facts)
    elif reveal:
        typer.echo(line)
    else:
        typer.echo(f"key {facts['id']} in {facts['path']}")
    for remark in found.remarks:
        typer.echo(f"note: {remark}", err=True)


@app.command()
def rotate(
    as_json: JsonOption = False, config: ConfigOption = None, data: DataOption = None, set_: SetOption = None
) -> None:
    """Seal everything with a new key, while the relay is stopped. A start finishes what was cut short."""
    sources = Sources(config, data, set_ or ())
    report = reporter("command", "warning", "text")
    with holding(sources.folder, "stop it first") as folders:
        rotated = rotate_key(folders, os.environ, report)
        publisher = Publisher(folders, sources.arguments(), rotated.key, report)
        try:
            publisher.publish()
        except SettingsErrors as errors:
            # The next start needs good settings all the same, and publishes then.
            for mistake in errors.mistakes:
                typer.echo(f"note: {mistake}", err=True)
        finally:
            publisher.close()
    if as_json:
        print_json({"path": str(rotated.path), "id": key_id_of(rotated.key)})
    else:
        typer.echo(f"Everything is sealed with key {key_id_of(rotated.key)} in {rotated.path} now.")
        typer.echo("Put it into your password safe: `dispatch vault show --reveal`.")
