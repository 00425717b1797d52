"""What operators may ask of intake, and what it answers: words of intake's socket, beside `submit`'s.

Values only: whoever asks needs to load nothing of intake's own.
"""

from __future__ import annotations

import msgspec


class CloseDoors(msgspec.Struct, frozen=True, tag="close doors"):
    """Take no more mail of clients, restarts or not, until the doors are opened. Answered with `Doors`."""


class OpenDoors(msgspec.Struct, frozen=True, tag="open doors"):
    """Take mail again. Answered with `Doors`."""


class AskDoors(msgspec.Struct, frozen=True, tag="ask doors"):
    """Answered with `Doors`."""


class Doors(msgspec.Struct, frozen=True, tag="doors"):
    closed: bool
    connections: int
    """Clients that are here; where the doors are closed, each of them is in the middle of a message."""


DoorRequest = CloseDoors | OpenDoors | AskDoors
