"""The loop in the middle: takes messages up from the mail log, starts works, hears what came of them.

No task and no future for a message: the scheduler is turned by three callbacks. *Wake* reads the log
forward, a bounded piece a turn, and never waits for a relay: what cannot start at once is parked.
*Finished* follows each attempt. *Tick*, once a second, does what waits for time (`housekeeping`).
Who owns a delivery meanwhile, and how it passes on, is `custody`'s business.

What is claimed from the parked store is *announced*: before any of it is tried, the ledger says durably that
it may be, since a power cut can take *sending* out of the ledger again (decision 0010). Only the claim waits
for that, and the next one is made while half a line is left.

What it holds in memory is bounded: works that stand ready (counted by each lane), works under way
(by the relays' concurrency), content on its way into the parked store (`PARKING_BYTES_MAX`), outcomes
whose ledger record is not durable yet (`UNDURABLE_MAX`). Beyond these it stops taking up, and the log is
the buffer; while the ledger is that far behind it starts nothing either.

Trap: a lane that the settings have replaced is still told what came of its last works. It must not start or
claim anything any more: what it took into its line nobody would ever look at again (`_in_use`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.ids import spool_form
from dispatch.mail.message import ContentFile, Message
from dispatch.mail.outcome import Outcome, Scope
from dispatch.mail.report import Fault, Report, Stage
from dispatch.mime.departure import Departure
from dispatch.observe import Reporter
from dispatch.policy.breaker import BreakerState
from dispatch.policy.copies import with_copies
from dispatch.policy.routing import DEFAULT_RULE, Route, Routes
from dispatch.policy.schedule import RetryPlan, clamp
from dispatch.policy.verdict import judge
from dispatch.ports import Chance, Clock, Entry, Leave, LogReader, Lsn, Transaction
from dispatch.queue.book import Book
from dispatch.queue.custody import Custody
from dispatch.queue.failover import Failover
from dispatch.queue.in_hand import InHand
from dispatch.queue.lane import Lane
from dispatch.queue.large_content import Content, unfit_to_leave
from dispatch.queue.pace import Pace
from dispatch.queue.parking import Due, Parking
from dispatch.queue.relief import Relief
from dispatch.queue.settle import NOWHERE, decide
from dispatch.queue.suppressing import Suppressing
from dispatch.queue.trial import Trial
from dispatch.queue.turned_away import kept_from_relays
from dispatch.queue.work import Work, doubted, fresh_deliveries
from dispatch.spool.faults import CorruptError
from dispatch.spool.records import Accepted, Claimed, Placed, Sending, UnreadableRecord, decode_mail
from dispatch.store.parked import ParkedDelivery

READ_BYTES = 256 << 10
"""Taken up in one turn of the loop, so that relays are not kept waiting."""
PARKING_BYTES_MAX = 16 << 20
UNDURABLE_MAX = 50_000
UNREADABLE_MAX = 1000
"""So many records that this version cannot read, and it takes nothing more up: a person must look."""
CLAIM_MAX = 1000
"""Messages claimed at a time: half a line, which lasts longer than a sync of the ledger takes."""
SIGNED_BYTES_MAX = 64 << 10
"""Up to here content is signed on the loop: a thread would hold Python for as long, and cost more."""


class Seams(NamedTuple):
    """What the scheduler is made of; put together by `app`."""

    clock: Clock
    chance: Chance
    mail: LogReader
    unanswered: Callable[[Lsn], bool]
    """Whether the client of the record at this place may never have seen our 250."""
    book: Book
    parking: Parking
    in_hand: InHand
    route: Callable[[Message], Routes]
    """The routes of a message and the recipients that take each."""
    route_released: Callable[[Message], Routes]
    """The same as if no rule held mail: for what a person released."""
    suppressed: Callable[[Message], frozenset[int]]
    """The indexes of its recipients that must not be tried."""
    plan: RetryPlan
    """For deliveries whose relay is configured no more."""
    prepare: Callable[[Departure, Content, int, Callable[[Content | Fault], None]], None]
    """Off the loop: content, or the reference to its file, as it is handed over at a time in seconds."""
    remove_files: Callable[[list[ContentFile]], None]
    alarm: Reporter


class Scheduler:
    """Turns the queue. Call `wake` whenever the log may have grown."""

    def __init__(
        self, seams: Seams, lanes: dict[str, Lane], cursor: Lsn, lost_power: Callable[[Lsn], bool]
    ) -> None:
        self._s = seams
        self.lanes = lanes
        self.custody = Custody(
            seams.clock,
            seams.book,
            seams.parking,
            remove_files=seams.remove_files,
            latest_due_ms=self.latest_due_ms,
            waiting=self._waiting,
            parked=self._room_made,
        )
        self.failover = Failover(seams.clock, seams.route, lanes)
        self.relief = Relief(
            seams.clock,
            seams.book,
            seams.parking,
            self.custody,
            self.failover,
            lanes,
            still=lambda: self.stopping or self.frozen or self.trial is not None,
            place=self.place,
            give_back=self.return_work,
            waiting=self._waiting,
        )
        self._suppressing = Suppressing(seams.clock, seams.book, self.custody, seams.suppressed)
        self.cursor = cursor
        """Everything below was taken up."""
        self.unreadable: list[Lsn] = []
        """Records below the cursor that this version cannot read: they stay in the log."""
        self._lost_power = lost_power
        """Whether a record of the mail log was there at the last power cut."""
        self.under_way: dict[Work, None] = {}
        self._announced: dict[int, list[Work]] = {}
        """What is in hand, from the parked store or for the second time from the log, and is not on record
        durably."""
        self._leaving: list[Leave] = []
        """What only waits for its *sending* to leave the process."""
        self._turning = False
        self.stopping = False
        self._frozen = 0
        self.trial: Trial | None = None
        """Suspects run alone before anything else does."""
        self.uncertain = 0
        """Deliveries that became uncertain since the start."""
        self.checkpoint: Callable[[], None] = lambda: None
        """Write one now (`housekeeping`)."""

    # ---------------------------------------------------------------- taking up

    def wake(self) -> None:
        """The log may have grown, or room was made."""
        if not self._turning and not self.stopping:
            self._turning = True
            self._s.clock.call_later(0, self._turn)

    def _turn(self) -> None:
        self._turning = False
        if self.stopping or not self._may_take_up():
            return
        try:
            entries = self._s.mail.read(self.cursor, READ_BYTES)
        except CorruptError as error:
            self._s.alarm("mail_corrupt", why=str(error), resume=error.resume)
            self.cursor = error.resume
            self.wake()
            return
        now_ms = self._now_ms()
        for entry in entries:
            self.take(entry, now_ms)
            self.cursor = entry.next
        if entries:
            self.pump_all()
            self.wake()

    def _may_take_up(self) -> bool:
        return (
            self.trial is None
            and self._s.parking.pending_bytes < PARKING_BYTES_MAX
            and self._s.book.undurable < UNDURABLE_MAX
            and len(self.unreadable) < UNREADABLE_MAX
        )

    def take(self, entry: Entry, now_ms: int) -> None:
        """The ledger answers for it from here on."""
        try:
            message, content = decode_mail(entry.payload)
        except UnreadableRecord as error:
            # Its segment is kept while the checkpoints name it: a newer version, or a person, may read it.
            self._s.alarm("mail_unreadable", lsn=entry.lsn, why=str(error))
            self.unreadable.append(entry.lsn)
            self.cursor = max(self.cursor, entry.next)
            self.checkpoint()
            return
        power = self._lost_power(entry.lsn)
        unanswered = self._s.unanswered(entry.lsn)
        message, routes = with_copies(message, self._s.route(message))
        rules: tuple[tuple[str, tuple[int, ...]], ...] = ()
        if len(routes) > 1 or routes[0][0].rule != DEFAULT_RULE:
            rules = tuple((route.rule, indexes) for route, indexes in routes if route.rule != DEFAULT_RULE)
        self._s.book.write(Accepted(now_ms, message, entry.lsn, entry.next, unanswered, power, rules))
        owner = self.custody.own(entry.lsn, message)
        whole = message.content_file or content
        fresh: list[Work] = []
        for route, indexes in routes:
            if not route.relays:
                self.keep_from_relays(
                    route, Work(message, fresh_deliveries(message, indexes, ""), whole, owner)
                )
                continue
            # What may have been tried stays with the relay at which that is most likely.
            relay = route.relays[0] if power else self.failover.first(route.relays)
            rows = fresh_deliveries(message, indexes, relay)
            fresh.append(Work(message, doubted(rows) if power else rows, whole, owner))
        if power:
            # That it may have been tried must outlast a second power cut, before it is tried again.
            self._once_on_record(fresh, partial(self._place_recorded, fresh))
            return
        for work in fresh:
            self.place(work)

    def _place_recorded(self, works: list[Work]) -> None:
        for work in works:
            if self._frozen or self.stopping:
                self.return_work(work)
            else:
                self.place(work)
        self.pump_all()

    def keep_from_relays(self, route: Route, work: Work) -> None:
        """A rule says that this, which was never tried, goes to no relay: it is held, or ends here."""
        self.custody.turn_away(work, kept_from_relays(route, work.message.id, work.indexes, self._now_ms()))

    def place(self, work: Work) -> None:
        """Into the line of its relay, or into the parked store when there is no room."""
        lane, now_s = self.lanes.get(work.relay), self._s.clock.monotonic()
        refused = (work,) if lane is None or lane.shut(now_s) else lane.offer(work, now_s, self._now_ms())
        for each in refused:
            self.custody.park(each)

    # ---------------------------------------------------------------- starting

    def pump(self, lane: Lane) -> None:
        """Start what may start; claim more when the line runs low."""
        if (
            self.stopping
            or self._frozen
            or self.trial is not None
            or self._s.book.undurable >= UNDURABLE_MAX
            or not self._in_use(lane)
        ):
            return
        now_s, now_ms = self._s.clock.monotonic(), self._now_ms()
        if lane.pace is not None:
            lane.pace.look(now_s)
        for _ in range(min(lane.slots(now_s), self._s.in_hand.room)):
            work = lane.take(now_s)
            if work is None:
                break
            work.slot = self._s.in_hand.note(work.message.id)
            self.start(lane, work, now_s, now_ms)
        if lane.wants_more(now_s, now_ms) or (
            lane.wants_relief(now_s, now_ms) and self.failover.relieved(lane)
        ):
            self._claim(lane)
        if lane.pace is not None:
            self._come_back(lane, lane.pace, now_s, now_ms)

    def _come_back(self, lane: Lane, pace: Pace, now_s: float, now_ms: int) -> None:
        """When something may start again."""
        if lane.emptied(now_s, now_ms):
            pace.over(now_s)

        def pump() -> None:
            lane.timer = None
            self.pump(lane)

        if lane.timer is None and (wait_s := pace.wait_s(now_s)):
            lane.timer = self._s.clock.call_later(wait_s, pump)

    def flush(self) -> None:
        """A person says so: what waits for a flush waits no longer."""
        for lane in list(self.lanes.values()):
            if lane.pace is not None:
                lane.pace.flush(self._s.clock.monotonic())
                lane.backlog = True
                self.pump(lane)

    def pump_all(self) -> None:
        for lane in list(self.lanes.values()):
            self.pump(lane)

    def _in_use(self, lane: Lane) -> bool:
        return self.lanes.get(lane.rules.name) is lane

    def start(self, lane: Lane, work: Work, now_s: float, now_ms: int) -> None:
        """Hand it to the relay; `_finished` follows, whatever happens."""
        work.started_s = now_s
        work.started_ms = now_ms
        lane.began(work, now_s)
        lane.breaker.started(now_s)
        self.under_way[work] = None
        content, departure = work.content, lane.rules.departure
        if departure.as_stored:
            self._hand_over(lane, work, content)
        elif not isinstance(content, bytes) or (departure.signing and len(content) > SIGNED_BYTES_MAX):
            self._s.prepare(departure, content, now_ms // 1000, partial(self._hand_over, lane, work))
        else:
            try:
                leaving = departure.content(content, now_ms // 1000)
            except Exception as error:
                # Raised further, it would end the connection whose reply led here, and leave the work under
                # way for ever.
                self._s.clock.call_later(0, partial(self._hand_over, lane, work, unfit_to_leave(error)))
                return
            self._hand_over(lane, work, leaving)

    def _hand_over(self, lane: Lane, work: Work, content: Content | Fault) -> None:
        if isinstance(content, Fault):
            self._finished(lane, work, Report(Stage.CONNECT, (None,) * len(work.deliveries), content))
            return
        message = lane.rules.departure.message(work.message)
        transaction = Transaction(message, work.indexes, content, self._sending, work)
        lane.relay.start(transaction, partial(self._done, lane, work))

    def _sending(self, transaction: Transaction, leave: Leave) -> None:
        """The end of data is about to leave: from then on, no reply means uncertain (RFC 1047)."""
        work = transaction.tag
        assert isinstance(work, Work)
        if not work.sent:
            work.sent = True
            self._s.book.write(Sending(self._now_ms(), work.message.id, work.indexes, work.relay))
        if not self._leaving:
            self._s.clock.call_later(0, self._let_leave)
        self._leaving.append(leave)

    def _let_leave(self) -> None:
        """One write for all that became ready in this turn of the loop: under load they come in crowds."""
        leaving, self._leaving = self._leaving, []
        fault: Exception | None = None
        try:
            self._s.book.flush()
        except Exception as error:
            # Whatever it was: nobody may be left waiting.
            fault = error
        each = iter(leaving)
        try:
            for leave in each:
                leave(fault)
        finally:
            # Where one raised, its trouble stays its own.
            if rest := list(each):
                self._leaving += rest
                self._s.clock.call_later(0, self._let_leave)

    def _claim(self, lane: Lane) -> None:
        lane.claiming = True
        self._s.parking.claim(
            lane.rules.name,
            self._now_ms(),
            min(lane.ready.room, CLAIM_MAX),
            max(lane.ready_bytes_max - lane.ready.bytes, 1),
            partial(self._claimed, lane),
        )

    def _claimed(self, lane: Lane, due: Due | None) -> None:
        if due is None:
            # The store failed; the next tick asks again.
            lane.claiming = False
            return
        messages, lane.next_due_ms = due
        lane.backlog = bool(messages)
        works = self._suppressing.works(messages)
        if self._shut(lane):
            self._line_up(lane, works)
        else:
            self.announce(works, partial(self._line_up, lane, works))

    def announce(self, works: list[Work], then: Callable[[], None]) -> None:
        """Write down that these, which are in hand from the parked store, may be tried; `then` when that is
        on stable storage."""
        if not works:
            then()
            return

        placed = tuple(Placed(work.message.id, work.indexes) for work in works)
        self._s.book.write(Claimed(self._now_ms(), placed))
        self._once_on_record(works, then)

    def _once_on_record(self, works: list[Work], then: Callable[[], None]) -> None:
        """`then` when what was written of them is on stable storage; until then they are in hand here."""

        def durable() -> None:
            del self._announced[key]
            then()

        key = id(works)
        self._announced[key] = works
        self._s.book.once_durable(durable)

    def _line_up(self, lane: Lane, works: list[Work]) -> None:
        """They may be tried, if the lane is still one that tries anything."""
        lane.claiming = False
        shut = self._shut(lane)
        if shut and self.relief.possible(lane):
            self.relief.pass_over(works, lane)
            return
        now_s, now_ms = self._s.clock.monotonic(), self._now_ms()
        for work in works:
            for refused in (work,) if shut else lane.offer(work, now_s, now_ms):
                self.return_work(refused)
        self.pump(lane)

    def _shut(self, lane: Lane) -> bool:
        """Nothing may stand in this line now."""
        return (
            self.stopping
            or self._frozen > 0
            or not self._in_use(lane)
            or lane.shut(self._s.clock.monotonic())
        )

    # ---------------------------------------------------------------- finishing

    def _done(self, lane: Lane, work: Work, _: Transaction, report: Report) -> None:
        self._finished(lane, work, report)

    def _finished(self, lane: Lane, work: Work, report: Report) -> None:
        now_s, now_ms = self._s.clock.monotonic(), self._now_ms()
        lane.ended(work)
        del self.under_way[work]
        if self._cut_short(lane, work, report):
            if not self.stopping:
                self.return_work(work)
        else:
            outcomes = judge(report, lane.rules.captures, direct=lane.domains is not None)
            chance = self._s.chance.uniform()
            failed = self._learn(lane, work, outcomes, report, now_s, chance)
            decision = decide(
                work,
                report,
                outcomes,
                plan=lane.rules.plan,
                uncertain=lane.rules.uncertain,
                now_ms=now_ms,
                took_ms=int((now_s - work.started_s) * 1000),
                chance=chance,
                onward=self.failover.after_failure(work, outcomes) if failed else NOWHERE,
            )
            self.uncertain += sum(len(moved.indexes) for moved in decision.moved)
            if report.fault is not None and (why := decision.set_aside) is not None:
                self._s.alarm("message_quarantined", id=spool_form(work.message.id), reason=why)
            self.custody.settle(work, decision)
        # Last: whatever of this kills the process, the work was in hand.
        self._s.in_hand.clear(work.slot)
        if self.trial is not None:
            self.trial.finished(work)
        self.pump(lane)

    def _cut_short(self, lane: Lane, work: Work, report: Report) -> bool:
        """We closed the relay before anything of the work was answered or sent: it was no attempt."""
        if not self.stopping and self._in_use(lane):
            return False
        return not work.sent and report.fault is not None and not any(report.replies)

    def _learn(
        self,
        lane: Lane,
        work: Work,
        outcomes: tuple[Outcome, ...],
        report: Report,
        now_s: float,
        chance: float,
    ) -> bool:
        """Whether the relay as such has failed."""
        before = lane.breaker.state
        failed = lane.learn(outcomes, report, now_s, chance, large=work.large)
        after = lane.breaker.state
        if after is before:
            return failed
        if after is BreakerState.OPEN:
            why = next((outcome.reason for outcome in outcomes if outcome.scope is Scope.RELAY), "")
            wait_s = (lane.breaker.opens_until or now_s) - now_s
            self._s.alarm("breaker_opened", relay=lane.rules.name, why=why, probe_in_s=wait_s)
        elif after is BreakerState.CLOSED:
            self._s.alarm("breaker_closed", relay=lane.rules.name)
            lane.backlog = True
        return failed

    # ---------------------------------------------------------------- standing still, and what stands here

    @property
    def frozen(self) -> bool:
        """Nothing starts, because what is parked is being moved."""
        return self._frozen > 0

    def freeze(self) -> None:
        """Start and claim nothing until `thaw`: what is parked can be moved without being in hand."""
        self._frozen += 1

    def thaw(self) -> None:
        """Go on once everything written so far is durable: by then the changes stand before any claim."""
        self._s.book.once_durable(self._thawed)

    def _thawed(self) -> None:
        self._frozen -= 1
        if not self._frozen:
            self.look_again()

    def look_again(self) -> None:
        """The parked store may have become due: every lane looks."""
        for lane in list(self.lanes.values()):
            lane.backlog = True
            self.pump(lane)
        self.wake()

    def unload(self, lane: Lane) -> None:
        """Nothing of the lane starts for a while: its line goes to the parked store."""
        for work in lane.ready.drain():
            self.return_work(work)

    def relieve(self, lane: Lane) -> None:
        """It rests: its line goes to other relays, or to the parked store."""
        if self.relief.possible(lane):
            self.relief.empty(lane)
        else:
            self.unload(lane)

    def unload_all(self) -> None:
        for lane in self.lanes.values():
            self.unload(lane)

    def return_work(self, work: Work) -> None:
        """It does not start now: the parked store keeps it."""
        if work.owner is not None or work.postponed:
            self.custody.park(work)
            return
        self._s.parking.unclaim([(work.message.id, work.indexes)])
        if work.relay in self.lanes:
            self.lanes[work.relay].backlog = True

    def works(self) -> Iterator[tuple[Work, DeliveryState]]:
        """What is in memory: under way, on trial, standing ready, and about to."""
        for work in self.busy():
            yield work, DeliveryState.ATTEMPTING
        for works in self._announced.values():
            for work in works:
                yield work, DeliveryState.WAITING
        for lane in self.lanes.values():
            for work in lane.ready:
                yield work, DeliveryState.WAITING

    def busy(self) -> Iterator[Work]:
        """What no order can stop any more: under way, or certain to be tried next."""
        yield from self.under_way
        if self.trial is not None:
            yield from self.trial.waiting()

    def abandoned(self, files: list[ContentFile]) -> None:
        """The parked store needs these no more."""
        self.custody.abandoned(files)

    def latest_due_ms(self, now_ms: int) -> int:
        """Nothing that was planned by the clock as it is now is due later."""
        plans = [self._s.plan, *(lane.rules.plan for lane in self.lanes.values())]
        return max(clamp(now_ms << 1, now_ms, plan) for plan in plans)

    def _waiting(self, deliveries: tuple[ParkedDelivery, ...]) -> None:
        """They wait in the store now: their lanes should know when to look, and do if they are due."""
        now_ms = self._now_ms()
        due: dict[str, Lane] = {}
        for delivery in deliveries:
            lane = self.lanes.get(delivery.relay)
            if (
                lane is not None
                and delivery.state is DeliveryState.WAITING
                and (lane.next_due_ms is None or delivery.due_ms < lane.next_due_ms)
            ):
                lane.next_due_ms = delivery.due_ms
                if delivery.due_ms <= now_ms:
                    due[lane.rules.name] = lane
        for lane in due.values():
            self.pump(lane)

    def _room_made(self) -> None:
        self.pump_all()
        self.wake()

    def _now_ms(self) -> int:
        return int(self._s.clock.wall() * 1000)
