"""`dispatch inbox`: mail that was captured instead of sent."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from dispatch.app.folders import CAPTURED
from dispatch.cli.options import (
    ConfigOption,
    DataOption,
    JsonOption,
    SetOption,
    load_settings,
    new_group,
    print_json,
)
from dispatch.mail.ids import InvalidMessageId, parse_message_id, spool_form
from dispatch.relays.capture_store import (
    CapturedHead,
    Listing,
    NoSuchCapture,
    TornCapture,
    delete_captured,
    list_captured,
    read_captured,
)
from dispatch.runtime.machine import SystemDisk

app = new_group("Mail that was captured instead of sent.")

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `dispatch inbox list` shows it.")]


def _disk(config: Path | None, data: Path | None, overrides: list[str] | None) -> SystemDisk:
    return SystemDisk(Path(load_settings(config, data, overrides).settings.spool.directory))


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", min=1, help="The newest so many.")] = 50,
    json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Captured messages, the newest last."""
    listing = list_captured(_disk(config, data, set_), CAPTURED)
    newest = listing.captured[-limit:]
    if json:
        print_json({"total": len(listing.captured), "messages": [_plain(head) for _, head, _ in newest]})
    else:
        for _, head, _ in newest:
            to = ", ".join(f"<{recipient.address}>" for recipient in head.recipients)
            typer.echo(
                f"{spool_form(head.message.id)}  {_date(head.captured_ms)}  "
                f"<{head.message.envelope.reverse_path}> to {to}  {head.message.summary.subject}"
            )
        if not newest:
            typer.echo("The inbox is empty.")
    for name in listing.torn:
        typer.echo(f"dispatch: {name} is not a whole captured message", err=True)


@app.command()
def show(
    id_: IdArgument,
    json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """The content of a captured message, byte for byte; with --json its envelope and what is known of it."""
    disk = _disk(config, data, set_)
    name = _name(disk, id_)
    try:
        head, content = read_captured(disk, CAPTURED, name)
    except (NoSuchCapture, TornCapture) as error:
        typer.echo(f"dispatch: {error}", err=True)
        raise typer.Exit(os.EX_DATAERR) from None
    if json:
        print_json(_plain(head))
    else:
        sys.stdout.buffer.write(content)


@app.command()
def delete(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Delete captured messages."""
    disk = _disk(config, data, set_)
    if everything:
        listing: Listing = list_captured(disk, CAPTURED)
        names = [captured.name for captured in listing.captured]
    else:
        names = [_name(disk, text) for text in ids or ()]
    for name in names:
        delete_captured(disk, CAPTURED, name)
    typer.echo(f"{len(names)} deleted.")


def _name(disk: SystemDisk, text: str) -> str:
    """The file of a message that is named by its id."""
    try:
        wanted = parse_message_id(text)
    except InvalidMessageId as error:
        raise typer.BadParameter(str(error)) from None
    for captured in list_captured(disk, CAPTURED).captured:
        if captured.head.message.id == wanted:
            return captured.name
    typer.echo(f"dispatch: {text} is not in the inbox.", err=True)
    raise typer.Exit(os.EX_DATAERR)


def _plain(head: CapturedHead) -> dict[str, object]:
    message = head.message
    return {
        "id": spool_form(message.id),
        "captured_ms": head.captured_ms,
        "from": message.envelope.reverse_path,
        "to": [recipient.address for recipient in head.recipients],
        "subject": message.summary.subject,
        "size_bytes": message.size_bytes,
        "client": message.origin.client_address,
    }


def _date(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
