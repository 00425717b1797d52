"""Which relays an operator has paused, and whether the whole queue stands still: the global hold.

A paused relay rests: nothing of it starts, what is under way finishes, and its mail waits in the parked
store, or goes to another relay where its rule names one (`failover`). While the queue is paused nothing
starts anywhere. Mail is accepted and taken up in both cases.

A pause outlasts restarts. It stands in a small file of delivery's own, which is on stable storage before a
pause is in force or is over: what was answered is true after a power cut. The file is absent while nothing
is paused.

A relay is paused by its name, also after its settings were changed. Of a relay that the settings have no
more, the pause is kept; it can be taken back.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import msgspec

from dispatch.ports import Disk
from dispatch.queue.lane import Lane

FILE = "paused"
_NEW = FILE + ".new"
_READ_BYTES_MAX = 1 << 20


class Paused(msgspec.Struct, frozen=True):
    """What the file says, as JSON."""

    everything: bool = False
    relays: tuple[str, ...] = ()


class Pauses:
    """Asked by the orders, and whenever lanes were made."""

    def __init__(self, disk: Disk | None = None) -> None:
        """Without a disk it lasts as long as the process. Raises `OSError`."""
        self._disk = disk
        self.paused = Paused() if disk is None else _read(disk)

    def put(self, lanes: Iterable[Lane]) -> None:
        """Tell them."""
        for lane in lanes:
            lane.paused = self.paused.everything or lane.rules.name in self.paused.relays

    def changed(self, relay: str, *, paused: bool) -> Paused:
        """What is in force when this relay, or with the empty name the whole queue, is paused or is not."""
        if not relay:
            return msgspec.structs.replace(self.paused, everything=paused)
        others = tuple(name for name in self.paused.relays if name != relay)
        return msgspec.structs.replace(self.paused, relays=(*others, relay) if paused else others)

    def keep(self, paused: Paused) -> None:
        """Make it last, and then hold. Blocks for the disk, shortly.

        Raises `OSError`: the old ones hold, and which of the two the next start finds is not known.
        """
        disk = self._disk
        if disk is not None:
            with suppress(FileNotFoundError):
                disk.remove(_NEW)
            if paused == Paused():
                with suppress(FileNotFoundError):
                    disk.remove(FILE)
            else:
                file = disk.open(_NEW, create=True)
                try:
                    file.write_at(0, (msgspec.json.encode(paused),))
                    file.sync()
                finally:
                    file.close()
                disk.rename(_NEW, FILE)
            disk.sync_folder("")
        self.paused = paused


def _read(disk: Disk) -> Paused:
    try:
        file = disk.open(FILE)
    except FileNotFoundError:
        return Paused()
    try:
        return msgspec.json.decode(file.read_at(0, _READ_BYTES_MAX), type=Paused)
    except msgspec.MsgspecError:
        # Somebody has paused something, and what is not known any more: mail that waits is not lost.
        return Paused(everything=True)
    finally:
        file.close()
