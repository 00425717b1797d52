"""Who is served next: priorities, and within one of them a fair turn for each sender.

Of sixteen turns, *normal* is first in three and *bulk* in one; in all others the order is high,
normal, bulk. So high goes first, and yet nothing below it ever starves. A turn whose priority has
nothing waiting goes to the next in order: no turn is wasted.

Within a priority, keys (logins, client addresses) take turns, one item each: a sender's million
does not delay another's one.

In memory and bounded by count and bytes; what does not fit is refused, and the caller parks it.
An item that alone exceeds the byte bound is therefore always refused. Push and pop are O(1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from dispatch.mail.message import PRIORITIES, Priority

T = TypeVar("T")

_HIGH, _NORMAL, _BULK = range(3)
_LEVELS: dict[Priority, int] = {name: level for level, name in enumerate(PRIORITIES)}
_HIGH_FIRST = (_HIGH, _NORMAL, _BULK)
_NORMAL_FIRST = (_NORMAL, _HIGH, _BULK)
_BULK_FIRST = (_BULK, _HIGH, _NORMAL)
_TURNS: tuple[tuple[int, int, int], ...] = tuple(
    _BULK_FIRST if turn == 15 else _NORMAL_FIRST if turn % 4 == 3 else _HIGH_FIRST for turn in range(16)
)
TURNS = len(_TURNS)
"""After so many pops each priority that has something waiting was served at least once."""


class _Line(Generic[T]):
    """What one key has waiting within one priority; never empty while it exists."""

    __slots__ = ("items", "key")

    def __init__(self, key: str) -> None:
        self.key = key
        self.items: deque[tuple[T, int]] = deque()


class FairQueue(Generic[T]):
    """Bounded queue of items with a priority, a key and a size in bytes."""

    __slots__ = ("_bytes", "_bytes_max", "_count", "_count_max", "_lines", "_rings", "_turn")

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._count = 0
        self._bytes = 0
        self._turn = 0
        self._lines: tuple[dict[str, _Line[T]], ...] = tuple({} for _ in PRIORITIES)
        self._rings: tuple[deque[_Line[T]], ...] = tuple(deque() for _ in PRIORITIES)
        """The lines of each priority, the next to be served on the left."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        """What waits, in no order that matters; not to be used while it is changed."""
        for ring in self._rings:
            for line in ring:
                for item, _ in line.items:
                    yield item

    @property
    def bytes(self) -> int:
        return self._bytes

    def push(self, priority: Priority, key: str, item: T, size_bytes: int) -> bool:
        """Add at the end of the key's turn; False, and nothing added, where a bound would be passed."""
        total = self._bytes + size_bytes
        if self._count >= self._count_max or total > self._bytes_max:
            return False
        level = _LEVELS[priority]
        lines = self._lines[level]
        line = lines.get(key)
        if line is None:
            line = lines[key] = _Line(key)
            self._rings[level].append(line)
        line.items.append((item, size_bytes))
        self._count += 1
        self._bytes = total
        return True

    def pop(self) -> T | None:
        """Take the item whose turn it is; None where nothing waits."""
        if not self._count:
            return None
        turn = self._turn
        self._turn = (turn + 1) % TURNS
        rings = self._rings
        for level in _TURNS[turn]:
            ring = rings[level]
            if ring:
                break
        line = ring[0]
        item, size_bytes = line.items.popleft()
        if not line.items:
            ring.popleft()
            del self._lines[level][line.key]
        elif len(ring) > 1:
            ring.rotate(-1)
        self._count -= 1
        self._bytes -= size_bytes
        return item
