"""The ledger read as an auditor would: every record against the table of states, every recipient to its end.

Knows nothing of the queue's own recovery; it believes the records alone, in their order.
"""

from __future__ import annotations

from collections import Counter

from dispatch.mail.delivery import DeliveryState, Move, move
from dispatch.mail.ids import MessageId
from dispatch.mail.message import Message
from dispatch.mail.outcome import Scope
from dispatch.ports import LogReader, Lsn
from dispatch.queue.replay import Records
from dispatch.spool.records import Accepted, Attempted, Claimed, Moved, Parked, Placed, Result, Sending

Key = tuple[MessageId, int]

_WAITING = DeliveryState.WAITING
TOLD_STATES = frozenset({DeliveryState.BOUNCED, DeliveryState.EXPIRED, DeliveryState.GAVE_UP})
"""Ends of which a sender is told."""
_FAILS_OVER = (Scope.RELAY, Scope.DOMAIN)


class Audit:
    """What the ledger says became of everything."""

    def __init__(self, ledger: LogReader) -> None:
        self.messages: dict[MessageId, Message] = {}
        self.states: dict[Key, DeliveryState] = {}
        self.sent: Counter[Key] = Counter()
        """*Sending* records."""
        self.uncertain: Counter[Key] = Counter()
        self.delivered: Counter[Key] = Counter()
        self.failed: Counter[Key] = Counter()
        """How often its sender is to be told that it failed."""
        self.power: Counter[Key] = Counter()
        """How often it is called *uncertain (power)*."""
        self._power_at: dict[Key, Lsn] = {}
        self._open: set[Key] = set()
        """*Sending*, and no word since."""
        self._at: dict[Key, str] = {}
        """Where those stand that a relay has been told of."""
        self.failed_over = 0
        self._parked: set[Key] = set()
        self._claimed: set[Key] = set()
        for lsn, record in Records(ledger, Lsn(0)):
            self._follow(lsn, record)

    def explains(self, key: Key, cut: Lsn) -> bool:
        """Whether the ledger says, behind the place where a power cut ended it, that this one may have been
        tried without a trace."""
        return self._power_at.get(key, Lsn(-1)) >= cut

    def _follow(self, lsn: Lsn, record: object) -> None:
        match record:
            case Accepted():
                assert record.message.id not in self.messages, "taken up twice"
                self.messages[record.message.id] = record.message
                for index in range(len(record.message.envelope.recipients)):
                    self.states[record.message.id, index] = _WAITING
                    if record.power:
                        self._lost_power((record.message.id, index), lsn)
            case Parked():
                self._parked.update(_keys(record.placed))
            case Claimed():
                self._claimed.update(_keys(record.placed))
            case Sending():
                for index in record.indexes:
                    key = record.id, index
                    assert self.states[key] is _WAITING, f"sent although {self.states[key]}"
                    assert key not in self._open, "sent while an earlier attempt has no outcome"
                    assert key not in self._parked or key in self._claimed, "sent without having been claimed"
                    stands = self._at.setdefault(key, record.relay)
                    assert record.relay == stands, f"sent to {record.relay}, and it stands at {stands}"
                    self._open.add(key)
                    self.sent[key] += 1
            case Attempted():
                for result in record.results:
                    for index in result.indexes:
                        self._attempted((record.id, index), record.relay, result)
            case Moved():
                for index in record.indexes:
                    self._moved((record.id, index), record)
                    if record.power:
                        self._lost_power((record.id, index), lsn)

    def _lost_power(self, key: Key, lsn: Lsn) -> None:
        assert self.states[key] is _WAITING and key not in self._open
        self.power[key] += 1
        self._power_at[key] = lsn

    def _attempted(self, key: Key, relay: str, result: Result) -> None:
        what, state = result.move, result.state
        assert self._at.get(key, relay) == relay, f"tried at {relay}, and it stands at {self._at[key]}"
        self._at[key] = result.relay or relay
        if result.relay is not None:
            self.failed_over += 1
            assert what is Move.DEFER, f"goes on to another relay after: {result.reason}"
            assert result.scope in _FAILS_OVER, f"goes on to another relay after: {result.reason}"
            assert not self.uncertain[key], "goes on to another relay, and may have been delivered"
        attempting = move(self.states[key], Move.ATTEMPT)
        assert move(attempting, what) is state
        if what is Move.LOSE_REPLY:
            self.uncertain[key] += 1
        if what is Move.DELIVER:
            self.delivered[key] += 1
            assert key in self._open, "delivered without having been sent"
        self._stands(key, state)
        self._open.discard(key)
        self._claimed.discard(key)

    def _moved(self, key: Key, record: Moved) -> None:
        self._claimed.discard(key)
        if record.relay is not None:
            stands = self._at.get(key, record.relay)
            moved = record.by == "failover" and not self.uncertain[key]
            assert stands == record.relay or moved, f"{record.by} takes it from {stands} to {record.relay}"
            self._at[key] = record.relay
        if record.move is Move.LOSE_REPLY:
            assert key in self._open, "called uncertain without having been sent"
            assert self.states[key] is _WAITING
            self.uncertain[key] += 1
            self.states[key] = DeliveryState.UNCERTAIN
            self._open.discard(key)
            return
        assert key not in self._open, f"{record.move} while it was being sent"
        self._stands(key, move(self.states[key], record.move))
        assert self.states[key] is record.state

    def _stands(self, key: Key, state: DeliveryState) -> None:
        self.states[key] = state
        self.failed[key] += state in TOLD_STATES


def _keys(placed: tuple[Placed, ...]) -> list[Key]:
    return [(each.id, index) for each in placed for index in each.indexes]
