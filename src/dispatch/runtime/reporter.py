"""How the processes say what happens to them: one call, one line, one event name.

The caller of `Supervisor` and `run_child` brings a `Reporter` (the product's log); `on_stderr`
is the one for whoever has none yet. Event names are stable, for they are what people search for:

=========  =====================================================================================
level      events
=========  =====================================================================================
info       child_started child_ready child_draining child_ended child_reloaded ready
           draining hurried stopped older_set_waiting older_set_gone reload_forwarded
           user_changed
warning    child_died child_restarts port_refused port_fallback address_family_absent
           drain_overdue user_kept supervisor_gone reload_failed bus_refused connection_fault
error      child_silent child_killed gave_up lock_held child_fatal bus_fault nothing_bound
=========  =====================================================================================
"""

from __future__ import annotations

import sys
from typing import Protocol


class Reporter(Protocol):
    def __call__(self, event: str, /, **fields: object) -> None:
        """Write one line. Must not raise, and must not wait for anything but the log's own file."""
        ...


def on_stderr(event: str, /, **fields: object) -> None:
    """`event=name key=value …` on standard error; values with spaces are quoted."""
    line = f"event={event}"
    for key, value in fields.items():
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        line += f" {key}={text!r}" if not text or any(c in text for c in ' "=\n') else f" {key}={text}"
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        # Standard error may be a pipe whose reader is gone; a process that serves mail goes on.
        pass
