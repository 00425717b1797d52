"""Whether mail of clients is taken: an operator may close the doors, so that the queue empties.

Whoever connects while they are closed hears 421 and comes again later; who is in the middle of a message
finishes it, and hears 421 then. The relay's own mail (notices to senders) is taken all the same: it tells of
what empties the queue.

Closed doors outlast restarts: an empty file of intake's own stands for them, which is on stable storage
before they are called closed, and gone before they are called open.
"""

from __future__ import annotations

from contextlib import suppress
from typing import assert_never

from dispatch.intake.listener import SmtpListener
from dispatch.intake.requests import AskDoors, CloseDoors, DoorRequest, Doors, OpenDoors
from dispatch.observe import Reporter
from dispatch.ports import Disk

FILE = "closed"


class DoorKeeper:
    """Closes and opens the doors of a listener, and remembers which they are."""

    def __init__(self, disk: Disk, listener: SmtpListener, report: Reporter) -> None:
        self._disk = disk
        self._listener = listener
        self._report = report
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
        listener = self._listener
        return Doors(listener.closed, sum(not each.session.closed for each in listener.connections))

    def _keep(self, *, closed: bool) -> None:
        if closed:
            with suppress(FileExistsError):
                self._disk.open(FILE, create=True).close()
        else:
            with suppress(FileNotFoundError):
                self._disk.remove(FILE)
        self._disk.sync_folder("")
        if closed is not self._listener.closed:
            self._put(closed=closed)

    def _put(self, *, closed: bool) -> None:
        self._listener.put_doors(closed=closed)
        self._report("intake_closed" if closed else "intake_opened")


def _was_closed(disk: Disk) -> bool:
    try:
        disk.open(FILE).close()
    except OSError:
        # Mostly, there is none. Where the disk fails just now, mail is taken rather than refused.
        return False
    return True
