"""`dispatch spool`: look at the mail log itself, without trusting it and without changing it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dispatch.app.folders import CONTENT, LEDGER, MAIL, Folders
from dispatch.cli.options import (
    ConfigOption,
    DataOption,
    JsonOption,
    SetOption,
    data_directory,
    fail,
    new_group,
    print_json,
)
from dispatch.mail.ids import spool_form
from dispatch.ports import Entry
from dispatch.runtime.machine import SystemDisk
from dispatch.spool.records import UnreadableRecord, decode_mail
from dispatch.spool.verify import SegmentState, VerifyReport, iterate, verify_log

app = new_group("Verify the logs on disk, or export the mail in them.")


@app.command()
def verify(
    as_json: JsonOption = False, config: ConfigOption = None, data: DataOption = None, set_: SetOption = None
) -> None:
    """Check every checksum of the mail log and of the ledger. Exits 65 where something durable is damaged."""
    source = data_directory(config, data, set_, holding=MAIL)
    disk = SystemDisk(source)
    reports: dict[str, VerifyReport] = {}
    missing: dict[str, tuple[int, int]] = {}
    folders = Folders(source)
    logs = (("mail log", MAIL, folders.mail_durable), ("ledger", LEDGER, folders.ledger_durable))
    for name, folder, mark in logs:
        # Before the log is read: the mark of a relay that runs moves on, and the log is never behind it.
        durable = _durable(mark)
        reports[name] = verify_log(disk, folder)
        end = max((segment.end for segment in reports[name].segments), default=0)
        if end < durable:
            missing[name] = (end, durable)
    sound = not missing and all(report.sound for report in reports.values())
    if as_json:
        print_json(
            {
                "sound": sound,
                "missing": missing,
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
            if name in missing:
                end, durable = missing[name]
                typer.echo(f"  gone from its end: {end:#x} to {durable:#x} were on stable storage")
        typer.echo("All that was on stable storage is readable." if sound else "DAMAGED: see above.")
    raise typer.Exit(os.EX_OK if sound else os.EX_DATAERR)


def _durable(mark: Path) -> int:
    """How far a log was on stable storage, as its writer said last (`MarkFile`); 0 where nobody did."""
    try:
        return int.from_bytes(mark.read_bytes()[:8], sys.byteorder)
    except FileNotFoundError:
        return 0


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where to write one .eml file a message; made if missing.")],
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Write every message that still stands in the mail log as a file, damaged or not what lies around it."""
    source = data_directory(config, data, set_, holding=MAIL)
    os.umask(0o077)  # It is mail: for nobody else's eyes.
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
        fail(os.EX_DATAERR, f"{unreadable} places could not be read.")
