"""`dispatch dkim`: the keys with which a relay signs, and the DNS records that make them known.

A private key is made here, in the command, goes to control as a password does, and lies sealed in
settings.db; no file has it, and nothing shows it again. What is public of it can be shown at any time.

A new key has a selector of its own, or receivers would find it where they look for the old one: what was
signed before and is still under way could not be verified any more (RFC 6376 section 3.1).
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import msgspec
import typer

from dispatch.cli.control_bus import Sources, ask_control, print_changed
from dispatch.cli.options import (
    ConfigOption,
    DataOption,
    JsonOption,
    SetOption,
    fail,
    new_group,
    print_json,
)
from dispatch.security.dkim_keys import KeyKind, generate, zone_strings
from dispatch.settings.model import RELAYS
from dispatch.settings.requests import (
    Changed,
    DkimRecord,
    DkimShown,
    Entries,
    Entry,
    ListEntries,
    PutEntry,
    ShowDkim,
    Value,
)
from dispatch.settings.sending_keys import DKIM_KEYS

app = new_group("Make the keys that sign mail with DKIM, and show their DNS records.")


class Keys(StrEnum):
    """Which keys are made; with both, each message has two signatures."""

    RSA = "rsa"
    ED25519 = "ed25519"
    BOTH = "both"


_KINDS: dict[Keys, tuple[KeyKind, ...]] = {
    Keys.RSA: ("rsa",),
    Keys.ED25519: ("ed25519",),
    Keys.BOTH: ("rsa", "ed25519"),
}

RelayArgument = Annotated[str, typer.Argument(metavar="RELAY")]


@app.command("generate")
def generate_(
    relay: RelayArgument,
    domain: Annotated[
        str,
        typer.Option("--domain", help="In whose name it signs; by default the one that it signs for now."),
    ] = "",
    selector: Annotated[
        str,
        typer.Option(
            "--selector", help="The name of the key in DNS; by default today's date, like s20261120."
        ),
    ] = "",
    keys: Annotated[
        Keys, typer.Option("--keys", help="rsa (2048 bits), ed25519, which not all receivers know, or both.")
    ] = Keys.RSA,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Make a key for a relay and sign with it from now on, in place of those before."""
    sources = Sources(config, data, set_ or ())
    before = _entry(relay, ask_control(sources, ListEntries(RELAYS), Entries)).keys
    signs_for = domain or str(before.get("dkim_domain", ""))
    if not signs_for:
        fail(os.EX_USAGE, f"{relay} signs in nobody's name yet: say --domain.")
    selectors = _selectors(selector or f"s{datetime.now(UTC):%Y%m%d}", _KINDS[keys])
    in_use = [str(before[place]) for _, place in DKIM_KEYS if place in before]
    for name in selectors:
        if name.lower() in map(str.lower, in_use):
            what = f"the selector {name} names a key that {relay} signs with now"
            fail(os.EX_USAGE, f"{what}: choose another with --selector.")
    written = {"dkim_domain": signs_for, **_new_keys(selectors)}
    changed = ask_control(sources, PutEntry(RELAYS, relay, written, "existing"), Changed)
    records = _records(relay, ask_control(sources, ShowDkim(), DkimShown))
    if as_json:
        print_json({"records": records, **msgspec.structs.asdict(changed)})
        return
    print_changed(f"{relay} signs as {signs_for} from now on. Publish this in DNS:", changed, as_json=False)
    _print_records(records)
    typer.echo("note: until receivers see the record, they take the signature for none.", err=True)
    for old in in_use:
        what = f"{old}._domainkey.{before['dkim_domain']}"
        typer.echo(f"note: leave {what} in DNS for a week: mail signed with it is under way.", err=True)


@app.command()
def show(
    relay: Annotated[str | None, typer.Argument(metavar="[RELAY]")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """The DNS records of all keys in use, or of one relay's."""
    records = _records(relay, ask_control(Sources(config, data, set_ or ()), ShowDkim(), DkimShown))
    if as_json:
        print_json(records)
    elif not records:
        typer.echo("Nothing is signed." if relay is None else f"{relay} signs nothing.")
    else:
        _print_records(records)


def _entry(relay: str, found: Entries) -> Entry:
    entry = next((entry for entry in found.entries if entry.name == relay), None)
    if entry is None:
        fail(os.EX_DATAERR, f"there is no relay {relay}.")
    return entry


def _selectors(selector: str, kinds: tuple[KeyKind, ...]) -> dict[str, KeyKind]:
    """Each with the kind of its key. RFC 8463 section 4 wants them to differ."""
    return {selector if kind == kinds[0] else f"{selector}-{kind}": kind for kind in kinds}


def _new_keys(selectors: dict[str, KeyKind]) -> dict[str, Value | None]:
    """All that a relay says of private keys; what it does not have any more is taken away."""
    written: dict[str, Value | None] = dict.fromkeys(name for names in DKIM_KEYS for name in names)
    for (key, place), (selector, kind) in zip(DKIM_KEYS, selectors.items(), strict=False):
        written |= {key: generate(kind), place: selector}
    return written


def _records(relay: str | None, shown: DkimShown) -> list[DkimRecord]:
    return [record for record in shown.records if relay in (None, record.relay)]


def _print_records(records: list[DkimRecord]) -> None:
    for record in records:
        typer.echo(f"{record.name}. IN TXT {zone_strings(record.text)}")
        if record.remark:
            typer.echo(f"note: {record.name}: {record.remark}", err=True)
