"""The supervisor's mailbox for signals.

Handlers only count; a byte on the wake-up descriptor ends the wait. The counts are the truth, not
the bytes: the pipe may be full of SIGHUP when SIGTERM comes, and a storm must not push it out.

Main thread only, as Python's signals are.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from types import FrameType


class SignalInbox:
    def __init__(self, watched: Iterable[signal.Signals]) -> None:
        """Nothing is caught before `open`."""
        self._counts = dict.fromkeys(watched, 0)
        self._taken = dict(self._counts)
        self._previous: dict[signal.Signals, object] = {}
        self._previous_wakeup_fd = -1
        self._write_fd = -1
        self.fd = -1
        """Readable when something came."""

    def open(self) -> None:
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._previous_wakeup_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in self._counts:
            self._previous[number] = signal.signal(number, self._count)

    def close(self) -> None:
        for number, handler in self._previous.items():
            # None: set by C code, and not ours to restore.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)  # type: ignore[arg-type]  # typeshed: what signal() returns is what it takes
        self._previous.clear()
        signal.set_wakeup_fd(self._previous_wakeup_fd)
        os.close(self.fd)
        os.close(self._write_fd)

    def take(self) -> dict[signal.Signals, int]:
        """What came since the last call, and how often; a signal that did not come is absent."""
        try:
            while os.read(self.fd, 4096):
                pass
        except BlockingIOError:
            pass
        came: dict[signal.Signals, int] = {}
        for number, count in self._counts.items():
            # Only the handlers write the counts: one may run between any two of these lines.
            if count != self._taken[number]:
                came[number] = count - self._taken[number]
                self._taken[number] = count
        return came

    def _count(self, number: int, frame: FrameType | None) -> None:
        self._counts[signal.Signals(number)] += 1
