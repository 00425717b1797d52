"""What `dispatch relay` and `dispatch rule` have in common, and `dispatch login` in part: tables of the
settings that are made, changed and removed by command, and kept in settings.db.

What stands in the file is changed in the file; it is listed here as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, NamedTuple

import msgspec
import typer

from dispatch.cli.control_bus import Sources, ask_control, print_changed
from dispatch.cli.options import ConfigOption, DataOption, JsonOption, SetOption, fail, print_json
from dispatch.cli.passwords import PasswordStdinOption, ask_password
from dispatch.cli.secret_keys import SecretFromOption, SecretOption, given_secrets
from dispatch.settings.kinds import shown
from dispatch.settings.model import KEYS, LOGINS, REPEATED
from dispatch.settings.requests import Changed, Entries, Entry, ListEntries, PutEntry, RemoveEntry, Value

NameArgument = Annotated[str, typer.Argument(metavar="NAME")]
KeysArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="As in the settings file; `KEY=` gives it its default."),
]
FromOption = Annotated[
    list[str] | None,
    typer.Option("--from", metavar="CIDR", help="A network from which it may be used. Repeatable."),
]
SenderOption = Annotated[
    list[str] | None,
    typer.Option("--sender", metavar="PATTERN", help="A sender that it may use. Repeatable."),
]
RecipientOption = Annotated[
    list[str] | None,
    typer.Option("--recipient", metavar="PATTERN", help="A recipient that it may send to. Repeatable."),
]
RateOption = Annotated[
    str, typer.Option("--rate", metavar="RATE", help='How much it may submit, like "100/minute".')
]
PasswordOption = Annotated[bool, typer.Option("--password", help="Ask for the password that it needs.")]


def given_limits(
    networks: list[str] | None, senders: list[str] | None, recipients: list[str] | None, rate: str
) -> dict[str, Value | None]:
    """What the options of a new login, or API key, say of what it may do."""
    given = {"allowed_cidrs": networks, "allowed_senders": senders, "allowed_recipients": recipients}
    keys: dict[str, Value | None] = {key: list(values) for key, values in given.items() if values}
    if rate:
        keys["rate"] = rate
    return keys


def written_keys(section: str, written: list[str] | None) -> dict[str, Value | None]:
    """KEY=VALUE arguments; ends the program with 64 where one is none, or is a secret."""
    keys: dict[str, Value | None] = {}
    for argument in written or ():
        key, equals, value = argument.partition("=")
        key = key.strip().lower().replace("-", "_")
        entry = KEYS[section].get(key)
        if not equals or not key or key == "name":
            fail(os.EX_USAGE, f"{argument} is no KEY=VALUE; `dispatch config reference` has all keys.")
        if entry is not None and entry.key.secret and value:
            fail(
                os.EX_USAGE,
                f"{key} is a secret, and arguments can be read by everybody on this machine:"
                f" {_way_of_secret(section, key)}.",
            )
        keys[key] = value or None
    return keys


def _way_of_secret(section: str, key: str) -> str:
    if section == LOGINS:
        return "`dispatch login password` asks for it, or reads it with --password-stdin"
    if key == "password":
        return "say --password, or --password-stdin"
    return f"say --secret {key}, or --secret-from {key}=FILE"


class Use(NamedTuple):
    """What is known of an entry beside its settings."""

    facts: dict[str, object]
    text: str


def _no_uses(sources: Sources, names: Collection[str]) -> dict[str, Use]:
    return {}


def add_common_verbs(
    app: typer.Typer,
    section: str,
    uses_of: Callable[[Sources, Collection[str]], Mapping[str, Use]] = _no_uses,
    *,
    remove: str = "remove",
) -> None:
    """`list`, `remove` (by whatever name), `enable` and `disable`. `uses_of`: what `list` shows as well, by
    the entry's name."""
    noun = REPEATED[section]

    @app.command("list", help=f"Show every {noun}, where it was made, and what it says.")
    def list_(
        as_json: JsonOption = False,
        config: ConfigOption = None,
        data: DataOption = None,
        set_: SetOption = None,
    ) -> None:
        sources = Sources(config, data, set_ or ())
        found = ask_control(sources, ListEntries(section), Entries)
        uses = uses_of(sources, [entry.name for entry in found.entries])
        if as_json:
            print_json([_with_use(entry, uses.get(entry.name)) for entry in found.entries])
            return
        if not found.entries:
            typer.echo(f"There is no {noun}.")
        for entry in found.entries:
            typer.echo(f"{entry.name}  ({entry.origin})")
            for key, value in entry.keys.items():
                typer.echo(f"    {key} = {shown(value)}")
            if entry.name in uses:
                typer.echo(f"    {uses[entry.name].text}")

    @app.command(remove, help=f"{remove.capitalize()} a {noun} that was made by command.")
    def remove_(
        name: NameArgument,
        as_json: JsonOption = False,
        config: ConfigOption = None,
        data: DataOption = None,
        set_: SetOption = None,
    ) -> None:
        changed = ask_control(Sources(config, data, set_ or ()), RemoveEntry(section, name), Changed)
        print_changed(f"{noun} {name} is {remove}d.", changed, as_json)

    _add_switch(app, section, "enable", enabled=True)
    _add_switch(app, section, "disable", enabled=False)


