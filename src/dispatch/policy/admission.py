"""Which submissions are refused over SMTP, in which order of checks, with which words.

Each function stands for one moment of the conversation and is called once at it. It returns None
(go on) or the refusal of the first check that fails. Facts are arguments: who matches which
address range, how full the disk is, what routing says, is known to the caller.

A refusal has two texts (what the client may read, and what the operator needs) because the peer
must not learn more than what is safe and useful to it.

Sizes are counted as RFC 1870 section 5 says, before our `Received` field, limits inclusive. A
ceiling of None or 0 is none.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from dispatch.mail.reply import Reply, reply

RefusalKind = Literal[
    "connections",
    "connections_per_address",
    "disk",
    "denied",
    "size",
    "relay_size",
    "recipients",
    "loop",
    "newline",
    "spool",
]


class Refusal(msgspec.Struct, frozen=True):
    reply: Reply
    """What the client is told."""
    reason: str
    """What the operator is told."""
    kind: RefusalKind
    """The counter it adds to; `denied` is a source that may not submit at all."""


_DISK = Refusal(
    reply(452, "4.3.1", "Insufficient storage, try again later"),
    "the disk has less room left than spool.disk_suspend_mb",
    "disk",
)
_FULL = Refusal(
    reply(452, "4.3.1", "Insufficient storage, try again later"),
    "the spool could not be written: no space left",
    "spool",
)
_UNWELL = Refusal(
    reply(451, "4.3.0", "Could not store the message, try again later"),
    "the spool could not be written: the disk reported an error",
    "spool",
)


def refuse_connection(
    *, connections: int, connections_max: int, connections_from_address: int, connections_per_ip_max: int
) -> Refusal | None:
    """At connect; the new connection is counted in both numbers. The connection is closed after the reply."""
    if connections > connections_max:
        return Refusal(
            reply(421, "4.7.0", "Too many connections, try again later"),
            f"more than {connections_max} connections (listener.max_connections)",
            "connections",
        )
    if connections_from_address > connections_per_ip_max:
        return Refusal(
            reply(421, "4.7.0", "Too many connections from your address, try again later"),
            f"more than {connections_per_ip_max} connections from one address"
            " (listener.max_connections_per_ip)",
            "connections_per_address",
        )
    return None


def refuse_mail(
    *,
    disk_suspended: bool,
    source_allowed: bool,
    allow_list_empty: bool,
    client_address: str,
    declared_size_bytes: int | None,
    size_bytes_max: int | None,
) -> Refusal | None:
    """At MAIL. `client_address` is the peer's address as text; `declared_size_bytes` its SIZE parameter."""
    if disk_suspended:
        return _DISK
    if not source_allowed:
        return _denied(client_address, allow_list_empty)
    if declared_size_bytes is not None:
        return _refuse_size(declared_size_bytes, size_bytes_max)
    return None


def _denied(client_address: str, allow_list_empty: bool) -> Refusal:
    if allow_list_empty:
        return Refusal(
            reply(
                550,
                "5.7.1",
                f"{client_address} may not submit mail here: no source is allowed yet.",
                "Ask the administrator to list it in the setting listener.allowed_cidrs",
            ),
            f"{client_address} refused: listener.allowed_cidrs is empty, which means nobody"
            " (everybody is written 0.0.0.0/0, ::/0)",
            "denied",
        )
    return Refusal(
        reply(
            550,
            "5.7.1",
            f"{client_address} may not submit mail here.",
            "Ask the administrator to add it to the setting listener.allowed_cidrs",
        ),
        f"{client_address} refused: it is not in listener.allowed_cidrs",
        "denied",
    )


def _refuse_size(size_bytes: int, size_bytes_max: int | None) -> Refusal | None:
    if not size_bytes_max or size_bytes <= size_bytes_max:
        return None
    return Refusal(
        reply(552, "5.3.4", f"Message size exceeds the limit of {size_bytes_max} bytes"),
        f"{size_bytes} bytes are above listener.max_message_bytes ({size_bytes_max})",
        "size",
    )


def _refuse_relay_size(size_bytes: int, relay: str, relay_size_bytes_max: int | None) -> Refusal | None:
    if not relay_size_bytes_max or size_bytes <= relay_size_bytes_max:
        return None
    return Refusal(
        reply(552, "5.3.4", f"Message size exceeds the limit of relay {relay}, {relay_size_bytes_max} bytes"),
        f"{size_bytes} bytes are above the limit of relay {relay} ({relay_size_bytes_max})",
        "relay_size",
    )


def refuse_rcpt(
    *,
    recipients: int,
    recipients_max: int,
    declared_size_bytes: int | None,
    relay: str = "",
    relay_size_bytes_max: int | None = None,
) -> Refusal | None:
    """At RCPT. `recipients` counts this one; `relay` is, of those that routing names, the most generous."""
    if declared_size_bytes is not None:
        refusal = _refuse_relay_size(declared_size_bytes, relay, relay_size_bytes_max)
        if refusal is not None:
            return refusal
    if recipients > recipients_max:
        # RFC 5321 section 4.5.3.1.10: a client sends the others in a further transaction.
        return Refusal(
            reply(452, "4.5.3", f"Too many recipients, at most {recipients_max}"),
            f"more than {recipients_max} recipients (listener.max_recipients)",
            "recipients",
        )
    return None


def refuse_content(
    *,
    size_bytes: int,
    size_bytes_max: int | None,
    received_count: int,
    received_max: int,
    own_received_count: int,
    own_received_max: int,
    relay: str = "",
    relay_size_bytes_max: int | None = None,
) -> Refusal | None:
    """After the end of data; on a refusal nothing of the content is kept."""
    refusal = _refuse_size(size_bytes, size_bytes_max) or _refuse_relay_size(
        size_bytes, relay, relay_size_bytes_max
    )
    if refusal is not None:
        return refusal
    if received_count > received_max:
        return Refusal(
            reply(554, "5.4.6", f"Routing loop detected: more than {received_max} Received fields"),
            f"{received_count} Received fields, more than listener.max_received ({received_max}): a loop",
            "loop",
        )
    if own_received_count > own_received_max:
        return Refusal(
            reply(554, "5.4.6", "Routing loop detected: this server has handled the message before"),
            f"{own_received_count} of our own Received fields, more than listener.max_own_received"
            f" ({own_received_max}): a loop through this server",
            "loop",
        )
    return None


def refuse_undurable(*, full: bool) -> Refusal:
    """The spool could not make the message durable: for want of space, or because the disk is unwell."""
    return _FULL if full else _UNWELL
