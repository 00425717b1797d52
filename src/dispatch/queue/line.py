"""Works that stand ready for one relay, and which of them goes next.

Ordinary works and *large* ones (their content is a file) stand in two lines: a large one that must wait
for its own kind to end keeps nobody waiting behind it. Where both may go they take turns, so that neither
starves; within a line, `policy.shares` says whose turn it is. Both together have one bound, of which large
ones may use half: a crowd of them must not keep ordinary ones out.

Trap: what is refused goes back to the parked store, and would be claimed again at once: a line that refuses
anything, of either kind, must not be *low*.
"""

from __future__ import annotations

from collections.abc import Iterator

from dispatch.policy.shares import FairQueue
from dispatch.queue.work import Work


class Line:
    """The works of one lane that stand ready."""

    __slots__ = ("_bytes_max", "_count_max", "_large", "_large_max", "_large_next", "_ordinary")

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._large_max = max(1, count_max // 2)
        self._ordinary: FairQueue[Work] = FairQueue(count_max, bytes_max)
        self._large: FairQueue[Work] = FairQueue(self._large_max, bytes_max // 2)
        self._large_next = True

    def __len__(self) -> int:
        return len(self._ordinary) + len(self._large)

    def __iter__(self) -> Iterator[Work]:
        """In no order that matters; not to be used while works come and go."""
        yield from self._ordinary
        yield from self._large

    @property
    def large(self) -> int:
        """How many large works stand ready."""
        return len(self._large)

    @property
    def bytes(self) -> int:
        return self._ordinary.bytes + self._large.bytes

    @property
    def low(self) -> bool:
        """It should be filled up: half of it is free, and half of what large ones may have."""
        return (
            len(self) * 2 <= self._count_max
            and self.large * 2 <= self._large_max
            and self.bytes * 2 <= self._bytes_max
            and self._large.bytes * 4 <= self._bytes_max
        )

    @property
    def room(self) -> int:
        """How many works have room, of whichever kind they are."""
        return min(self._count_max - len(self), self._large_max - self.large)

    def push(self, work: Work) -> bool:
        """Stand in line; False where the line is full."""
        message, size_bytes = work.message, work.size_bytes
        if (self.large or work.large) and (
            len(self) >= self._count_max or self.bytes + size_bytes > self._bytes_max
        ):
            return False
        line = self._large if work.large else self._ordinary
        return line.push(message.priority, message.origin.fair_share_key, work, size_bytes)

    def pop(self) -> Work | None:
        """Take the work whose turn it is, of either kind; None where none stands ready."""
        if self._large and (self._large_next or not self._ordinary):
            self._large_next = False
            return self._large.pop()
        self._large_next = True
        return self._ordinary.pop()

    def pop_ordinary(self) -> Work | None:
        """The same while no large one may go."""
        self._large_next = True
        return self._ordinary.pop()

    def drain(self) -> Iterator[Work]:
        """Take all that stand ready, whether they may go or not."""
        while (work := self.pop()) is not None:
            yield work
