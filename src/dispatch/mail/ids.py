"""Message ids: one UUIDv7 (RFC 9562 section 5.7), written in two ways.

Sixteen bytes that sort by the time of acceptance. `spl_` and 32 hexadecimal digits is the form
of the message API, the logs and the command line; `req_` and a ULID (26 characters of Crockford's
base 32) is the form of the submission API. Both name the same message.

Ids are random beyond their time: nobody outside can guess one, and none ever becomes a path
without having been parsed here.
"""

from __future__ import annotations

from typing import NewType

MessageId = NewType("MessageId", bytes)
"""Sixteen bytes: a UUIDv7."""

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CROCKFORD_VALUES = {digit: value for value, digit in enumerate(_CROCKFORD)}
_RANDOM_BITS = (1 << 74) - 1


class InvalidMessageId(ValueError):
    """The text is not a message id in either of its two forms."""


def new_message_id(wall_ms: int, chance: bytes) -> MessageId:
    """Make an id from the time in milliseconds since 1970 and ten random bytes."""
    random_bits = int.from_bytes(chance[:10], "big") & _RANDOM_BITS
    value = (wall_ms & 0xFFFF_FFFF_FFFF) << 80
    value |= 0x7 << 76
    value |= (random_bits >> 62) << 64
    value |= 0b10 << 62
    value |= random_bits & ((1 << 62) - 1)
    return MessageId(value.to_bytes(16, "big"))


def accepted_ms(message_id: MessageId) -> int:
    """The time that the id carries, in milliseconds since 1970."""
    return int.from_bytes(message_id[:6], "big")


def spool_form(message_id: MessageId) -> str:
    """`spl_` and 32 hexadecimal digits."""
    return "spl_" + message_id.hex()


def request_form(message_id: MessageId) -> str:
    """`req_` and a ULID."""
    value = int.from_bytes(message_id, "big")
    return "req_" + "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5))


def parse_message_id(text: str) -> MessageId:
    """Read either form; raise `InvalidMessageId` for anything else."""
    prefix, _, digits = text.strip().partition("_")
    if prefix == "spl" and len(digits) == 32:
        try:
            value = bytes.fromhex(digits)
        except ValueError:
            value = b""
        # `fromhex` passes over spaces, so that fewer bytes may come of as many characters.
        if len(value) == 16:
            return MessageId(value)
    if prefix == "req" and len(digits) == 26:
        try:
            number = 0
            for digit in digits.upper():
                number = number << 5 | _CROCKFORD_VALUES[digit]
            return MessageId(number.to_bytes(16, "big"))
        except (KeyError, OverflowError):
            pass
    raise InvalidMessageId(f"{text!r} is no message id: spl_ and 32 hexadecimal digits, or req_ and a ULID")
