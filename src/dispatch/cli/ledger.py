"""`dispatch ledger verify`: every acceptance has one final outcome for each recipient, or is in the queue;
and the ledger that says so is the one that was written."""

from __future__ import annotations

import os
from collections.abc import Container
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import msgspec
import typer

from dispatch.app.folders import LEDGER, MAIL, Folders
from dispatch.cli.delivery_bus import fail_without_delivery
from dispatch.cli.options import (
    DATE_FORMATS,
    ConfigOption,
    DataOption,
    JsonOption,
    SetOption,
    data_directory,
    fail,
    new_group,
    print_json,
    shown_time,
    wall_ms,
)
from dispatch.cli.spool import load_mark
from dispatch.mail.ids import MessageId
from dispatch.outcomes.audit import Audit, Period, Witness, contradictions, verify
from dispatch.ports import Lsn
from dispatch.queue.recovery import recover
from dispatch.queue.replay import READ_BYTES
from dispatch.queue.requests import Answer, ListQueue, QueuePage, ShowMessage, Shown
from dispatch.runtime.bus import socket_path
from dispatch.runtime.bus_client import BusClient, BusError, BusFault
from dispatch.runtime.locks import LockHeld, lock_folder
from dispatch.runtime.machine import MarkFile, SystemDisk
from dispatch.spool.chain import ChainReport, Head, Noted, parse_head, verify_chain
from dispatch.spool.faults import CorruptError
from dispatch.spool.reader import SegmentReader
from dispatch.spool.records import UnreadableRecord, decode_mail
from dispatch.store.parked import ParkedStore, QueueFilter
from dispatch.store.sqlite import StoreFault

app = new_group("Prove that nothing was lost.")

SinceOption = Annotated[
    datetime | None,
    typer.Option("--since", "--from", formats=DATE_FORMATS, help="Accepted then or later (UTC)."),
]
UntilOption = Annotated[
    datetime | None,
    typer.Option("--until", "--to", formats=DATE_FORMATS, help="Accepted before then (UTC)."),
]
HeadOption = Annotated[
    str | None,
    typer.Option(
        "--head", metavar="HEAD", help="The chain's head as an earlier run told it: is it continued?"
    ),
]

NOTED_WORDS = {
    Noted.CONTINUED: "it continues {head}",
    Noted.OLDER: "{head} is older than what is kept: that it is continued cannot be shown any more",
    Noted.CUT: "CUT: it ends before {head}",
    Noted.CONTRADICTED: "CONTRADICTED: {head} is not in it",
}


class _Findings(NamedTuple):
    audit: Audit
    chain: ChainReport
    contradictions: tuple[str, ...]
    not_taken_up: int | None
    """Messages in the mail log of which the ledger does not know yet; None while the relay runs."""

    @property
    def sound(self) -> bool:
        return self.audit.sound and self.chain.sound and not self.contradictions


class _Asked(Container[MessageId]):
    """The queue of a relay that runs: asked one message at a time, which only open ones need."""

    def __init__(self, client: BusClient[Answer]) -> None:
        self._client = client

    def __contains__(self, message_id: object) -> bool:
        assert isinstance(message_id, bytes)
        answer = self._ask(ShowMessage(MessageId(message_id)))
        return isinstance(answer, Shown) and answer.message is not None

    def parked(self) -> int:
        answer = self._ask(ListQueue(QueueFilter(), limit=1))
        return answer.total if isinstance(answer, QueuePage) else 0

    def _ask(self, request: ShowMessage | ListQueue) -> Answer:
        answer = self._client.ask(request)
        if isinstance(answer, BusError):
            # No answer is not "it is not here": that would be counted as lost.
            raise BusFault(answer.message)
        return answer


