"""Row numbers out of message ids: 63 bits that sort by time and need no index of their own.

A message id is a UUIDv7: 48 bits of milliseconds, then chance. Its *first number* is the lower 42
of those milliseconds (enough until the year 2109) followed by 21 bits of the chance. As `INTEGER
PRIMARY KEY` that makes the table itself the index on the id, lets rows arrive nearly in order,
turns a range of dates into a range of keys, and pages newest first by the key alone.

Trap: two messages of one millisecond may have the same first number. The second then takes the
next free one, at most `PROBES - 1` further. So whoever looks for a row compares its full id, and
either looks through that range (history) or remembers who was displaced (the parked store). With
ten messages in each millisecond, day and night, that happens to some two thousand a day;
`PROBES` in a row never does, and would be a `StopIteration` out of the search for a free one.
"""

from __future__ import annotations

PROBES = 16
NUMBER_MAX = (1 << 63) - 1

_CHANCE_BITS = 21
_MS_MASK = (1 << 42) - 1


def first_number(message_id: bytes) -> int:
    """Where a message's row is, unless another message of its millisecond was there before it."""
    # 80 bits: milliseconds (48), version (4), rand_a (12), variant (2), then 14 of rand_b.
    head = int.from_bytes(message_id[:10], "big")
    return ((head >> 32) & _MS_MASK) << _CHANCE_BITS | ((head >> 16) & 0xFFF) << 9 | (head >> 5) & 0x1FF


def number_at(wall_ms: int) -> int:
    """The lowest number of any message accepted at that time or later."""
    return min(max(wall_ms, 0), _MS_MASK) << _CHANCE_BITS


def number_ms(number: int) -> int:
    """The time that a row number carries, in milliseconds since 1970."""
    return number >> _CHANCE_BITS
