"""The delivery process: mail log to relays, every outcome into the ledger (stations 3 and 4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import msgspec

from dispatch.app.folders import CONTENT, LEDGER, MAIL, PARKED
from dispatch.app.lanes import Lanes, retry_plan
from dispatch.app.logs import Doubt, HealthyReader, LogHealth, open_log
from dispatch.app.machine import Machine
from dispatch.app.starts import Starts
from dispatch.app.watch import Watch
from dispatch.mail.delivery import DeliveryState
from dispatch.mail.message import ContentFile
from dispatch.mail.report import Fault
from dispatch.mime.departure import Departure
from dispatch.observe import Reporter
from dispatch.ports import Clock, Disk, Lsn, Worker
from dispatch.queue.book import Book
from dispatch.queue.housekeeping import ContentNames, Housekeeping
from dispatch.queue.in_hand import InHand
from dispatch.queue.lane import Lane
from dispatch.queue.large_content import Content, departing, unfit_to_leave
from dispatch.queue.orders import Orders
from dispatch.queue.parking import Parking
from dispatch.queue.pauses import Pauses
from dispatch.queue.recovery import recover
from dispatch.queue.requests import Request
from dispatch.queue.resume import Resumption
from dispatch.queue.scheduler import Scheduler, Seams
from dispatch.queue.service import DeliveryService
from dispatch.settings import Settings
from dispatch.settings.renewed_tokens import RenewedTokens
from dispatch.spool.content import ContentFolder
from dispatch.spool.log import SegmentLog, Told
from dispatch.spool.reader import SegmentReader
from dispatch.store.parked import ParkedStore

LEDGER_SYNC_S = 0.05
"""How long an outcome may wait for the disk (docs/architecture.md, The two logs)."""
LEDGER_KEEP_BYTES = 1 << 30
"""How much of the ledger is kept for `ledger verify` once nobody needs it."""
WELL_S = 1.0
"""How often a ledger that cannot be written is looked at."""
IN_HAND_SLOTS = 16_384
"""The bound on transactions under way, of all relays together."""

_REQUESTS = msgspec.msgpack.Decoder(Request)

PARKED_GONE = (
    "parked.db is gone, and with it the mail that waited in it; `dispatch ledger verify` names this mail. "
    "To get it back, stop the relay and put the file back, or `dispatch spool export` what the mail log "
    "still has; content files are kept until the next start"
)


class _Stores(NamedTuple):
    """What delivery reads and writes."""

    mail: SegmentReader
    """As recovery reads it."""
    taken_up: HealthyReader
    """The same, as mail is taken up from it."""
    ledger: SegmentLog
    written: SegmentReader
    """The ledger, as it is read at a start."""
    parked: ParkedStore
    content: ContentFolder
    workers: tuple[Worker, Worker]
    """For the parked store, and for files."""


async def start_delivery(
    machine: Machine, watch: Watch, report: Reporter, tokens: RenewedTokens | None = None
) -> DeliveryService:
    """Recover, then take mail up. The caller holds the lock of the ledger's folder.

    `tokens`: the refresh tokens that stand in place of configured ones.
    """
    folders = machine.folders
    checkpoint = machine.mark(folders.checkpoint, True)
    parked_gone = checkpoint.load() > 0 and PARKED not in machine.disk.names("")
    if parked_gone:
        report("queue_fault", why=PARKED_GONE)
    doubt = Doubt(machine.mark(folders.ledger_doubt, True))
    stores = _open_stores(machine, watch.settings, doubt, report)
    lanes: dict[str, Lane] = {}
    maker = Lanes(machine, report, tokens)
    maker.suppressed = watch.suppressed
    maker.make(watch.settings, lanes)
    paused = _paused(machine.disk, lanes, report)

    health = LogHealth(machine.clock, stores.ledger, "ledger", report)
    await _until_well(machine.clock, stores.ledger)
    starts = Starts(machine.disk, machine.start_id)
    if not starts.power_was_cut:
        await _until_on_record(machine.clock, starts, report)
    scheduler, seams = _recover_queue(machine, stores, maker, lanes, starts, doubt, report)
    _say_what_waits_for_nobody(stores.parked, lanes, report)
    housekeeping = Housekeeping(
        scheduler,
        seams,
        released=machine.mark(folders.released, True),
        checkpoint=checkpoint,
        followed=machine.mark(folders.followed, False),
        ledger_keep_bytes=LEDGER_KEEP_BYTES,
        retention_s=partial(_retention_s, watch),
        # What parked.db named is not known where it is gone: nothing counts as an orphan then.
        content=None
        if parked_gone
        else ContentNames(partial(machine.disk.names, CONTENT), stores.taken_up.incarnation),
    )
    # So that the next start need not read again what this one has.
    seams.book.once_durable(housekeeping.write_checkpoint)
    hints = machine.neighbours.hear("delivery", scheduler.wake)
    orders = Orders(scheduler, seams, paused)
    bus = machine.neighbours.serve("delivery", _REQUESTS, orders.handle, report)
    service = DeliveryService(
        scheduler,
        housekeeping,
        seams,
        ledger=stores.ledger,
        store=stores.parked,
        workers=stores.workers,
        doors=(bus, _Closing(hints.close, health.stop)),
        stopped=lambda: None if stores.ledger.unwell else starts.forget(),
    )

    def apply() -> None:
        if (new := watch.take()) is not None:
            if maker.suppressed is not watch.suppressed:
                maker.suppressed = watch.suppressed
                # What stands in line is looked at again, as everything is that the parked store hands out.
                scheduler.unload_all()
            unused = maker.make(new, lanes)
            paused.put(lanes.values())
            service.retire(unused)

    service.follow(watch.changed, apply)
    await bus.start()
    scheduler.wake()
    return service


def _paused(disk: Disk, lanes: dict[str, Lane], report: Reporter) -> Pauses:
    """The pauses that outlasted the restart, in force."""
    paused = Pauses(disk)
    paused.put(lanes.values())
    for name in ("all",) if paused.paused.everything else paused.paused.relays:
        report("queue_paused", relay=name)
    return paused


def _recover_queue(
    machine: Machine,
    stores: _Stores,
    maker: Lanes,
    lanes: dict[str, Lane],
    starts: Starts,
    doubt: Doubt,
    report: Reporter,
) -> tuple[Scheduler, Seams]:
    """Find out what the last run left, and put everything in its place."""
    checkpoint = Lsn(machine.mark(machine.folders.checkpoint, False).load())
    recovered = recover(stores.written, checkpoint, stores.mail, stores.parked, alarm=report)
    # A ledger whose sync failed may have lost what a dead process had written, as in a power cut.
    power = starts.power_was_cut or recovered.damaged or doubt.found
    power_until = machine.mark(machine.folders.power, True)
    if power:
        # Kept, because this process may die before all of that is taken up.
        power_until.store(stores.mail.durable)
    seams, scheduler = _make_queue(machine, stores, maker, lanes, recovered.cursor, report)
    resumption = Resumption(seams, scheduler, stores.parked, int(machine.clock.wall() * 1000))
    resumption.run(recovered, power=power)
    seams.book.once_durable(starts.remember)
    seams.book.once_durable(doubt.settle)
    report(
        "queue_recovered",
        records=recovered.replayed,
        standing=len(recovered.standing),
        uncertain=scheduler.uncertain,
        power_cut=power,
    )
    return scheduler, seams


def _open_stores(machine: Machine, settings: Settings, doubt: Doubt, report: Reporter) -> _Stores:
    folders = machine.folders
    ledger = open_log(
        machine,
        LEDGER,
        folders.ledger_durable,
        wakes="control",
        name="ledger",
        settings=settings,
        report=report,
        sync_interval_s=LEDGER_SYNC_S,
        chained=True,
        told=Told(doubted=doubt),
    )
    files = machine.threads.worker("files")
    mail = SegmentReader(machine.disk, MAIL, mark=machine.mark(folders.mail_durable, False))
    return _Stores(
        mail=mail,
        taken_up=HealthyReader(mail, "mail log", report),
        ledger=ledger,
        written=SegmentReader(machine.disk, LEDGER, mark=machine.mark(folders.ledger_durable, False)),
        parked=ParkedStore.open(folders.parked_db, vfs=machine.vfs, disk=machine.disk),
        content=ContentFolder(machine.disk, CONTENT, worker=files),
        workers=(machine.threads.worker("parked"), files),
    )


def _make_queue(
    machine: Machine,
    stores: _Stores,
    maker: Lanes,
    lanes: dict[str, Lane],
    cursor: Lsn,
    report: Reporter,
) -> tuple[Seams, Scheduler]:
    folders = machine.folders
    parked_worker, files_worker = stores.workers
    parking = Parking(
        stores.parked,
        parked_worker,
        machine.clock,
        fault=lambda error: report("queue_fault", why=repr(error)),
        abandon=lambda files: scheduler.abandoned(files),
    )
    seams = Seams(
        clock=machine.clock,
        chance=machine.chance,
        mail=stores.taken_up,
        unanswered=stores.mail.unanswered,
        book=Book(stores.ledger, machine.soon),
        parking=parking,
        in_hand=InHand(folders.in_hand, IN_HAND_SLOTS),
        route=maker.routes_of,
        route_released=maker.released_routes_of,
        suppressed=maker.suppressed_of,
        plan=retry_plan(maker.settings),
        prepare=partial(_prepare, machine.disk, files_worker, report),
        remove_files=partial(_remove_files, stores.content, report),
        alarm=report,
    )
    power_until = machine.mark(folders.power, False).load()
    cut = machine.mark(folders.mail_cut, False)
    # Intake knows where the cut ended its log only when it has recovered: until then, only what the mark
    # speaks of is read.
    scheduler = Scheduler(seams, lanes, cursor, lambda lsn: lsn < power_until or lsn < cut.load())
    return seams, scheduler


class _Closing:
    """What hears and looks, as one thing to be closed."""

    def __init__(self, *stops: Callable[[], None]) -> None:
        self._stops = stops

    def close(self) -> None:
        for stop in self._stops:
            stop()


async def _until_well(clock: Clock, ledger: SegmentLog) -> None:
    """Wait until the ledger can be written: before, its end is not certain, and nothing could be recorded.

    Intake serves meanwhile; the mail log is the buffer. `LogHealth` says why.
    """
    while ledger.unwell is not None:
        await _a_while(clock)


async def _until_on_record(clock: Clock, starts: Starts, report: Reporter) -> None:
    """Wait until a power cut would be noticed: before, what it takes out of the ledger would be missed by
    nobody."""
    if not starts.remember():
        report("start_fault", meanwhile="nothing is delivered")
        while not starts.remember():
            await _a_while(clock)


async def _a_while(clock: Clock) -> None:
    later: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    clock.call_later(WELL_S, partial(later.set_result, None))
    await later


def _retention_s(watch: Watch) -> float | None:
    days = watch.settings.spool.failed_retention_days
    return days * 86_400.0 if days else None


def _say_what_waits_for_nobody(store: ParkedStore, lanes: dict[str, Lane], report: Reporter) -> None:
    for (relay, state), count in store.counts().items():
        if count and relay and relay not in lanes and state is DeliveryState.WAITING:
            report("relay_missing", relay=relay, deliveries=count)


def _prepare(
    disk: Disk,
    worker: Worker,
    report: Reporter,
    departure: Departure,
    content: Content,
    now_s: int,
    done: Callable[[Content | Fault], None],
) -> None:
    def prepare() -> Content:
        if isinstance(content, bytes):
            return departure.content(content, now_s)
        return departing(disk, CONTENT, content, departure, now_s)

    def prepared(result: Content | Exception) -> None:
        if isinstance(result, Exception):
            if isinstance(content, ContentFile) and isinstance(result, OSError):
                report("content_unreadable", file=content.name, why=str(result))
            done(unfit_to_leave(result))
        else:
            done(result)

    worker.call(prepare, prepared)


def _remove_files(content: ContentFolder, report: Reporter, files: list[ContentFile]) -> None:
    def removed(fault: Exception | None) -> None:
        if fault is not None:
            report("content_not_removed", files=len(files), why=str(fault))

    content.remove([file.name for file in files], removed)
