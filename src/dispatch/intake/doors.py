"""Whether mail of clients is taken: an operator may close the doors, so that the queue empties.

Whoever connects while they are closed hears 421 and comes again later; who is in the middle of a message
finishes it, and hears 421 then. The relay's own mail (notices to senders) is taken all the same: it tells of
what empties the queue.

Closed doors outlast restarts: an empty file of intake's own stands for them, which is on stable storage
before they are called closed, and gone before they are called open.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol, assert_never

from dispatch.intake.requests import AskDoors, CloseDoors, DoorRequest, Doors, OpenDoors
from dispatch.observe import Reporter
from dispatch.ports import Disk

FILE = "closed"


class Door(Protocol):
    """Where clients come in, of one kind."""

    @property
    def inside(self) -> int:
        """How many are in the middle of something."""
        ...

    def put_doors(self, *, closed: bool) -> None: ...


class DoorKeeper:
    """Closes and opens the doors, and remembers which they are."""

    def __init__(self, disk: Disk, doors: Sequence[Door], report: Reporter) -> None:
        self._disk = disk
        self._doors = doors
        self._report = report
        self._closed = False
        if _was_closed(disk):
            self._put(closed=True)

    def handle(self, request: DoorRequest) -> Doors:
        """Blocks for the disk, shortly. Raises `OSError`: the doors are as before, and which of the two the
        next start finds is not known."""
        match request:
            case CloseDoors():
                self._keep(closed=True)
            case OpenDoors():
                self._keep(closed=False)
            case AskDoors():
                pass
            case _:
                assert_never(request)
        return Doors(self._closed, sum(door.inside for door in self._doors))

    def _keep(self, *, closed: bool) -> None:
        if closed:
            with suppress(FileExistsError):
                self._disk.open(FILE, create=True).close()
        else:
            with suppress(FileNotFoundError):
                self._disk.remove(FILE)
        self._disk.sync_folder("")
        if closed is not self._closed:
            self._put(closed=closed)

    def _put(self, *, closed: bool) -> None:
        self._closed = closed
        for door in self._doors:
            door.put_doors(closed=closed)
        self._report("intake_closed" if closed else "intake_opened")


def _was_closed(disk: Disk) -> bool:
    try:
        disk.open(FILE).close()
    except OSError:
        # Mostly, there is none. Where the disk fails just now, mail is taken rather than refused.
        return False
    return True
