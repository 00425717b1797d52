"""What becomes of mail, for each thing that a relay may say or fail to say."""

import pytest

from dispatch.mail.delivery import MOVES, DeliveryState, Move
from dispatch.mail.outcome import Outcome, Scope
from dispatch.mail.reply import Reply, reply
from dispatch.mail.report import Fault, FaultKind, Report, Stage
from dispatch.policy import verdict
from dispatch.policy.verdict import is_authentication_failure, is_throttle, judge

QUEUED = reply(250, "2.0.0", "queued as 4F3A")
TRANSACTION_STAGES = (Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.CONTENT, Stage.END_OF_DATA)
OPENING_STAGES = (Stage.CONNECT, Stage.GREETING, Stage.EHLO, Stage.STARTTLS, Stage.AUTH)
CONNECTION_FAULTS = tuple(
    kind
    for kind in FaultKind
    if kind
    not in (
        *(FaultKind.UNSUITED, FaultKind.CONTENT_LOST, FaultKind.CONTENT_UNREADABLE),
        *(FaultKind.NULL_MX, FaultKind.AUTHENTICATION, FaultKind.CREDENTIALS_ABSENT),
    )
)


def answered(stage: Stage, answer: Reply) -> Outcome:
    (outcome,) = judge(Report(stage, (answer,)))
    return outcome


def failed(stage: Stage, kind: FaultKind, detail: str = "") -> Outcome:
    (outcome,) = judge(Report(stage, (None,), Fault(kind, detail)))
    return outcome


def gist(outcome: Outcome) -> tuple[Move, Scope]:
    return outcome.move, outcome.scope


def test_a_250_to_the_end_of_data_delivers_to_every_recipient() -> None:
    outcomes = judge(Report(Stage.END_OF_DATA, (QUEUED, QUEUED, QUEUED)))
    assert [gist(outcome) for outcome in outcomes] == [(Move.DELIVER, Scope.RECIPIENT)] * 3
    assert all(outcome.reply == QUEUED for outcome in outcomes)


def test_what_the_local_inbox_takes_is_captured_not_delivered() -> None:
    (outcome,) = judge(Report(Stage.END_OF_DATA, (QUEUED,)), captured=True)
    assert gist(outcome) == (Move.CAPTURE, Scope.RECIPIENT)


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.END_OF_DATA])
@pytest.mark.parametrize("code", [220, 250, 354])
def test_a_positive_reply_before_the_end_of_data_delivers_nothing(stage: Stage, code: int) -> None:
    assert gist(answered(stage, reply(code, None, "fine"))) == (Move.DEFER, Scope.RELAY)


def test_an_intermediate_reply_to_the_end_of_data_is_uncertain() -> None:
    assert answered(Stage.END_OF_DATA, reply(354, None, "go on")).move is Move.LOSE_REPLY


def test_each_recipient_is_judged_by_its_own_reply() -> None:
    unknown, greylisted = reply(550, "5.1.1", "no such user"), reply(450, "4.7.1", "greylisted")
    report = Report(
        Stage.END_OF_DATA,
        (QUEUED, unknown, greylisted, QUEUED),
        reply_stage=(Stage.END_OF_DATA, Stage.RCPT, Stage.RCPT, Stage.END_OF_DATA),
    )
    assert [outcome.move for outcome in judge(report)] == [
        Move.DELIVER,
        Move.BOUNCE,
        Move.DEFER,
        Move.DELIVER,
    ]


def test_a_refused_recipient_bounces_although_the_connection_broke_later() -> None:
    report = Report(
        Stage.END_OF_DATA,
        (reply(550, "5.1.1", "no such user"), None),
        Fault(FaultKind.DROPPED, "peer closed"),
        reply_stage=(Stage.RCPT, Stage.END_OF_DATA),
    )
    assert [outcome.move for outcome in judge(report)] == [Move.BOUNCE, Move.LOSE_REPLY]


@pytest.mark.parametrize("code", [500, 501, 550, 551, 552, 553, 554, 556])
def test_a_recipient_refused_for_good_bounces_alone(code: int) -> None:
    assert gist(answered(Stage.RCPT, reply(code, None, "no"))) == (Move.BOUNCE, Scope.RECIPIENT)


