"""What is paused starts nothing, also after a restart; what is under way finishes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.queue.bench import LATER, TAKEN, Bench

from dispatch.mail.delivery import DeliveryState
from dispatch.queue.orders import Orders
from dispatch.queue.pauses import FILE, Paused, Pauses
from dispatch.queue.requests import AskLanes, Lanes, ListQueue, Pause, QueuePage, Refused, Resume
from dispatch.queue.requests import Pauses as InForce
from dispatch.runtime.machine import SystemDisk
from dispatch.store.parked import QueueFilter


@pytest.fixture
def disk(tmp_path: Path) -> SystemDisk:
    return SystemDisk(tmp_path)


def at(bench: Bench, disk: SystemDisk) -> Bench:
    """The bench as a process finds it that has these pauses."""
    pauses = Pauses(disk)
    pauses.put(bench.scheduler.lanes.values())
    bench.orders = Orders(bench.scheduler, bench.seams, pauses)
    return bench


def test_nothing_starts_while_the_queue_is_paused_and_all_does_afterwards(
    bench: Bench, disk: SystemDisk
) -> None:
    at(bench, disk)
    assert bench.order(Pause()) == InForce(True)
    ids = [bench.offer() for _ in range(3)]
    bench.loop.advance(30.0)
    assert not bench.relay.started
    assert all(bench.rows(each)[0].state is DeliveryState.WAITING for each in ids), "all are parked"
    page = bench.order(ListQueue(QueueFilter()))
    assert isinstance(page, QueuePage) and page.paused
    assert {row.reason for row in page.deliveries} == {"the queue is paused"}
    assert bench.order(Resume()) == InForce(False, under_way=3)
    assert len(bench.relay.started) == 3
    assert bench.alarms == ["queue_paused", "queue_resumed"]


def test_what_is_under_way_finishes_and_what_stands_ready_is_parked(bench: Bench, disk: SystemDisk) -> None:
    at(bench, disk)
    bench.relay.slots = 1
    bench.offer()
    second = bench.offer()
    assert bench.order(Pause("relay")) == InForce(False, ("relay",), 1)
    bench.loop.settle()
    assert not len(bench.lane.ready) and bench.rows(second)
    bench.relay.answer(TAKEN)
    bench.loop.advance(30.0)
    assert not bench.relay.started
    bench.order(Resume("relay"))
    bench.loop.advance(1.0)
    assert [transaction.message.id for transaction, _ in bench.relay.started] == [second]


def test_a_pause_outlasts_a_kill_and_a_resume_as_well(bench: Bench, disk: SystemDisk) -> None:
    at(bench, disk).order(Pause("relay"))
    bench.offer()
    after = at(bench.kill(), disk).resume()
    after.loop.advance(30.0)
    assert after.lane.paused and not after.relay.started
    after.order(Resume("relay"))
    last = at(after.kill(), disk).resume()
    last.loop.advance(1.0)
    assert len(last.relay.started) == 1
    assert FILE not in disk.names("")


def test_mail_that_has_another_relay_goes_there(bench: Bench, disk: SystemDisk) -> None:
    first, second = bench.fail_over("relay", "second")
    at(bench, disk)
    bench.offer()
    first.answer(LATER)
    bench.loop.settle()
    bench.order(Pause("relay"))
    bench.offer()
    bench.loop.advance(30.0)
    assert not first.started and len(second.started) == 2


def test_while_all_is_paused_nothing_moves(bench: Bench, disk: SystemDisk) -> None:
    bench.fail_over("relay", "second")
    at(bench, disk).order(Pause())
    message_id = bench.offer()
    bench.loop.advance(120.0)
    (row,) = bench.rows(message_id)
    assert row.relay == "relay" and row.due_ms <= bench.loop.wall() * 1000 - 100_000


def test_the_pause_of_all_leaves_those_by_name(bench: Bench, disk: SystemDisk) -> None:
    bench.add_relay("other")
    at(bench, disk)
    bench.order(Pause("other"))
    bench.order(Pause())
    assert bench.order(Resume()) == InForce(False, ("other",))
    lanes = bench.order(AskLanes())
    assert isinstance(lanes, Lanes) and not lanes.paused
    assert {lane.relay: lane.paused for lane in lanes.lanes} == {"relay": False, "other": True}


def test_relays_that_are_not_there_cannot_be_paused_and_can_be_resumed(
    bench: Bench, disk: SystemDisk
) -> None:
    at(bench, disk)
    assert isinstance(bench.order(Pause("nowhere")), Refused)
    assert isinstance(bench.order(Resume("relay")), Refused)
    bench.add_relay("other")
    bench.order(Pause("other"))
    del bench.scheduler.lanes["other"]
    assert bench.order(Resume("other")) == InForce(False)


def test_a_pause_that_cannot_be_written_down_is_refused(
    bench: Bench, disk: SystemDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(bench, disk)

    def fails(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(disk, "rename", fails)
    answer = bench.order(Pause())
    assert isinstance(answer, Refused) and "no space" in answer.why
    bench.offer()
    assert len(bench.relay.started) == 1


def test_a_file_that_nobody_can_read_pauses_everything(disk: SystemDisk, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("nonsense")
    assert Pauses(disk).paused == Paused(everything=True)
