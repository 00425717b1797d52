"""What may be asked of the queue, and what it answers: the words of delivery's socket.

Spoken by the command line and by control; carried out by `orders`. Values only: whoever asks needs to load
nothing of the queue's own.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from dispatch.mail.ids import MessageId
from dispatch.mail.message import Message
from dispatch.store.parked import ParkedMessage, QueueFilter

ARRIVING = "its import was not finished: repeat it"
"""The reason of what is held because nobody knows yet whether all of its import came through."""

Verb = Literal["retry", "hold", "release", "cancel", "bounce", "reroute"]


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
    """Do this to everything that matches. Answered with `Done`, or with `Refused`."""

    verb: Verb
    wanted: QueueFilter
    ids: tuple[MessageId, ...] = ()
    """Only of these messages; without any, of all."""
    relay: str = ""
    """Reroute: to which relay."""
    reason: str = ""
    """Bounce, cancel: why, for history; the sender is not told it."""
    uncertain: bool = False
    """Reroute: also what may have been delivered already, which may make a duplicate of it."""
    dry_run: bool = False
    """Only count what it would do."""
    at_rest: bool = False
    """Refuse it unless the queue is paused and nothing is under way."""


class Flush(msgspec.Struct, frozen=True, tag="flush"):
    """Everything that waits is due now, and open breakers let a probe through. Answered with `Done`."""


class Pause(msgspec.Struct, frozen=True, tag="pause"):
    """Start nothing more at this relay, or at none at all, until it is resumed, restarts or not. Answered
    with `Pauses`, or with `Refused`."""

    relay: str = ""


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    """Take a pause back: of this relay, or the one of the whole queue; relays that were paused by name stay
    so. Answered with `Pauses`, or with `Refused`."""

    relay: str = ""


class AskParked(msgspec.Struct, frozen=True, tag="parked"):
    """A few messages whole, for an export: as many as fit into an answer. Answered with `ParkedPage`.

    Without `after`, what stands ready is parked first, so that it is among them.
    """

    wanted: QueueFilter
    after: MessageId | None = None


class TakeIn(msgspec.Struct, frozen=True, tag="take in"):
    """Messages of another host, each with all of its recipients. Answered with `TakenIn` when they are on
    stable storage and in the ledger; asked again, those that are here already are passed over."""

    messages: tuple[ParkedMessage, ...]


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
    paused: bool = False
    """The whole queue is: nothing of it starts."""


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
    uncertain: int = 0
    """Deliveries that match and may have been delivered already: they stay where they are."""
    messages: int = 0
    """Of how many messages deliveries were moved."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Nothing was done."""

    why: str


class ParkedPage(msgspec.Struct, frozen=True, tag="parked page"):
    messages: tuple[ParkedMessage, ...]
    """Without the deliveries that are under way; content that is a file is not here."""
    next: MessageId | None
    """Ask for the next page after this one."""


class TakenIn(msgspec.Struct, frozen=True, tag="taken in"):
    taken: int
    known: int
    """Messages that are here already."""


class Pauses(msgspec.Struct, frozen=True, tag="pauses"):
    """What starts nothing."""

    everything: bool
    relays: tuple[str, ...] = ()
    """Those paused by name."""
    under_way: int = 0
    """Transactions that finish in spite of it."""


class LaneStatus(msgspec.Struct, frozen=True):
    relay: str
    breaker: str
    opens_until_s: float | None
    """Seconds from now until an open breaker lets a probe through."""
    in_flight: int
    ready: int
    window: int
    paused: bool = False
    waiting: int = 0
    """Deliveries in the parked store that wait for it, due or not."""
    held: int = 0
    """Those that a person must look at: held, or quarantined."""
    oldest_ms: int | None = None
    """When the oldest message was accepted that waits for it in the parked store."""


class Lanes(msgspec.Struct, frozen=True, tag="lanes"):
    lanes: tuple[LaneStatus, ...]
    waiting_in_log_bytes: int
    uncertain: int
    paused: bool = False
    """The whole queue is."""
    in_log: int = 0
    """Messages that were taken up, and that the mail log still answers for: under way, or about to be
    parked."""
    waiting: int = 0
    """Deliveries in the parked store that go by themselves, for whatever relay."""
    kept_back: int = 0
    """Those that a person must look at: held, or quarantined."""


Request = ListQueue | ShowMessage | Order | Flush | Pause | Resume | AskParked | TakeIn | AskLanes
Answer = QueuePage | Shown | Done | Refused | Pauses | ParkedPage | TakenIn | Lanes
