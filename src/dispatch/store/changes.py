"""What the parked store is told (`Change`) and what it tells (`ParkedMessage`)."""

from __future__ import annotations

from string import ascii_lowercase, ascii_uppercase

import msgspec

from dispatch.mail.delivery import FAILED_STATES, DeliveryState
from dispatch.mail.ids import InvalidMessageId, MessageId, accepted_ms
from dispatch.mail.message import Message

QUEUE_STATES = frozenset(
    {DeliveryState.WAITING, DeliveryState.HELD, DeliveryState.UNCERTAIN, DeliveryState.QUARANTINED}
)
"""Parked, and not yet at an end."""

DELIVERY_BYTES = 300
"""About what a delivery costs in memory beside its content: bounds are in bytes, not in messages."""

PARKED_STATES = QUEUE_STATES | FAILED_STATES
"""Failed ones are no queue any more: their content is kept for its retention."""

ID_DIGITS = 32
_HEX_DIGITS = frozenset("0123456789abcdef")


class ParkedDelivery(msgspec.Struct, frozen=True, gc=False):
    """One recipient of a parked message."""

    index: int
    """Its place among the envelope's recipients."""
    state: DeliveryState
    """One of `PARKED_STATES`."""
    relay: str
    """Where it goes next; empty where no relay is known."""
    due_ms: int
    """Waiting: from when on it may be tried. Failed: when it failed."""
    attempts: int
    """Those of its family that count against the retry limit."""
    family: int
    """Which family of attempts: 1, and one more with each reopening."""
    since_ms: int
    """When its family of attempts began: the acceptance, or the last reopening. Its age counts from here."""
    reason: str
    uncertain: bool = False
    """An earlier attempt may have delivered it: a repeat may be a duplicate."""


class ParkedMessage(msgspec.Struct, frozen=True):
    message: Message
    deliveries: tuple[ParkedDelivery, ...]
    """In ascending order of index."""
    content: bytes | None
    """None where it stands in a file of its own, or was not asked for."""


class Park(msgspec.Struct, frozen=True):
    """Take a message in, or, when it is here already, add or overwrite these deliveries of it."""

    message: Message
    content: bytes | None
    """None where it stands in `message.content_file`."""
    deliveries: tuple[ParkedDelivery, ...]

    @property
    def id(self) -> MessageId:
        return self.message.id


class Update(msgspec.Struct, frozen=True):
    """What has changed of deliveries that are parked; those that are not are passed over."""

    id: MessageId
    deliveries: tuple[ParkedDelivery, ...]


class Settle(msgspec.Struct, frozen=True):
    """These deliveries are over; with the last one the message goes, and its content with it.

    Settling what is not there is no error: recovery may say it twice.
    """

    id: MessageId
    indexes: tuple[int, ...]


Change = Park | Update | Settle


class QueueFilter(msgspec.Struct, frozen=True):
    """Which parked deliveries are meant: all that is set must hold."""

    id_prefix: str = ""
    """Hexadecimal digits, with or without `spl_`."""
    sender: str = ""
    """An address, or a domain for all of its addresses."""
    recipient: str = ""
    """As `sender`."""
    relay: str | None = None
    """The empty string means: those without a relay."""
    state: DeliveryState | None = None
    """None: everything in the queue; of a message named by its whole id also what has failed."""
    reason: str = ""
    """Part of the reason, without regard to case."""
    accepted_before_ms: int | None = None

    @property
    def states(self) -> frozenset[DeliveryState]:
        if self.state is not None:
            return frozenset({self.state})
        return PARKED_STATES if len(self.id_digits) == ID_DIGITS else QUEUE_STATES

    @property
    def id_digits(self) -> str:
        """Raises `InvalidMessageId` where `id_prefix` cannot be the beginning of an id."""
        digits = self.id_prefix.strip().removeprefix("spl_").lower()
        if len(digits) > ID_DIGITS or not _HEX_DIGITS.issuperset(digits):
            raise InvalidMessageId(f"{self.id_prefix!r} is not the beginning of a message id")
        return digits

    def matches(self, message: Message, delivery: ParkedDelivery) -> bool:
        """Whether a delivery is meant that is not in the store: by the same rules as `ParkedStore.find`."""
        return (
            delivery.state in self.states
            and message.id.hex().startswith(self.id_digits)
            and _address_meant(self.sender, message.envelope.reverse_path)
            and _address_meant(self.recipient, message.envelope.recipients[delivery.index].address)
            and (self.relay is None or self.relay == delivery.relay)
            and ascii_lower(self.reason) in ascii_lower(delivery.reason)
            and (self.accepted_before_ms is None or accepted_ms(message.id) < self.accepted_before_ms)
        )


def _address_meant(wanted: str, address: str) -> bool:
    wanted, address = ascii_lower(wanted.strip()), ascii_lower(address)
    if not wanted:
        return True
    if "@" in wanted[1:]:
        return wanted == address
    return address.endswith("@" + wanted.removeprefix("@"))


_UPPER_TO_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)


def ascii_lower(text: str) -> str:
    """As SQLite's LIKE sees it: it knows the case of ASCII letters only."""
    return text.translate(_UPPER_TO_LOWER)
