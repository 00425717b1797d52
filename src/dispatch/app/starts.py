"""Notices that the machine was started anew since delivery last finished a recovery: a power cut or a reboot.

The start's id is the name of an empty file, which outlives what it is to tell of: it is synced before
anything depends on it. It is replaced only after recovery's findings are durable; a process that dies
in between, or cannot replace it, finds the power cut again.
"""

from __future__ import annotations

from dispatch.ports import Disk

PREFIX = "start-"
_FOLDER = ""


class Starts:
    def __init__(self, disk: Disk, start_id: str) -> None:
        """May raise `OSError`."""
        self._disk = disk
        self._present = PREFIX + start_id
        known = [name for name in disk.names(_FOLDER) if name.startswith(PREFIX)]
        self._others = [name for name in known if name != self._present]
        self.power_was_cut = bool(self._others)
        """Where nothing is known at all, it is the first start, and nothing could have been cut."""

    def remember(self) -> None:
        """What this start had to find out is durable."""
        try:
            if self._present not in self._disk.names(_FOLDER):
                self._disk.open(self._present, create=True).close()
            # Also where a start that died made it: its name must last before the others go.
            self._disk.sync_folder(_FOLDER)
            for name in self._others:
                self._disk.remove(name)
        except OSError:
            # The next start finds the same, and marks a few deliveries more than it must.
            return
        self._others = []
