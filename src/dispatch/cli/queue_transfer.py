"""`dispatch queue export` and `import`: the queue moves to another host, in one file.

The relay runs on both sides, since nobody else may touch the parked store and the ledger. To move a queue::

    dispatch queue pause; dispatch queue export FILE --remove      here
    dispatch queue import FILE                                     there

What `--remove` takes away was on stable storage in FILE before, and could not be tried meanwhile: it asks for
a paused queue with nothing under way. A message that the other host knows already, by its queue or by its
history, is passed over; so the same import can be repeated.
"""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated

import msgspec
import typer

import dispatch
from dispatch.app.folders import CONTENT, Folders
from dispatch.cli.delivery_bus import ask_delivery
from dispatch.cli.options import (
    ConfigOption,
    DataOption,
    JsonOption,
    SetOption,
    data_directory,
    fail,
    print_json,
)
from dispatch.cli.queue_filter import (
    ReasonOption,
    RecipientOption,
    RelayOption,
    SenderOption,
    StateOption,
    YesOption,
    at_a_terminal,
    queue_filter,
)
from dispatch.mail.ids import MessageId, spool_form
from dispatch.mail.message import ContentFile
from dispatch.queue.archive import Archived, ArchiveError, ArchiveWriter, check, read, sync_folder
from dispatch.queue.requests import (
    ARRIVING,
    AskLanes,
    AskParked,
    Done,
    Lanes,
    Order,
    ParkedPage,
    ShowMessage,
    Shown,
    TakeIn,
    TakenIn,
)
from dispatch.spool.content import INLINE_BYTES_MAX
from dispatch.store.history_reader import HistoryReader
from dispatch.store.parked import ParkedMessage, QueueFilter
from dispatch.store.sqlite import StoreFault

