"""Suspects run alone: who was in hand when the process died goes first, one at a time.

The one that kills the process again has killed it alone, and after the third time it is quarantined.
The others are cleared by having run. A suspect that takes long (its upstream is slow, it is no poison
so far) is given company after `PATIENCE_S`, so that a crash does not stop the mail for minutes.

Trap: whoever runs beside a slow one does not run alone, and is not charged with a death that may be the
slow one's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from dispatch.ports import Clock, Timer
from dispatch.queue.in_hand import InHand, Suspect
from dispatch.queue.work import Work

PATIENCE_S = 1.0


class Trial:
    """The line of suspects, and the one that runs."""

    def __init__(
        self,
        clock: Clock,
        in_hand: InHand,
        suspects: list[tuple[Suspect, Work]],
        start: Callable[[Work], bool],
        over: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._in_hand = in_hand
        self._line = deque(suspects)
        self._start = start
        self._over = over
        self._alone: tuple[Suspect, Work] | None = None
        """Whose end the next one waits for."""
        self._slow: set[Work] = set()
        """Still under way, and no longer waited for."""
        self._patience: Timer | None = None

    def next(self) -> None:
        """Run the next suspect alone, or end the trial."""
        if self._patience is not None:
            self._patience.cancel()
        while self._line:
            suspect, work = self._line.popleft()
            if self._slow:
                self._in_hand.note_in_company(suspect)
            else:
                self._in_hand.note_alone(suspect)
            self._alone = suspect, work
            work.slot = suspect.slot
            if self._start(work):
                self._patience = self._clock.call_later(PATIENCE_S, self._give_company)
                return
            self._in_hand.clear(suspect.slot)
        self._alone = None
        self._over()

    def waiting(self) -> Iterator[Work]:
        """Works whose turn has not come."""
        for _, work in self._line:
            yield work

    def finished(self, work: Work) -> None:
        """An attempt has ended and the process lives."""
        self._slow.discard(work)
        if self._alone is not None and self._alone[1] is work:
            self.next()

    def _give_company(self) -> None:
        if self._alone is not None:
            suspect, work = self._alone
            self._in_hand.note_in_company(suspect._replace(deaths_alone=0))
            self._slow.add(work)
            self.next()
