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
from dispatch.mail.message import Message
from dispatch.outcomes.audit import unsettled
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
    folders = Folders(source)
    logs = (("mail log", MAIL, folders.mail_durable), ("ledger", LEDGER, folders.ledger_durable))
    for name, folder, mark in logs:
        reports[name] = verify_log(disk, folder, load_mark(mark))
    sound = all(report.sound for report in reports.values())
    if as_json:
        print_json(
            {
                "sound": sound,
                "missing": {name: report.missing for name, report in reports.items() if report.missing},
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
            if report.missing is not None:
                start, end = report.missing
                typer.echo(f"  gone from its end: {start:#x} to {end:#x} were on stable storage")
        typer.echo("All that was on stable storage is readable." if sound else "DAMAGED: see above.")
    raise typer.Exit(os.EX_OK if sound else os.EX_DATAERR)


def load_mark(mark: Path) -> int:
    """What a mark said last (`runtime.machine.MarkFile`), without making one; 0 where there is none."""
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
    without_file: list[Message] = []
    for piece in iterate(SystemDisk(source), MAIL):
        try:
            if not isinstance(piece, Entry):
                unreadable += 1
                continue
            message, content = decode_mail(piece.payload)
            if message.content_file is not None:
                content = (source / CONTENT / message.content_file.name).read_bytes()
        except FileNotFoundError:
            without_file.append(message)
            continue
        except (UnreadableRecord, OSError) as error:
            typer.echo(f"dispatch: {error}", err=True)
            unreadable += 1
            continue
        (folder / f"{spool_form(message.id)}.eml").write_bytes(content)
        written += 1
    missing = _missing(source, without_file)
    for message in missing:
        typer.echo(f"dispatch: the content file of {spool_form(message.id)} is gone", err=True)
    typer.echo(f"{written} messages written to {folder}.")
    if len(without_file) > len(missing):
        typer.echo(
            f"{len(without_file) - len(missing)} large ones are over, and their content is gone with them."
        )
    if unreadable + len(missing):
        fail(os.EX_DATAERR, f"{unreadable + len(missing)} places could not be read.")


def _missing(data: Path, without_file: list[Message]) -> list[Message]:
    """Those whose content file should be there: the ledger does not know how they ended."""
    if not without_file:
        return []
    ledger = iterate(SystemDisk(data), LEDGER)
    open_ids = unsettled((piece.payload for piece in ledger if isinstance(piece, Entry)), without_file)
    return [message for message in without_file if message.id in open_ids]
