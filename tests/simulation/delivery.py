"""The delivery process on a simulated machine: the shipped queue over simulated upstreams.

One `World` is a machine with everything that outlives processes, and what a client, an upstream and an
operator know; one `Life` is the delivery process from recovery to its death, with a mail log that a client
can write to.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from tests.simulation.audit import Audit, Key
from tests.simulation.machine import Death, Machine, Process
from tests.simulation.upstreams import Received, Upstream

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import MessageId, new_message_id
from dispatch.mail.message import PRIORITIES, ContentFile, Message, Origin, Summary
from dispatch.policy.breaker import Breaker
from dispatch.policy.concurrency import Window
from dispatch.policy.routing import Route
from dispatch.policy.schedule import RetryPlan
from dispatch.policy.uncertain import UncertainPolicy
from dispatch.ports import AppendFault, Lsn
from dispatch.queue.book import Book
from dispatch.queue.housekeeping import ContentNames, Housekeeping
from dispatch.queue.in_hand import InHand
from dispatch.queue.lane import Lane, LaneRules
from dispatch.queue.orders import Orders
from dispatch.queue.parking import Parking
from dispatch.queue.recovery import recover
from dispatch.queue.requests import Answer, Request
from dispatch.queue.resume import Resumption
from dispatch.queue.scheduler import Scheduler, Seams
from dispatch.spool.log import SegmentLog
from dispatch.spool.reader import SegmentReader
from dispatch.spool.records import encode_mail
from dispatch.store.changes import Change
from dispatch.store.parked import ParkedMessage, ParkedStore
from dispatch.store.sqlite import StoreFault, StoreFull

PLAN = RetryPlan((5.0, 30.0), retries_max=None, age_max_s=1800.0)
POLICIES: dict[str, UncertainPolicy] = {"retry": "retry", "hold": "hold", "give_up": "give_up"}
IN_HAND_SLOTS = 64
READY_MAX = 12
SEGMENT_BYTES = 16 << 10
LIFE_STARTS_MAX = 50
CHECKPOINT_SHARE = 0.01
"""Of the steps, how many write a checkpoint: what it says must be true at each of them."""


class HurtStore(ParkedStore):
    """A parked store whose disk is full now and then."""

    full = False

    def _check(self) -> None:
        if self.full:
            raise StoreFull("simulated")

    def apply(self, changes: list[Change], ledger_lsn: int) -> list[ContentFile]:  # type: ignore[override]
        self._check()
        return super().apply(changes, ledger_lsn)

    def claim(self, relay: str, now_ms: int, limit: int, size_bytes_max: int) -> list[ParkedMessage]:
        self._check()
        return super().claim(relay, now_ms, limit, size_bytes_max)

    def put_back(self, taken):  # type: ignore[no-untyped-def]
        self._check()
        super().put_back(taken)


class World:
    """What outlives every process, and what the outside knows."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.machine = Machine(seed, folder)
        self.random = self.machine.random
        self.received = Received()
        self.offered: dict[MessageId, Message] = {}
        self.acknowledged: set[MessageId] = set()
        self.refused: set[MessageId] = set()
        self.trouble = 1.0
        self.forgotten: dict[Key, list[Lsn]] = {}
        """What upstreams received that power cuts took out of the ledger, and where each cut ended it."""
        self.alarms: list[str] = []
        self.accidents = 0
        """Deaths that no message is to blame for."""
        self.power_cuts = 0
        self.power_was_cut = False
        """And what a start had to find out about it is not durable yet."""
        self._cut_at: Lsn | None = None
        """Where the power cut has ended the ledger; None where the ledgers before and after agree."""
        self._unseen = False
        self.life: Life | None = None

    def start(self, *, die_after: int | None = None) -> Life:
        """Begin a life, in spite of deaths on the way."""
        for _ in range(LIFE_STARTS_MAX):
            try:
                self.life = Life(self, die_after=die_after)
            except Death:
                self.accidents += 1
                die_after = None
                continue
            audit = Audit(self.life.ledger)
            self._compare(audit)
            self.check(audit)
            return self.life
        raise AssertionError("it dies whenever it starts")

    def cut_power(self) -> None:
        """No process is left."""
        self.machine.cut_power()
        self.power_cuts += 1
        self.power_was_cut = self._unseen = True

    def found_ledger(self, end: Lsn) -> None:
        """A start has found the ledger with this end."""
        if self._unseen:
            self._cut_at = end
            self._unseen = False

    def recovered(self) -> None:
        """What a start had to find out is durable."""
        self.power_was_cut = False

    def make_message(self, incarnation: int) -> tuple[Message, bytes]:
        random, now_ms = self.random, int((self.machine.now_s + self.machine.wall_offset_s) * 1000)
        message_id = new_message_id(now_ms, random.randbytes(10))
        recipients = tuple(
            Recipient(f"r{number}@example.org") for number in range(random.choice((1, 1, 1, 2, 3, 6)))
        )
        content = b"Subject: %d\r\nBcc: x@example.org\r\n\r\n" % random.randrange(1000)
        content += b"." * random.choice((0, 10, 1000))
        file = None
        if random.random() < 0.2:
            file = ContentFile(f"{incarnation:016x}-{message_id.hex()}.content", 2 << 20)
        message = Message(
            message_id,
            now_ms,
            Envelope("sender@example.org", recipients),
            Origin("smtp", f"192.0.2.{random.randrange(3)}"),
            Summary(),
            len(content),
            file,
            random.choice(PRIORITIES),
        )
        return message, content

    # ------------------------------------------------------------ the invariants

    def check(self, audit: Audit) -> None:
        """What must hold at any time, given what the ledger says."""
        for key, taken in self.received.taken.items():
            explained = sum(audit.explains(key, cut) for cut in self.forgotten.get(key, ()))
            excuses = audit.uncertain[key] + explained
            assert len(taken) <= 1 + excuses, f"taken {len(taken)} times: {key[0].hex()} {key[1]}"
        assert self.power_cuts or not audit.power, "called uncertain (power), and no power was cut"
        for key, count in audit.delivered.items():
            assert count == 1, f"{key} delivered {count} times"
            assert key in self.received.taken, f"{key} called delivered, but nobody has it"
        assert not self.refused & set(audit.messages), "refused, and taken up"

    def _compare(self, audit: Audit) -> None:
        """*Sending* was in the ledger before anything left, unless a power cut took it out: then once."""
        for key, taken in self.received.taken.items():
            lost = [place for place, number in enumerate(taken) if number > audit.sent[key]]
            if lost:
                assert self._cut_at is not None, f"{key[0].hex()} {key[1]} left without a record"
                assert len(lost) == 1, f"{key[0].hex()} {key[1]} left twice without a durable record"
                self.forgotten.setdefault(key, []).append(self._cut_at)
                taken[lost[0]] = 0
        self.received.sendings = Counter(audit.sent)
        self._cut_at = None

    def check_explanations(self, audit: Audit) -> None:
        """At the end: whatever a power cut took out of the ledger is called *uncertain (power)* in it."""
        for key, cuts in self.forgotten.items():
            assert all(audit.explains(key, cut) for cut in cuts), f"{key[0].hex()} {key[1]} has no power mark"


