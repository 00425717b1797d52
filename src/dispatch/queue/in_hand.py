"""Who is being worked on, in mapped memory that outlives the process: finds mail that kills it.

A message is noted before anything of it is looked at for an attempt, and struck out when the attempt
has ended. What is noted when the process starts was in hand when it died: the *suspects*. They
run alone, one at a time, before anything else does, a message for several relays once for each of
them; whoever is in hand alone at three deaths is quarantined. Neighbours of a poisonous message are cleared
as soon as they have run alone and the process lived (docs/architecture.md, invariant 10).

A slot has 24 bytes: the message id (16), a state (1), how often it was alone in hand when the process
died (1), padding. One slot more than may be in hand at once; slots are reused last in, first out.
"""

from __future__ import annotations

import mmap
import os
import struct
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from dispatch.mail.ids import MessageId

DEATHS_ALONE_MAX = 3

_SLOT = struct.Struct("<16sBB6x")


class HandState(IntEnum):
    EMPTY = 0
    IN_HAND = 1
    SUSPECT = 2
    """Was in hand at a death; waits for its turn to run alone."""
    ALONE = 3


class Suspect(NamedTuple):
    id: MessageId
    deaths_alone: int
    slot: int

    @property
    def guilty(self) -> bool:
        return self.deaths_alone >= DEATHS_ALONE_MAX


class InHand:
    """The slots. Only delivery has them open; `close` after a clean stop leaves none noted."""

    def __init__(self, path: Path, slots: int) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = max(slots * _SLOT.size, os.fstat(descriptor).st_size)
            # Real blocks: a store into a hole on a full disk would be a SIGBUS.
            os.posix_fallocate(descriptor, 0, size)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._count = size // _SLOT.size
        self._free: list[int] = []
        self._shared: dict[int, int] = {}
        """Slots that are to be cleared more than once."""
        self._suspects = self._read()

    def _read(self) -> list[Suspect]:
        found: dict[MessageId, Suspect] = {}
        for slot in range(self._count - 1, -1, -1):
            raw_id, state, deaths = _SLOT.unpack_from(self._map, slot * _SLOT.size)
            message_id = MessageId(raw_id)
            if state == HandState.EMPTY or message_id in found:
                self.clear(slot)
                continue
            suspect = Suspect(message_id, deaths + (state == HandState.ALONE), slot)
            found[message_id] = suspect
            self._store(slot, message_id, HandState.SUSPECT, suspect.deaths_alone)
        return list(found.values())

    def _store(self, slot: int, message_id: bytes, state: HandState, deaths_alone: int) -> None:
        _SLOT.pack_into(self._map, slot * _SLOT.size, message_id, state, min(deaths_alone, 255))

    def suspects(self) -> list[Suspect]:
        """Who was in hand when the last process died; each stays noted until its slot is cleared."""
        return self._suspects

    def note(self, message_id: MessageId) -> int:
        """It is being worked on from now on, in company; answers the slot to clear."""
        slot = self._free.pop()
        self._store(slot, message_id, HandState.IN_HAND, 0)
        return slot

    def note_alone(self, suspect: Suspect) -> None:
        """It is being worked on from now on, and nothing else is."""
        self._store(suspect.slot, suspect.id, HandState.ALONE, suspect.deaths_alone)

    def note_in_company(self, suspect: Suspect) -> None:
        """It is being worked on, and others beside it: what it is suspected of neither grows nor shrinks."""
        self._store(suspect.slot, suspect.id, HandState.IN_HAND, suspect.deaths_alone)

    def share(self, slot: int, attempts: int) -> None:
        """So many attempts of its message are going to be made: it stays noted until the last has ended."""
        if attempts > 1:
            self._shared[slot] = attempts

    def clear(self, slot: int) -> None:
        """The attempt has ended and the process lives."""
        if self._shared and (left := self._shared.pop(slot, 1) - 1):
            self._shared[slot] = left
            return
        self._store(slot, bytes(16), HandState.EMPTY, 0)
        self._free.append(slot)

    @property
    def room(self) -> int:
        """How many more may be in hand."""
        return len(self._free)

    def close(self) -> None:
        """Nothing is in hand any more: a stop, not a death."""
        self._map[:] = bytes(len(self._map))
        self._map.close()
