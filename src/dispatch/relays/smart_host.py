"""The settings of an SMTP upstream, as the relay needs them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec

from dispatch.smtp.client_auth import Credentials
from dispatch.smtp.client_preparation import Chunking

Pipelining = Literal["auto", "off"]
"""*auto*: where the host offers it, until it proves unable."""
Lookup = Literal["address", "mx"]
"""Whether `hosts` are hosts, or domains whose MX records name them (RFC 5321 section 5.1)."""
TlsMode = Literal["none", "auto", "starttls", "starttls_required", "implicit"]
"""`smtp.client_opening.Security`, and *implicit*: TLS from the first byte (RFC 8314 section 3)."""

TokenSource = Callable[[Credentials | None], Awaitable[Credentials]]
"""Where credentials that expire come from: asked before each session, with those that a host has refused
since the last time, or None.

It keeps what is valid by itself, so that asking costs nothing. Raises `PermissionError` where credentials are
refused us, and any other `OSError` where they cannot be had just now.
"""


class Timeouts(msgspec.Struct, frozen=True):
    """How long the peer may take for each step, in seconds (RFC 5321 section 4.5.3.2)."""

    connect_s: float = 30.0
    """All addresses of a host together; the RFC names none."""
    handshake_s: float = 60.0
    """For TLS, from our first word to the last."""
    greeting_s: float = 300.0
    ehlo_s: float = 300.0
    """Also for STARTTLS and each line of AUTH."""
    mail_s: float = 300.0
    """Also for RSET."""
    rcpt_s: float = 300.0
    data_s: float = 120.0
    block_s: float = 180.0
    """For the transport to take one block of content."""
    end_of_data_s: float = 600.0
    """To give up earlier makes duplicates (RFC 1047)."""
    quit_s: float = 5.0
    """A courtesy: nothing depends on the answer."""


class Trust(msgspec.Struct, frozen=True):
    """How a host proves that it is the right one (`security.tls.client_context`)."""

    verify: bool = True
    ca_file: str | None = None
    """Trusted in place of this system's roots."""
    fingerprint: str | None = None
    """SHA-256 of the one certificate that is taken, whoever signed it."""


class SmartHost(msgspec.Struct, frozen=True, kw_only=True):
    """One SMTP upstream."""

    hosts: tuple[str, ...]
    """Names or addresses, at least one; the next is tried where one fails before it has taken a message."""
    port: int = 25
    lookup: Lookup = "address"
    helo_name: str
    """What we call ourselves: one word of ASCII."""
    source_address: str | None = None
    """The address of ours that connections come from; hosts are then reached in its family only."""
    tls: TlsMode = "none"
    trust: Trust = Trust()
    credentials: Credentials | TokenSource | None = None
    max_concurrency: int = 20
    """Connections at a time."""
    messages_per_connection_max: int = 1000
    idle_s: float = 30.0
    """How long a connection is kept without work; shorter than the hosts' own limits, so ours ends first."""
    pipelining: Pipelining = "auto"
    chunking: Chunking = "auto"
    timeouts: Timeouts = Timeouts()