class Life:
    """One delivery process, from recovery on."""

    def __init__(self, world: World, *, die_after: int | None = None) -> None:
        self.world = world
        self.process = process = Process(world.machine)
        self.upstreams: list[Upstream] = []
        self.tasks: set[asyncio.Task[object]] = set()
        self.scheduler: Scheduler | None = None
        self.store: HurtStore | None = None
        try:
            process.run(self._begin(die_after))
        except Death:
            self.bury()
            raise

    async def _begin(self, die_after: int | None) -> None:
        world, process, machine = self.world, self.process, self.world.machine
        process.die_after(die_after)
        self.mail_log = self._log("mail/0", 0.0)
        self.ledger_log = self._log("ledger/0", 0.05)
        world.found_ledger(self.ledger_log.durable)
        mail = SegmentReader(process.disk, "mail/0", mark=machine.mark("mail/0"))
        self.ledger = SegmentReader(process.disk, "ledger/0", mark=machine.mark("ledger/0"))
        self.store = store = HurtStore.open(machine.folder / "parked.db")
        checkpoint = machine.mark("checkpoint")
        recovered = recover(self.ledger, Lsn(checkpoint.load()), mail, store)
        self.lanes = {name: self._lane(name) for name in POLICIES}
        self.book = Book(self.ledger_log, lambda callback: process.call_later(0.0, callback))
        self.parking = Parking(
            store,
            process.worker("parked"),
            process,
            fault=self._store_fault,
            abandon=lambda files: scheduler.abandoned(files),
        )
        self.in_hand = InHand(machine.folder / "in-hand", IN_HAND_SLOTS)
        self.seams = Seams(
            clock=process,
            chance=process.chance,
            mail=mail,
            unanswered=mail.unanswered,
            book=self.book,
            parking=self.parking,
            in_hand=self.in_hand,
            route=self._route,
            route_released=self._route,
            plan=PLAN,
            prepare=lambda departure, content, now_s, done: process.call_later(0.01, lambda: done(content)),  # type: ignore[arg-type,return-value]
            remove_files=self._remove_files,
            alarm=lambda event, **fields: world.alarms.append(event),
        )
        power_until = machine.mark("power")
        if world.power_was_cut:
            power_until.store(mail.durable)
        scheduler = self.scheduler = Scheduler(
            self.seams, self.lanes, recovered.cursor, lambda lsn: lsn < power_until.load()
        )
        Resumption(self.seams, scheduler, store, int(process.wall() * 1000)).run(
            recovered, power=world.power_was_cut
        )
        self.book.once_durable(world.recovered)
        self.housekeeping = Housekeeping(
            scheduler,
            self.seams,
            released=machine.mark("released"),
            checkpoint=checkpoint,
            followed=machine.mark("followed"),
            ledger_keep_bytes=1 << 40,
            content=ContentNames(lambda: sorted(world.received.files), mail.incarnation),
        )
        self.orders = Orders(scheduler, self.seams)
        scheduler.wake()
        process.loop.after_step = self._after_step
        self._timer = process.call_later(1.0, self._release)

    def _log(self, folder: str, sync_interval_s: float) -> SegmentLog:
        return SegmentLog(
            self.process.disk,
            folder,
            clock=self.process,
            chance=self.process.chance,
            threads=self.process,
            mark=self.world.machine.mark(folder),
            sync_interval_s=sync_interval_s,
            segment_bytes=SEGMENT_BYTES,
            spares=0,
            chained=sync_interval_s > 0,
        )

    def _lane(self, name: str) -> Lane:
        upstream = Upstream(self.process, self.world.received, self.world.random, self.world.trouble)
        self.upstreams.append(upstream)
        rules = LaneRules(name, PLAN, POLICIES[name], ready_max=READY_MAX, ready_bytes_max=4 << 10)
        lane = Lane(rules, upstream, Breaker(3, 2.0, 20.0), Window(8))
        lane.deputies = frozenset(POLICIES) - {name}
        return lane

    def _route(self, message: Message) -> tuple[tuple[Route, tuple[int, ...]], ...]:
        """By the message's id and the recipient's place, so that it is the same in every life."""
        names = (*POLICIES, "retry", "retry")
        first = message.id[-1]
        taken: dict[str, list[int]] = {}
        for index in range(len(message.envelope.recipients)):
            taken.setdefault(names[(first + index // 2) % len(names)], []).append(index)
        others = message.id[-2] % len(POLICIES)
        return tuple(
            (Route((name, *[other for other in POLICIES if other != name][:others]), "test"), tuple(indexes))
            for name, indexes in taken.items()
        )

    def _remove_files(self, files: list[ContentFile]) -> None:
        for file in files:
            self.world.received.files.discard(file.name)

    def _store_fault(self, error: Exception) -> None:
        if not isinstance(error, StoreFault):
            raise error

    def _release(self) -> None:
        self.mail_log.release(Lsn(self.world.machine.mark("released").load()))
        self._timer = self.process.call_later(1.0, self._release)

    def _after_step(self) -> None:
        """Memory is bounded, and nothing waits in a line that nobody serves."""
        for lane in self.lanes.values():
            assert len(lane.ready) <= READY_MAX
            assert lane.in_flight <= lane.window.max_concurrency
        if self.world.trouble and self.world.random.random() < CHECKPOINT_SHARE:
            self.housekeeping.write_checkpoint()

    # ------------------------------------------------------------ what others do

    def offer(self) -> None:
        """A client hands a message over."""
        world = self.world
        message, content = world.make_message(self.mail_log.incarnation)
        world.offered[message.id] = message
        if message.content_file is not None:
            world.received.files.add(message.content_file.name)
            content = b""
        if world.trouble and world.random.random() < 0.01:
            world.received.poison.add(message.id)

        def answered(answer: Lsn | AppendFault) -> None:
            if isinstance(answer, AppendFault):
                world.refused.add(message.id)
                if message.content_file is not None:
                    world.received.files.discard(message.content_file.name)
            else:
                world.acknowledged.add(message.id)
                assert self.scheduler is not None
                self.scheduler.wake()

        self.mail_log.append(encode_mail(message, (content,) if content else ()), answered)

    def order(self, request: Request) -> asyncio.Task[Answer | None]:
        """An operator asks; what the store cannot answer is no fault of the queue."""

        async def ask() -> Answer | None:
            try:
                return await self.orders.handle(request)
            except StoreFault:
                return None

        task = self.process.loop.create_task(ask())
        self.tasks.add(task)  # type: ignore[arg-type]
        task.add_done_callback(self.tasks.discard)
        return task

    @property
    def busy(self) -> bool:
        """Something is still on its way: a bystander's view, cheap enough to be asked often."""
        assert self.scheduler is not None and self.store is not None
        parked = self.store.counts()
        moving = (DeliveryState.WAITING, DeliveryState.HELD, DeliveryState.UNCERTAIN)
        return bool(
            self.scheduler.custody.live
            or any(True for _ in self.scheduler.works())
            or any(state in moving and count for (_, state), count in parked.items())
            or self.scheduler.cursor < self.seams.mail.durable
        )

    def replace_lane(self, name: str) -> None:
        """The settings have changed: a new lane in place of the old one, whose works finish."""
        old = self.lanes[name]
        self.lanes[name] = self._lane(name)
        assert self.scheduler is not None and isinstance(old.relay, Upstream)
        old.relay.shut()
        self.scheduler.unload(old)
        self.scheduler.look_again()

    def calm(self) -> None:
        """No more trouble from now on."""
        assert self.store is not None
        self.world.trouble = 0.0
        self.store.full = False
        self.process.die_after(None)
        for upstream in self.upstreams:
            upstream.trouble = 0.0

    def bury(self) -> None:
        """The process is dead. Its objects must do nothing any more."""
        if self.scheduler is not None:
            self.scheduler.stopping = True
            self.scheduler.custody.close()
            self.parking.close()
        self.process.loop.after_step = lambda: None
        self.process.bury()
        if self.store is not None:
            self.store.close()
