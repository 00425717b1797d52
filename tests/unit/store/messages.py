"""Messages and parked deliveries for tests: one line each, every detail that matters named."""

from __future__ import annotations

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import MessageId, new_message_id
from dispatch.mail.message import ContentFile, Message, Origin, Priority, Summary
from dispatch.store.parked import Park, ParkedDelivery

DAY_ONE_MS = 1_780_272_000_000
"""2026-06-01 00:00:00 UTC."""


def message_id(number: int, *, at_ms: int = DAY_ONE_MS) -> MessageId:
    """Ids of one millisecond, in the order of their numbers."""
    return new_message_id(at_ms, (number << 54).to_bytes(16, "big")[-10:])


def number_in(of: MessageId) -> int:
    """The number that `message_id` was made from."""
    value = int.from_bytes(of, "big")
    return (value >> 64 & 0xFFF) << 8 | value >> 54 & 0xFF


def message(
    number: int,
    *recipients: str,
    sender: str = "sender@example.org",
    login: str | None = None,
    client: str = "192.0.2.1",
    priority: Priority = "normal",
    at_ms: int = DAY_ONE_MS,
    subject: str = "",
    header_message_id: str = "",
    content_file: ContentFile | None = None,
    exact_id: MessageId | None = None,
) -> Message:
    return Message(
        exact_id or message_id(number, at_ms=at_ms),
        at_ms,
        Envelope(sender, tuple(Recipient(address) for address in recipients or ("alice@example.com",))),
        Origin("smtp", client, "client.example.org", login),
        Summary(subject=subject, message_id=header_message_id),
        100,
        content_file,
        priority,
    )


def delivery(
    index: int = 0,
    *,
    state: DeliveryState = DeliveryState.WAITING,
    relay: str = "smarthost",
    due_ms: int = 0,
    attempts: int = 0,
    reason: str = "",
) -> ParkedDelivery:
    return ParkedDelivery(index, state, relay, due_ms, attempts, 0, 0, reason)


def park(what: Message, *deliveries: ParkedDelivery, content: bytes | None = b"content") -> Park:
    """Without deliveries: one for each recipient, due at once."""
    all_due = tuple(delivery(index) for index in range(len(what.envelope.recipients)))
    return Park(what, None if what.content_file else content, deliveries or all_due)
