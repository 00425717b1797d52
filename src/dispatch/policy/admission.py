"""Which submissions are refused over SMTP, in which order of checks, with which words.

Each function stands for one moment of the conversation and is called once at it. It returns None
(go on) or the refusal of the first check that fails. Facts are arguments: who matches which
address range, how full the disk is, what routing says, is known to the caller.

::

    connect       refuse_connection   closed doors, connections, connections of the address
    AUTH          refuse_auth         lockout, crowd
    MAIL          refuse_mail         disk, source, login's source, login required, declared size, sender
    RCPT          refuse_rcpt         recipient policy, suppression, rules, size of the relays, count
    first RCPT    RateLimits.refuse   rate of the address, of the login, over all
    end of data   refuse_content      size, size of the relays, loops
                  refuse_named_relay  the relay that the message names
    the log       refuse_undurable

The rate comes last, and once a message, with the first recipient that nothing else refuses: so what is
refused anyway costs its sender nothing, and a message to a thousand is one.

A refusal has two texts (what the client may read, and what the operator needs) because the peer
must not learn more than what is safe and useful to it. The operator's names clients, logins, rules and
settings, and no mail addresses: logs have fields for those, where they are masked as the settings say.

Sizes are counted as RFC 1870 section 5 says, before our `Received` field, limits inclusive. A
ceiling of None or 0 is none.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Literal

import msgspec

from dispatch.mail.reply import Reply, reply
from dispatch.mail.showable import showable
from dispatch.policy.limits import Bucket, Limits, address_key, written_rates
from dispatch.policy.logins import ANYBODY, AddressList, LoginRules
from dispatch.policy.routing import Route
from dispatch.smtp.wording import (
    AUTHENTICATION_REQUIRED,
    AUTHENTICATION_UNAVAILABLE,
    locked_out,
    sender_not_permitted,
)

RefusalKind = Literal[
    "closed",
    "connections",
    "connections_per_address",
    "login",
    "lockout",
    "logins_busy",
    "disk",
    "denied",
    "login_source",
    "unauthenticated",
    "size",
    "sender",
    "recipient",
    "suppressed",
    "rule",
    "relay_size",
    "relay",
    "recipients",
    "rate_address",
    "rate_login",
    "rate_global",
    "loop",
    "newline",
    "protocol",
    "spool",
]
REFUSAL_KINDS: tuple[RefusalKind, ...] = typing.get_args(RefusalKind)


class Refusal(msgspec.Struct, frozen=True):
    reply: Reply
    """What the client is told."""
    reason: str
    """What the operator is told."""
    kind: RefusalKind
    """The counter it adds to; `denied` is a source that may not submit at all."""
    wait_s: float = 0.0
    """After so long it may be otherwise; 0 where nobody knows."""


CLOSED = Refusal(
    reply(421, "4.3.2", "No mail is taken at the moment, try again later"),
    "the relay is being drained: `dispatch queue accept` takes mail again",
    "closed",
)
"""Whoever comes while an operator lets nobody in."""
_DISK = Refusal(
    reply(452, "4.3.1", "Insufficient storage, try again later"),
    "the disk has less room left than spool.disk_suspend_mb",
    "disk",
)
_UNAUTHENTICATED = Refusal(
    AUTHENTICATION_REQUIRED,
    "the client has not logged in, and listener.require_auth is set",
    "unauthenticated",
)
_BUSY = Refusal(
    AUTHENTICATION_UNAVAILABLE,
    "too many passwords wait to be checked",
    "logins_busy",
)
_RECIPIENT = reply(550, "5.7.1", "Mail to this recipient is not allowed here")
_SUPPRESSED = Refusal(
    reply(
        550, "5.1.1", "This recipient is suppressed: earlier mail could not be delivered, or was not wanted"
    ),
    "the recipient is on the suppression list",
    "suppressed",
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
    *,
    connections: int,
    connections_max: int,
    connections_from_address: int,
    connections_per_ip_max: int,
    closed: bool = False,
) -> Refusal | None:
    """At connect; the new connection is counted in both numbers. The connection is closed after the reply.

    `closed`: an operator lets nobody in.
    """
    if closed:
        return CLOSED
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


def refuse_auth(
    *, client_address: str, user: str, locked_s: float = 0.0, busy: bool = False
) -> Refusal | None:
    """At AUTH, before the password is looked at. Mail without AUTH is not concerned.

    `locked_s` is what `lockout.Lockout.locked` says of this address and user: 0 where none is locked. The
    client does not learn which of them is, nor whether there is such a user.
    """
    if locked_s > 0:
        return Refusal(
            locked_out(ceil(locked_s)),
            f"too many failed logins from {client_address} or for the user {showable(user)!r}:"
            f" locked out for another {ceil(locked_s)} s",
            "lockout",
            locked_s,
        )
    return _BUSY if busy else None


def refuse_mail(
    *,
    disk_suspended: bool,
    source_allowed: bool,
    allow_list_empty: bool,
    client_address: str,
    declared_size_bytes: int | None,
    size_bytes_max: int | None,
    login: LoginRules | None = None,
    login_source_allowed: bool = True,
    login_required: bool = False,
    reverse_path: str = "",
) -> Refusal | None:
    """At MAIL. `client_address` is the peer's address as text; `declared_size_bytes` its SIZE parameter.

    `login` is the one that the client has proven to be; `login_source_allowed` whether its address is among
    that login's own sources, or the login has none. An empty allow-list is no obstacle to a login that
    may come from anywhere.
    """
    if disk_suspended:
        return _DISK
    if not source_allowed and not (login is not None and login.from_anywhere):
        return _denied(client_address, allow_list_empty)
    if login is not None and not login_source_allowed:
        return Refusal(
            reply(550, "5.7.1", f"Your login may not be used from {client_address}"),
            f"{client_address} is not among the sources of the login {login.name}",
            "login_source",
        )
    if login_required and login is None:
        return _UNAUTHENTICATED
    if declared_size_bytes is not None:
        refusal = _refuse_size(declared_size_bytes, size_bytes_max)
        if refusal is not None:
            return refusal
    if login is not None and not login.permits_sender(reverse_path):
        return Refusal(
            sender_not_permitted(reverse_path),
            f"the reverse-path is not among those that the login {login.name} may use",
            "sender",
        )
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
    recipient: str = "",
    allowed_recipients: AddressList = ANYBODY,
    login: LoginRules | None = None,
    suppressed: bool = False,
    refused_by: Route | None = None,
) -> Refusal | None:
    """At RCPT. `recipients` counts this one; `relay` is, of those that routing names, the most generous.

    `allowed_recipients` are the listener's, beside which the login has its own; `refused_by` is what
    `Router.refusal` says.
    """
    refusal = _refuse_recipient(recipient, allowed_recipients, login)
    if refusal is not None:
        return refusal
    if suppressed:
        return _SUPPRESSED
    if refused_by is not None:
        text = showable(refused_by.reply) or "This mail is not taken here"
        return Refusal(reply(550, "5.7.1", text), f"the rule {refused_by.rule} refuses it", "rule")
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


def _refuse_recipient(recipient: str, allowed: AddressList, login: LoginRules | None) -> Refusal | None:
    if not allowed.allows(recipient):
        return Refusal(_RECIPIENT, "the recipient is not among those that the listener allows", "recipient")
    if login is not None and not login.allowed_recipients.allows(recipient):
        reason = f"the recipient is not among those that the login {login.name} may send to"
        return Refusal(_RECIPIENT, reason, "recipient")
    return None


class RateLimits:
    """The rates that every message must keep: of its client's address, of its login, over all. Mutable."""

    __slots__ = ("addresses", "everyone", "logins")

    def __init__(self, addresses: Limits, logins: Limits, everyone: Bucket) -> None:
        self.addresses = addresses
        """By `limits.address_key`."""
        self.logins = logins
        """By name; a login's own rates go before theirs."""
        self.everyone = everyone

    def refuse(self, now_s: float, client_address: str, login: LoginRules | None = None) -> Refusal | None:
        """With the first recipient that nothing else refuses: count the message everywhere, or refuse it
        and count it nowhere. `now_s` is monotonic seconds."""
        if not (self.everyone.rates or self.addresses.rates or (login is not None and self._limited(login))):
            return None
        address = self.addresses.bucket(address_key(client_address), now_s)
        if wait_s := address.peek(now_s):
            return _refuse_rate("rate_address", "from your address", client_address, address, wait_s)
        own = None if login is None else self.logins.bucket(login.name, now_s, login.rates)
        if login is not None and own is not None and (wait_s := own.peek(now_s)):
            return _refuse_rate("rate_login", "with your login", f"the login {login.name}", own, wait_s)
        if wait_s := self.everyone.take(now_s):
            return _refuse_rate("rate_global", "at the moment", "all clients together", self.everyone, wait_s)
        address.take(now_s)
        if own is not None:
            own.take(now_s)
        return None

    def refuse_address(self, now_s: float, client_address: str) -> Refusal | None:
        """Whether `refuse` would, because of the address alone; nothing is counted."""
        if not self.addresses.rates:
            return None
        address = self.addresses.bucket(address_key(client_address), now_s)
        wait_s = address.peek(now_s)
        return (
            _refuse_rate("rate_address", "from your address", client_address, address, wait_s)
            if wait_s
            else None
        )

    def _limited(self, login: LoginRules) -> bool:
        return bool(self.logins.rates if login.rates is None else login.rates)

    def give_back(self, client_address: str, login: LoginRules | None = None) -> None:
        """A message that was counted came to nothing."""
        self.addresses.give_back(address_key(client_address))
        if login is not None:
            self.logins.give_back(login.name)
        self.everyone.give_back()