def _with_use(entry: Entry, use: Use | None) -> dict[str, object]:
    facts = msgspec.structs.asdict(entry)
    return facts if use is None else {**facts, "use": use.facts}


def _add_switch(app: typer.Typer, section: str, verb: str, *, enabled: bool) -> None:
    noun = REPEATED[section]

    @app.command(verb, help=f"Switch a {noun} {'on' if enabled else 'off'}.")
    def switch(
        name: NameArgument,
        as_json: JsonOption = False,
        config: ConfigOption = None,
        data: DataOption = None,
        set_: SetOption = None,
    ) -> None:
        order = PutEntry(section, name, {"enabled": enabled}, "existing")
        changed = ask_control(Sources(config, data, set_ or ()), order, Changed)
        print_changed(f"{noun} {name} is {verb}d.", changed, as_json)


def add_writing_verbs(app: typer.Typer, section: str) -> None:
    """`add` and `set`, with keys as in the file."""
    noun = REPEATED[section]

    def put(name: str, keys: dict[str, Value | None], new: bool, sources: Sources, as_json: bool) -> None:
        order = PutEntry(section, name, keys, "new" if new else "existing")
        changed = ask_control(sources, order, Changed)
        print_changed(f"{noun} {name} is {'added' if new else 'changed'}.", changed, as_json)

    def password_of(name: str, ask: bool, from_stdin: bool) -> dict[str, Value | None]:
        if not ask and not from_stdin:
            return {}
        if "password" not in KEYS[section]:
            fail(os.EX_USAGE, f"a {noun} has no password.")
        return {"password": ask_password(f"Password of {name}", from_stdin=from_stdin)}

    @app.command(help=f"Make a {noun}, like: {noun} add NAME KEY=VALUE …")
    def add(
        name: NameArgument,
        keys: KeysArgument = None,
        password: PasswordOption = False,
        password_stdin: PasswordStdinOption = False,
        secret: SecretOption = None,
        secret_from: SecretFromOption = None,
        as_json: JsonOption = False,
        config: ConfigOption = None,
        data: DataOption = None,
        set_: SetOption = None,
    ) -> None:
        written = written_keys(section, keys) | password_of(name, password, password_stdin)
        written |= given_secrets(section, name, secret, secret_from)
        put(name, written, True, Sources(config, data, set_ or ()), as_json)

    @app.command("set", help=f"Change keys of a {noun} that was made by command.")
    def set_keys(
        name: NameArgument,
        keys: KeysArgument = None,
        password: PasswordOption = False,
        password_stdin: PasswordStdinOption = False,
        secret: SecretOption = None,
        secret_from: SecretFromOption = None,
        as_json: JsonOption = False,
        config: ConfigOption = None,
        data: DataOption = None,
        set_: SetOption = None,
    ) -> None:
        written = written_keys(section, keys) | password_of(name, password, password_stdin)
        written |= given_secrets(section, name, secret, secret_from)
        if not written:
            fail(os.EX_USAGE, "nothing is to be changed: write KEY=VALUE.")
        put(name, written, False, Sources(config, data, set_ or ()), as_json)
