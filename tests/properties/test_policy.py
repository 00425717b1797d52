"""What holds for every report, plan, clock, relay and crowd of senders."""

from collections import Counter, defaultdict, deque

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.mail.delivery import MOVES, DeliveryState, Move
from dispatch.mail.message import PRIORITIES, Priority
from dispatch.mail.outcome import Scope
from dispatch.mail.reply import Reply
from dispatch.mail.report import Fault, FaultKind, Report, Stage
from dispatch.policy.breaker import Breaker, BreakerState
from dispatch.policy.concurrency import Window
from dispatch.policy.schedule import RETRY_AFTER_SPREAD, WAIT_S_MIN, RetryPlan, clamp, next_due
from dispatch.policy.shares import TURNS, FairQueue
from dispatch.policy.verdict import RETRY_AFTER_S_MAX, judge, parse_retry_after

EXAMPLES = settings(max_examples=150, deadline=None)

chances = st.floats(0, 1, exclude_max=True)
enhanced_codes = st.none() | st.builds(
    "{}.{}.{}".format, st.sampled_from([2, 4, 5]), *[st.integers(0, 15)] * 2
)
words = st.text(max_size=60) | st.sampled_from(
    ["try again in 300 seconds", "Daily quota exceeded", "Throttling failure", "too many recipients"]
)
replies = st.builds(Reply, st.integers(200, 599), enhanced_codes, st.tuples(words))


@st.composite
def reports(draw: st.DrawFn) -> Report:
    answers = tuple(draw(st.lists(st.none() | replies, min_size=1, max_size=5)))
    fault = Fault(draw(st.sampled_from(FaultKind)), draw(words)) if None in answers else None
    stages = tuple(draw(st.sampled_from(Stage)) for _ in answers) if draw(st.booleans()) else ()
    return Report(draw(st.sampled_from(Stage)), answers, fault, reply_stage=stages)


@EXAMPLES
@given(reports())
def test_every_report_gives_each_recipient_a_verdict_that_loses_and_repeats_nothing(report: Report) -> None:
    outcomes = judge(report)
    assert len(outcomes) == len(report.replies)
    for position, (outcome, reply) in enumerate(zip(outcomes, report.replies, strict=True)):
        assert outcome.move in MOVES[DeliveryState.ATTEMPTING]
        assert outcome.reply == reply
        stage = report.reply_stage[position] if report.reply_stage and reply else report.stage
        completed = reply is not None and reply.code < 300 and stage is Stage.END_OF_DATA
        assert (outcome.move is Move.DELIVER) is completed
        if outcome.move is Move.BOUNCE:
            unsuited = report.fault is not None and report.fault.kind is FaultKind.UNSUITED
            assert reply.permanent if reply is not None else unsuited
        if reply is None and stage is Stage.END_OF_DATA:
            assert outcome.move is Move.LOSE_REPLY
        if outcome.move is Move.LOSE_REPLY:
            assert stage is Stage.END_OF_DATA
            assert outcome.scope is not Scope.RELAY
        if stage is Stage.RCPT and outcome.move is Move.BOUNCE and reply is not None:
            assert outcome.scope is Scope.RECIPIENT


@EXAMPLES
@given(st.text(max_size=300))
def test_no_words_of_a_peer_ask_for_an_unbounded_wait(text: str) -> None:
    wait_s = parse_retry_after(text)
    assert wait_s is None or 1 <= wait_s <= RETRY_AFTER_S_MAX


plans = st.builds(
    RetryPlan,
    st.lists(st.floats(0, 100_000), min_size=1, max_size=6).map(tuple),
    st.none() | st.integers(0, 20),
    st.none() | st.floats(0, 1_000_000),
)
moments_ms = st.integers(0, 4_000_000_000_000)


@EXAMPLES
@given(plans, st.integers(0, 50), moments_ms, moments_ms, chances, st.none() | st.floats(0, 1e9))
def test_a_due_time_lies_ahead_and_within_what_was_planned_or_asked_for(
    plan: RetryPlan, attempts: int, since_ms: int, now_ms: int, chance: float, retry_after_s: float | None
) -> None:
    due_ms = next_due(plan, attempts, since_ms, now_ms, chance, retry_after_s)
    too_often = plan.retries_max is not None and attempts > plan.retries_max
    too_old = plan.age_max_s is not None and now_ms >= since_ms + round(plan.age_max_s * 1000)
    assert (due_ms is None) is (too_often or too_old)
    if due_ms is None:
        return
    assert due_ms >= now_ms + WAIT_S_MIN * 1000
    longest_s = max(WAIT_S_MIN, *plan.delays_s)
    if retry_after_s is not None:
        longest_s = max(longest_s, RETRY_AFTER_S_MAX * (1 + RETRY_AFTER_SPREAD))
        assert due_ms >= now_ms + min(round(retry_after_s * 1000), RETRY_AFTER_S_MAX * 1000)
    assert due_ms <= now_ms + longest_s * 1000 + 1


