"""`dispatch ledger verify`: every acceptance has one final outcome for each recipient, or is in the queue."""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import typer

from dispatch.app.folders import LEDGER, MAIL, Folders
from dispatch.cli.delivery_bus import fail_without_delivery
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
from dispatch.mail.ids import MessageId
from dispatch.outcomes.audit import Audit, verify
from dispatch.ports import Lsn
from dispatch.queue.recovery import recover
from dispatch.queue.replay import READ_BYTES
from dispatch.queue.requests import Answer, ShowMessage, Shown
from dispatch.runtime.bus import socket_path
from dispatch.runtime.bus_client import BusClient, BusError, BusFault
from dispatch.runtime.locks import LockHeld, lock_folder
from dispatch.runtime.machine import MarkFile, SystemDisk
from dispatch.spool.faults import CorruptError
from dispatch.spool.reader import SegmentReader
from dispatch.store.parked import ParkedStore
from dispatch.store.sqlite import StoreFault

app = new_group("Prove that nothing was lost.")


class _Asked(Container[MessageId]):
    """The queue of a relay that runs: asked one message at a time, which only open ones need."""

    def __init__(self, client: BusClient[Answer]) -> None:
        self._client = client

    def __contains__(self, message_id: object) -> bool:
        assert isinstance(message_id, bytes)
        answer = self._client.ask(ShowMessage(MessageId(message_id)))
        if isinstance(answer, BusError):
            # No answer is not "it is not here": that would be counted as lost.
            raise BusFault(answer.message)
        return isinstance(answer, Shown) and answer.message is not None


@app.command("verify")
def verify_(
    as_json: JsonOption = False, config: ConfigOption = None, data: DataOption = None, set_: SetOption = None
) -> None:
    """Match every acceptance in the ledger with its outcome or its place in the queue.

    Exits 65 where something was lost, or has two final outcomes.
    """
    folders = Folders(data_directory(config, data, set_, holding=LEDGER))
    if not folders.ledger_durable.exists():
        # Without it nothing of the ledger would be read, and nothing would seem to be lost.
        fail(os.EX_DATAERR, f"{folders.ledger_durable} is gone; the next start of the relay makes it again.")
    untaken: int | None = None
    try:
        with lock_folder(folders.lock_of("delivery")):
            audit, untaken = _verify_stopped(folders)
    except LockHeld:
        audit = _verify_running(folders)
    except (OSError, StoreFault) as fault:
        fail(os.EX_IOERR, str(fault))
    if as_json:
        print_json({**msgspec.structs.asdict(audit), "not_taken_up": untaken, "sound": audit.sound})
    else:
        _print(audit)
        if untaken:
            typer.echo(f"{untaken} more messages stand in the mail log, and were not taken up yet.")
    raise typer.Exit(os.EX_OK if audit.sound else os.EX_DATAERR)


def _verify_running(folders: Folders) -> Audit:
    path = socket_path(folders.run, "delivery")
    try:
        with BusClient(path, msgspec.msgpack.Decoder(Answer)) as client:
            return verify(_reader(folders, LEDGER, folders.ledger_durable), _Asked(client))
    except BusFault as fault:
        fail_without_delivery(folders.data, fault)


def _verify_stopped(folders: Folders) -> tuple[Audit, int]:
    """The audit, and how many messages stand in the mail log of which the ledger does not know yet."""
    ledger = _reader(folders, LEDGER, folders.ledger_durable)
    mail = _reader(folders, MAIL, folders.mail_durable)
    with TemporaryDirectory() as elsewhere:
        path = folders.parked_db
        if not path.exists():
            # Opening it would make one, and the next start of the relay would not notice what is gone.
            typer.echo(f"dispatch: {path} is gone: what waited in it counts as lost.", err=True)
            path = Path(elsewhere) / path.name
        store = ParkedStore.open(path)
        try:
            checkpoint = Lsn(MarkFile(folders.checkpoint, writable=False).load())
            recovered = recover(ledger, checkpoint, mail, store)
            standing = {each.message.id for each in recovered.standing}
            audit = verify(ledger, standing.union(store.ids()))
            return audit, _records_from(mail, recovered.cursor)
        finally:
            store.close()


def _records_from(log: SegmentReader, cursor: Lsn) -> int:
    count = 0
    while True:
        try:
            entries = log.read(cursor, READ_BYTES)
        except CorruptError as damage:
            cursor = damage.resume
            continue
        if not entries:
            return count
        count += len(entries)
        cursor = entries[-1].next


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
