"""What goes when its time is over, and what must not."""

from __future__ import annotations

import msgspec
from tests.unit.queue.bench import LATER, NEVER, Bench

from dispatch.mail.delivery import DeliveryState
from dispatch.queue.work import Work

DAY_S = 86_400.0


def bounced(bench: Bench) -> bytes:
    message_id = bench.offer(file=True)
    bench.relay.answer(NEVER)
    bench.loop.settle()
    assert bench.rows(message_id)[0].state is DeliveryState.BOUNCED
    return message_id


def test_failed_content_goes_after_its_retention(bench: Bench) -> None:
    message_id = bounced(bench)
    bench.retention_s = 100.0
    bench.loop.advance(61.0)
    assert bench.rows(message_id)
    bench.loop.advance(120.0)
    assert not bench.rows(message_id) and len(bench.removed) == 1


def test_without_a_retention_it_stays(bench: Bench) -> None:
    message_id = bounced(bench)
    bench.loop.advance(200.0)
    assert bench.rows(message_id)


def test_nothing_goes_while_an_order_may_be_reopening_it(bench: Bench) -> None:
    message_id = bounced(bench)
    bench.retention_s = 1.0
    bench.scheduler.freeze()
    bench.loop.advance(200.0)
    assert bench.rows(message_id)


def test_content_files_that_nobody_names_are_swept(bench: Bench) -> None:
    kept = bench.offer(file=True)
    bench.relay.answer(LATER)
    bench.loop.settle()
    in_log = bench.offer(file=True)
    names = {message_id: f"{1:016x}-{message_id.hex()}.content" for message_id in (kept, in_log, bytes(16))}
    present = f"{2:016x}-{bytes(15).hex()}01.content"
    bench.files = [*names.values(), present, "no content"]
    bench.loop.advance(6.0)
    assert bench.removed == [names[bytes(16)]]
    bench.loop.advance(20.0)
    assert len(bench.removed) == 1, "swept once for each start of the log's writer"


def test_nothing_is_swept_while_a_record_cannot_be_read(bench: Bench) -> None:
    """It may name any of them."""
    bench.files = [f"{1:016x}-{bytes(16).hex()}.content"]
    bench.mail.append([b"\xff"], lambda _: None)
    bench.loop.settle()
    bench.scheduler.wake()
    bench.loop.advance(10.0)
    assert not bench.removed


def test_due_times_are_set_right_after_the_clock_jumped_back(bench: Bench) -> None:
    message_id = bench.offer()
    bench.relay.answer(LATER)
    bench.loop.settle()
    bench.loop.wall_offset_s -= DAY_S
    bench.loop.advance(15.0)
    assert "clock_jumped" in bench.alarms
    assert len(bench.relay.started) == 1 and bench.rows(message_id)


def test_what_is_parked_after_the_clock_jumped_back_is_not_due_by_the_old_clock(bench: Bench) -> None:
    """It was in memory while those in the store were set right: on trial, or in line."""
    bench.relay.slots = 0
    message_id = bench.offer()
    bench.loop.settle()
    planned = bench.lane.ready.pop()
    assert planned is not None
    now_ms = int(bench.loop.wall() * 1000)
    rows = tuple(
        msgspec.structs.replace(row, due_ms=now_ms + int(DAY_S * 1000), attempts=1)
        for row in planned.deliveries
    )
    bench.scheduler.return_work(Work(planned.message, rows, planned.content, planned.owner))
    bench.loop.settle()
    assert [row.due_ms - now_ms for row in bench.rows(message_id)] == [10_000], "the plan's longest wait"
