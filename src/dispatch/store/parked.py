"""The parked store: deliveries that wait for their due time, a free slot, a breaker or a person.

Duty: keep each parked message with its content on stable storage until its last delivery is over,
and hand out what is due, fairly. Only the delivery process opens the database, and only one thread
at a time may call into a store; every call is synchronous and may wait for the disk.

Rules:

- `apply` is one transaction with `synchronous=FULL`: when it returns, everything it was told
  survives a power cut, together with the ledger's LSN up to which these rows are true.
- A delivery that `claim` gave out is in hand until `apply` or `put_back` names it, and is not given
  out again meanwhile. Claims live in memory alone: after a restart everything parked may be claimed.
- What recovery tells twice does no harm: parking what is parked overwrites, settling or updating
  what is gone does nothing.
- Content of a file of its own is never copied in here. Its file is the caller's to remove, after
  `apply` said that its message lost its last row.

Whose turn it is, is decided in `lanes`; here is the database under it. Everything `lanes` holds can
be read from the database again, which is what happens after a transaction that failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import apsw
import msgspec

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.ids import MessageId
from dispatch.mail.message import PRIORITIES, ContentFile, Message
from dispatch.policy.copies import joined_by
from dispatch.store.changes import (
    PARKED_STATES,
    QUEUE_STATES,
    Change,
    Park,
    ParkedDelivery,
    ParkedMessage,
    QueueFilter,
    Settle,
    Update,
)
from dispatch.store.claims import Claims
from dispatch.store.lanes import Lane, Lanes, Place
from dispatch.store.numbers import PROBES, first_number
from dispatch.store.queue_list import count_parked, find_parked, parked_delivery
from dispatch.store.sqlite import (
    Folder,
    StoreDamaged,
    closed_on_failure,
    faults,
    open_database,
    statements,
    transaction,
)

__all__ = [
    "PARKED_STATES",
    "QUEUE_STATES",
    "Change",
    "Park",
    "ParkedDelivery",
    "ParkedMessage",
    "ParkedStore",
    "QueueFilter",
    "Settle",
    "Update",
]

PAGE_SIZE_BYTES = 4096
CHECKPOINT_PAGES = 4000
"""16 MiB of WAL between checkpoints: most content that is settled soon never reaches the database file."""
IDS_AT_ONCE = 1000

_SQL = statements("parked")
_WAITING = DeliveryState.WAITING
_PRIORITY = {name: number for number, name in enumerate(PRIORITIES)}

_encode_message = msgspec.msgpack.Encoder().encode
_decode_message = msgspec.msgpack.Decoder(Message).decode


class ParkedStore:
    """The queue in `parked.db`."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._executemany = connection.executemany
        self._lanes = Lanes()
        self._claims = Claims(connection, self._lanes)
        self._displaced: dict[MessageId, int] = {}
        """Row numbers of messages that do not have their first number."""
        self._touched: set[tuple[Lane, DeliveryState]] = set()
        self._stale = False
        self._load_lanes()

    @classmethod
    def open(cls, path: Path, *, vfs: str | None = None, disk: Folder | None = None) -> ParkedStore:
        """Open or make the database. Raises `StoreFault`; `StoreBusy` where another process has it."""
        connection = open_database(
            path,
            "parked",
            synchronous="FULL",
            exclusive=True,
            page_size_bytes=PAGE_SIZE_BYTES,
            checkpoint_pages=CHECKPOINT_PAGES,
            shrinks=True,
            vfs=vfs,
            disk=disk,
        )
        with closed_on_failure(connection):
            return cls(connection)

    def close(self) -> None:
        with faults("parked store: close"):
            self._connection.close()

    # ------------------------------------------------------------ changes

    def apply(self, changes: Sequence[Change], ledger_lsn: int) -> list[ContentFile]:
        """Make all changes, or none where it raises `StoreFault`; claims stay as they are then.

        Returns the content files that belong to nobody any more: the caller removes them.
        """
        self._reload_if_stale()
        freed: list[ContentFile] = []
        try:
            with transaction(self._connection):
                for group in _each_id_once(changes):
                    self._park([change for change in group if type(change) is Park])
                    self._update([change for change in group if type(change) is Update])
                    freed += self._settle([change for change in group if type(change) is Settle])
                self._executemany(
                    _SQL["store_tally"],
                    [(lane.number, state, lane.tally[state]) for lane, state in self._touched],
                )
                self._execute(_SQL["store_lsn"], (ledger_lsn,))
        except BaseException:
            self._stale = True
            raise
        self._touched.clear()
        self._claims.let_go(changes)
        return freed

    def _park(self, parks: list[Park]) -> None:
        if not parks:
            return
        if self._displaced and any(park.message.id in self._displaced for park in parks):
            for park in parks:
                self._park_where_free(park)
            return
        heads = [_message_row(first_number(park.message.id), park.message) for park in parks]
        before = self._connection.total_changes()
        self._executemany(_SQL["park_message"], heads)
        if self._connection.total_changes() - before < len(parks):
            for park in parks:
                self._park_where_free(park)
            return
        self._executemany(
            _SQL["park_content"],
            [
                (head[0], park.content)
                for park, head in zip(parks, heads, strict=True)
                if park.content is not None
            ],
        )
        rows = [
            self._new_row(head[0], park.message, delivery)
            for park, head in zip(parks, heads, strict=True)
            for delivery in park.deliveries
        ]
        self._executemany(_SQL["add_delivery"], rows)

    def _park_where_free(self, park: Park) -> None:
        """Park a message that may be here already, or whose first number another one has."""
        message = park.message
        number = self._number_of(message.id)
        if number is None:
            first = first_number(message.id)
            taken = {row[0] for row in self._execute(_SQL["taken_numbers"], (first,))}
            number = next(free for free in range(first, first + PROBES) if free not in taken)
            self._execute(_SQL["park_message"], _message_row(number, message))
            if number != first:
                self._displaced[message.id] = number
                self._execute(_SQL["add_displaced"], (message.id, number))
        else:
            self._keep_copies(number, message)
        if park.content is not None:
            self._execute(_SQL["park_content"], (number, park.content))
        for delivery in park.deliveries:
            if not self._change(number, delivery):
                self._execute(_SQL["add_delivery"], self._new_row(number, message, delivery))

    def _keep_copies(self, number: int, message: Message) -> None:
        """A message that is here may be parked with other copies: what the ledger lost is taken up again by
        the rules of today. Its deliveries go by the indexes of both."""
        ((head,),) = self._execute(_SQL["load_head"], (number,))
        kept = _decode_message(head)
        before, now = kept.envelope.recipients, message.envelope.recipients
        if before[: len(now)] != now:
            message = joined_by(message, before[len(now) :])
            self._execute(_SQL["change_head"], (_encode_message(message), number))

    def _new_row(self, number: int, message: Message, delivery: ParkedDelivery) -> tuple[object, ...]:
        lane = self._lane(delivery.relay, _PRIORITY[message.priority], message.origin.fair_share_key)
        self._enter(lane, number, delivery)
        return (*_columns(number, lane, delivery), message.envelope.recipients[delivery.index].address)

    def _update(self, updates: list[Update]) -> None:
        for update in updates:
            number = self._number_of(update.id)
            if number is not None:
                for delivery in update.deliveries:
                    self._change(number, delivery)

    def _change(self, number: int, delivery: ParkedDelivery) -> bool:
        """Overwrite a parked delivery; False where there is none."""
        standing = self._execute(_SQL["standing"], (number, delivery.index)).fetchone()
        if standing is None:
            return False
        old = self._lanes.numbered(standing[0])
        self._leave(old, DeliveryState(standing[1]))
        lane = old if old.relay == delivery.relay else self._lane(delivery.relay, old.priority, old.share)
        self._enter(lane, number, delivery)
        self._execute(_SQL["change_delivery"], _columns(number, lane, delivery))
        return True

    def _settle(self, settles: list[Settle]) -> list[ContentFile]:
        if not settles:
            return []
        keys = []
        for settle in settles:
            number = self._number_of(settle.id)
            if number is not None:
                keys += [(number, index) for index in settle.indexes]
        numbers: dict[int, None] = {}
        for number, lane, state in self._executemany(_SQL["settle_delivery"], keys):
            numbers[number] = None
            self._leave(self._lanes.numbered(lane), DeliveryState(state))
        gone: list[tuple[int]] = []
        displaced: list[tuple[MessageId]] = []
        freed: list[ContentFile] = []
        dropped = self._executemany(_SQL["drop_message"], [(number,) for number in numbers])
        for number, message_id, head in dropped:
            gone.append((number,))
            if self._displaced.pop(message_id, None) is not None:
                displaced.append((message_id,))
            if head is not None and (file := _decode_message(head).content_file) is not None:
                freed.append(file)
        self._executemany(_SQL["drop_content"], gone)
        self._executemany(_SQL["drop_displaced"], displaced)
        return freed

    def _enter(self, lane: Lane, number: int, delivery: ParkedDelivery) -> None:
        state = delivery.state
        lane.tally[state] = lane.tally.get(state, 0) + 1
        self._touched.add((lane, state))
        if state is _WAITING:
            self._lanes.notice(lane, Place(delivery.due_ms, number, delivery.index))

    def _leave(self, lane: Lane, state: DeliveryState) -> None:
        lane.tally[state] -= 1
        self._touched.add((lane, state))
        if state is _WAITING:
            lane.doubtful = True

    def _number_of(self, message_id: MessageId) -> int | None:
        number = self._claims.number_of(message_id) or self._displaced.get(message_id)
        if number is None:
            found = self._execute(_SQL["number_of"], (first_number(message_id), message_id))
            number = cast(int | None, found.get)
        return number

    # ------------------------------------------------------------ claims

    def claim(self, relay: str, now_ms: int, limit: int, size_bytes_max: int) -> list[ParkedMessage]:
        """Take in hand what is due at a relay: at most `limit` messages, in the order they should go.

        Each comes with all of its deliveries that can go in the same transaction, and with its
        content; all together at most `size_bytes_max`, recipients counted, but one message, if any is due,
        however large, so that none waits for ever. Content in files does not count. Raises `StoreFault`.
        """
        self._reload_if_stale()
        try:
            with faults("parked store: claim"):
                return self._claims.take(relay, now_ms, limit, size_bytes_max)
        except BaseException:
            # Some lanes may have been walked along without anything being in hand from it.
            self._stale = True
            raise

    def claim_message(self, message_id: MessageId) -> ParkedMessage | None:
        """Take one message in hand out of turn: what waits of it, due or not, for one relay, with content.

        None where nothing of it waits that is not in hand. Further relays of it take further calls.
        """
        self._reload_if_stale()
        with faults("parked store: claim"):
            number = self._number_of(message_id)
            indexes = set() if number is None else self._claims.take_message(message_id, number)
        if not indexes:
            return None
        parked = self.get(message_id, content=True)
        assert parked is not None, "a delivery without its message"
        taken = tuple(delivery for delivery in parked.deliveries if delivery.index in indexes)
        return ParkedMessage(parked.message, taken, parked.content)

    def put_back(self, taken: Iterable[tuple[MessageId, tuple[int, ...]]]) -> None:
        """These deliveries are in hand no more, and as they were; they may be claimed again.

        Others of the same message may be in hand still.
        """
        self._reload_if_stale()
        with faults("parked store: put back"):
            for message_id, indexes in taken:
                self._claims.put_back(message_id, indexes)

    def next_due_ms(self, relay: str) -> int | None:
        """When the first delivery that is not in hand is due at a relay; None where none waits."""
        self._reload_if_stale()
        with faults("parked store: next due"):
            return self._claims.next_due_ms(relay)

    # ------------------------------------------------------------ what is here

    def get(self, message_id: MessageId, *, content: bool) -> ParkedMessage | None:
        """One message with all of its parked deliveries; its content only if asked for."""
        with faults("parked store: get"):
            number = self._number_of(message_id)
            if number is None:
                return None
            ((head,),) = self._execute(_SQL["load_head"], (number,))
            rows = self._execute(_SQL["deliveries_of"], (number,))
            deliveries = tuple(parked_delivery(row) for row in rows)
            row = self._execute(_SQL["load_content"], (number,)).fetchone() if content else None
            return ParkedMessage(_decode_message(head), deliveries, None if row is None else row[0])

    def find(self, wanted: QueueFilter, *, limit: int, after: MessageId | None) -> list[ParkedMessage]:
        """Messages in the order of their acceptance, each with those deliveries that are meant.

        `after`: the last message of the page before. A filter that few match may read every row.
        """
        with faults("parked store: find"):
            behind = -1
            if after is not None:
                behind = self._number_of(after) or first_number(after)
            return find_parked(self._connection, wanted, limit=limit, after=behind)

    def count(self, wanted: QueueFilter) -> int:
        """How many messages have deliveries that are meant."""
        with faults("parked store: count"):
            return count_parked(self._connection, wanted)

    def ids(self) -> Iterator[MessageId]:
        """Every message that has a delivery in the queue, in the order of their acceptance.

        What changes meanwhile may or may not be among them.
        """
        number = -1
        while True:
            with faults("parked store: ids"):
                rows = self._execute(_SQL["queue_ids"], (number, IDS_AT_ONCE))
                page = cast(list[tuple[int, MessageId]], rows.fetchall())
            for number, message_id in page:  # noqa: B007 - the last number is where the next page begins
                yield message_id
            if len(page) < IDS_AT_ONCE:
                return

    @property
    def ledger_lsn(self) -> int:
        """The LSN that the last `apply` was given: up to there the ledger is reflected here."""
        with faults("parked store: LSN"):
            ((lsn,),) = self._execute(_SQL["load_lsn"])
        assert isinstance(lsn, int)
        return lsn

    def counts(self) -> dict[tuple[str, DeliveryState], int]:
        """Deliveries by relay and state, without zeros; costs nothing."""
        self._reload_if_stale()
        sums: dict[tuple[str, DeliveryState], int] = {}
        for lane in self._lanes:
            for state, deliveries in lane.tally.items():
                if deliveries:
                    sums[lane.relay, state] = sums.get((lane.relay, state), 0) + deliveries
        return sums

    def failed_before(self, wall_ms: int, *, limit: int = 1000) -> list[Settle]:
        """Failed deliveries, longest failed first, whose time of retention is over: ready to `apply`."""
        with faults("parked store: failed"):
            indexes: dict[MessageId, list[int]] = {}
            for message_id, position in self._execute(_SQL["failed_before"], (wall_ms, limit)):
                indexes.setdefault(message_id, []).append(position)
        return [Settle(message_id, tuple(sorted(found))) for message_id, found in indexes.items()]

    # ------------------------------------------------------------ care

    def reclamp(self, now_ms: int, due_ms_max: int) -> int:
        """After the clock jumped: let nothing be due later than `due_ms_max`, which lies not before `now_ms`.

        Returns how many deliveries were moved. Raises `StoreFault`.
        """
        self._reload_if_stale()
        self._stale = True
        with transaction(self._connection):
            self._execute(_SQL["reclamp"], (max(now_ms, due_ms_max),))
            moved = self._connection.changes()
        self._reload_if_stale()
        return moved

    def shrink(self, pages_max: int) -> int:
        """Give up to so many unused pages back to the file system; returns how many are still unused."""
        with faults("parked store: shrink"):
            self._execute(f"PRAGMA incremental_vacuum({pages_max:d})").fetchall()
            unused = self._connection.pragma("freelist_count")
        assert isinstance(unused, int)
        return unused

    # ------------------------------------------------------------ lanes

    def _lane(self, relay: str, priority: int, share: str) -> Lane:
        lane = self._lanes.find(relay, priority, share)
        if lane is None:
            if self._lanes.crowded(relay, priority):
                self._drop_empty_lanes()
            name = self._lanes.name(relay, priority, share)
            lane = Lane(self._lanes.next_number, relay, priority, name)
            self._execute(_SQL["add_lane"], (lane.number, relay, priority, name))
            self._lanes.add(lane)
        return lane

    def _drop_empty_lanes(self) -> None:
        for lane in [lane for lane in self._lanes if lane.empty]:
            self._touched -= {(lane, state) for state in lane.tally}
            self._execute(_SQL["drop_tally"], (lane.number,))
            self._execute(_SQL["drop_lane"], (lane.number,))
            self._lanes.drop(lane)

    def _reload_if_stale(self) -> None:
        if self._stale:
            self._load_lanes()

    def _load_lanes(self) -> None:
        """Read from the database what `lanes` remembers; claims are kept, and walked over again."""
        with faults("parked store: load"), _sense():
            lanes = Lanes()
            for number, relay, priority, share, next_due_ms in self._execute(_SQL["load_lanes"]):
                lane = Lane(number, relay, priority, share)
                lane.next_due_ms = next_due_ms
                lane.doubtful = True
                lanes.add(lane)
            for number, state, deliveries in self._execute(_SQL["load_tallies"]):
                lanes.numbered(number).tally[DeliveryState(state)] = deliveries
            displaced = self._execute(_SQL["load_displaced"]).fetchall()
            self._displaced = dict(cast(list[tuple[MessageId, int]], displaced))
        self._lanes = self._claims.lanes = lanes
        self._touched.clear()
        self._stale = False


