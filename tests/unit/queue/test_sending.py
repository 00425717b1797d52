"""The end of data leaves when *sending* has left the process: one write for all that are ready in a turn."""

from __future__ import annotations

import pytest
from tests.unit.queue.bench import Bench

from dispatch.mail.ids import MessageId
from dispatch.ports import Leave, Transaction
from dispatch.spool.faults import LogUnwell
from dispatch.spool.records import Sending


class Ready:
    """Transactions that a relay holds ready, and what the queue said of each."""

    def __init__(self, bench: Bench, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bench = bench
        self.fault: Exception | None = None
        self.flushes: list[int] = []
        """How many records each of them wrote out."""
        self.left: list[tuple[MessageId, Exception | None]] = []
        self.raises: set[MessageId] = set()
        self.ids = [bench.offer() for _ in range(count)]
        self.transactions = [transaction for transaction, _ in bench.relay.started]
        assert len(self.transactions) == count
        monkeypatch.setattr(bench.ledger, "flush", self._flush)

    def _flush(self) -> None:
        if self.fault is not None:
            raise self.fault
        self.flushes.append(len(self.bench.of(Sending)))

    def leave(self, transaction: Transaction) -> Leave:
        def leave(error: Exception | None) -> None:
            self.left.append((transaction.message.id, error))
            if transaction.message.id in self.raises:
                raise RuntimeError("its own trouble")

        return leave

    def ask(self) -> None:
        for transaction in self.transactions:
            transaction.sending(transaction, self.leave(transaction))


def test_all_that_are_ready_in_one_turn_leave_after_one_write(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = Ready(bench, 3, monkeypatch)
    ready.ask()
    assert not ready.left, "never within the call"
    bench.loop.settle()
    assert ready.flushes == [3]
    assert ready.left == [(message_id, None) for message_id in ready.ids]
    ready.ask()
    bench.loop.settle()
    assert len(ready.flushes) == 2, "a later turn has its own"


def test_a_write_that_fails_lets_none_of_them_leave(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = Ready(bench, 3, monkeypatch)
    ready.fault = LogUnwell("simulated")
    ready.ask()
    bench.loop.settle()
    assert ready.left == [(message_id, ready.fault) for message_id in ready.ids]


def test_one_that_raises_keeps_no_other_from_leaving(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = Ready(bench, 3, monkeypatch)
    ready.raises.add(ready.ids[0])
    ready.ask()
    with pytest.raises(RuntimeError, match="its own trouble"):
        bench.loop.settle()
    bench.loop.settle()
    assert ready.left == [(message_id, None) for message_id in ready.ids]


def test_asked_again_for_another_session_it_is_on_record_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = Ready(bench, 1, monkeypatch)
    ready.ask()
    ready.ask()
    bench.loop.settle()
    assert len(ready.left) == 2
    assert len(bench.of(Sending)) == 1
