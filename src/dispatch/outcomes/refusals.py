"""How often clients were turned away, and why: from intake's marks into the counters of history.

Intake counts each refusal where it happens, in shared memory, and never waits for anybody. Each of its marks
only grows, through restarts as well; how far it is counted here stands as a cursor beside the counters, in
their transaction. So a refusal is counted once, whoever dies. A power cut may set a mark back: what it forgot
was counted or never will be.

Traps: a day is the one on which control looked, a second later as a rule; after a long time without control
all that happened meanwhile is counted at once. And a history that is made anew begins with the marks as they
stand: what they counted before has no day any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dispatch.outcomes.tail import Happened
from dispatch.policy.admission import RefusalKind
from dispatch.ports import Mark
from dispatch.store.history import HistoryStore

KIND_PREFIX = "refused "
"""Of the counters' kinds; `policy.admission.RefusalKind` follows."""
_DAY_MS = 86_400_000


class Refusals:
    """The reactor that counts them. What it reads is no ledger, and it looks whenever the tail moves."""

    def __init__(
        self, store: HistoryStore, marks: Mapping[RefusalKind, Mark], now_ms: Callable[[], int]
    ) -> None:
        """`marks`: intake's, by the kind of refusal."""
        self._store = store
        self._marks = marks
        self._now_ms = now_ms
        self._at_start = {kind: mark.load() for kind, mark in marks.items()}
        self._looked = dict.fromkeys(marks, -1)
        """Where each mark stood when it was looked at last; the cursor says what of it is counted."""

    def react(self, batch: Sequence[Happened]) -> None:
        self._count(self._moved())

    def idle(self) -> bool:
        moved = self._moved()
        if moved:
            with self._store.transaction():
                self._count(moved)
        return False

    def _moved(self) -> dict[RefusalKind, int]:
        now = {kind: mark.load() for kind, mark in self._marks.items()}
        return {kind: value for kind, value in now.items() if value != self._looked[kind]}

    def _count(self, moved: Mapping[RefusalKind, int]) -> None:
        counts: dict[tuple[int, str, str], int] = {}
        for kind, value in moved.items():
            name = KIND_PREFIX + kind
            cursor = self._store.cursor(name)
            counted = self._at_start[kind] if cursor is None else cursor
            if value != cursor:
                self._store.set_cursor(name, value)
            if value > counted:
                counts[self._now_ms() // _DAY_MS, "", name] = value - counted
            self._looked[kind] = value
        if counts:
            self._store.count(counts)
