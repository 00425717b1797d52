"""`dispatch login`: who may submit mail with a user name and a password.

A password is hashed here, in the command, and only its hash goes anywhere.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from typing import Annotated

import msgspec
import typer

from dispatch.app.folders import Folders
from dispatch.cli.control_bus import Sources, ask_control, print_changed
from dispatch.cli.entries import (
    FromOption,
    KeysArgument,
    NameArgument,
    RateOption,
    RecipientOption,
    SenderOption,
    Use,
    add_common_verbs,
    given_limits,
    written_keys,
)
from dispatch.cli.options import (
    ConfigOption,
    DataOption,
    JsonOption,
    SetOption,
    new_group,
    print_json,
    shown_time,
)
from dispatch.cli.passwords import PasswordStdinOption, ask_password
from dispatch.security.passwords import hash_password
from dispatch.settings.model import LOGINS
from dispatch.settings.requests import Changed, PutEntry

app = new_group("Add, change, list and remove logins; hash a password.")

RelayOption = Annotated[
    str, typer.Option("--relay", metavar="NAME", help="The relay that all of its mail takes, and no other.")
]
MayNameOption = Annotated[
    bool,
    typer.Option("--may-name-relay", help="Its messages may name their relay themselves (X-Dispatch-Relay)."),
]


@app.command()
def add(
    name: NameArgument,
    from_: FromOption = None,
    sender: SenderOption = None,
    recipient: RecipientOption = None,
    rate: RateOption = "",
    relay: RelayOption = "",
    may_name_relay: MayNameOption = False,
    password_stdin: PasswordStdinOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Make a login; its password is asked for."""
    keys = given_limits(from_, sender, recipient, rate)
    if relay:
        keys["relay"] = relay
    if may_name_relay:
        keys["may_name_relay"] = True
    keys["password"] = hash_password(ask_password(f"Password of {name}", from_stdin=password_stdin))
    order = PutEntry(LOGINS, name, keys, "new")
    changed = ask_control(Sources(config, data, set_ or ()), order, Changed)
    print_changed(f"login {name} is added.", changed, as_json)


@app.command("set")
def set_keys(
    name: NameArgument,
    keys: KeysArgument = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Change keys of a login that was made by command."""
    order = PutEntry(LOGINS, name, written_keys(LOGINS, keys), "existing")
    changed = ask_control(Sources(config, data, set_ or ()), order, Changed)
    print_changed(f"login {name} is changed.", changed, as_json)


@app.command()
def password(
    name: NameArgument,
    password_stdin: PasswordStdinOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Give a login another password; the old one is not taken any more."""
    hashed = hash_password(ask_password(f"New password of {name}", from_stdin=password_stdin))
    order = PutEntry(LOGINS, name, {"password": hashed}, "existing")
    changed = ask_control(Sources(config, data, set_ or ()), order, Changed)
    print_changed(f"login {name} has a new password.", changed, as_json)


@app.command("hash")
def hash_(password_stdin: PasswordStdinOption = False, as_json: JsonOption = False) -> None:
    """Print the hash of a password, for the settings file."""
    hashed = hash_password(ask_password("Password", from_stdin=password_stdin))
    if as_json:
        print_json({"hash": hashed})
    else:
        typer.echo(hashed)


def _uses(sources: Sources, names: Collection[str]) -> dict[str, Use]:
    """How much mail of each login was kept, and when the last of it came; nothing without a history."""
    database = Folders(sources.folder).history_db
    if not database.exists():
        return {}
    # Only who has a history pays for its driver.
    from dispatch.store.history_reader import HistoryReader
    from dispatch.store.sqlite import StoreFault

    try:
        with closing(HistoryReader.open(database)) as reader:
            used = reader.logins()
    except StoreFault as fault:
        typer.echo(f"note: when they were used is not known: {fault}", err=True)
        return {}

    def use(name: str) -> Use:
        known = used.get(name)
        if known is None:
            return Use({"messages": 0, "last_ms": None}, "no mail yet")
        facts = msgspec.structs.asdict(known)
        return Use(facts, f"{known.messages} messages, the last one {shown_time(known.last_ms)} UTC")

    return {name: use(name) for name in names}


add_common_verbs(app, LOGINS, _uses)
