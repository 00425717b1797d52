"""`dispatch spool`: look at the mail log itself, without trusting it and without changing it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from dispatch.app.folders import CONTENT, LEDGER, MAIL
from dispatch.cli.options import (
    ConfigOption,
    DataOption,
    JsonOption,
    SetOption,
    load_settings,
    new_group,
    print_json,
)
from dispatch.mail.ids import spool_form
from dispatch.ports import Entry
from dispatch.runtime.machine import SystemDisk
from dispatch.spool.records import UnreadableRecord, decode_mail
from dispatch.spool.verify import SegmentState, iterate, verify_log

app = new_group("Verify the logs on disk, or export the mail in them.")


def _data(config: Path | None, data: Path | None, overrides: list[str] | None) -> Path:
    folder = Path(load_settings(config, data, overrides).settings.spool.directory)
    if not (folder / MAIL).is_dir():
        typer.echo(f"dispatch: {folder} holds no mail log; name the data directory with --data.", err=True)
        raise typer.Exit(os.EX_NOINPUT)
    return folder


@app.command()
def verify(
    json: JsonOption = False, config: ConfigOption = None, data: DataOption = None, set_: SetOption = None
) -> None:
    """Check every checksum of the mail log and of the ledger. Exits 65 where something durable is damaged."""
    disk = SystemDisk(_data(config, data, set_))
    reports = {name: verify_log(disk, folder) for name, folder in (("mail log", MAIL), ("ledger", LEDGER))}
    sound = all(report.sound for report in reports.values())
    if json:
        print_json(
            {
                "sound": sound,
                "logs": {
                    name: [segment._asdict() for segment in report.segments]
                    for name, report in reports.items()
                },
            }
        )
    else:
        for name, report in reports.items():
            typer.echo(f"{name}: {report.records} records in {len(report.segments)} segments")
            for segment in report.segments:
                if segment.state is not SegmentState.OK:
                    typer.echo(f"  {segment.name}: {segment.state.value}")
                for damage in segment.damage:
                    typer.echo(f"    damaged from {damage.start:#x} to {damage.resume:#x}")
        typer.echo("All that was on stable storage is readable." if sound else "DAMAGED: see above.")
    raise typer.Exit(os.EX_OK if sound else os.EX_DATAERR)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where to write one .eml file a message; made if missing.")],
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Write every message that still stands in the mail log as a file, damaged or not what lies around it."""
    source = _data(config, data, set_)
    folder.mkdir(parents=True, exist_ok=True)
    written = unreadable = 0
    for piece in iterate(SystemDisk(source), MAIL):
        try:
            if not isinstance(piece, Entry):
                unreadable += 1
                continue
            message, content = decode_mail(piece.payload)
            if message.content_file is not None:
                content = (source / CONTENT / message.content_file.name).read_bytes()
        except (UnreadableRecord, OSError) as error:
            typer.echo(f"dispatch: {error}", err=True)
            unreadable += 1
            continue
        (folder / f"{spool_form(message.id)}.eml").write_bytes(content)
        written += 1
    typer.echo(f"{written} messages written to {folder}.")
    if unreadable:
        typer.echo(f"{unreadable} places could not be read.", err=True)
        raise typer.Exit(os.EX_DATAERR)
