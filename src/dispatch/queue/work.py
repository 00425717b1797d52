"""What the queue holds in memory: messages it took up, and the transactions made of them.

Bounded: only what stands ready or is under way is here. Everything else is in the log or parked.
"""

from __future__ import annotations

from operator import attrgetter

import msgspec

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.message import ContentFile, Message
from dispatch.policy.mail_domains import destination
from dispatch.ports import Lsn
from dispatch.spool.records import Attempted, Moved
from dispatch.store.changes import DELIVERY_BYTES
from dispatch.store.parked import ParkedDelivery, ParkedMessage

COUNTED_BYTES_MAX = 1 << 20


class LogOwned:
    """A message that stands in the mail log, until its last delivery is settled or parked.

    It is counted twice, and the two must not be mixed up. *Decided* is what the ledger's records say,
    durable or not: a checkpoint, which comes behind these records, must say the same. *Left* is what the
    log may not let go of yet, because not all of these records are durable.
    """

    __slots__ = ("decided", "history", "left", "lsn", "message", "shared_file")

    def __init__(
        self, lsn: Lsn, message: Message, gone: tuple[int, ...] = (), *, shared_file: bool = False
    ) -> None:
        self.lsn = lsn
        self.message = message
        self.decided = set(gone)
        """Recipients of whom a record says that they need the log no more: settled, or parked."""
        self.left = len(message.envelope.recipients) - len(self.decided)
        self.history: tuple[Attempted | Moved, ...] = ()
        """What was decided about the others and is still on its way into the parked store."""
        self.shared_file = shared_file
        """The parked store may need its content file, too."""

    @property
    def undecided(self) -> bool:
        """A restart must look at it again."""
        return len(self.decided) < len(self.message.envelope.recipients)

    def let_go(self, indexes: tuple[int, ...]) -> bool:
        """It is durable that these need the log no more; True when no other does either."""
        self.left -= len(indexes)
        assert self.left >= 0, "let go of a recipient twice"
        return self.left == 0


_index = attrgetter("index")


class Work:
    """One message and those of its deliveries that go to one relay: waiting for a slot, or under way."""

    __slots__ = (
        "content",
        "deliveries",
        "destination",
        "indexes",
        "large",
        "message",
        "owner",
        "postponed",
        "relay",
        "sent",
        "slot",
        "started_ms",
        "started_s",
    )

    def __init__(
        self,
        message: Message,
        deliveries: tuple[ParkedDelivery, ...],
        content: bytes | ContentFile,
        owner: LogOwned | None,
    ) -> None:
        self.message = message
        # Asked for several times in the life of a work, and nearly every work has one delivery.
        if len(deliveries) == 1:
            self.indexes: tuple[int, ...] = (deliveries[0].index,)
        else:
            # They may come by due time, or by rule; a transaction has them in the envelope's order.
            deliveries = tuple(sorted(deliveries, key=_index))
            self.indexes = tuple([delivery.index for delivery in deliveries])
        self.deliveries = deliveries
        self.relay = deliveries[0].relay
        self.content = content
        self.large = not isinstance(content, bytes)
        """Its content is a file, and takes long to send."""
        self.owner = owner
        """None: the parked store owns it."""
        self.postponed = False
        """It has due times that the parked store does not know yet."""
        self.destination = ""
        """The mail domain that its recipients share; of direct delivery only (`by_domain`)."""
        self.started_s = 0.0
        self.started_ms = 0
        """The same by the other clock, which may jump meanwhile."""
        self.slot = -1
        """Where it is noted as in hand."""
        self.sent = False
        """`sending` is in the ledger: the end of data may have left."""

    @property
    def size_bytes(self) -> int:
        """What it costs in memory, as far as it counts: content in a file of its own costs nothing, and no
        work is so large that a line could never take it."""
        content_bytes = len(self.content) if isinstance(self.content, bytes) else 0
        return min(content_bytes + DELIVERY_BYTES * len(self.deliveries), COUNTED_BYTES_MAX)

    @property
    def attempt(self) -> int:
        """The number of the attempt that comes next, counted from 1."""
        return 1 + max([delivery.attempts for delivery in self.deliveries])


def parked_work(parked: ParkedMessage) -> Work:
    """What was claimed: deliveries of one message, which share a relay."""
    content = parked.message.content_file or parked.content
    assert content is not None, "a parked message without content"
    return Work(parked.message, parked.deliveries, content, None)


def by_domain(work: Work) -> list[Work]:
    """The same deliveries, those together whose recipients share a mail domain; in place of the work."""
    recipients = work.message.envelope.recipients
    domains: dict[str, list[ParkedDelivery]] = {}
    for delivery in work.deliveries:
        domains.setdefault(destination(recipients[delivery.index].address), []).append(delivery)
    if len(domains) == 1:
        (work.destination,) = domains
        return [work]
    parts: list[Work] = []
    for domain, deliveries in domains.items():
        parts.append(Work(work.message, tuple(deliveries), work.content, work.owner))
        parts[-1].destination = domain
    return parts


def due_later(work: Work, due_ms: int) -> Work:
    rows = tuple([msgspec.structs.replace(row, due_ms=due_ms) for row in work.deliveries])
    later = Work(work.message, rows, work.content, work.owner)
    later.postponed = True
    return later


def fresh_deliveries(message: Message, indexes: tuple[int, ...], relay: str) -> tuple[ParkedDelivery, ...]:
    """Deliveries of a message that was just taken up: never tried, due since it was accepted."""
    at_ms = message.accepted_ms
    return tuple(
        ParkedDelivery(
            index=index,
            state=DeliveryState.WAITING,
            relay=relay,
            due_ms=at_ms,
            attempts=0,
            family=1,
            since_ms=at_ms,
            reason="",
        )
        for index in indexes
    )


def at_relay(row: ParkedDelivery, relay: str) -> ParkedDelivery:
    return row if row.relay == relay else msgspec.structs.replace(row, relay=relay)


def doubted(rows: tuple[ParkedDelivery, ...]) -> tuple[ParkedDelivery, ...]:
    """They may have been delivered already."""
    return tuple([msgspec.structs.replace(row, uncertain=True) for row in rows])


def by_relay(deliveries: tuple[ParkedDelivery, ...]) -> list[tuple[ParkedDelivery, ...]]:
    """Deliveries of one message, those together that share a relay: what a work may hold."""
    shared: dict[str, list[ParkedDelivery]] = {}
    for delivery in deliveries:
        shared.setdefault(delivery.relay, []).append(delivery)
    return [tuple(group) for group in shared.values()]
