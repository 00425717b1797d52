"""`dispatch ledger verify`: every acceptance has one final outcome for each recipient, or is in the queue."""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path

import msgspec
import typer

from dispatch.app.folders import LEDGER, MAIL, Folders
from dispatch.cli.options import (
    ConfigOption,
    DataOption,
    JsonOption,
    SetOption,
    load_settings,
    new_group,
    print_json,
)
from dispatch.mail.ids import MessageId
from dispatch.outcomes.audit import Audit, verify
from dispatch.ports import Lsn
from dispatch.queue.recovery import recover
from dispatch.queue.requests import Answer, ShowMessage, Shown
from dispatch.runtime.bus import socket_path
from dispatch.runtime.bus_client import BlockingBusClient
from dispatch.runtime.locks import FolderLock, LockHeld
from dispatch.runtime.machine import MarkFile, SystemDisk
from dispatch.spool.reader import SegmentReader
from dispatch.store.parked import ParkedStore

app = new_group("Prove that nothing was lost.")


class _Asked(Container[MessageId]):
    """The queue of a relay that runs: asked one message at a time, which only open ones need."""

    def __init__(self, client: BlockingBusClient[Answer]) -> None:
        self._client = client

    def __contains__(self, message_id: object) -> bool:
        assert isinstance(message_id, bytes)
        answer = self._client.ask(ShowMessage(MessageId(message_id)))
        return isinstance(answer, Shown) and answer.message is not None


@app.command("verify")
def verify_(
    json: JsonOption = False, config: ConfigOption = None, data: DataOption = None, set_: SetOption = None
) -> None:
    """Match every acceptance in the ledger with its outcome or its place in the queue.

    Exits 65 where something was lost, or has two final outcomes.
    """
    folders = Folders(Path(load_settings(config, data, set_).settings.spool.directory))
    if not folders.ledger.is_dir():
        typer.echo(
            f"dispatch: {folders.data} holds no ledger; name the data directory with --data.", err=True
        )
        raise typer.Exit(os.EX_NOINPUT)
    try:
        with FolderLock(folders.lock_of("delivery") / "lock"):
            audit = _verify_stopped(folders)
    except LockHeld:
        audit = _verify_running(folders)
    if json:
        print_json({**msgspec.structs.asdict(audit), "sound": audit.sound})
    else:
        _print(audit)
    raise typer.Exit(os.EX_OK if audit.sound else os.EX_DATAERR)


def _verify_running(folders: Folders) -> Audit:
    path = socket_path(folders.run, "delivery")
    with BlockingBusClient(path, msgspec.msgpack.Decoder(Answer)) as client:
        return verify(_reader(folders, LEDGER, folders.ledger_durable), _Asked(client))


def _verify_stopped(folders: Folders) -> Audit:
    ledger = _reader(folders, LEDGER, folders.ledger_durable)
    mail = _reader(folders, MAIL, folders.mail_durable)
    store = ParkedStore.open(folders.parked_db)
    try:
        checkpoint = Lsn(MarkFile(folders.checkpoint, writable=False).load())
        standing = {each.message.id for each in recover(ledger, checkpoint, mail, store).standing}
        return verify(ledger, standing.union(store.ids()))
    finally:
        store.close()


def _reader(folders: Folders, log: str, mark: Path) -> SegmentReader:
    return SegmentReader(SystemDisk(folders.data), log, mark=MarkFile(mark, writable=False))


def _print(audit: Audit) -> None:
    typer.echo(f"{audit.messages} messages accepted, for {audit.accepted} recipients:")
    typer.echo(f"  {audit.settled} with a final outcome")
    typer.echo(f"  {audit.in_queue} in the queue, {audit.uncertain} of them uncertain")
    typer.echo(f"  {audit.lost} LOST" if audit.lost else "  0 lost")
    for name in audit.lost_ids:
        typer.echo(f"    {name}")
    typer.echo(f"  {audit.doubly_settled} with two final outcomes")
    for name in audit.doubly_settled_ids:
        typer.echo(f"    {name}")
    if audit.earlier_settled:
        typer.echo(f"{audit.earlier_settled} outcomes of messages accepted before the ledger that is kept.")
    if audit.unreadable:
        typer.echo(f"{audit.unreadable} places of the ledger could not be read.")
