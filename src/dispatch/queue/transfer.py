"""A queue moves to another host: what is given out of the parked store, and what is taken in.

Given out is a copy; nothing changes by it. Whoever moves a queue pauses it before, and cancels what he has
written down safely afterwards (`Order.at_rest`), so that no delivery is anywhere twice.

Taken in, a message never passes the mail log: the parked store has it first, *held*, then the ledger says
that it was accepted, and only then it may wait. So nothing is delivered here that the ledger did not accept.
A death in between leaves it held, and the same import goes on with it; until then it can only be cancelled.

What comes is a message with those of its recipients that were given out, and no others: for them, and for
them alone, this host answers. It keeps its id, its age and its attempts. A relay that is not configured here
is replaced by what the rules say, unless it may have delivered the message already. What had failed is held.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

import msgspec

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.ids import MessageId
from dispatch.mail.message import Message
from dispatch.queue.requests import ARRIVING, AskParked, ParkedPage, TakeIn, TakenIn
from dispatch.queue.scheduler import Scheduler, Seams
from dispatch.spool.records import NOT_IN_LOG, Accepted
from dispatch.store.parked import Park, ParkedDelivery, ParkedMessage, ParkedStore, QueueFilter, Update

T = TypeVar("T")

PAGE_MESSAGES = 100
PAGE_BYTES = 4 << 20
"""Content of a page, more or less one message: an answer of the bus holds 16 MiB."""


class Ask(Protocol):
    """A question to the parked store; raises `StoreFault`."""

    def __call__(self, question: Callable[[ParkedStore], T], /) -> Awaitable[T]: ...


class Transfer:
    """Used by the orders, in their turn."""

    def __init__(
        self, scheduler: Scheduler, seams: Seams, ask: Ask, all_durable: Callable[[], Awaitable[None]]
    ) -> None:
        self._scheduler = scheduler
        self._s = seams
        self._ask = ask
        self._all_durable = all_durable

    async def page(self, request: AskParked) -> ParkedPage:
        if request.after is None:
            self._scheduler.freeze()
            try:
                self._scheduler.unload_all()
                await self._all_durable()
            finally:
                self._scheduler.thaw()
        found = await self._ask(partial(_whole, wanted=request.wanted, after=request.after))
        busy = {(work.message.id, index) for work in self._scheduler.busy() for index in work.indexes}
        messages: list[ParkedMessage] = []
        for parked in found:
            rows = tuple(row for row in parked.deliveries if (parked.message.id, row.index) not in busy)
            if rows:
                messages.append(msgspec.structs.replace(parked, deliveries=rows))
        return ParkedPage(tuple(messages), found[-1].message.id if found else None)

    async def take_in(self, request: TakeIn) -> TakenIn:
        ids = [parked.message.id for parked in request.messages]
        here = await self._ask(partial(_here, ids=ids))
        here |= {owner.message.id for owner in self._scheduler.custody.live.values()}
        fresh = [parked for parked in request.messages if parked.message.id not in here]
        custody = self._scheduler.custody
        for parked in fresh:
            custody.change(Park(parked.message, parked.content, tuple(map(_arriving, parked.deliveries))))
        await self._all_durable()
        now_ms = int(self._s.clock.wall() * 1000)
        for parked in fresh:
            self._s.book.write(Accepted(now_ms, parked.message, NOT_IN_LOG))
            custody.change(Update(parked.message.id, self._waiting(parked, now_ms)))
        await self._all_durable()
        self._scheduler.look_again()
        return TakenIn(len(fresh), len(ids) - len(fresh))

    def _waiting(self, parked: ParkedMessage, now_ms: int) -> tuple[ParkedDelivery, ...]:
        latest_ms = self._scheduler.latest_due_ms(now_ms)
        rows: list[ParkedDelivery] = []
        for row in parked.deliveries:
            # The other host's clock may go otherwise.
            row = msgspec.structs.replace(row, due_ms=min(row.due_ms, latest_ms))
            if row.state is not DeliveryState.WAITING:
                before = row.state.value if row.state is not DeliveryState.HELD else ""
                reason = f"{before} at the other host: {row.reason}" if before else row.reason
                row = msgspec.structs.replace(row, state=DeliveryState.HELD, reason=reason)
            elif row.relay not in self._scheduler.lanes and not row.uncertain:
                row = self._routed(parked.message, row)
            rows.append(row)
        return tuple(rows)

    def _routed(self, message: Message, row: ParkedDelivery) -> ParkedDelivery:
        """As the rules say here; what they keep from relays waits for a person."""
        for route, indexes in self._s.route(message):
            if row.index in indexes and route.relays:
                return msgspec.structs.replace(row, relay=self._scheduler.failover.first(route.relays))
            if row.index in indexes:
                reason = route.hold_reason or route.action.value
                return msgspec.structs.replace(row, relay="", state=DeliveryState.HELD, reason=reason)
        return row


def _whole(store: ParkedStore, *, wanted: QueueFilter, after: MessageId | None) -> list[ParkedMessage]:
    page: list[ParkedMessage] = []
    size_bytes = 0
    for parked in store.find(wanted, limit=PAGE_MESSAGES, after=after):
        if size_bytes >= PAGE_BYTES:
            break
        whole = store.get(parked.message.id, content=True)
        assert whole is not None, "a delivery without its message"
        size_bytes += len(whole.content or b"")
        page.append(msgspec.structs.replace(parked, content=whole.content))
    return page


def _here(store: ParkedStore, *, ids: list[MessageId]) -> set[MessageId]:
    """Those that the store has, and whose import is no unfinished one."""
    return {
        each
        for each in ids
        if (parked := store.get(each, content=False)) is not None
        and not all(is_arriving(row) for row in parked.deliveries)
    }


def _arriving(row: ParkedDelivery) -> ParkedDelivery:
    return msgspec.structs.replace(row, state=DeliveryState.HELD, reason=ARRIVING)


def is_arriving(row: ParkedDelivery) -> bool:
    """Its import was not finished: the ledger may not know it yet."""
    return row.state is DeliveryState.HELD and row.reason == ARRIVING
