"""Copies that rules ask for: recipients of the message behind those of its envelope.

A copy is a delivery like any other, with an index, attempts, records and an outcome of its own; it goes to
the relay that it names and nowhere else, and waits for that one where it is switched off. So there is nothing
for copies that mail does not have: what is parked, recovered, held or counted is so by the recipients of the
message as the ledger has it (decision 0020).

Copies are made once, when mail is taken up: from then on `accepted` says who they are for, and no rule is
asked again. The archive is told the address that the mail is for, and to send no notices (RFC 3461 section
4.1); who sent the mail never hears of its copies.
"""

from __future__ import annotations

import msgspec

from dispatch.mail.envelope import Recipient
from dispatch.mail.message import Message
from dispatch.policy.routing import Routes, routes_of_copies

NO_NOTICE = "NEVER"


def with_copies(message: Message, routes: Routes) -> tuple[Message, Routes]:
    """A message that nobody has taken up yet, and its routes, with the copies that these ask for."""
    if not any(route.copies for route, _ in routes):
        return message, routes
    recipients = message.envelope.recipients
    copies = tuple(
        Recipient(recipients[index].address, NO_NOTICE, copy_to=relay)
        for route, indexes in routes
        for relay in route.copies
        for index in indexes
    )
    message = joined_by(message, copies)
    return message, routes + routes_of_copies(message.envelope.recipients)


def copies_of(message: Message) -> tuple[Recipient, ...]:
    """Those of its recipients that are copies."""
    recipients = message.envelope.recipients
    if not recipients or not recipients[-1].copy_to:
        return ()
    return tuple(recipient for recipient in recipients if recipient.copy_to)


def joined_by(message: Message, copies: tuple[Recipient, ...]) -> Message:
    """The message as its client sent it, with its copies again."""
    if not copies:
        return message
    envelope = message.envelope
    envelope = msgspec.structs.replace(envelope, recipients=envelope.recipients + copies)
    return msgspec.structs.replace(message, envelope=envelope)
