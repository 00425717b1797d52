"""The content of one message on its way in: decoded by `body`, held against the limits, told as events.

What is refused is refused at the byte that made it so, and once: the driver drops what it holds while the
rest is still arriving, and memory does not grow with what a client chooses to send.
"""

from __future__ import annotations

from dispatch.mail.reply import Reply
from dispatch.smtp import wording
from dispatch.smtp.body import ChunkDecoder, DataDecoder
from dispatch.smtp.events import ContentChunk, ContentRefused


class Content:
    """From the first byte to the last, or to the one that is too much."""

    __slots__ = ("_size_bytes_max", "decoder", "refusal")

    def __init__(self, decoder: DataDecoder | ChunkDecoder, size_bytes_max: int) -> None:
        self.decoder = decoder
        self._size_bytes_max = size_bytes_max
        self.refusal: Reply | None = None
        """What the client will be told, once it is settled that nothing is kept."""

    def refuse(self, reply: Reply) -> ContentRefused:
        self.refusal = reply
        self.decoder.discard()
        return ContentRefused(reply, "size" if reply is wording.SIZE_EXCEEDED else "bare newline")

    def told(self, piece: bytes) -> ContentChunk | ContentRefused | None:
        """What there is to tell of what the decoder gave out."""
        size, bare_at = self.decoder.size_bytes, self.decoder.bare_at
        limit = self._size_bytes_max or size
        if bare_at < 0 and size <= limit:
            return ContentChunk(piece) if piece else None
        if self.refusal is not None:
            return None
        # What came first decides, or the reason would depend on how the bytes were cut.
        if size > limit and not 0 <= bare_at < limit:
            return self.refuse(wording.SIZE_EXCEEDED)
        return self.refuse(wording.BARE_NEWLINE_IN_CONTENT)
