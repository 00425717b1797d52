"""`dispatch route`: which relay would take a message, and which rule says so.

Works on the sources (file, environment, `--set`) and needs no running relay. So it knows what is
configured, and nothing of how the relays are; that is `dispatch queue relays`.
"""

from __future__ import annotations

import os
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
)
from dispatch.mail.envelope import Envelope, Recipient
from dispatch.policy.routing import Considered, Route, Router
from dispatch.settings import router
from dispatch.smtp.grammar import read_path

app = new_group("See which relay would take a message, and why.")


@app.command()
def simulate(
    sender: Annotated[
        str, typer.Argument(metavar="FROM", help="The envelope's sender; <> is the null sender.")
    ],
    recipients: Annotated[list[str], typer.Argument(metavar="TO...", help="The envelope's recipients.")],
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain every rule for a message from FROM to each TO. Nothing is sent."""
    reverse_path = _address(sender, null=True)
    forward_paths = [_address(recipient) for recipient in recipients]
    rules = router(load_settings(config, data, set_).settings)
    if as_json:
        print_json(_fields(rules, reverse_path, forward_paths))
        return
    for recipient in forward_paths:
        typer.echo(f"from {reverse_path or '<>'} to {recipient}")
        for considered in rules.explain(reverse_path, recipient):
            typer.echo(f"  {_line(considered)}")
        typer.echo(f"  → {_decision(rules.route(reverse_path, recipient))}")
    groups = rules.routes(_envelope(reverse_path, forward_paths))
    if len(groups) > 1:
        typer.echo(f"One message to all of them is split into {len(groups)}.")


def _address(text: str, *, null: bool = False) -> str:
    bare = text.strip()
    path = read_path(bare if bare[:1] == "<" else f"<{bare}>")
    if path is None or path[1] or not (path[0] or null):
        fail(os.EX_USAGE, f"{text!r} is no address; write it like alice@example.org")
    return path[0]


def _envelope(reverse_path: str, forward_paths: list[str]) -> Envelope:
    return Envelope(reverse_path, tuple(Recipient(address) for address in forward_paths))


def _line(considered: Considered) -> str:
    rule, matched, why = considered
    return f"{'yes' if matched else 'no ':<3}  {rule.name} (priority {rule.priority}): {why}"


def _decision(route: Route) -> str:
    if route.held:
        return f"held: {route.hold_reason}"
    first, *others = route.relays
    behind = f"; behind it {', '.join(others)}, to which nothing fails over yet" if others else ""
    return f"relay {first}, by {route.rule}{behind}"


def _fields(rules: Router, reverse_path: str, forward_paths: list[str]) -> dict[str, object]:
    groups = rules.routes(_envelope(reverse_path, forward_paths))
    return {
        "from": reverse_path,
        "recipients": [
            {
                "to": recipient,
                "rules": [
                    {"name": rule.name, "priority": rule.priority, "matched": matched, "why": why}
                    for rule, matched, why in rules.explain(reverse_path, recipient)
                ],
                "route": rules.route(reverse_path, recipient),
            }
            for recipient in forward_paths
        ],
        "transactions": [
            {"relays": route.relays, "held": route.hold_reason, "to": [forward_paths[i] for i in indexes]}
            for route, indexes in groups
        ],
    }
