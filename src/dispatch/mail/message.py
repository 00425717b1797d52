"""A message: an accepted envelope with its content and our id.

`Message` is what the mail log and the parked store keep of it beside the content; the content
itself is bytes in the record, or a file of its own when it is large (`ContentFile`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from dispatch.mail.envelope import Envelope
from dispatch.mail.ids import MessageId

Priority = Literal["high", "normal", "bulk"]
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "bulk")
"""From first served to last."""


class Origin(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a submission came from."""

    source: Literal["smtp", "api", "internal"]
    client_address: str
    """The peer's IP address, without port."""
    client_name: str = ""
    """What it called itself in EHLO."""
    login: str | None = None
    """The SMTP login or API key that submitted it; also the name under which it gets its fair share."""
    tls: str | None = None
    """Version and cipher, or None for clear text."""

    @property
    def fair_share_key(self) -> str:
        """Whose share of the relays this message uses: the login, else the client's address."""
        return self.login or self.client_address


class Summary(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What history shows of the content, and what rules ask of it; read from its header once, at intake."""

    subject: str = ""
    header_from: str = ""
    message_id: str = ""
    mailer: str = ""
    tags: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    """Of the header fields that routing rules asked for at intake: name in small letters, and value, unfolded
    and without white space around it."""


class ContentFile(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Content in a file of its own, handed from owner to owner by this reference, never copied."""

    name: str
    """File name within the shard's content folder: made by us, never from mail data."""
    size_bytes: int


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An accepted message without its content. Fields may be appended, never reordered or removed."""

    id: MessageId
    accepted_ms: int
    """Wall clock at acceptance, milliseconds since 1970."""
    envelope: Envelope
    origin: Origin
    summary: Summary
    size_bytes: int
    """Length of the content as stored, our `Received` field included."""
    content_file: ContentFile | None = None
    """None: the content stands in the record itself."""
    priority: Priority = "normal"
    idempotency_key: str | None = None
    """What whoever submitted it calls it: the same key again is the same message, not another one."""
    pin: str = ""
    """The relay that it must take, by name, whatever the rules say. Empty: the rules say."""
