"""The queue on a bench: a ledger that is durable when the test says so, relays that the test answers for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.simulation.loop import SimulatedChance, SimulatedLoop, SimulatedMark
from tests.unit.outcomes.ledger import frame_of

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import MessageId, new_message_id
from dispatch.mail.message import ContentFile, Message, Origin, Summary
from dispatch.mail.reply import Reply, reply
from dispatch.mail.report import Fault, FaultKind, Report, Stage
from dispatch.policy.breaker import Breaker
from dispatch.policy.concurrency import Window
from dispatch.policy.routing import Route, Routes
from dispatch.policy.schedule import RetryPlan
from dispatch.policy.suppression import SuppressionList
from dispatch.policy.uncertain import UncertainPolicy
from dispatch.ports import AppendFault, Buffer, Entry, Lsn, Transaction
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
from dispatch.spool.memory import MemoryLog, MemoryReader
from dispatch.spool.records import LedgerRecord, UnreadableRecord, decode_ledger, encode_mail
from dispatch.store.parked import ParkedDelivery, ParkedStore
from dispatch.store.sqlite import StoreFull

PLAN = RetryPlan((10.0,), retries_max=None, age_max_s=3600.0)
TAKEN = reply(250, "2.0.0", "taken")
LATER = reply(451, "4.3.0", "later")
NEVER = reply(554, "5.7.1", "never")
HOLDS = "a rule holds it"
SLOTS = 8


def leave(error: Exception | None) -> None:
    """What a relay does when it may: here the test does it."""


class HandLedger:
    """`ports.Log` whose records become durable when `sync` is called. A record's place is its number."""

    def __init__(self) -> None:
        self.durable = Lsn(0)
        self._written: list[LedgerRecord] = []
        self.gather: Callable[[], None] = lambda: None
        """Have whoever writes hand over what he holds until the end of the turn."""
        self.kept = 0
        """How many of them are durable."""
        self.released = Lsn(0)
        self.by_itself = True
        """Durable as soon as the loop turns."""
        self._done: list[tuple[int, Callable[[Lsn | AppendFault], None]]] = []
        """For each frame how many records were there with it, and whom to tell."""
        self._loop: SimulatedLoop | None = None

    def runs_on(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    @property
    def written(self) -> list[LedgerRecord]:
        self.gather()
        return self._written

    def append(self, record: Sequence[Buffer], done: Callable[[Lsn | AppendFault], None]) -> None:
        first = len(self._written) + 1
        for each in decode_ledger(b"".join(record)):
            assert not isinstance(each, UnreadableRecord)
            self._written.append(each)
        self._done.append((first, done))
        if self.by_itself and self._loop is not None:
            self._loop.post(self._turn)

    def _turn(self) -> None:
        if self.by_itself:
            self.sync()

    def sync(self) -> None:
        self.gather()
        while self._done:
            first, done = self._done.pop(0)
            behind = self._done[0][0] if self._done else len(self._written) + 1
            self.kept = behind - 1
            self.durable = Lsn(self.kept)
            done(Lsn(first))

    def flush(self) -> None:
        """They survive in any case."""

    def release(self, below: Lsn) -> None:
        self.released = below

    def close(self) -> None:
        self.sync()

    def killed(self) -> None:
        """The writer is dead: what it wrote is there, and nobody is told."""
        self.gather()
        self.kept = len(self._written)
        self.durable = Lsn(self.kept)
        self._done.clear()

    def lost_power(self) -> None:
        """What was not durable is gone."""
        self.gather()
        del self._written[self.kept :]
        self._done.clear()

    # As `ports.LogReader`

    oldest = Lsn(0)

    def read(self, cursor: Lsn, size_bytes_max: int) -> list[Entry]:
        return [
            Entry(Lsn(number), Lsn(number + 1), frame_of(self._written[number - 1]))
            for number in range(max(1, cursor), self.kept + 1)
        ]


class HandRelay:
    """`ports.Relay` which the test answers for."""

    def __init__(self) -> None:
        self.slots = 4
        self.started: list[tuple[Transaction, Callable[[Transaction, Report], None]]] = []
        self.told_to_try_again = 0

    def free(self) -> int:
        return self.slots - len(self.started)

    def start(self, transaction: Transaction, done: Callable[[Transaction, Report], None]) -> None:
        self.started.append((transaction, done))

    def try_again(self) -> None:
        self.told_to_try_again += 1

    async def close(self, grace_s: float) -> None:
        self.slots = 0

    def answer(self, *replies: Reply | None) -> None:
        """The end of data leaves, and is answered: one reply for all, one for each, or None for silence."""
        transaction, done = self.started.pop(0)
        transaction.sending(transaction, leave)
        each = replies * len(transaction.indexes) if len(replies) == 1 else replies
        fault = None if all(each) else Fault(FaultKind.DROPPED, "silence")
        done(transaction, Report(Stage.END_OF_DATA, each, fault))

    def fail(self, stage: Stage = Stage.CONNECT, kind: FaultKind = FaultKind.DROPPED) -> None:
        """Before the end of data."""
        transaction, done = self.started.pop(0)
        done(transaction, Report(stage, (None,) * len(transaction.indexes), Fault(kind, "cut")))


def _route(name: str | Route) -> Route:
    if isinstance(name, Route):
        return name
    return Route(tuple(name.split(" > ")), "test") if name else Route((), "test", HOLDS)


class FullStore(ParkedStore):
    """A parked store whose disk may be full."""

    full = False

    def apply(self, changes, ledger_lsn):  # type: ignore[no-untyped-def]
        self._check()
        return super().apply(changes, ledger_lsn)

    def put_back(self, taken):  # type: ignore[no-untyped-def]
        self._check()
        super().put_back(taken)

    def _check(self) -> None:
        if self.full:
            raise StoreFull("simulated")


class Bench:
    """A scheduler with one lane, `relay`, and whatever stands around it."""

    def __init__(self, folder: Path, dead: Bench | None = None, uncertain: UncertainPolicy = "retry") -> None:
        """`dead`: whose place it takes, with that one's ledger and log."""
        self.folder = folder
        self.loop = SimulatedLoop() if dead is None else dead.loop
        self.ledger = HandLedger() if dead is None else dead.ledger
        self.ledger.runs_on(self.loop)
        self.mail = MemoryLog(clock=self.loop) if dead is None else dead.mail
        self._messages = 0 if dead is None else dead._messages
        self.uncertain = uncertain
        self.dealt: tuple[str | Route, ...] = ("relay",) if dead is None else dead.dealt
        """Which relay gets the first recipient of each message, which the second, and so on; nobody: held.
        Several relays of a route have `>` between them."""
        self.suppressed = SuppressionList()
        self.store = FullStore.open(folder / "parked.db")
        self.book = Book(self.ledger, self.loop.post)
        self.ledger.gather = self.book.hand_over
        self.removed: list[str] = []
        self.alarms: list[str] = []
        self.parking = Parking(
            self.store,
            self.loop.worker("parked"),
            self.loop,
            fault=lambda error: self.alarms.append(str(error)),
            abandon=lambda files: self.scheduler.abandoned(files),
        )
        self.in_hand = InHand(folder / "in-hand", SLOTS)
        self.relay = HandRelay()
        self.lane = self.make_lane("relay", self.relay)
        reader = MemoryReader(self.mail)
        self.seams = Seams(
            clock=self.loop,
            chance=SimulatedChance(),
            mail=reader,
            unanswered=reader.unanswered,
            book=self.book,
            parking=self.parking,
            in_hand=self.in_hand,
            route=self.route,
            route_released=self.route_released,
            suppressed=lambda message: self.suppressed.among(message.envelope.recipients),
            plan=PLAN,
            prepare=lambda departure, content, now_s, done: self.loop.post(partial(done, content)),
            remove_files=lambda files: self.removed.extend(file.name for file in files),
            alarm=lambda event, **fields: self.alarms.append(event),
        )
        self.scheduler = Scheduler(self.seams, {"relay": self.lane}, Lsn(0), lambda _: False)
        self.released, self.checkpoint, self.followed = SimulatedMark(), SimulatedMark(), SimulatedMark()
        self.followed.store(1 << 40)
        self.retention_s: float | None = None
        self.files: list[str] = []
        self.housekeeping = Housekeeping(
            self.scheduler,
            self.seams,
            released=self.released,
            checkpoint=self.checkpoint,
            followed=self.followed,
            ledger_keep_bytes=0,
            retention_s=lambda: self.retention_s,
            content=ContentNames(lambda: self.files, lambda _: 2),
        )

        self.orders = Orders(self.scheduler, self.seams)

    def cut_power(self, uncertain: UncertainPolicy = "retry") -> Bench:
        """The bench after it; the file of what is in hand happens to be empty."""
        self.ledger.lost_power()
        self.ledger.by_itself = True
        after = self.kill(uncertain)
        for suspect in after.in_hand.suspects():
            after.in_hand.clear(suspect.slot)
        after.in_hand.suspects().clear()
        return after

    def kill(self, uncertain: UncertainPolicy = "retry") -> Bench:
        """The process dies; the bench of the next one, not recovered yet."""
        self.scheduler.stopping = True
        self.parking.close()
        self.scheduler.custody.close()
        self.housekeeping.stop()
        self.ledger.killed()
        self.store.close()
        return Bench(self.folder, self, uncertain)

    def resume(self, checkpoint: int = 0, *, power: bool = False) -> Bench:
        """Recover and go on."""
        recovered = recover(self.ledger, Lsn(checkpoint), self.seams.mail, self.store)
        self.scheduler.cursor = recovered.cursor
        resumption = Resumption(self.seams, self.scheduler, self.store, int(self.loop.wall() * 1000))
        resumption.run(recovered, power=power)
        self.scheduler.wake()
        self.loop.settle()
        return self

    def order(self, request: Request, meanwhile: Callable[[], None] = lambda: None) -> Answer:
        """Give an order and wait for the answer; `meanwhile` happens as soon as it has begun."""

        async def ask() -> Answer:
            task = asyncio.ensure_future(self.orders.handle(request))
            await asyncio.sleep(0)
            meanwhile()
            for _ in range(50):
                self.loop.settle()
                await asyncio.sleep(0)
            assert task.done(), "the order hangs"
            return task.result()

        return asyncio.run(ask())

    def make_lane(self, name: str, relay: HandRelay, **rules: int) -> Lane:
        return Lane(LaneRules(name, PLAN, self.uncertain, **rules), relay, Breaker(), Window(8))  # type: ignore[arg-type]

    def add_relay(self, name: str) -> HandRelay:
        """One more lane, beside `relay`."""
        relay = HandRelay()
        self.scheduler.lanes[name] = self.make_lane(name, relay)
        return relay

    def fail_over(self, *names: str) -> tuple[HandRelay, ...]:
        """A rule names these relays, and takes all mail; those that are not there yet are added."""
        self.dealt = (" > ".join(names),)
        relays = [self.relay if name == "relay" else self.add_relay(name) for name in names]
        for name in names:
            self.scheduler.lanes[name].deputies = frozenset(names) - {name}
        return tuple(relays)

    def route(self, message: Message) -> Routes:
        """The recipients in turn to `dealt`."""
        return self._deal(message, self.dealt)

    def route_released(self, message: Message) -> Routes:
        return self._deal(message, tuple(name or "relay" for name in self.dealt))

    def _deal(self, message: Message, names: tuple[str | Route, ...]) -> Routes:
        dealt: dict[str | Route, list[int]] = {}
        for index, recipient in enumerate(message.envelope.recipients):
            name = recipient.copy_to or names[index % len(names)]
            dealt.setdefault(name, []).append(index)
        return tuple((_route(name), tuple(indexes)) for name, indexes in dealt.items())

    def deliver_directly(self, places: int) -> None:
        """`relay` delivers to the domains of the recipients, with so many places for each."""
        self.lane = self.scheduler.lanes["relay"] = self.make_lane(
            "relay", self.relay, per_domain_max=places, ready_max=self.lane.rules.ready_max
        )

    def message(
        self, recipients: int = 1, *, file: bool = False, domains: Sequence[str] = ("example.org",)
    ) -> Message:
        """The recipients are at these domains in turn."""
        now_ms = int(self.loop.wall() * 1000)
        self._messages += 1
        message_id = new_message_id(now_ms, SimulatedChance(self._messages).token(10))
        return Message(
            message_id,
            now_ms,
            Envelope(
                "a@example.org",
                tuple(Recipient(f"r{n}@{domains[n % len(domains)]}") for n in range(recipients)),
            ),
            Origin("smtp", "192.0.2.1"),
            Summary(),
            20,
            ContentFile(f"{1:016x}-{message_id.hex()}.content", 20) if file else None,
        )

    def offer(
        self,
        recipients: int = 1,
        *,
        file: bool = False,
        content: bytes = b"A: b\r\n\r\nc\r\n",
        domains: Sequence[str] = ("example.org",),
    ) -> MessageId:
        """A message comes into the log, and is taken up."""
        message = self.message(recipients, file=file, domains=domains)
        self.mail.append(encode_mail(message, () if file else (content,)), lambda _: None)
        self.loop.settle()
        self.scheduler.wake()
        self.loop.settle()
        return message.id

    def rows(self, message_id: MessageId) -> tuple[ParkedDelivery, ...]:
        parked = self.store.get(message_id, content=False)
        return () if parked is None else parked.deliveries

    def of(self, kind: type[LedgerRecord]) -> list[LedgerRecord]:
        return [record for record in self.ledger.written if isinstance(record, kind)]