def test_a_full_mailbox_is_tried_later_and_counted() -> None:
    outcome = answered(Stage.RCPT, reply(452, "4.2.2", "mailbox over quota, as for other recipients"))
    assert gist(outcome) == (Move.DEFER, Scope.RECIPIENT)
    assert outcome.burns_attempt


@pytest.mark.parametrize(
    "answer",
    [
        reply(452, "4.5.3", "too many recipients"),
        reply(552, "5.5.3", "too many recipients"),
        reply(452, None, "Too many recipients"),
    ],
)
def test_one_recipient_too_many_waits_for_the_next_transaction_uncounted(answer: Reply) -> None:
    outcome = answered(Stage.RCPT, answer)
    assert gist(outcome) == (Move.DEFER, Scope.RECIPIENT)
    assert not outcome.burns_attempt
    assert not is_throttle(outcome)


def test_greylisting_delays_the_recipient_uncounted_and_does_not_slow_the_relay() -> None:
    outcome = answered(Stage.RCPT, reply(450, "4.7.1", "Greylisted, try again in 300 seconds"))
    assert gist(outcome) == (Move.DEFER, Scope.RECIPIENT)
    assert outcome.retry_after_s == 300
    assert not outcome.burns_attempt
    assert not is_throttle(outcome)


@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.DATA, Stage.END_OF_DATA])
@pytest.mark.parametrize("code", [550, 552, 553, 554])
def test_a_message_refused_for_good_bounces_for_every_recipient(stage: Stage, code: int) -> None:
    no = reply(code, None, "no")
    outcomes = judge(Report(stage, (no, no)))
    assert [gist(outcome) for outcome in outcomes] == [(Move.BOUNCE, Scope.MESSAGE)] * 2


def test_a_message_too_large_for_the_relay_bounces_and_says_so() -> None:
    outcome = answered(Stage.MAIL, reply(552, "5.3.4", "too big"))
    assert gist(outcome) == (Move.BOUNCE, Scope.MESSAGE)
    assert "too large" in outcome.reason


@pytest.mark.parametrize("stage", TRANSACTION_STAGES)
@pytest.mark.parametrize("answer", [reply(530, "5.7.0", "log in"), reply(535, "5.7.8", "bad credentials")])
def test_refused_credentials_keep_the_mail_and_open_the_breaker(stage: Stage, answer: Reply) -> None:
    outcome = answered(stage, answer)
    assert gist(outcome) == (Move.DEFER, Scope.RELAY)
    assert not outcome.burns_attempt
    assert is_authentication_failure(outcome)


@pytest.mark.parametrize("code", [501, 504, 530, 534, 535, 538, 550, 554])
def test_whatever_auth_is_refused_with_keeps_the_mail(code: int) -> None:
    outcome = answered(Stage.AUTH, reply(code, None, "no"))
    assert gist(outcome) == (Move.DEFER, Scope.RELAY)
    assert is_authentication_failure(outcome)


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        (FaultKind.AUTHENTICATION, "the host offers no AUTH"),
        (FaultKind.CREDENTIALS_ABSENT, "no access token: timed out"),
    ],
)
def test_credentials_that_cannot_be_used_or_had_keep_the_mail_and_open_the_breaker(
    kind: FaultKind, detail: str
) -> None:
    outcome = failed(Stage.AUTH, kind, detail)
    assert gist(outcome) == (Move.DEFER, Scope.RELAY)
    assert not outcome.burns_attempt
    assert is_authentication_failure(outcome)


@pytest.mark.parametrize("stage", OPENING_STAGES)
@pytest.mark.parametrize("kind", CONNECTION_FAULTS)
def test_a_broken_connection_is_no_refusal_of_credentials(stage: Stage, kind: FaultKind) -> None:
    assert not is_authentication_failure(failed(stage, kind))


def test_a_relay_whose_domain_takes_no_mail_is_a_mistake_of_ours_and_bounces_nothing() -> None:
    outcome = failed(Stage.CONNECT, FaultKind.NULL_MX, "its MX record says so")
    assert gist(outcome) == (Move.DEFER, Scope.RELAY) and not outcome.burns_attempt


