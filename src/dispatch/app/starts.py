"""Notices that the machine was started anew since a process last finished its recovery: power cut or reboot.

The start's id is the name of an empty file, which outlives what it is to tell of: it is synced before
anything depends on it. It is replaced only after recovery's findings are durable; a process that dies
in between, or cannot replace it, finds the power cut again.
"""

from __future__ import annotations

from dispatch.ports import Disk

PREFIX = "start-"


class Starts:
    def __init__(self, disk: Disk, start_id: str, folder: str = "") -> None:
        """`folder` is where the process that asks keeps its note. May raise `OSError`."""
        self._disk = disk
        self._folder = folder
        self._present = PREFIX + start_id
        known = [name for name in disk.names(folder) if name.startswith(PREFIX)]
        self._others = [name for name in known if name != self._present]
        self.power_was_cut = bool(self._others)
        """Where nothing is known at all, it is the first start, or the last run stopped in good order."""
        self._remembered = False

    def remember(self) -> bool:
        """What this start had to find out is durable. Whether the next one will notice a power cut.

        Where it would not, nothing may be promised yet: this is to be asked again.
        """
        if self._remembered:
            return True
        try:
            if self._present not in self._disk.names(self._folder):
                self._disk.open(self._path(self._present), create=True).close()
            # Also where a start that died made it: its name must last before the others go.
            self._disk.sync_folder(self._folder)
            for name in self._others:
                self._disk.remove(self._path(name))
        except OSError:
            # With an older note the next start finds the same, and marks a few deliveries more than it must.
            return bool(self._others)
        self._others = []
        self._remembered = True
        return True

    def forget(self) -> None:
        """The process stops in good order, with nothing left to doubt: what comes next is a first start."""
        self._remembered = False
        try:
            self._disk.remove(self._path(self._present))
        except OSError:
            # Then the next start of the machine doubts what it need not.
            return

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}" if self._folder else name
