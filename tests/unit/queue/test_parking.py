"""The parked store behind its thread, while its disk is full and when it is well again."""

from __future__ import annotations

from tests.unit.queue.bench import TAKEN, Bench

from dispatch.ports import Lsn
from dispatch.queue.parking import RETRY_S
from dispatch.queue.work import fresh_deliveries
from dispatch.spool.records import Parked
from dispatch.store.parked import Park, ParkedMessage, Settle


def parked(bench: Bench, recipients: int = 1) -> Park:
    message = bench.message(recipients)
    return Park(message, b"content", fresh_deliveries(message, tuple(range(recipients)), "relay"))


def test_changes_wait_for_a_full_disk_and_are_made_in_their_order(bench: Bench) -> None:
    bench.store.full = True
    park = parked(bench)
    bench.scheduler.custody.change(park)
    bench.scheduler.custody.change(Settle(park.id, (0,)))
    bench.loop.settle()
    assert bench.parking.pending_bytes > 0 and not bench.parking.idle
    bench.store.full = False
    bench.loop.advance(2 * RETRY_S)
    assert not bench.rows(park.id)
    assert bench.parking.pending_bytes == 0 and bench.parking.idle


def test_a_question_behind_a_full_disk_is_answered_with_the_fault(bench: Bench) -> None:
    bench.store.full = True
    bench.scheduler.custody.change(parked(bench))
    answers: list[object] = []
    bench.parking.ask(lambda store: 1, answers.append, lambda error: answers.append(str(error)))
    bench.loop.settle()
    assert answers == ["simulated"]


def test_what_is_given_back_keeps_its_place_while_the_disk_is_full(bench: Bench) -> None:
    """Given back late, it would take a newer claim of the same delivery with it."""
    park = parked(bench)
    bench.scheduler.custody.change(park)
    claims: list[list[ParkedMessage] | None] = []

    def claim() -> None:
        now_ms = int(bench.loop.wall() * 1000)
        bench.parking.claim("relay", now_ms, 10, 1 << 20, lambda found: claims.append(found and found[0]))

    claim()
    bench.loop.settle()
    bench.store.full = True
    bench.parking.unclaim([(park.id, (0,))])
    bench.loop.settle()
    claim()
    bench.store.full = False
    bench.loop.advance(2 * RETRY_S)
    claim()
    bench.loop.settle()
    assert [found and [each.message.id for each in found] for found in claims] == [[park.id], [park.id], []]


def test_giving_back_one_delivery_leaves_the_others_of_its_message_in_hand(bench: Bench) -> None:
    park = parked(bench, 2)
    bench.store.apply([park], 0)
    now_ms = int(bench.loop.wall() * 1000)
    assert len(bench.store.claim("relay", now_ms, 10, 1 << 20)[0].deliveries) == 2
    bench.store.put_back([(park.id, (1,))])
    (again,) = bench.store.claim("relay", now_ms, 10, 1 << 20)
    assert [row.index for row in again.deliveries] == [1]


def test_content_on_its_way_into_the_store_is_counted_before_the_ledger_explains_it(bench: Bench) -> None:
    bench.ledger.by_itself = False
    bench.scheduler.lanes.clear()
    bench.offer(content=b"A: b\r\n\r\n" + b"x" * 10_000)
    assert bench.parking.pending_bytes > 10_000
    bench.ledger.sync()
    bench.loop.settle()
    assert bench.parking.pending_bytes == 0


def test_nothing_is_changed_before_the_ledger_explains_it(bench: Bench) -> None:
    bench.scheduler.lanes.clear()
    bench.ledger.by_itself = False
    message_id = bench.offer()
    bench.loop.advance(5.0)
    assert not bench.rows(message_id)
    bench.ledger.sync()
    bench.loop.settle()
    assert bench.rows(message_id) and bench.of(Parked)


def test_a_row_goes_when_its_outcome_is_durable_and_not_before(bench: Bench) -> None:
    park = parked(bench)
    bench.store.apply([park], 0)
    bench.scheduler.look_again()
    bench.loop.settle()
    bench.ledger.by_itself = False
    bench.relay.answer(TAKEN)
    bench.loop.settle()
    assert bench.rows(park.id)
    bench.ledger.sync()
    bench.loop.settle()
    assert not bench.rows(park.id)


def test_a_closed_parking_tells_nobody_anything(bench: Bench) -> None:
    answers: list[int] = []
    bench.parking.ask(lambda store: 1, answers.append)
    bench.parking.close()
    bench.loop.settle()
    bench.parking.follow(Lsn(1), lambda: answers.append(2))
    bench.loop.settle()
    assert not answers