def test_credentials_that_could_not_be_checked_cost_no_attempt() -> None:
    outcome = answered(Stage.AUTH, reply(454, "4.7.0", "temporary authentication failure"))
    assert gist(outcome) == (Move.DEFER, Scope.RELAY)
    assert not outcome.burns_attempt
    assert not is_authentication_failure(outcome)


def test_a_relay_that_does_not_let_us_send_keeps_the_mail_and_counts_as_its_failure() -> None:
    outcome = answered(Stage.MAIL, reply(550, "5.7.1", "relaying denied"))
    assert gist(outcome) == (Move.DEFER, Scope.RELAY)
    assert not is_authentication_failure(outcome), (
        "one forbidden sender must not close the relay for all at once"
    )


def test_a_sender_address_that_is_not_permitted_bounces() -> None:
    assert gist(answered(Stage.MAIL, reply(553, "5.7.1", "not yours"))) == (Move.BOUNCE, Scope.MESSAGE)


def test_a_message_refused_as_spam_bounces() -> None:
    spam = reply(550, "5.7.1", "looks like spam")
    assert gist(answered(Stage.END_OF_DATA, spam)) == (Move.BOUNCE, Scope.MESSAGE)


@pytest.mark.parametrize("stage", OPENING_STAGES)
@pytest.mark.parametrize("code", [421, 450, 454, 500, 521, 550, 554])
def test_a_relay_that_refuses_the_session_keeps_the_mail(stage: Stage, code: int) -> None:
    assert gist(answered(stage, reply(code, None, "go away"))) == (Move.DEFER, Scope.RELAY)


@pytest.mark.parametrize("stage", TRANSACTION_STAGES)
def test_a_421_within_the_session_spoils_this_connection_only(stage: Stage) -> None:
    outcome = answered(stage, reply(421, "4.3.2", "shutting down"))
    assert gist(outcome) == (Move.DEFER, Scope.SESSION)
    assert not outcome.burns_attempt


@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.RCPT, Stage.DATA])
def test_a_conversation_out_of_step_says_nothing_about_the_mail(stage: Stage) -> None:
    assert gist(answered(stage, reply(503, "5.5.1", "bad sequence"))) == (Move.DEFER, Scope.SESSION)


@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.DATA, Stage.END_OF_DATA])
@pytest.mark.parametrize(
    "answer",
    [
        reply(429, None, "slow down"),
        reply(421, "4.7.0", "too many messages"),
        reply(450, "4.7.1", "rate"),
        reply(451, "4.7.28", "unusual rate"),
        reply(454, None, "Throttling failure: Maximum sending rate exceeded"),
    ],
)
def test_a_throttle_slows_the_relay_and_is_not_counted(stage: Stage, answer: Reply) -> None:
    outcome = answered(stage, answer)
    assert gist(outcome) == (Move.DEFER, Scope.SESSION)
    assert not outcome.burns_attempt
    assert is_throttle(outcome)


def test_a_used_up_quota_lets_another_relay_take_the_mail() -> None:
    outcome = answered(Stage.MAIL, reply(454, None, "Throttling failure: Daily message quota exceeded"))
    assert gist(outcome) == (Move.DEFER, Scope.RELAY)
    assert not outcome.burns_attempt


@pytest.mark.parametrize("answer", [reply(452, "4.3.1", "disk full"), reply(452, None, "disk full")])
def test_a_relay_without_storage_is_unwell(answer: Reply) -> None:
    assert gist(answered(Stage.MAIL, answer)) == (Move.DEFER, Scope.RELAY)


def test_a_content_refused_for_now_is_counted_and_stays_with_its_relay() -> None:
    outcome = answered(Stage.END_OF_DATA, reply(451, "4.6.0", "scanner away"))
    assert gist(outcome) == (Move.DEFER, Scope.MESSAGE)
    assert outcome.burns_attempt