REMOVED_AT_ONCE = 500
TAKEN_BYTES_MAX = 2 << 20
"""Of an order to take mail in, more or less one message; the bus carries 4 MiB."""
_IMPORTED = "f" * 16
"""Stands where a content file's name has the incarnation of the mail log: none that is swept."""


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file; a tar archive.")],
    sender: SenderOption = "",
    recipient: RecipientOption = "",
    relay: RelayOption = None,
    reason: ReasonOption = "",
    state: StateOption = "",
    remove: Annotated[
        bool, typer.Option("--remove", help="Cancel here what is in the file. The queue must be paused.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Write what waits, with its content, into a file for `dispatch queue import` on another host."""
    folder = data_directory(config, data, set_)
    wanted = queue_filter(sender, recipient, relay, reason, state)
    if remove:
        _must_rest(folder)
        if not yes and at_a_terminal():
            typer.confirm(f"Write what waits to {file}, and cancel it here?", abort=True, err=True)
    ids: list[MessageId] = []
    deliveries = 0
    try:
        made_by = f"dispatch {dispatch.__version__}"
        with ArchiveWriter(file, now_ms=int(time.time() * 1000), made_by=made_by) as archive:
            for parked in _parked(folder, wanted):
                try:
                    content = _content(folder, parked)
                except FileNotFoundError as error:
                    # Delivered since it was asked for. Of a queue at rest nothing is: it stays where it is.
                    typer.echo(f"dispatch: {spool_form(parked.message.id)} was left out: {error}", err=True)
                    continue
                with content:
                    archive.add(parked, content)
                ids.append(parked.message.id)
                deliveries += len(parked.deliveries)
    except OSError as error:
        fail(os.EX_IOERR, f"{file} was not written: {error}")
    removed = _remove(folder, wanted, ids, file) if remove else 0
    if as_json:
        print_json({"messages": len(ids), "deliveries": deliveries, "removed": removed})
    else:
        typer.echo(f"{len(ids)} messages for {deliveries} recipients are in {file}.")
        if remove:
            typer.echo(f"{removed} deliveries are cancelled here.")
    if remove and removed < deliveries:
        fail(os.EX_TEMPFAIL, f"{deliveries - removed} deliveries that are in {file} are still here.")


def _must_rest(folder: Path) -> None:
    lanes = ask_delivery(folder, AskLanes(), Lanes)
    under_way = sum(lane.in_flight for lane in lanes.lanes)
    if not lanes.paused or under_way:
        why = f"{under_way} transactions are under way" if lanes.paused else "the queue is not paused"
        fail(os.EX_TEMPFAIL, f"{why}: `dispatch queue pause`, and wait until nothing is under way.")


def _parked(folder: Path, wanted: QueueFilter) -> Iterator[ParkedMessage]:
    page = ask_delivery(folder, AskParked(wanted), ParkedPage)
    while page.next is not None:
        yield from page.messages
        page = ask_delivery(folder, AskParked(wanted, page.next), ParkedPage)


def _content(folder: Path, parked: ParkedMessage) -> IO[bytes]:
    file = parked.message.content_file
    if file is not None:
        return (folder / CONTENT / file.name).open("rb")
    assert parked.content is not None, "a parked message without content"
    return io.BytesIO(parked.content)


def _remove(folder: Path, wanted: QueueFilter, ids: list[MessageId], file: Path) -> int:
    removed = 0
    for first in range(0, len(ids), REMOVED_AT_ONCE):
        these = tuple(ids[first : first + REMOVED_AT_ONCE])
        order = Order("cancel", wanted, ids=these, reason=f"exported to {file.name}", at_rest=True)
        removed += ask_delivery(folder, order, Done).changed
    return removed


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `dispatch queue export` wrote.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the file and count.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Take a queue in that was exported on another host. What is known here already is passed over."""
    folder = data_directory(config, data, set_)
    try:
        # All of it, before anything of it is taken in.
        messages = check(file)
        taken = known = 0
        if not dry_run:
            for answer in _take_in(folder, file):
                taken += answer.taken
                known += answer.known
    except ArchiveError as error:
        fail(os.EX_DATAERR, f"{file} is not to be trusted: {error}; nothing of it was taken in.")
    except (OSError, StoreFault) as error:
        fail(os.EX_IOERR, f"{error}; repeat the import when that is mended.")
    if as_json:
        print_json({"messages": messages, "taken": taken, "known": known})
        return
    typer.echo(f"{file} is whole and holds {messages} messages.")
    if not dry_run:
        typer.echo(f"{taken} were taken in; {known} are known here, by the queue or by history.")


def _take_in(folder: Path, file: Path) -> Iterator[TakenIn]:
    history = Folders(folder).history_db
    reader = HistoryReader.open(history) if history.exists() else None
    batch: list[ParkedMessage] = []
    batch_bytes = 0
    try:
        for archived in read(file):
            message_id = archived.message.id
            over = reader is not None and reader.get(message_id) is not None
            if over and not _unfinished(folder, message_id):
                yield TakenIn(0, 1)
                continue
            parked = _arrived(folder, archived)
            size_bytes = len(msgspec.msgpack.encode(parked))
            if batch and batch_bytes + size_bytes > TAKEN_BYTES_MAX:
                yield ask_delivery(folder, TakeIn(tuple(batch)), TakenIn)
                batch, batch_bytes = [], 0
            batch.append(parked)
            batch_bytes += size_bytes
    finally:
        if reader is not None:
            reader.close()
    if batch:
        yield ask_delivery(folder, TakeIn(tuple(batch)), TakenIn)


def _unfinished(folder: Path, message_id: MessageId) -> bool:
    """History knows it from an import that did not come to its end."""
    shown = ask_delivery(folder, ShowMessage(message_id), Shown)
    return bool(shown.deliveries) and all(row.reason == ARRIVING for row in shown.deliveries)


def _arrived(folder: Path, archived: Archived) -> ParkedMessage:
    """As delivery takes it; large content is in its file, and on stable storage."""
    message = archived.message
    if archived.content_bytes <= INLINE_BYTES_MAX:
        return ParkedMessage(message, archived.deliveries, archived.content.read())
    contents = folder / CONTENT
    name = f"{_IMPORTED}-{message.id.hex()}.content"
    with (contents / name).open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        owner = contents.stat()
        if os.geteuid() == 0:
            # The relay may run as another user.
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        shutil.copyfileobj(archived.content, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(contents)
    content_file = ContentFile(name, archived.content_bytes)
    return ParkedMessage(
        msgspec.structs.replace(message, content_file=content_file), archived.deliveries, None
    )
