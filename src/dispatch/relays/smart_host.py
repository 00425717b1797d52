"""The settings of an SMTP upstream, as the relay needs them."""

from __future__ import annotations

from typing import Literal

import msgspec

from dispatch.smtp.client_preparation import Chunking

Pipelining = Literal["auto", "off"]
"""*auto*: where the host offers it, until it proves unable."""


class Timeouts(msgspec.Struct, frozen=True):
    """How long the peer may take for each step, in seconds (RFC 5321 section 4.5.3.2)."""

    connect_s: float = 30.0
    """All addresses of the host together; the RFC names none."""
    greeting_s: float = 300.0
    ehlo_s: float = 300.0
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


class SmartHost(msgspec.Struct, frozen=True, kw_only=True):
    """One SMTP upstream."""

    host: str
    """Name or address; every address it resolves to is tried."""
    port: int = 25
    helo_name: str
    """What we call ourselves: one word of ASCII."""
    max_concurrency: int = 20
    """Connections at a time."""
    messages_per_connection_max: int = 1000
    idle_s: float = 30.0
    """How long a connection is kept without work; shorter than the hosts' own limits, so ours ends first."""
    pipelining: Pipelining = "auto"
    chunking: Chunking = "auto"
    tls: Literal["none"] = "none"
    timeouts: Timeouts = Timeouts()