@pytest.mark.parametrize("kind", list(FaultKind))
def test_no_reply_after_the_end_of_data_is_always_uncertain(kind: FaultKind) -> None:
    outcome = failed(Stage.END_OF_DATA, kind)
    assert outcome.move is Move.LOSE_REPLY
    assert outcome.scope is not Scope.RELAY, "an uncertain attempt never fails over"
    assert outcome.reply is None


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.END_OF_DATA])
@pytest.mark.parametrize("kind", CONNECTION_FAULTS)
def test_a_broken_connection_keeps_the_mail_and_fails_over(stage: Stage, kind: FaultKind) -> None:
    assert gist(failed(stage, kind)) == (Move.DEFER, Scope.RELAY)


@pytest.mark.parametrize(
    ("detail", "status"),
    [
        ("SMTPUTF8 is not offered", "5.6.7"),
        ("8BITMIME is not offered", "5.6.3"),
        ("SIZE 1000 is below 2000", "5.3.4"),
        ("something else", "5.6.0"),
    ],
)
def test_mail_that_a_relay_cannot_carry_bounces_with_a_status(detail: str, status: str) -> None:
    outcome = failed(Stage.EHLO, FaultKind.UNSUITED, detail)
    assert gist(outcome) == (Move.BOUNCE, Scope.MESSAGE)
    assert outcome.reason.startswith(status + " ")
    assert detail in outcome.reason


def test_our_own_unreadable_content_is_not_counted_against_the_mail() -> None:
    outcome = failed(Stage.CONTENT, FaultKind.CONTENT_UNREADABLE, "EIO")
    assert gist(outcome) == (Move.DEFER, Scope.MESSAGE)
    assert not outcome.burns_attempt


def test_mail_whose_content_is_lost_waits_for_a_person() -> None:
    outcome = failed(Stage.CONTENT, FaultKind.CONTENT_LOST, "ENOENT")
    assert gist(outcome) == (Move.QUARANTINE, Scope.MESSAGE)
    assert not outcome.burns_attempt


def test_the_reason_names_the_stage_and_the_words_of_the_peer() -> None:
    outcome = answered(Stage.RCPT, reply(550, "5.1.1", "no such user"))
    assert outcome.reason == "the recipient was refused (rcpt): 550 5.1.1 no such user"


def test_an_endless_reply_does_not_make_an_endless_reason() -> None:
    assert len(answered(Stage.RCPT, reply(550, None, "x" * 100_000)).reason) <= verdict.REASON_CHARS_MAX


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("code", [200, 299, 300, 399, 400, 421, 429, 452, 499, 500, 530, 552, 599])
def test_every_reply_has_a_verdict_that_a_delivery_can_follow(stage: Stage, code: int) -> None:
    outcome = answered(stage, reply(code, None, "words"))
    assert outcome.move in MOVES[DeliveryState.ATTEMPTING]
    assert outcome.reason


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("try again in 300 seconds", 300),
        ("Please try again in 5 minutes", 300),
        ("retry after 1 hour", 3600),
        ("Retry-After: 120", 120),
        ("retry-after=7", 7),
        ("come back in 00:05:00", 300),
        ("wait 90s", 90),
        ("greylisted for 60 sec", 60),
        ("try again in at least 10 min.", 600),
        ("try again in 0 seconds", 1),
        ("try again in 999999 hours", verdict.RETRY_AFTER_S_MAX),
    ],
)
def test_the_wait_that_a_peer_asks_for_is_read_and_bounded(text: str, wait_s: float) -> None:
    assert verdict.parse_retry_after(text) == wait_s


@pytest.mark.parametrize(
    "text", ["", "try again later", "after 10 attempts", "in 2026", "for 3 months", "see 4.7.1"]
)
def test_other_numbers_are_not_taken_for_a_wait(text: str) -> None:
    assert verdict.parse_retry_after(text) is None


def test_a_bounce_carries_no_wait() -> None:
    assert answered(Stage.RCPT, reply(550, None, "try again in 300 seconds")).retry_after_s is None


def test_the_manual_shows_every_row_and_names_its_source() -> None:
    page = verdict.render_verdicts()
    rows = verdict.verdict_table()
    assert len(rows) == len(verdict.REPLY_ROWS) + len(verdict.FAULT_ROWS)
    for row in rows:
        assert "| " + " | ".join(row) + " |" in page
        assert row.source
        assert not any("|" in cell for cell in row)
