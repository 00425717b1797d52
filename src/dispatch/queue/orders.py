"""What an operator may ask of the queue, and how it is done without losing sight of a delivery.

Asked through delivery's socket, by the command line and by control. An order is carried out on the parked
store: what stands ready goes there first, and nothing starts meanwhile, so an order meets every
delivery that was taken up and is not under way. What is under way finishes; the answer counts it.

Each move is a ledger record before it is a changed row, like everything that happens to mail.

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
from dispatch.queue.moves import after_move, needs_content
from dispatch.queue.requests import (
    Answer,
    AskLanes,
    Done,
    Flush,
    Lanes,
    LaneStatus,
    ListQueue,
    Order,
    QueuedDelivery,
    QueuePage,
    Request,
    ShowMessage,
    Shown,
    Verb,
)
from dispatch.queue.scheduler import Scheduler, Seams
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
}


class Orders:
    """Carries out requests, one at a time."""

    def __init__(self, scheduler: Scheduler, seams: Seams) -> None:
        self._scheduler = scheduler
        self._s = seams
        self._turn = asyncio.Lock()

    async def handle(self, request: Request) -> Answer:
        match request:
            case ListQueue():
                return await self._list(request)
            case ShowMessage():
                return await self._show(request)
            case Order():
                return await self._order(_MOVES[request.verb], request.wanted)
            case Flush():
                for lane in self._scheduler.lanes.values():
                    lane.breaker.reset()
                return await self._order((Move.RETRY,), QueueFilter(state=DeliveryState.WAITING))
            case AskLanes():
                return self._lanes()

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
        return QueuePage(tuple(rows), total, following)

    async def _show(self, request: ShowMessage) -> Shown:
        parked = await self._ask(lambda store: store.get(request.id, content=request.content))
        rows: list[QueuedDelivery] = []
        message: Message | None = None
        content: bytes | None = None
        if parked is not None:
            message, content = parked.message, parked.content
            rows += self._rows(message, parked.deliveries)
        for work, state in self._scheduler.works():
            if work.message.id == request.id:
                message = work.message
                known = {row.recipient for row in rows}
                rows += [
                    row for row in self._rows(message, work.deliveries, state) if row.recipient not in known
                ]
                if request.content and isinstance(work.content, bytes):
                    content = work.content
        if message is None:
            return Shown(None)
        file = message.content_file
        return Shown(message, tuple(rows), content, None if file is None else file.name)

    async def _order(self, moves: tuple[Move, ...], wanted: QueueFilter) -> Done:
        async with self._turn:
            # A start that has not claimed its suspects yet does so, and writes it down, before this goes on.
            await self._all_durable()
            await self._ledger_durable()
            self._scheduler.freeze()
            try:
                self._scheduler.unload_all()
                busy = {(work.message.id, index) for work in self._scheduler.busy() for index in work.indexes}
                in_log = sum(
                    wanted.matches(work.message, row)
                    for work in self._scheduler.busy()
                    if work.owner is not None
                    for row in work.deliveries
                )
                await self._all_durable()
                done = await self._move_all(moves, wanted, busy)
                return msgspec.structs.replace(done, under_way=done.under_way + in_log)
            finally:
                self._scheduler.thaw()

    async def _move_all(
        self, moves: tuple[Move, ...], wanted: QueueFilter, busy: set[tuple[MessageId, int]]
    ) -> Done:
        changed = unsuited = passed = 0
        after: MessageId | None = None
        while True:
            page = await self._page(wanted, after)
            for parked in page:
                rows = [row for row in parked.deliveries if (parked.message.id, row.index) not in busy]
                passed += len(parked.deliveries) - len(rows)
                moved = [(row, self._move(parked.message, row, moves)) for row in rows]
                unsuited += sum(record is None for _, record in moved)
                done = [(row, record) for row, record in moved if record is not None]
                changed += len(done)
                self._apply(parked.message.id, done)
            await self._all_durable()
            if len(page) < PAGE:
                return Done(changed, passed, unsuited)
            after = page[-1].message.id

    async def _page(self, wanted: QueueFilter, after: MessageId | None) -> list[ParkedMessage]:
        return await self._ask(lambda store: store.find(wanted, limit=PAGE, after=after))

    def _move(self, message: Message, row: ParkedDelivery, moves: Iterable[Move]) -> Moved | None:
        """The ledger record of the first of these moves that the delivery's state allows."""
        for what in moves:
            state = MOVES[row.state].get(what)
            if state is None:
                continue
            relay = None
            if state is DeliveryState.WAITING and row.relay not in self._scheduler.lanes:
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
            return Moved(now_ms, message.id, (row.index,), what, state, "operator", row.reason, due_ms, relay)
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
        if lane.breaker.opens_until is not None:
            wait_s = max(0.0, lane.breaker.opens_until - self._s.clock.monotonic())
            return f"its relay failed too often and rests: one message tries it in {wait_s:.0f} s"
        if self._scheduler.trial is not None:
            return "delivery died; what it had in hand runs first, alone"
        return "it waits for a free place at its relay"

    def _lanes(self) -> Lanes:
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
                )
                for lane in self._scheduler.lanes.values()
            ),
            max(0, self._s.mail.durable - self._scheduler.cursor),
            self._scheduler.uncertain,
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


def _answer(future: asyncio.Future[T], answer: T) -> None:
    """Unless whoever asked is gone."""
    if not future.done():
        future.set_result(answer)
