"""Whether a message suits a host, and the commands that it takes: decided before MAIL, from what EHLO said.

A message that needs what the host lacks fails here, clearly and with nothing sent, because a host that
answers `555` or mangles eight-bit text says less about why. What the host lacks and the message can do
without (DSN parameters, SIZE, 8BITMIME for content that is ASCII after all) is left out.
"""

from __future__ import annotations

from typing import Literal

from dispatch.smtp.client_commands import mail_command, rcpt_command
from dispatch.smtp.client_content import Framing
from dispatch.smtp.client_exchange import Exchange, K
from dispatch.smtp.client_extensions import Extensions

Chunking = Literal["auto", "always", "off"]
"""When content goes by BDAT to a host that offers CHUNKING: *auto* takes it for binary and for large content;
*always* also puts small content into one write with its envelope, which asks the host nothing before the
end of data: the fastest, and every lost connection makes it uncertain."""

LARGE_CONTENT_BYTES = 256 * 1024
"""From here on *auto* prefers BDAT: nobody searches for dots, neither we nor the host."""
BLIND_CONTENT_BYTES_MAX = 64 * 1024
"""Content up to here may leave before its recipients were accepted."""


class Unsuited(Exception):
    """The message needs what this host lacks; the text says what."""


def prepare(exchange: Exchange[K], offered: Extensions, chunking: Chunking, *, grouped: bool) -> None:
    """Settle framing and commands of the exchange. Raises `Unsuited` or `UnwritableCommand`."""
    envelope = exchange.envelope
    size_bytes = exchange.size_bytes
    if offered.size_bytes_max and size_bytes > offered.size_bytes_max:
        raise Unsuited(f"SIZE: {size_bytes} bytes, and the host takes {offered.size_bytes_max}")
    ascii_paths = envelope.reverse_path.isascii()
    for recipient in exchange.recipients:
        ascii_paths = ascii_paths and recipient.address.isascii()
    smtputf8 = envelope.smtputf8 or not ascii_paths
    if smtputf8 and not offered.smtputf8:
        if not (ascii_paths and exchange.ascii_only):
            raise Unsuited("SMTPUTF8: the host does not offer it")
        smtputf8 = False
    body = None
    if envelope.body != "7BIT":
        body = _body_for(exchange, offered, chunking)
    exchange.framing = _framing_for(size_bytes, body, offered, chunking)
    exchange.blind = (
        chunking == "always"
        and grouped
        and exchange.framing is not Framing.LINES
        and exchange.whole
        and size_bytes <= BLIND_CONTENT_BYTES_MAX
    )
    exchange.commands = [mail_command(envelope, size_bytes, offered, body, smtputf8=smtputf8)]
    exchange.commands += [rcpt_command(recipient, offered) for recipient in exchange.recipients]
    if not smtputf8 and not all(map(bytes.isascii, exchange.commands)):
        raise Unsuited("SMTPUTF8: a DSN parameter is not ASCII, and the message does not ask for it")


def _body_for(exchange: Exchange[K], offered: Extensions, chunking: Chunking) -> str | None:
    """The BODY parameter (RFC 6152, RFC 3030) of content that was announced as more than seven bits."""
    body = exchange.envelope.body
    if body == "BINARYMIME":
        if not offered.binary or chunking == "off":
            raise Unsuited("BINARYMIME: the host does not offer it, or CHUNKING is switched off")
    elif not offered.eight_bit:
        if not exchange.ascii_only:
            raise Unsuited("8BITMIME: the host does not offer it")
        return None
    return body


def _framing_for(size_bytes: int, body: str | None, offered: Extensions, chunking: Chunking) -> Framing:
    if body == "BINARYMIME":
        return Framing.BINARY
    if not offered.chunking or chunking == "off":
        return Framing.LINES
    if chunking == "always" or size_bytes >= LARGE_CONTENT_BYTES:
        return Framing.CHUNKS
    return Framing.LINES