@contextmanager
def _sense() -> Iterator[None]:
    """Raise `StoreDamaged` for rows that we never wrote: pages of theirs did not reach the disk."""
    try:
        yield
    except (TypeError, ValueError, LookupError) as error:
        raise StoreDamaged(f"parked store: a lane makes no sense: {error}") from error


def _message_row(number: int, message: Message) -> tuple[int, bytes, str, int, bool, bytes]:
    return (
        number,
        message.id,
        message.envelope.reverse_path,
        message.size_bytes,
        message.content_file is not None,
        _encode_message(message),
    )


_Columns = tuple[int, int, int, DeliveryState, int, int, int, int, str, bool]


def _columns(number: int, lane: Lane, delivery: ParkedDelivery) -> _Columns:
    """A delivery's row, but for the address, which never changes."""
    return (
        number,
        delivery.index,
        lane.number,
        delivery.state,
        delivery.due_ms,
        delivery.attempts,
        delivery.family,
        delivery.since_ms,
        delivery.reason,
        delivery.uncertain,
    )


def _each_id_once(changes: Sequence[Change]) -> Iterator[Sequence[Change]]:
    """Cut the changes, in their order, into groups that name no message twice.

    Within a group the order means nothing, so that changes of a kind can be made together.
    """
    if len({change.id for change in changes}) == len(changes):
        yield changes
        return
    group: list[Change] = []
    seen: set[MessageId] = set()
    for change in changes:
        if change.id in seen:
            yield group
            group, seen = [], set()
        group.append(change)
        seen.add(change.id)
    yield group
