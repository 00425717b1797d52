"""What can go wrong with a log, as exceptions.

::

    LogFault
    ├── LogUnwell       what was appended cannot leave the process now; it is kept and written later
    ├── ReleasedError   the cursor lies below what is still kept
    └── CorruptError    a range below the durable mark cannot be read; reading can go on behind it

A refused append is none of these: it is an answer (`ports.AppendFault`), handed to the callback
of the record that it is about.
"""

from __future__ import annotations

import errno

from dispatch.ports import AppendFault, Lsn

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class LogFault(Exception):
    """Root of the tree above."""


class LogUnwell(LogFault):
    """`flush` cannot keep its promise: no segment takes the records. They are kept and written later."""


class ReleasedError(LogFault):
    """The records at the cursor were released and are gone."""

    def __init__(self, cursor: Lsn, oldest: Lsn) -> None:
        super().__init__(f"cursor {cursor:#x} was released; the oldest record kept is at {oldest:#x}")
        self.cursor = cursor
        self.oldest = oldest
        """Where reading can begin."""


class CorruptError(LogFault):
    """Bytes below the durable mark do not verify."""

    def __init__(self, start: Lsn, resume: Lsn, segment: str) -> None:
        super().__init__(f"damaged from {start:#x} to {resume:#x} in {segment}")
        self.start = start
        self.resume = resume
        """The cursor behind the damage."""
        self.segment = segment
        """File name of the segment that holds `start`, or where it should be."""


def append_fault(error: Exception, doing: str = "written") -> AppendFault:
    """What a failed write or sync means for the records that waited on it.

    The detail is the same as long as the cause is: it names no file, because each try has another one.
    """
    full = isinstance(error, OSError) and error.errno in _NO_ROOM
    return AppendFault(full=full, detail=f"cannot be {doing}: {cause(error)}")


def cause(error: Exception) -> str:
    """What went wrong, without the file that it went wrong with."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} (errno {error.errno})"
    return str(error) or type(error).__name__
