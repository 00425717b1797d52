"""`dispatch relay`: next hops that are configured by command."""

from __future__ import annotations

import os
from typing import Annotated

import msgspec
import typer

from dispatch.cli.control_bus import Sources, watch_test
from dispatch.cli.entries import (
    KeysArgument,
    NameArgument,
    PasswordOption,
    add_common_verbs,
    add_writing_verbs,
    written_keys,
)
from dispatch.cli.options import ConfigOption, DataOption, JsonOption, SetOption, fail, new_group, print_json
from dispatch.cli.passwords import PasswordStdinOption, ask_password
from dispatch.mail.report import CHECK_RESULT
from dispatch.settings.model import RELAYS
from dispatch.settings.requests import TestRelay

app = new_group("Add, change, list, test and remove relays.")
add_writing_verbs(app, RELAYS)
add_common_verbs(app, RELAYS)


@app.command("test", help="Try a relay out: names, connection, TLS, login; with --to also a message.")
def test_relay(
    name: NameArgument,
    keys: KeysArgument = None,
    to: Annotated[str, typer.Option("--to", metavar="ADDRESS", help="Send a message there.")] = "",
    sender: Annotated[
        str, typer.Option("--from", metavar="ADDRESS", help="Its sender; without it, its recipient.")
    ] = "",
    password: PasswordOption = False,
    password_stdin: PasswordStdinOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Keys count for this test only: what is not saved yet can be tried, or a whole new relay."""
    if sender and not to:
        fail(os.EX_USAGE, "--from without --to sends nothing: say where to.")
    tried = {key: "" if value is None else str(value) for key, value in written_keys(RELAYS, keys).items()}
    if password or password_stdin:
        tried["password"] = ask_password(f"Password of {name}", from_stdin=password_stdin)
    fine = False
    for step in watch_test(Sources(config, data, set_ or ()), TestRelay(name, tried, sender or to, to)):
        if step.what == CHECK_RESULT:
            fine = step.fine
        if as_json:
            print_json(msgspec.structs.asdict(step))
        else:
            mark = "ok" if step.fine else "FAILED"
            typer.echo(f"{step.took_ms:>7} ms  {mark:<6}  {step.what}: {step.words}")
    if not fine:
        raise typer.Exit(os.EX_UNAVAILABLE)
