"""`dispatch key`: the keys with which programs hand mail in over HTTP.

A key is made here, in the command, and shown once; only its hash goes anywhere. (The key under which secrets
are sealed is `dispatch vault`'s.)
"""

from __future__ import annotations

from typing import Literal

import typer

from dispatch.cli.control_bus import Sources, ask_control, print_changed
from dispatch.cli.entries import (
    FromOption,
    KeysArgument,
    NameArgument,
    RateOption,
    RecipientOption,
    SenderOption,
    add_common_verbs,
    given_limits,
    written_keys,
)
from dispatch.cli.options import ConfigOption, DataOption, JsonOption, SetOption, new_group, print_json
from dispatch.security.api_keys import NewKey, new_key
from dispatch.settings.model import API_KEYS
from dispatch.settings.requests import Changed, PutEntry, Value

app = new_group("Make, list, rotate and revoke the keys of programs that hand mail in over HTTP.")


@app.command()
def create(
    name: NameArgument,
    keys: KeysArgument = None,
    from_: FromOption = None,
    sender: SenderOption = None,
    recipient: RecipientOption = None,
    rate: RateOption = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Make a key, and print it: it cannot be shown again."""
    made = new_key()
    values = written_keys(API_KEYS, keys) | given_limits(from_, sender, recipient, rate)
    _put(made, name, values, "new", Sources(config, data, set_ or ()), f"key {name} is made.", as_json)


@app.command()
def rotate(
    name: NameArgument,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Give a key another secret, and print it; the old one is not taken any more.

    For a change without a gap, make a second key, move the clients, and revoke the first."""
    sources = Sources(config, data, set_ or ())
    _put(new_key(), name, {}, "existing", sources, f"key {name} is a new one now.", as_json)


@app.command("set")
def set_keys(
    name: NameArgument,
    keys: KeysArgument = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Change what a key may do."""
    order = PutEntry(API_KEYS, name, written_keys(API_KEYS, keys), "existing")
    changed = ask_control(Sources(config, data, set_ or ()), order, Changed)
    print_changed(f"key {name} is changed.", changed, as_json)


def _put(
    made: NewKey,
    name: str,
    values: dict[str, Value | None],
    wanted: Literal["new", "existing"],
    sources: Sources,
    words: str,
    as_json: bool,
) -> None:
    values |= {"key_id": made.key_id, "hash": made.hashed}
    changed = ask_control(sources, PutEntry(API_KEYS, name, values, wanted), Changed)
    if as_json:
        print_json({"name": name, "key_id": made.key_id, "key": made.text})
        return
    print_changed(words, changed, as_json)
    typer.echo(made.text)
    typer.echo("Keep it: it is shown this once.", err=True)


add_common_verbs(app, API_KEYS, remove="revoke")
