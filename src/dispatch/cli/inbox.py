"""`dispatch inbox`: mail that was captured instead of sent."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dispatch.app.folders import CAPTURED
from dispatch.cli.options import (
    ConfigOption,
    DataOption,
    JsonOption,
    SetOption,
    data_directory,
    fail,
    new_group,
    print_json,
    shown_time,
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
    return SystemDisk(data_directory(config, data, overrides))


def _listing(disk: SystemDisk) -> Listing:
    """All that is there. (A relay that never captured has no folder for it, and looking makes none.)"""
    return list_captured(disk, CAPTURED) if (disk.root / CAPTURED).is_dir() else Listing([], [])


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", min=1, help="The newest so many.")] = 50,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Captured messages, the newest last."""
    listing = _listing(_disk(config, data, set_))
    newest = listing.captured[-limit:]
    if as_json:
        print_json({"total": len(listing.captured), "messages": [_plain(head) for _, head, _ in newest]})
    else:
        for _, head, _ in newest:
            to = ", ".join(f"<{recipient.address}>" for recipient in head.recipients)
            typer.echo(
                f"{spool_form(head.message.id)}  {shown_time(head.captured_ms)} UTC  "
                f"<{head.message.envelope.reverse_path}> to {to}  {head.message.summary.subject}"
            )
        if not newest:
            typer.echo("The inbox is empty.")
    for name in listing.torn:
        typer.echo(f"dispatch: {name} is not a whole captured message", err=True)


@app.command()
def show(
    id_: IdArgument,
    as_json: JsonOption = False,
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
        fail(os.EX_DATAERR, str(error))
    if as_json:
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
    if not ids and not everything:
        fail(os.EX_USAGE, "name messages by id, or say --all.")
    disk = _disk(config, data, set_)
    if everything:
        names = [captured.name for captured in _listing(disk).captured]
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
    captured = _listing(disk).captured
    name = next((each.name for each in captured if each.head.message.id == wanted), None)
    if name is None:
        fail(os.EX_DATAERR, f"{text} is not in the inbox.")
    return name


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
