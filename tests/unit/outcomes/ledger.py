"""A ledger in a list, with the records that tests need in one line each."""

from __future__ import annotations

from pathlib import Path

from tests.unit.store.messages import DAY_ONE_MS

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mail.ids import MessageId
from dispatch.mail.message import Message
from dispatch.mail.outcome import Scope
from dispatch.mail.reply import reply
from dispatch.outcomes.history import History
from dispatch.outcomes.tail import Tail
from dispatch.ports import Entry, Lsn
from dispatch.spool.faults import CorruptError, ReleasedError
from dispatch.spool.records import (
    Accepted,
    Attempted,
    LedgerFrame,
    LedgerRecord,
    Moved,
    Result,
    Sending,
)
from dispatch.store.history import HistoryStore
from dispatch.store.history_reader import HistoryReader

MOVE_TO: dict[DeliveryState, Move] = {
    DeliveryState.DELIVERED: Move.DELIVER,
    DeliveryState.CAPTURED: Move.CAPTURE,
    DeliveryState.WAITING: Move.DEFER,
    DeliveryState.BOUNCED: Move.BOUNCE,
    DeliveryState.EXPIRED: Move.EXPIRE,
    DeliveryState.UNCERTAIN: Move.LOSE_REPLY,
    DeliveryState.QUARANTINED: Move.QUARANTINE,
}
REPLIES = {
    DeliveryState.DELIVERED: reply(250, "2.0.0", "Ok: queued as 4FQk"),
    DeliveryState.WAITING: reply(451, "4.7.1", "Try again"),
    DeliveryState.BOUNCED: reply(550, "5.1.1", "No such user"),
}


def frame_of(*records: LedgerRecord) -> bytes:
    """A frame of the ledger as it stands in the log."""
    frame = LedgerFrame()
    for record in records:
        frame.add(record)
    return bytes(frame.payload())


class LedgerInList:
    """`ports.LogReader` over a list of payloads; each takes 100 of the log's bytes."""

    STEP = 100

    def __init__(self, *records: LedgerRecord) -> None:
        self.payloads: list[bytes | None] = []
        self.oldest = Lsn(0)
        self.append(*records)

    def append(self, *records: LedgerRecord) -> None:
        self.payloads += [frame_of(record) for record in records]

    @property
    def durable(self) -> Lsn:
        return Lsn(len(self.payloads) * self.STEP)

    def read(self, cursor: Lsn, size_bytes_max: int) -> list[Entry]:
        if cursor < self.oldest:
            raise ReleasedError(cursor, self.oldest)
        entries: list[Entry] = []
        size_bytes = 0
        for place in range(cursor // self.STEP, len(self.payloads)):
            payload = self.payloads[place]
            lsn, behind = Lsn(place * self.STEP), Lsn((place + 1) * self.STEP)
            if payload is None:
                if entries:
                    break
                raise CorruptError(lsn, behind, "0000.log")
            entries.append(Entry(lsn, behind, payload))
            size_bytes += len(payload)
            if size_bytes >= size_bytes_max:
                break
        return entries


def accepted(sent: Message, *, power: bool = False) -> Accepted:
    return Accepted(sent.accepted_ms, sent, Lsn(0), power=power)


def sending(
    message_id: MessageId, *indexes: int, at_ms: int = DAY_ONE_MS, relay: str = "smarthost"
) -> Sending:
    return Sending(at_ms, message_id, indexes or (0,), relay)


def result(state: DeliveryState, *indexes: int, reason: str = "", text: str | None = None) -> Result:
    words = REPLIES.get(state) if text is None else reply(550, "5.0.0", text)
    return Result(indexes or (0,), MOVE_TO[state], state, Scope.RECIPIENT, words, reason)


def attempted(
    message_id: MessageId,
    *results: Result | DeliveryState,
    at_ms: int = DAY_ONE_MS,
    relay: str = "smarthost",
    attempt: int = 1,
) -> Attempted:
    rows = tuple(given if isinstance(given, Result) else result(given) for given in results)
    return Attempted(at_ms, message_id, relay, attempt, rows, 12, "198.51.100.7:25", "TLSv1.3")


def moved(
    message_id: MessageId,
    move: Move,
    state: DeliveryState,
    *indexes: int,
    at_ms: int = DAY_ONE_MS,
    reason: str = "",
    by: str = "operator",
    power: bool = False,
) -> Moved:
    return Moved(at_ms, message_id, indexes or (0,), move, state, by, reason, power=power)


def project(path: Path, ledger: LedgerInList, *, batch_bytes: int = 1 << 18) -> HistoryReader:
    """Follow a ledger into the history at a path, to its end, and open it for reading."""
    store = HistoryStore.open(path)
    tail = Tail(ledger, store, History(store), batch_bytes=batch_bytes)
    while tail.step():
        pass
    store.close()
    return HistoryReader.open(path)
