"""What a relay has done to a message before it gets it: fields taken out, addresses completed, senders
rewritten, signatures put in front. In this order, because a signature vouches for all that was done
before it.

The stored message stays what it is, and so does all that is told of it: only what leaves is different. Of an
attempt it is made anew: the time in a signature is that of the attempt.

Nothing here needs a whole body: what is large is handed over as a head of its own, in front of the body as
it is stored.
"""

from __future__ import annotations

import msgspec

from dispatch.mail.message import Message
from dispatch.mime.complete import complete_header
from dispatch.mime.dkim import BodyHash, Canonicalization, SigningKey, sign, signature_fields
from dispatch.mime.handover import for_relay
from dispatch.mime.rewrite import SenderRewrite, rewrite_header, rewrite_reverse_path


class Signing(msgspec.Struct, frozen=True):
    """In whose names is signed, and over which form of the message."""

    keys: tuple[SigningKey, ...]
    """At least one; each makes a field of its own."""
    canonicalization: Canonicalization = "relaxed/relaxed"

    def body_hash(self) -> BodyHash:
        """A new one, of the form that goes with `canonicalization`."""
        return BodyHash("simple" if self.canonicalization.endswith("/simple") else "relaxed")


class Departure(msgspec.Struct, frozen=True):
    """What a relay's settings say about the messages that it is given."""

    verbatim: bool = False
    """`Bcc` and `X-Dispatch-*` fields are left in."""
    append_domain: str = ""
    """Completes the header's addresses that have no domain; empty: they stay bare."""
    rewrite: SenderRewrite | None = None
    signing: Signing | None = None

    @property
    def as_stored(self) -> bool:
        """No content is changed by a byte."""
        return self.verbatim and not self.append_domain and self.rewrite is None and self.signing is None

    def message(self, message: Message) -> Message:
        """With the envelope sender that the relay is told; a null one stays null."""
        if self.rewrite is None:
            return message
        envelope = message.envelope
        reverse_path = rewrite_reverse_path(envelope.reverse_path, self.rewrite)
        if reverse_path == envelope.reverse_path:
            return message
        envelope = msgspec.structs.replace(envelope, reverse_path=reverse_path)
        return msgspec.structs.replace(message, envelope=envelope)

    def content(self, stored: bytes, now_s: int) -> bytes:
        """All of a content in memory. `now_s` is in seconds since 1970. Raises `dkim.Unsignable`."""
        content = self.header(stored)
        if self.signing is None:
            return content
        keys, canonicalization = self.signing.keys, self.signing.canonicalization
        return signature_fields(content, keys, signed_s=now_s, canonicalization=canonicalization) + content

    def header(self, stored: bytes) -> bytes:
        """The header section, unsigned; what follows it may be there, and stays."""
        header = for_relay(stored, verbatim=self.verbatim)
        if self.append_domain:
            header = complete_header(header, self.append_domain)
        return header if self.rewrite is None else rewrite_header(header, self.rewrite)

    def signatures(self, header: bytes, body: BodyHash, now_s: int) -> bytes:
        """What belongs in front of a `header` that was made here; `body` was fed all that follows the empty
        line. Raises `dkim.Unsignable`."""
        assert self.signing is not None, "nothing is signed"
        return sign(
            header,
            body.digest(),
            self.signing.keys,
            signed_s=now_s,
            canonicalization=self.signing.canonicalization,
        )