@app.command("verify")
def verify_(
    since: SinceOption = None,
    until: UntilOption = None,
    head: HeadOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Match every acceptance in the ledger with its outcome or its place in the queue.

    Exits 65 where something was lost, or has two final outcomes, or where the ledger is not what was written.
    """
    period = Period(wall_ms(since), wall_ms(until))
    noted = _noted(head)
    folders = Folders(data_directory(config, data, set_, holding=LEDGER))
    if not folders.ledger_durable.exists():
        # Without it nothing of the ledger would be read, and nothing would seem to be lost.
        fail(os.EX_DATAERR, f"{folders.ledger_durable} is gone; the next start of the relay makes it again.")
    try:
        with lock_folder(folders.lock_of("delivery")):
            found = _verify_stopped(folders, period, noted)
    except LockHeld:
        found = _verify_running(folders, period, noted)
    except (OSError, StoreFault) as fault:
        fail(os.EX_IOERR, str(fault))
    if as_json:
        print_json(_plain(found, period))
    else:
        _print(found, period, noted)
    raise typer.Exit(os.EX_OK if found.sound else os.EX_DATAERR)


def _noted(head: str | None) -> Head | None:
    try:
        return None if head is None else parse_head(head)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


# ---------------------------------------------------------------- reading


def _verify_running(folders: Folders, period: Period, noted: Head | None) -> _Findings:
    path = socket_path(folders.run, "delivery")
    try:
        with BusClient(path, msgspec.msgpack.Decoder(Answer)) as client:
            witnesses = _witnesses(folders)
            chain = _chain(folders, noted)
            ledger = _reader(folders, LEDGER, folders.ledger_durable)
            queue = _Asked(client)
            audit = verify(ledger, queue, period)
            parked = queue.parked() if audit.records == 0 else 0
            return _findings(folders, audit, chain, ledger, witnesses, parked, None)
    except BusFault as fault:
        fail_without_delivery(folders.data, fault)


def _verify_stopped(folders: Folders, period: Period, noted: Head | None) -> _Findings:
    chain = _chain(folders, noted)
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
            checkpoint = Lsn(load_mark(folders.checkpoint))
            recovered = recover(ledger, checkpoint, mail, store)
            parked = set(store.ids())
            audit = verify(ledger, parked.union(each.message.id for each in recovered.standing), period)
            witnesses = [*_witnesses(folders), Witness(path.name, Lsn(store.ledger_lsn))]
        finally:
            store.close()
    untaken = _accepted_from(mail, recovered.cursor, period)
    return _findings(folders, audit, chain, ledger, witnesses, len(parked), untaken)


def _chain(folders: Folders, noted: Head | None) -> ChainReport:
    return verify_chain(SystemDisk(folders.data), LEDGER, load_mark(folders.ledger_durable), noted)


def _witnesses(folders: Folders) -> list[Witness]:
    return [Witness(path.name, Lsn(load_mark(path))) for path in (folders.checkpoint, folders.followed)]


def _findings(
    folders: Folders,
    audit: Audit,
    chain: ChainReport,
    ledger: SegmentReader,
    witnesses: list[Witness],
    parked: int,
    untaken: int | None,
) -> _Findings:
    if chain.head is not None:
        # A mark that was set back hides records which the headers vouch for.
        witnesses.append(Witness("its own chain", Lsn(chain.head.lsn)))
    doubts = contradictions(
        audit, ledger.durable, witnesses, parked=parked, mail_released=load_mark(folders.released) > 0
    )
    return _Findings(audit, chain, doubts, untaken)


def _accepted_from(log: SegmentReader, cursor: Lsn, period: Period) -> int:
    """How many messages of the period stand in the mail log from a cursor on."""
    count = 0
    while True:
        try:
            entries = log.read(cursor, READ_BYTES)
        except CorruptError as damage:
            cursor = damage.resume
            continue
        if not entries:
            return count
        for entry in entries:
            try:
                message, _ = decode_mail(entry.payload)
            except UnreadableRecord:
                count += 1  # Of whatever time: better one too many than one that nobody told of.
                continue
            count += period.holds(message.accepted_ms)
        cursor = entries[-1].next


def _reader(folders: Folders, log: str, mark: Path) -> SegmentReader:
    return SegmentReader(SystemDisk(folders.data), log, mark=MarkFile(mark, writable=False))


# ---------------------------------------------------------------- telling


def _plain(found: _Findings, period: Period) -> dict[str, object]:
    chain = found.chain
    return {
        **msgspec.structs.asdict(found.audit),
        **period._asdict(),
        "not_taken_up": found.not_taken_up,
        "chain": {
            "batches": chain.batches,
            "start": chain.start,
            "head": None if chain.head is None else str(chain.head),
            "breaks": [each._asdict() for each in chain.breaks],
            "noted": chain.noted,
        },
        "contradictions": found.contradictions,
        "sound": found.sound,
    }


def _print(found: _Findings, period: Period, noted: Head | None) -> None:
    audit = found.audit
    typer.echo(f"{audit.messages} messages accepted{_words(period)}, for {audit.accepted} recipients:")
    typer.echo(f"  {audit.settled} with a final outcome")
    typer.echo(f"  {audit.in_queue} in the queue, {audit.uncertain} of them uncertain")
    typer.echo(f"  {audit.lost} LOST" if audit.lost else "  0 lost")
    for name in audit.lost_ids:
        typer.echo(f"    {name}")
    typer.echo(f"  {audit.doubly_settled} with two final outcomes")
    for name in audit.doubly_settled_ids:
        typer.echo(f"    {name}")
    kept_from_ms = audit.kept_from_ms
    if found.chain.start > 0 and kept_from_ms is not None and _reaches_back(period, kept_from_ms):
        typer.echo(f"The ledger that is kept begins at {shown_time(kept_from_ms)} (UTC).")
    if audit.earlier_settled:
        typer.echo(f"{audit.earlier_settled} outcomes of messages accepted before the ledger that is kept.")
    if audit.unreadable:
        typer.echo(f"{audit.unreadable} places of the ledger could not be read.")
    if found.not_taken_up:
        typer.echo(f"{found.not_taken_up} more messages stand in the mail log, and were not taken up yet.")
    _print_chain(found.chain, noted)
    for contradiction in found.contradictions:
        typer.echo(f"NOT SOUND: {contradiction}.")


def _print_chain(chain: ChainReport, noted: Head | None) -> None:
    state = f"BROKEN in {len(chain.breaks)} places" if chain.breaks else "unbroken"
    head = "unknown" if chain.head is None else chain.head.short
    typer.echo(f"chain: {chain.batches} batches, {state}, head {head}")
    for each in chain.breaks:
        typer.echo(f"  {each.start:#x} to {each.resume:#x}: {each.why}")
    if noted is not None and chain.noted is not None:
        typer.echo(f"  {NOTED_WORDS[chain.noted].format(head=noted.short)}")


def _words(period: Period) -> str:
    match period:
        case Period(None, None):
            return ""
        case Period(int(since_ms), None):
            return f" from {shown_time(since_ms)} (UTC) on"
        case Period(None, int(before_ms)):
            return f" before {shown_time(before_ms)} (UTC)"
        case Period(since_ms, before_ms):
            assert since_ms is not None and before_ms is not None, "matched above"
            return f" from {shown_time(since_ms)} to {shown_time(before_ms)} (UTC)"


def _reaches_back(period: Period, kept_from_ms: int) -> bool:
    """Whether part of the period lies before the ledger that is kept."""
    return period.since_ms is None or period.since_ms < kept_from_ms
