"""What an operator may ask of the queue, and how it is done without losing sight of a delivery.

Asked through delivery's socket, by the command line and by control. An order is carried out on the parked
store: what stands ready goes there first, and nothing starts meanwhile, so an order meets every
delivery that was taken up and is not under way. What is under way finishes; the answer counts it.

Each move is a ledger record before it is a changed row, like everything that happens to mail.

Bounced, a delivery ends as failed: its sender is told, and its content is kept for its retention. Rerouted,
it waits for the relay that was named, due now; failed, it begins again there. What may have been delivered
already goes to another relay only where the order says so: there it would be a duplicate. And what is held
stays held, unless the order is for what is held.

Traps: what was under way when the order began may end while it is carried out; its row may then still show
how it was before. So it is left alone to the end. And what is frozen thaws only when the changes stand in the
parked store's line, however the order ends: a claim must not come before them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from dispatch.mail.delivery import MOVES, DeliveryState, Move
from dispatch.mail.ids import MessageId
from dispatch.mail.message import Message
from dispatch.queue import pauses
from dispatch.queue.moves import after_move, needs_content
from dispatch.queue.requests import (
    Answer,
    AskLanes,
    AskParked,
    Done,
    Flush,
    Lanes,
    LaneStatus,
    ListQueue,
    Order,
    Pause,
    Pauses,
    QueuedDelivery,
    QueuePage,
    Refused,
    Request,
    Resume,
    ShowMessage,
    Shown,
    TakeIn,
    Verb,
)
from dispatch.queue.scheduler import Scheduler, Seams
from dispatch.queue.transfer import Transfer, is_arriving
from dispatch.spool.records import Moved
from dispatch.store.parked import (
    ParkedDelivery,
    ParkedMessage,
    ParkedStore,
    QueueFilter,
    Settle,
    Update,
)

T = TypeVar("T")

PAGE = 500
ROWS_MAX = 10_000
"""Deliveries of a page of `queue list`, more or less one message."""

_MOVES: dict[Verb, tuple[Move, ...]] = {
    "retry": (Move.RETRY, Move.REOPEN),
    "hold": (Move.HOLD,),
    "release": (Move.RELEASE,),
    "cancel": (Move.CANCEL,),
    "bounce": (Move.BOUNCE,),
    "reroute": (Move.RETRY, Move.REOPEN),
}
_REASONS: dict[Verb, str] = {"bounce": "an operator returned it to its sender"}
NOTHING = Done(0, 0, 0)
_KEPT_BACK = frozenset({DeliveryState.HELD, DeliveryState.QUARANTINED})
_MOVING = frozenset({DeliveryState.WAITING, DeliveryState.ATTEMPTING, DeliveryState.UNCERTAIN})


class Orders:
    """Carries out requests, one at a time."""

    def __init__(self, scheduler: Scheduler, seams: Seams, paused: pauses.Pauses | None = None) -> None:
        """`paused` has been told to the lanes; without it a pause lasts as long as this."""
        self._scheduler = scheduler
        self._s = seams
        self._pauses = pauses.Pauses() if paused is None else paused
        self._transfer = Transfer(scheduler, seams, self._ask, self._all_durable)
        self._turn = asyncio.Lock()

    async def handle(self, request: Request) -> Answer:
        match request:
            case ListQueue():
                return await self._list(request)
            case ShowMessage():
                return await self._show(request)
            case Order():
                if request.verb == "reroute" and request.relay not in self._scheduler.lanes:
                    return self._no_such_relay(request.relay)
                return await (self._count(request) if request.dry_run else self._order(request))
            case Flush():
                for lane in self._scheduler.lanes.values():
                    lane.breaker.reset()
                    lane.relay.try_again()
                done = await self._order(Order("retry", QueueFilter(state=DeliveryState.WAITING)))
                self._scheduler.flush()
                return done
            case Pause():
                if request.relay and request.relay not in self._scheduler.lanes:
                    return self._no_such_relay(request.relay)
                return await self._pause(request.relay, paused=True)
            case Resume():
                if request.relay and request.relay not in self._pauses.paused.relays:
                    return Refused(f"{request.relay} is not paused")
                return await self._pause(request.relay, paused=False)
            case AskParked():
                async with self._turn:
                    return await self._transfer.page(request)
            case TakeIn():
                async with self._turn:
                    return await self._transfer.take_in(request)
            case AskLanes():
                return await self._lanes()

    @property
    def at_rest(self) -> bool:
        """The queue is paused, and nothing of it is under way: only orders move anything."""
        return self._pauses.paused.everything and not any(True for _ in self._scheduler.busy())

    async def _list(self, request: ListQueue) -> QueuePage:
        found, total = await self._ask(
            lambda store: (
                store.find(request.wanted, limit=request.limit, after=request.after),
                store.count(request.wanted),
            )
        )
        busy = {(work.message.id, index) for work in self._scheduler.busy() for index in work.indexes}
        rows: list[QueuedDelivery] = []
        for number, parked in enumerate(found):
            standing = [row for row in parked.deliveries if (parked.message.id, row.index) not in busy]
            rows += self._rows(parked.message, standing)
            if len(rows) >= ROWS_MAX:
                # Messages of thousands of recipients: the rest is another page.
                found = found[: number + 1]
                break
        if request.after is None:
            rows = [*self._in_memory(request.wanted), *rows]
        cut = len(rows) >= ROWS_MAX or len(found) == request.limit
        following = found[-1].message.id if found and cut else None
        return QueuePage(tuple(rows), total, following, self._pauses.paused.everything)

    async def _show(self, request: ShowMessage) -> Shown:
        parked = await self._ask(lambda store: store.get(request.id, content=request.content))
        rows: list[QueuedDelivery] = []
        message: Message | None = None
        content: bytes | None = None
        known: set[int] = set()
        if parked is not None:
            message, content = parked.message, parked.content
            rows += self._rows(message, parked.deliveries)
            known.update(row.index for row in parked.deliveries)
        for work, state in self._scheduler.works():
            if work.message.id == request.id:
                message = work.message
                # By index: a copy has the address of a recipient.
                fresh = tuple(row for row in work.deliveries if row.index not in known)
                rows += self._rows(message, fresh, state)
                known.update(work.indexes)
                if request.content and isinstance(work.content, bytes):
                    content = work.content
        if message is None:
            return Shown(None)
        file = message.content_file
        return Shown(message, tuple(rows), content, None if file is None else file.name)

    async def _order(self, order: Order) -> Done | Refused:
        async with self._turn:
            if order.at_rest and not self.at_rest:
                return Refused("the queue is not paused, or something is still under way")
            # A start that has not claimed its suspects yet does so, and writes it down, before this goes on.
            await self._all_durable()
            await self._ledger_durable()
            self._scheduler.freeze()
            try:
                self._scheduler.unload_all()
                busy = {(work.message.id, index) for work in self._scheduler.busy() for index in work.indexes}
                in_log = sum(
                    _meant(order, work.message, row)
                    for work in self._scheduler.busy()
                    if work.owner is not None
                    for row in work.deliveries
                )
                await self._all_durable()
                done = await self._move_all(order, busy)
                return msgspec.structs.replace(done, under_way=done.under_way + in_log)
            finally:
                self._scheduler.thaw()

    async def _count(self, order: Order) -> Done:
        """What the order would do now; nothing is done, and nothing stands still for it."""
        busy: set[tuple[MessageId, int]] = set()
        done = NOTHING
        for work, state in self._scheduler.works():
            attempted = state is DeliveryState.ATTEMPTING
            if attempted:
                busy.update((work.message.id, index) for index in work.indexes)
            if work.owner is not None:
                rows = [row for row in work.deliveries if _meant(order, work.message, row)]
                done = self._sorted(order, work.message, () if attempted else rows, done)[1]
                under_way = done.under_way + (len(rows) if attempted else 0)
                done = msgspec.structs.replace(done, under_way=under_way)
        return await self._move_all(order, busy, done)

    async def _move_all(self, order: Order, busy: set[tuple[MessageId, int]], done: Done = NOTHING) -> Done:
        """Page by page, beginning to count at `done`."""
        after: MessageId | None = None
        while True:
            page, after = await self._page(order, after)
            for parked in page:
                rows = [row for row in parked.deliveries if (parked.message.id, row.index) not in busy]
                under_way = done.under_way + len(parked.deliveries) - len(rows)
                moved, done = self._sorted(order, parked.message, rows, done)
                done = msgspec.structs.replace(done, under_way=under_way)
                if not order.dry_run:
                    self._apply(parked.message.id, moved)
            await self._all_durable()
            if after is None:
                return done

    def _sorted(
        self, order: Order, message: Message, rows: Iterable[ParkedDelivery], done: Done
    ) -> tuple[list[tuple[ParkedDelivery, Moved]], Done]:
        """Those that the order moves, each with its record; and the count, with them all."""
        moved: list[tuple[ParkedDelivery, Moved]] = []
        unsuited = uncertain = 0
        for row in rows:
            record = self._move(order, message, row)
            if record is None:
                unsuited += 1
            elif row.uncertain and order.relay not in ("", row.relay) and not order.uncertain:
                uncertain += 1
            else:
                moved.append((row, record))
        return moved, Done(
            done.changed + len(moved),
            done.under_way,
            done.unsuited + unsuited,
            done.uncertain + uncertain,
            done.messages + bool(moved),
        )

    async def _page(
        self, order: Order, after: MessageId | None
    ) -> tuple[list[ParkedMessage], MessageId | None]:
        """Some of what the order is for and the parked store has; and behind which message to go on."""
        if not order.ids:
            page = await self._ask(lambda store: store.find(order.wanted, limit=PAGE, after=after))
            return page, page[-1].message.id if len(page) == PAGE else None
        ids = list(dict.fromkeys(order.ids))
        first = 0 if after is None else ids.index(after) + 1
        these = ids[first : first + PAGE]
        filters = [_one(order.wanted, each) for each in these]
        found = await self._ask(lambda store: _find_each(store, filters))
        return found, these[-1] if first + PAGE < len(ids) else None

    def _move(self, order: Order, message: Message, row: ParkedDelivery) -> Moved | None:
        """The ledger record of the first of the order's moves that the delivery's state allows."""
        if order.verb != "cancel" and is_arriving(row):
            return None
        moves = _MOVES[order.verb]
        if order.verb == "reroute" and order.wanted.state in _KEPT_BACK:
            moves = (Move.RELEASE,)
        for what in moves:
            state = MOVES[row.state].get(what)
            if state is None:
                continue
            relay = order.relay or None
            if relay is None and state is DeliveryState.WAITING and row.relay not in self._scheduler.lanes:
                # Released by a person, it is not held again by the rule that held it.
                routes = self._s.route_released if what is Move.RELEASE else self._s.route
                route = next((r for r, indexes in routes(message) if row.index in indexes), None)
                if route is None or route.held:
                    return None
                relay = route.relays[0]
                if row.relay and self._scheduler.lanes[relay].rules.captures:
                    # It was meant to leave: that no relay is configured now must not make it captured mail.
                    return None
            now_ms = int(self._s.clock.wall() * 1000)
            due_ms = now_ms if state is DeliveryState.WAITING else None
            reason = order.reason or _REASONS.get(order.verb, row.reason)
            return Moved(now_ms, message.id, (row.index,), what, state, "operator", reason, due_ms, relay)
        return None

    def _apply(self, message_id: MessageId, done: list[tuple[ParkedDelivery, Moved]]) -> None:
        staying = tuple(after_move(row, moved) for row, moved in done if needs_content(moved.state))
        gone = tuple(row.index for row, moved in done if not needs_content(moved.state))
        for _, moved in done:
            self._s.book.write(moved)
        if staying:
            self._scheduler.custody.change(Update(message_id, staying))
        if gone:
            self._scheduler.custody.change(Settle(message_id, gone))

    def _in_memory(self, wanted: QueueFilter) -> list[QueuedDelivery]:
        rows: list[QueuedDelivery] = []
        for work, state in self._scheduler.works():
            if work.owner is not None or state is DeliveryState.ATTEMPTING:
                matching = tuple(row for row in work.deliveries if wanted.matches(work.message, row))
                rows += self._rows(work.message, matching, state)
        return rows

    def _rows(
        self, message: Message, deliveries: Iterable[ParkedDelivery], state: DeliveryState | None = None
    ) -> list[QueuedDelivery]:
        return [
            QueuedDelivery(
                message.id,
                message.envelope.recipients[row.index].address,
                message.envelope.reverse_path,
                (state or row.state).value,
                row.relay,
                row.due_ms,
                row.attempts,
                row.since_ms,
                self._reason(row, state),
                message.size_bytes,
                message.summary.subject,
            )
            for row in deliveries
        ]

    def _reason(self, row: ParkedDelivery, state: DeliveryState | None) -> str:
        """Why it waits: what keeps a delivery that is due, and what its last attempt said."""
        if (state or row.state) is not DeliveryState.WAITING or row.due_ms > self._s.clock.wall() * 1000:
            return row.reason
        keeps = self._keeps(row)
        return f"{keeps}; before: {row.reason}" if row.reason else keeps

    def _keeps(self, row: ParkedDelivery) -> str:
        """What keeps a delivery that is due from starting."""
        lane = self._scheduler.lanes.get(row.relay)
        if lane is None:
            return "its relay is switched off, or configured no more"
        if lane.paused:
            return "the queue is paused" if self._pauses.paused.everything else "its relay is paused"
        if lane.breaker.opens_until is not None:
            wait_s = max(0.0, lane.breaker.opens_until - self._s.clock.monotonic())
            return f"its relay failed too often and rests: one message tries it in {wait_s:.0f} s"
        if self._scheduler.trial is not None:
            return "delivery died; what it had in hand runs first, alone"
        why = None if lane.pace is None else lane.pace.why(self._s.clock.monotonic())
        return why or "it waits for a free place at its relay"

    def _no_such_relay(self, name: str) -> Refused:
        names = ", ".join(sorted(self._scheduler.lanes)) or "none"
        return Refused(f"{name!r} is no relay that is configured and switched on; these are: {names}")

    async def _pause(self, relay: str, *, paused: bool) -> Pauses | Refused:
        """What is under way finishes; what stands ready goes to the parked store."""
        async with self._turn:
            now = self._pauses.changed(relay, paused=paused)
            if now != self._pauses.paused:
                try:
                    self._pauses.keep(now)
                except OSError as error:
                    return Refused(f"that could not be written down: {error}")
                self._pauses.put(self._scheduler.lanes.values())
                self._s.alarm("queue_paused" if paused else "queue_resumed", relay=relay or "all")
                for lane in self._scheduler.lanes.values():
                    if lane.paused:
                        self._scheduler.relieve(lane)
                self._scheduler.look_again()
                await self._all_durable()
        return Pauses(now.everything, now.relays, len(self._scheduler.under_way))

    async def _lanes(self) -> Lanes:
        names = list(self._scheduler.lanes)
        counts, oldest = await self._ask(lambda store: (store.counts(), _oldest(store, names)))
        now_s = self._s.clock.monotonic()
        return Lanes(
            tuple(
                LaneStatus(
                    lane.rules.name,
                    lane.breaker.state.value,
                    None if lane.breaker.opens_until is None else max(0.0, lane.breaker.opens_until - now_s),
                    lane.in_flight,
                    len(lane.ready),
                    lane.window.limit,
                    lane.paused,
                    counts.get((name, DeliveryState.WAITING), 0),
                    sum(counts.get((name, state), 0) for state in _KEPT_BACK),
                    oldest.get(name),
                )
                for name, lane in self._scheduler.lanes.items()
            ),
            max(0, self._s.mail.durable - self._scheduler.cursor),
            self._scheduler.uncertain,
            self._pauses.paused.everything,
            len(self._scheduler.custody.live),
            sum(count for (_, state), count in counts.items() if state in _MOVING),
            sum(count for (_, state), count in counts.items() if state in _KEPT_BACK),
        )

    async def _all_durable(self) -> None:
        """Return when all that was decided so far is in the ledger and in the parked store."""
        await self._ledger_durable()
        await self._ask(lambda store: None)

    async def _ledger_durable(self) -> None:
        """Return when all that was written so far is on stable storage, and who waited for it has acted."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._s.book.once_durable(lambda: _answer(future, None))
        await future

    async def _ask(self, question: Callable[[ParkedStore], T]) -> T:
        """Raises `StoreFault` where the store cannot answer."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._s.parking.ask(
            question,
            lambda answer: _answer(future, answer),
            lambda fault: None if future.done() else future.set_exception(fault),
        )
        return await future


def _one(wanted: QueueFilter, message_id: MessageId) -> QueueFilter:
    """What is meant of one message; named by its id, also what has failed."""
    return msgspec.structs.replace(wanted, id_prefix=message_id.hex())


def _find_each(store: ParkedStore, filters: list[QueueFilter]) -> list[ParkedMessage]:
    return [found for each in filters for found in store.find(each, limit=1, after=None)]


def _meant(order: Order, message: Message, row: ParkedDelivery) -> bool:
    """Whether the order is for a delivery that is in memory."""
    if not order.ids:
        return order.wanted.matches(message, row)
    return message.id in order.ids and _one(order.wanted, message.id).matches(message, row)


def _oldest(store: ParkedStore, relays: list[str]) -> dict[str, int]:
    """When the oldest message that waits for each of these was accepted."""
    found = {
        relay: store.find(QueueFilter(relay=relay, state=DeliveryState.WAITING), limit=1, after=None)
        for relay in relays
    }
    return {relay: page[0].message.accepted_ms for relay, page in found.items() if page}


def _answer(future: asyncio.Future[T], answer: T) -> None:
    """Unless whoever asked is gone."""
    if not future.done():
        future.set_result(answer)