@EXAMPLES
@given(plans, moments_ms, chances, st.lists(st.integers(-10_000_000, 10_000_000), max_size=30))
def test_mail_expires_only_by_an_attempt_that_began_past_its_deadline(
    plan: RetryPlan, since_ms: int, chance: float, steps_ms: list[int]
) -> None:
    """However the clock steps between and during attempts; counted limits are another matter."""
    plan = RetryPlan(plan.delays_s, None, plan.age_max_s)
    now_ms = since_ms
    for attempt, step_ms in enumerate(steps_ms, 1):
        begun_ms = now_ms
        now_ms += step_ms
        due_ms = next_due(plan, attempt, since_ms, now_ms, chance, attempted_ms=begun_ms)
        if due_ms is None:
            assert plan.age_max_s is not None
            assert begun_ms >= since_ms + round(plan.age_max_s * 1000)
            return
        now_ms = max(now_ms, due_ms)


@EXAMPLES
@given(plans, moments_ms, st.integers(-(10**12), 10**12), chances, st.integers(0, 9))
def test_a_due_time_survives_a_clock_that_jumps_either_way(
    plan: RetryPlan, now_ms: int, jump_ms: int, chance: float, attempts: int
) -> None:
    plan = RetryPlan(plan.delays_s, None, None)
    due_ms = next_due(plan, attempts, now_ms, now_ms, chance)
    assert due_ms is not None
    jumped_ms = now_ms + jump_ms
    clamped_ms = clamp(due_ms, jumped_ms, plan)
    assert clamped_ms <= due_ms
    assert clamped_ms - jumped_ms <= max(1.0, *plan.delays_s) * 1000 + 1
    assert clamp(clamped_ms, jumped_ms, plan) == clamped_ms
    assert clamp(due_ms, now_ms, plan) in (due_ms, due_ms - 1), "without a jump nothing changes but rounding"


@EXAMPLES
@given(st.lists(st.tuples(st.sampled_from("sfp"), st.floats(0, 60), chances), max_size=80), st.integers(1, 5))
def test_an_open_breaker_lets_one_probe_through_and_always_ends(
    happenings: list[tuple[str, float, float]], failures_max: int
) -> None:
    breaker = Breaker(failures_max=failures_max, open_s=10, open_s_max=100)
    now = 0.0
    for what, pause_s, chance in happenings:
        now += pause_s
        if what == "p" and breaker.allows(now):
            breaker.started(now)
            if breaker.state is BreakerState.HALF_OPEN:
                assert not breaker.allows(now + 1e6)
        elif what == "s":
            breaker.succeeded(now)
        elif what == "f":
            breaker.failed(now, chance)
        if breaker.state is BreakerState.OPEN:
            assert breaker.opens_until is not None
            assert breaker.opens_until <= now + 100
            assert breaker.allows(now + 100)
        else:
            assert breaker.opens_until is None


@EXAMPLES
@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.sampled_from("str"), st.floats(0, 3), st.integers(1, 200)), max_size=100),
)
def test_the_window_stays_between_one_and_its_maximum(
    max_concurrency: int, happenings: list[tuple[str, float, int]]
) -> None:
    window = Window(max_concurrency)
    now = 0.0
    for what, pause_s, number in happenings:
        now += pause_s
        before = window.limit
        if what == "s":
            window.succeeded(now, number)
            assert before <= window.limit <= before + 1
        elif what == "t":
            window.throttled(now)
            assert window.limit <= before
        else:
            window.recovered()
        assert 1 <= window.limit <= max_concurrency


pushes = st.tuples(st.sampled_from(PRIORITIES), st.sampled_from("abc"), st.integers(0, 20))


@EXAMPLES
@given(st.lists(st.none() | pushes, max_size=200))
def test_the_ready_queue_loses_nothing_keeps_its_bounds_and_each_senders_order(
    steps: list[tuple[Priority, str, int] | None],
) -> None:
    fair: FairQueue[tuple[Priority, str, int, int]] = FairQueue(20, 150)
    waiting: dict[tuple[Priority, str], deque[tuple[int, int]]] = defaultdict(deque)
    count = size_bytes = 0
    for number, step in enumerate(steps):
        if step is None:
            item = fair.pop()
            assert (item is None) is (count == 0)
            if item is not None:
                priority, key, popped, popped_bytes = item
                assert waiting[priority, key].popleft() == (popped, popped_bytes)
                count -= 1
                size_bytes -= popped_bytes
        else:
            priority, key, bytes_ = step
            taken = fair.push(priority, key, (priority, key, number, bytes_), bytes_)
            assert taken is (count < 20 and size_bytes + bytes_ <= 150)
            if taken:
                waiting[priority, key].append((number, bytes_))
                count += 1
                size_bytes += bytes_
        assert (len(fair), fair.bytes) == (count, size_bytes)


@EXAMPLES
@given(st.lists(pushes, min_size=1, max_size=300))
def test_no_priority_and_no_sender_starves(crowd: list[tuple[Priority, str, int]]) -> None:
    fair: FairQueue[tuple[Priority, str]] = FairQueue(1000, 10**6)
    waiting: Counter[tuple[Priority, str]] = Counter()
    for priority, key, size_bytes in crowd:
        fair.push(priority, key, (priority, key), size_bytes)
        waiting[priority, key] += 1
    since_served: Counter[tuple[Priority, str]] = Counter()
    while (served := fair.pop()) is not None:
        waiting[served] -= 1
        since_served[served] = 0
        for who, left in waiting.items():
            if left and who != served:
                since_served[who] += 1
                assert since_served[who] <= TURNS * 3, f"{who} was passed over too often"
