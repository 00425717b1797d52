"""What may be asked of the queue, and what it answers: the words of delivery's socket.

Spoken by the command line and by control; carried out by `orders`. Values only: whoever asks needs to load
nothing of the queue's own.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from dispatch.mail.ids import MessageId
from dispatch.mail.message import Message
from dispatch.store.parked import QueueFilter

Verb = Literal["retry", "hold", "release", "cancel"]


class ListQueue(msgspec.Struct, frozen=True, tag="list"):
    """A page of what waits. Answered with `QueuePage`."""

    wanted: QueueFilter
    limit: int = 100
    after: MessageId | None = None


class ShowMessage(msgspec.Struct, frozen=True, tag="show"):
    """One message that is here. Answered with `Shown`, `message` None where it is not."""

    id: MessageId
    content: bool = False


class Order(msgspec.Struct, frozen=True, tag="order"):
    """Do this to everything that matches. Answered with `Done`."""

    verb: Verb
    wanted: QueueFilter


class Flush(msgspec.Struct, frozen=True, tag="flush"):
    """Everything that waits is due now, and open breakers let a probe through. Answered with `Done`."""


class AskLanes(msgspec.Struct, frozen=True, tag="lanes"):
    """How the relays are doing. Answered with `Lanes`."""


class QueuedDelivery(msgspec.Struct, frozen=True):
    """One recipient's delivery as `queue list` and `queue show` print it."""

    id: MessageId
    recipient: str
    reverse_path: str
    state: str
    relay: str
    due_ms: int
    attempts: int
    since_ms: int
    reason: str
    size_bytes: int
    subject: str


class QueuePage(msgspec.Struct, frozen=True, tag="page"):
    deliveries: tuple[QueuedDelivery, ...]
    total: int
    """Messages that match, in the parked store."""
    next: MessageId | None
    """Ask for the next page after this one."""


class Shown(msgspec.Struct, frozen=True, tag="shown"):
    message: Message | None
    deliveries: tuple[QueuedDelivery, ...] = ()
    content: bytes | None = None
    content_file: str | None = None


class Done(msgspec.Struct, frozen=True, tag="done"):
    changed: int
    """Deliveries that the order moved."""
    under_way: int
    """Deliveries that match and are being attempted: they finish first."""
    unsuited: int
    """Deliveries that match and whose state does not allow the order."""


class LaneStatus(msgspec.Struct, frozen=True):
    relay: str
    breaker: str
    opens_until_s: float | None
    """Seconds from now until an open breaker lets a probe through."""
    in_flight: int
    ready: int
    window: int


class Lanes(msgspec.Struct, frozen=True, tag="lanes"):
    lanes: tuple[LaneStatus, ...]
    waiting_in_log_bytes: int
    uncertain: int


Request = ListQueue | ShowMessage | Order | Flush | AskLanes
Answer = QueuePage | Shown | Done | Lanes
