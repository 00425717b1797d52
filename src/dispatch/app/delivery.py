"""The delivery process: mail log to relays, every outcome into the ledger (stations 3 and 4)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from dispatch.app.folders import CONTENT, LEDGER, MAIL, Folders
from dispatch.app.lanes import Lanes, retry_plan
from dispatch.app.logs import HintingMark, report_recovery
from dispatch.app.machine import Machine
from dispatch.app.watch import SettingsWatch
from dispatch.mail.delivery import DeliveryState
from dispatch.mail.message import ContentFile
from dispatch.observe import Reporter
from dispatch.ports import Disk, Lsn, Worker
from dispatch.queue.book import Book
from dispatch.queue.housekeeping import Housekeeping
from dispatch.queue.in_hand import InHand
from dispatch.queue.lane import Lane
from dispatch.queue.large_content import as_handed_over
from dispatch.queue.orders import Orders, Request
from dispatch.queue.parking import Parking
from dispatch.queue.recovery import recover
from dispatch.queue.resume import Resumption
from dispatch.queue.scheduler import Scheduler, Seams
from dispatch.queue.service import DeliveryService
from dispatch.runtime.bus import BusServer, hint_path, socket_path
from dispatch.runtime.hints import HintListener, Hints
from dispatch.spool.content import ContentFolder
from dispatch.spool.log import SegmentLog
from dispatch.spool.reader import SegmentReader
from dispatch.store.parked import ParkedStore

LEDGER_SYNC_S = 0.05
"""How long an outcome may wait for the disk (DESIGN section 2)."""
LEDGER_KEEP_BYTES = 1 << 30
"""How much of the ledger is kept for `ledger verify` once nobody needs it."""
IN_HAND_SLOTS = 16_384
"""The bound on transactions under way, of all relays together."""


async def start_delivery(machine: Machine, data: Path, report: Reporter) -> DeliveryService:
    """Recover, then take mail up. The caller holds the lock of the ledger's folder."""
    folders = Folders(data)
    watch = SettingsWatch(folders.settings, "delivery")
    settings = watch.settings
    clock = machine.clock

    ledger = SegmentLog(
        machine.disk,
        LEDGER,
        clock=clock,
        chance=machine.chance,
        threads=machine.threads,
        mark=HintingMark(
            machine.mark(folders.ledger_durable, True), Hints(hint_path(folders.run, "control"))
        ),
        soon=machine.soon,
        sync_interval_s=LEDGER_SYNC_S,
        segment_bytes=settings.spool.segment_mb << 20,
    )
    report_recovery(report, "ledger", ledger.recovery)
    mail = SegmentReader(machine.disk, MAIL, mark=machine.mark(folders.mail_durable, False))
    ledger_reader = SegmentReader(machine.disk, LEDGER, mark=machine.mark(folders.ledger_durable, False))
    store = ParkedStore.open(folders.parked_db)
    checkpoint = machine.mark(folders.checkpoint, True)
    started_s = clock.monotonic()
    recovered = recover(ledger_reader, Lsn(checkpoint.load()), mail, store)

    lanes: dict[str, Lane] = {}
    lane_maker = Lanes(machine, report)
    lane_maker.make(settings, lanes)
    parked_worker = machine.threads.worker("parked")
    files_worker = machine.threads.worker("files")
    content = ContentFolder(machine.disk, CONTENT, worker=files_worker)
    book = Book(ledger)
    parking = Parking(
        store,
        parked_worker,
        clock,
        fault=lambda error: report("queue_fault", why=repr(error)),
        abandon=lambda files: scheduler.abandoned(files),
    )
    seams = Seams(
        clock=clock,
        chance=machine.chance,
        mail=mail,
        unanswered=mail.unanswered,
        book=book,
        parking=parking,
        in_hand=InHand(folders.in_hand, IN_HAND_SLOTS),
        route=lane_maker.routes_of,
        plan=retry_plan(settings),
        measure=partial(_measure, machine.disk, files_worker),
        remove_files=lambda files: content.remove([file.name for file in files], lambda _: None),
        alarm=report,
    )
    power = power_was_cut(folders.boot)
    scheduler = Scheduler(seams, lanes, recovered.cursor, mail.durable if power else Lsn(0))
    Resumption(seams, scheduler, store, int(clock.wall() * 1000)).run(recovered)
    report(
        "queue_recovered",
        records=recovered.replayed,
        standing=len(recovered.standing),
        uncertain=scheduler.uncertain,
        power_cut=power,
        took_s=clock.monotonic() - started_s,
    )
    _say_what_waits_for_nobody(store, lanes, report)
    housekeeping = Housekeeping(
        scheduler,
        seams,
        released=machine.mark(folders.released, True),
        checkpoint=checkpoint,
        followed=machine.mark(folders.followed, False),
        ledger_keep_bytes=LEDGER_KEEP_BYTES,
    )

    orders = Orders(scheduler, seams)
    hints = HintListener(hint_path(folders.run, "delivery"), scheduler.wake)
    bus = BusServer(
        socket_path(folders.run, "delivery"), msgspec.msgpack.Decoder(Request), orders.handle, report
    )
    service = DeliveryService(
        scheduler,
        housekeeping,
        seams,
        ledger=ledger,
        store=store,
        workers=(parked_worker, files_worker),
        doors=(bus, hints),
    )

    def apply() -> None:
        taken = watch.take()
        if taken is not None:
            service.retire(lane_maker.make(taken[1], lanes))
            report("settings_applied", number=watch.number)

    service.follow(watch.changed, apply)
    await bus.start()
    scheduler.wake()
    return service


def _say_what_waits_for_nobody(store: ParkedStore, lanes: dict[str, Lane], report: Reporter) -> None:
    for (relay, state), count in store.counts().items():
        if count and relay and relay not in lanes and state is DeliveryState.WAITING:
            report("relay_missing", relay=relay, deliveries=count)


def _measure(disk: Disk, worker: Worker, content: ContentFile, done: Callable[[ContentFile], None]) -> None:
    def measured(result: ContentFile | Exception) -> None:
        # What cannot be opened is handed over as it is: the relay will not be able to open it either, and
        # reports that in its own words.
        done(content if isinstance(result, Exception) else result)

    worker.call(lambda: as_handed_over(disk, CONTENT, content), measured)


def power_was_cut(boot: Path) -> bool:
    """Whether the machine was started anew since this was last asked; remembers the present start."""
    present = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    before = boot.read_text().strip() if boot.exists() else present
    boot.write_text(present + "\n")
    return before != present
