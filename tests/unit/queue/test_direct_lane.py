"""A relay that delivers directly, in the queue: domains are apart, and the trouble of one is its own."""

from __future__ import annotations

from tests.unit.queue.bench import LATER, TAKEN, Bench

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mail.report import FaultKind
from dispatch.policy.breaker import BreakerState
from dispatch.queue.domain_line import AGAIN_S
from dispatch.queue.requests import Pause, Resume
from dispatch.spool.records import Attempted, Result


def tried(bench: Bench) -> list[list[str]]:
    """The recipients of each transaction that is under way."""
    return [
        [transaction.message.envelope.recipients[index].address for index in transaction.indexes]
        for transaction, _ in bench.relay.started
    ]


def results(bench: Bench) -> list[Result]:
    return [result for each in bench.of(Attempted) if isinstance(each, Attempted) for result in each.results]


def finish(bench: Bench, domain: str) -> None:
    """What is under way for the domain ends well."""
    for place in reversed(range(len(bench.relay.started))):
        if tried(bench)[place][0].endswith(f"@{domain}"):
            bench.relay.started.insert(0, bench.relay.started.pop(place))
            bench.relay.answer(TAKEN)
    bench.loop.settle()


def test_a_message_is_split_by_domain_whatever_its_spelling(bench: Bench) -> None:
    bench.deliver_directly(3)
    bench.offer(5, domains=("a.example", "B.example", "b.EXAMPLE", "A.example."))
    assert tried(bench) == [
        ["r0@a.example", "r3@A.example.", "r4@a.example"],
        ["r1@B.example", "r2@b.EXAMPLE"],
    ]
    for _ in range(2):
        bench.relay.answer(TAKEN)
    bench.loop.settle()
    assert sorted(index for result in results(bench) for index in result.indexes) == [0, 1, 2, 3, 4]
    assert not bench.scheduler.custody.live


def test_a_domain_has_only_so_many_under_way_and_others_pass(bench: Bench) -> None:
    bench.deliver_directly(1)
    for _ in range(3):
        bench.offer(domains=("slow.example",))
    bench.offer(domains=("quick.example",))
    assert tried(bench) == [["r0@slow.example"], ["r0@quick.example"]]
    finish(bench, "slow.example")
    assert tried(bench) == [["r0@quick.example"], ["r0@slow.example"]]


def test_failures_of_a_domain_open_no_breaker_and_shrink_no_window(bench: Bench) -> None:
    bench.deliver_directly(1)
    limit = bench.lane.window.limit
    for number in range(30):
        bench.offer(domains=("down.example",))
        bench.relay.fail(kind=FaultKind.TIMEOUT if number % 2 else FaultKind.REFUSED)
        bench.loop.settle()
    assert bench.lane.breaker.state is BreakerState.CLOSED
    assert bench.lane.window.limit == limit
    assert "breaker_opened" not in bench.alarms
    bench.offer(domains=("up.example",))
    assert ["r0@up.example"] in tried(bench)


def test_a_domain_that_fails_is_tried_again_when_the_plan_says(bench: Bench) -> None:
    bench.deliver_directly(1)
    message_id = bench.offer(2, domains=("down.example", "up.example"))
    bench.relay.fail()
    bench.relay.answer(TAKEN)
    bench.loop.settle()
    [row] = bench.rows(message_id)
    assert (row.index, row.state, row.attempts) == (0, DeliveryState.WAITING, 1)
    bench.loop.advance(20.0)
    assert tried(bench) == [["r0@down.example"]]


def test_a_domain_that_does_not_exist_bounces(bench: Bench) -> None:
    bench.deliver_directly(1)
    bench.offer(domains=("gone.example",))
    bench.relay.fail(kind=FaultKind.NO_DOMAIN)
    bench.loop.settle()
    assert [result.move for result in results(bench)] == [Move.BOUNCE]


def test_a_domain_that_fails_goes_to_the_next_relay_of_its_rule(bench: Bench) -> None:
    _, backup = bench.fail_over("relay", "backup")
    bench.deliver_directly(1)
    bench.lane.deputies = frozenset({"backup"})
    bench.offer(2, domains=("down.example", "up.example"))
    bench.relay.fail()
    bench.loop.settle()
    bench.loop.advance(1.0)
    [(transaction, _)] = backup.started
    assert transaction.indexes == (0,)
    assert tried(bench) == [["r1@up.example"]], "the other domain stays"


def test_a_deferral_by_the_host_goes_to_no_other_relay(bench: Bench) -> None:
    _, backup = bench.fail_over("relay", "backup")
    bench.deliver_directly(1)
    bench.offer(domains=("busy.example",))
    bench.relay.answer(LATER)
    bench.loop.settle()
    bench.loop.advance(1.0)
    assert not backup.started


def test_a_crowd_of_one_domain_does_not_fill_the_line(bench: Bench) -> None:
    bench.lane = bench.make_lane("relay", bench.relay, ready_max=20)
    bench.deliver_directly(1)
    ids = [bench.offer(domains=("dead.example",)) for _ in range(40)]
    assert len(bench.lane.ready) <= 10
    bench.offer(domains=("up.example",))
    assert tried(bench) == [["r0@dead.example"], ["r0@up.example"]]
    parked = [row for each in ids for row in bench.rows(each)]
    assert len(parked) >= 29
    assert all(row.due_ms > bench.loop.wall() * 1000 for row in parked), "it is not claimed again at once"


def test_what_was_crowded_out_goes_when_there_is_room(bench: Bench) -> None:
    bench.lane = bench.make_lane("relay", bench.relay, ready_max=4)
    bench.deliver_directly(1)
    ids = [bench.offer(domains=("slow.example",)) for _ in range(12)]
    for _ in range(12 * int(AGAIN_S + 1)):
        finish(bench, "slow.example")
        bench.loop.advance(1.0)
    assert not any(bench.rows(each) for each in ids)
    assert not bench.scheduler.custody.live


def test_a_restart_splits_what_is_parked(bench: Bench) -> None:
    bench.deliver_directly(1)
    bench.offer(2, domains=("a.example", "b.example"))
    bench.relay.fail()
    bench.relay.fail()
    bench.loop.settle()
    after = bench.kill()
    after.deliver_directly(1)
    after.resume()
    after.loop.advance(20.0)
    assert sorted(tried(after)) == [["r0@a.example"], ["r1@b.example"]]


def test_suspects_of_several_domains_run_one_at_a_time(bench: Bench) -> None:
    bench.deliver_directly(1)
    bench.offer(2, domains=("a.example", "b.example"))
    assert len(bench.relay.started) == 2
    after = bench.kill()
    after.deliver_directly(1)
    after.resume()
    assert tried(after) == [["r0@a.example"]]
    after.relay.answer(TAKEN)
    after.loop.settle()
    assert tried(after) == [["r1@b.example"]]
    after.relay.answer(TAKEN)
    after.loop.settle()
    assert after.scheduler.trial is None
    assert not after.scheduler.custody.live


def test_a_pause_empties_the_line_aside_too(bench: Bench) -> None:
    bench.deliver_directly(1)
    for _ in range(3):
        bench.offer(domains=("a.example",))
    bench.order(Pause("relay"))
    assert len(bench.lane.ready) == 0
    bench.order(Resume("relay"))
    for _ in range(3):
        finish(bench, "a.example")
        bench.loop.advance(1.0)
    assert not bench.scheduler.custody.live
    assert bench.lane.domains is not None
    assert bench.lane.domains.domains == 0