def _refuse_rate(kind: RefusalKind, whose: str, who: str, bucket: Bucket, wait_s: float) -> Refusal:
    seconds = "1 second" if wait_s <= 1 else f"{ceil(wait_s)} seconds"
    return Refusal(
        reply(451, "4.7.1", f"Too many messages {whose}, try again in {seconds}"),
        f"more messages from {who} than {written_rates(bucket.rates)}",
        kind,
        wait_s,
    )


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


def refuse_named_relay(named: Sequence[str], relays: Mapping[str, bool]) -> Refusal | None:
    """After the end of data, of a login that may name a relay. `named` is what `X-Dispatch-Relay` says, each
    once; `relays` are those that are configured, and whether they are switched on.

    Without the relay there is no way for the message: *unable to route* (RFC 3463, X.4.4). For good where
    there is no such relay: trying it again would not make one. For now where it is switched off.
    """
    if not named:
        return None
    if len(named) > 1:
        return Refusal(
            reply(554, "5.6.0", "X-Dispatch-Relay names more than one relay"),
            "X-Dispatch-Relay names more than one relay",
            "relay",
        )
    (name,) = named
    if name not in relays:
        return Refusal(
            reply(554, "5.4.4", "X-Dispatch-Relay names a relay that does not exist here"),
            f"X-Dispatch-Relay names {showable(name)!r}, and no relay is called so",
            "relay",
        )
    if not relays[name]:
        return Refusal(
            reply(451, "4.4.4", f"X-Dispatch-Relay names {name}, which is switched off; try again later"),
            f"X-Dispatch-Relay names the relay {name}, which is switched off",
            "relay",
        )
    return None


def refuse_undurable(*, full: bool) -> Refusal:
    """The spool could not make the message durable: for want of space, or because the disk is unwell."""
    return _FULL if full else _UNWELL
