"""What a host's words mean where it speaks for the recipient's domain and is nobody's relay."""

from __future__ import annotations

import pytest

from dispatch.mail.delivery import Move
from dispatch.mail.outcome import Outcome, Scope
from dispatch.mail.reply import Reply, reply
from dispatch.mail.report import Fault, FaultKind, Report, Stage
from dispatch.policy.verdict import (
    DIRECT_FAULT_ROWS,
    DIRECT_REPLY_ROWS,
    FAULT_ROWS,
    REPLY_ROWS,
    judge,
    render_verdicts,
)


def answered(stage: Stage, answer: Reply) -> Outcome:
    (outcome,) = judge(Report(stage, (answer,)), direct=True)
    return outcome


def failed(kind: FaultKind, stage: Stage = Stage.CONNECT) -> Outcome:
    (outcome,) = judge(Report(stage, (None,), Fault(kind, "why")), direct=True)
    return outcome


def gist(outcome: Outcome) -> tuple[Move, Scope]:
    return outcome.move, outcome.scope


@pytest.mark.parametrize(
    ("kind", "status"),
    [(FaultKind.NO_DOMAIN, "5.1.2"), (FaultKind.NULL_MX, "5.1.10"), (FaultKind.LOOP, "5.4.6")],
)
def test_a_domain_that_takes_no_mail_is_a_failure_for_good(kind: FaultKind, status: str) -> None:
    outcome = failed(kind)
    assert gist(outcome) == (Move.BOUNCE, Scope.RECIPIENT)
    assert outcome.reason.startswith(f"{status} mail cannot be delivered there")


@pytest.mark.parametrize(
    "kind", [FaultKind.UNRESOLVED, FaultKind.REFUSED, FaultKind.TIMEOUT, FaultKind.TLS, FaultKind.POLICY]
)
def test_a_host_that_cannot_be_used_is_the_trouble_of_its_domain(kind: FaultKind) -> None:
    outcome = failed(kind)
    assert gist(outcome) == (Move.DEFER, Scope.DOMAIN)
    assert outcome.burns_attempt
    assert "relay" not in outcome.reason.partition(":")[0]


def test_what_was_not_tried_because_the_domain_rests_counts_as_no_attempt() -> None:
    fault = Fault(FaultKind.RESTS, "connection refused", retry_after_s=7.0)
    (outcome,) = judge(Report(Stage.CONNECT, (None,), fault), direct=True)
    assert gist(outcome) == (Move.DEFER, Scope.DOMAIN)
    assert not outcome.burns_attempt
    assert outcome.retry_after_s == 7.0


@pytest.mark.parametrize("code", [421, 450, 521, 554])
def test_a_greeting_that_refuses_is_the_trouble_of_the_domain(code: int) -> None:
    outcome = answered(Stage.GREETING, reply(code, None, "go away"))
    assert outcome.move is Move.DEFER
    assert outcome.scope is not Scope.RELAY


@pytest.mark.parametrize("answer", [reply(550, "5.7.1", "relaying denied"), reply(530, "5.7.0", "log in")])
def test_who_is_asked_for_credentials_by_a_stranger_is_refused(answer: Reply) -> None:
    """A smart host would say that of our own credentials, and the mail would wait for them."""
    assert gist(answered(Stage.RCPT, answer)) == (Move.BOUNCE, Scope.RECIPIENT)
    assert gist(answered(Stage.MAIL, answer)) == (Move.BOUNCE, Scope.MESSAGE)
    assert judge(Report(Stage.RCPT, (reply(530, "5.7.0", "log in"),)))[0].move is Move.DEFER


def test_what_a_host_says_of_mail_is_what_a_smart_host_says() -> None:
    for stage, answer in (
        (Stage.RCPT, reply(550, "5.1.1", "unknown")),
        (Stage.RCPT, reply(450, "4.7.1", "greylisted")),
        (Stage.END_OF_DATA, reply(250, None, "taken")),
        (Stage.END_OF_DATA, reply(554, "5.6.0", "spam")),
    ):
        assert answered(stage, answer) == judge(Report(stage, (answer,)))[0]
    lost = Report(Stage.END_OF_DATA, (None,), Fault(FaultKind.DROPPED, "gone"))
    assert judge(lost, direct=True) == judge(lost)


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("kind", list(FaultKind))
def test_nothing_is_ever_the_trouble_of_the_relay(stage: Stage, kind: FaultKind) -> None:
    assert failed(kind, stage).scope is not Scope.RELAY


def test_the_manual_has_the_rows() -> None:
    page = render_verdicts()
    assert page.index("## Direct delivery") > page.index("## No reply")
    rows = sum(map(len, (REPLY_ROWS, FAULT_ROWS, DIRECT_REPLY_ROWS, DIRECT_FAULT_ROWS)))
    assert page.count("\n| ") - page.count("\n| at |") == rows
