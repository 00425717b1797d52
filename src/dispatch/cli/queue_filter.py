"""Which deliveries of the queue are meant: the options that its verbs share."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from dispatch.mail.delivery import DeliveryState
from dispatch.store.parked import PARKED_STATES, QueueFilter

SenderOption = Annotated[str, typer.Option("--sender", help="Sender address or domain.")]
RecipientOption = Annotated[str, typer.Option("--recipient", help="Recipient address or domain.")]
RelayOption = Annotated[str | None, typer.Option("--relay", help="Deliveries that wait for this relay.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Part of the reason why it waits.")]
StateOption = Annotated[str, typer.Option("--state", help="waiting, held, quarantined, bounced, expired, …")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask before doing it to several messages.")]


def queue_filter(sender: str, recipient: str, relay: str | None, reason: str, state: str) -> QueueFilter:
    """What these options mean together; a state that there is none of is a mistake in the command."""
    try:
        wanted_state = DeliveryState(state) if state else None
    except ValueError:
        raise typer.BadParameter(f"{state!r} is none of {', '.join(sorted(PARKED_STATES))}") from None
    return QueueFilter(sender=sender, recipient=recipient, relay=relay, reason=reason, state=wanted_state)


def at_a_terminal() -> bool:
    """Somebody is there who can be asked."""
    return sys.stdin.isatty()
