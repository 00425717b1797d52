"""Which submissions are refused, in which order, and what the client is told."""

from typing import Any, get_args

import pytest

from dispatch.policy.admission import (
    RateLimits,
    Refusal,
    RefusalKind,
    refuse_auth,
    refuse_connection,
    refuse_content,
    refuse_mail,
    refuse_named_relay,
    refuse_rcpt,
    refuse_undurable,
)
from dispatch.policy.limits import Bucket, Limits, parse_rates
from dispatch.policy.logins import AddressList, LoginRules
from dispatch.policy.routing import Action, Route
from dispatch.policy.verdict import parse_retry_after

NOW_S = 1000.0
PRINTER = LoginRules(
    "printer",
    allowed_senders=AddressList.parse(["printer@example.org"]),
    allowed_recipients=AddressList.parse(["example.org", "example.com"]),
)
ROAMER = LoginRules("roamer", from_anywhere=True)
REFUSING = Route((), "no-spam", "the rule 'no-spam' refuses it", Action.REFUSE, reply="Not by this way")


def connection(**facts: int) -> Refusal | None:
    usual = {
        "connections": 1000,
        "connections_max": 1000,
        "connections_from_address": 100,
        "connections_per_ip_max": 100,
    }
    return refuse_connection(**(usual | facts))


def mail(**facts: Any) -> Refusal | None:
    usual: dict[str, Any] = {
        "disk_suspended": False,
        "source_allowed": True,
        "allow_list_empty": False,
        "client_address": "203.0.113.9",
        "declared_size_bytes": None,
        "size_bytes_max": 1000,
    }
    return refuse_mail(**(usual | facts))


def rcpt(**facts: Any) -> Refusal | None:
    usual: dict[str, Any] = {"recipients": 1000, "recipients_max": 1000, "declared_size_bytes": None}
    return refuse_rcpt(**(usual | facts))


def content(**facts: Any) -> Refusal | None:
    usual: dict[str, Any] = {
        "size_bytes": 1000,
        "size_bytes_max": 1000,
        "received_count": 30,
        "received_max": 30,
        "own_received_count": 2,
        "own_received_max": 2,
    }
    return refuse_content(**(usual | facts))


def auth(**facts: Any) -> Refusal | None:
    return refuse_auth(**({"client_address": "203.0.113.9", "user": "printer"} | facts))


def told(refusal: Refusal | None) -> str:
    assert refusal is not None
    assert refusal.reason
    return f"{refusal.reply.code} {refusal.reply.enhanced}"


def test_what_reaches_every_limit_is_let_in() -> None:
    assert connection() is None
    assert mail(declared_size_bytes=1000) is None
    assert rcpt(declared_size_bytes=1000, relay="smarthost", relay_size_bytes_max=1000) is None
    assert content(relay="smarthost", relay_size_bytes_max=1000) is None


@pytest.mark.parametrize("facts", [{"connections": 1001}, {"connections_from_address": 101}])
def test_a_connection_too_many_is_refused(facts: dict[str, int]) -> None:
    assert told(connection(**facts)) == "421 4.7.0"


def test_a_suspended_disk_refuses_for_now_before_anything_else() -> None:
    refusal = mail(disk_suspended=True, source_allowed=False, declared_size_bytes=10**9)
    assert told(refusal) == "452 4.3.1"


def test_a_source_outside_the_list_is_told_what_to_change() -> None:
    refusal = mail(source_allowed=False, declared_size_bytes=10**9)
    assert told(refusal) == "550 5.7.1"
    assert refusal is not None
    assert refusal.kind == "denied"
    assert "203.0.113.9" in refusal.reply.text
    assert "listener.allowed_cidrs" in refusal.reply.text


def test_an_empty_list_says_that_no_source_is_allowed_yet() -> None:
    refusal = mail(source_allowed=False, allow_list_empty=True)
    assert told(refusal) == "550 5.7.1"
    assert refusal is not None
    assert "no source is allowed yet" in refusal.reply.text
    assert "0.0.0.0/0, ::/0" in refusal.reason


def test_a_declared_size_above_the_ceiling_is_refused_at_mail() -> None:
    assert told(mail(declared_size_bytes=1001)) == "552 5.3.4"


@pytest.mark.parametrize("ceiling", [None, 0])
def test_no_ceiling_takes_any_size(ceiling: int | None) -> None:
    assert mail(declared_size_bytes=10**12, size_bytes_max=ceiling) is None
    assert content(size_bytes=10**12, size_bytes_max=ceiling, relay_size_bytes_max=ceiling) is None


def test_a_size_that_no_relay_takes_is_refused_at_rcpt_naming_relay_and_limit() -> None:
    refusal = rcpt(declared_size_bytes=1001, relay="smarthost", relay_size_bytes_max=1000)
    assert told(refusal) == "552 5.3.4"
    assert refusal is not None
    assert "smarthost" in refusal.reply.text
    assert "1000" in refusal.reply.text


def test_a_recipient_too_many_is_refused_for_now() -> None:
    assert told(rcpt(recipients=1001)) == "452 4.5.3"


def test_a_client_that_lied_about_the_size_is_refused_after_the_end_of_data() -> None:
    assert told(content(size_bytes=1001)) == "552 5.3.4"
    assert told(content(relay="smarthost", relay_size_bytes_max=999)) == "552 5.3.4"


@pytest.mark.parametrize("facts", [{"received_count": 31}, {"own_received_count": 3}])
def test_mail_that_goes_in_circles_is_refused(facts: dict[str, int]) -> None:
    refusal = content(**facts)
    assert told(refusal) == "554 5.4.6"
    assert refusal is not None
    assert refusal.kind == "loop"


def test_what_the_spool_cannot_keep_is_refused_for_now() -> None:
    assert told(refuse_undurable(full=True)) == "452 4.3.1"
    assert told(refuse_undurable(full=False)) == "451 4.3.0"


# ---------------------------------------------------------------- the whole table, in its order

AUTH_ROWS: list[tuple[dict[str, Any], str, RefusalKind]] = [
    ({"locked_s": 59.2}, "454 4.7.0", "lockout"),
    ({"busy": True}, "454 4.7.0", "logins_busy"),
]
MAIL_ROWS: list[tuple[dict[str, Any], str, RefusalKind]] = [
    ({"disk_suspended": True}, "452 4.3.1", "disk"),
    ({"source_allowed": False}, "550 5.7.1", "denied"),
    ({"login": PRINTER, "login_source_allowed": False}, "550 5.7.1", "login_source"),
    ({"login_required": True, "login": None}, "530 5.7.0", "unauthenticated"),
    ({"declared_size_bytes": 1001}, "552 5.3.4", "size"),
    ({"login": PRINTER, "reverse_path": "boss@example.org"}, "553 5.7.1", "sender"),
]
RCPT_ROWS: list[tuple[dict[str, Any], str, RefusalKind]] = [
    ({"allowed_recipients": AddressList.parse(["example.org"])}, "550 5.7.1", "recipient"),
    ({"login": PRINTER}, "550 5.7.1", "recipient"),
    ({"suppressed": True}, "550 5.1.1", "suppressed"),
    ({"refused_by": REFUSING}, "550 5.7.1", "rule"),
    ({"declared_size_bytes": 1001, "relay_size_bytes_max": 1000}, "552 5.3.4", "relay_size"),
    ({"recipients": 1001}, "452 4.5.3", "recipients"),
]


def row_of_rcpt(**facts: Any) -> Refusal | None:
    return rcpt(**({"recipient": "someone@example.net", "relay": "smarthost"} | facts))


ROWS = [
    *((auth, *row) for row in AUTH_ROWS),
    *((mail, *row) for row in MAIL_ROWS),
    *((row_of_rcpt, *row) for row in RCPT_ROWS),
]


@pytest.mark.parametrize(
    ("moment", "facts", "answer", "kind"), ROWS, ids=[f"{place}-{row[3]}" for place, row in enumerate(ROWS)]
)
def test_each_row_of_the_table(moment: Any, facts: dict[str, Any], answer: str, kind: str) -> None:
    assert moment() is None, "nothing else is wrong"
    refusal = moment(**facts)
    assert told(refusal) == answer
    assert refusal.kind == kind
    assert refusal.reason != refusal.reply.text
    assert "@" not in refusal.reason


@pytest.mark.parametrize(
    ("moment", "rows"),
    [(auth, AUTH_ROWS), (mail, MAIL_ROWS), (row_of_rcpt, RCPT_ROWS)],
    ids=["AUTH", "MAIL", "RCPT"],
)
def test_the_first_check_that_fails_is_the_answer(moment: Any, rows: Any) -> None:
    for first, (facts, answer, kind) in enumerate(rows):
        for later, *_ in rows[first + 1 :]:
            # Of two rows that set the same fact, the earlier one is the one to fail.
            refusal = moment(**(later | facts))
            assert (told(refusal), refusal.kind) == (answer, kind), f"{facts} and {later}"


def test_everything_is_wrong_with_a_client_and_it_is_told_one_thing_after_the_other() -> None:
    wrong: dict[str, Any] = {
        "disk_suspended": True,
        "source_allowed": False,
        "login_required": True,
        "declared_size_bytes": 1001,
        "reverse_path": "boss@example.org",
    }
    kinds = []
    for mended in (
        {"disk_suspended": False},
        {"login": PRINTER, "login_source_allowed": False, "source_allowed": True},
        {"login_source_allowed": True},
        {"declared_size_bytes": 1000},
        {"reverse_path": "printer@example.org"},
    ):
        refusal = mail(**wrong)
        assert refusal is not None
        kinds.append(refusal.kind)
        wrong |= mended
    assert kinds == ["disk", "denied", "login_source", "size", "sender"]
    assert mail(**wrong) is None


def test_closed_doors_let_nobody_in_however_few_there_are() -> None:
    assert told(connection(connections=1, connections_from_address=1, closed=True)) == "421 4.3.2"


def test_every_kind_has_a_row() -> None:
    asked = {row[3] for row in ROWS}
    elsewhere = {"closed", "connections", "connections_per_address", "login", "loop", "newline", "relay"}
    elsewhere |= {"rate_address", "rate_login", "rate_global", "spool", "protocol"}
    assert set(get_args(RefusalKind)) == asked | elsewhere


# ---------------------------------------------------------------- logins


def test_a_lock_names_its_wait_and_not_the_user() -> None:
    refusal = auth(locked_s=59.2)
    assert refusal is not None
    assert parse_retry_after(refusal.reply.text) == 60.0
    assert "printer" not in refusal.reply.text
    assert "203.0.113.9" in refusal.reason
    assert "printer" in refusal.reason


def test_a_user_name_cannot_forge_the_log() -> None:
    refusal = auth(user="x\r\n250 OK\x1b[2J", locked_s=1.0)
    assert refusal is not None
    assert refusal.reason.isprintable()


@pytest.mark.parametrize("allow_list_empty", [False, True])
def test_a_login_that_may_come_from_anywhere_needs_no_listed_source(allow_list_empty: bool) -> None:
    outside = {"source_allowed": False, "allow_list_empty": allow_list_empty}
    assert mail(login=ROAMER, **outside) is None
    for login in (PRINTER, None):
        refusal = mail(login=login, **outside)
        assert refusal is not None
        assert refusal.kind == "denied"


def test_a_listed_source_does_not_help_a_login_that_is_kept_to_others() -> None:
    refusal = mail(login=ROAMER, login_source_allowed=False)
    assert refusal is not None
    assert refusal.kind == "login_source"
    assert "203.0.113.9" in refusal.reply.text
    assert "roamer" in refusal.reason
    assert mail(login=None, login_source_allowed=False) is None, "nobody's sources"


def test_who_has_logged_in_need_not_do_it_again() -> None:
    assert mail(login_required=True, login=ROAMER) is None


def test_a_notification_passes_whatever_senders_a_login_is_kept_to() -> None:
    assert mail(login=PRINTER, reverse_path="") is None
    assert mail(login=PRINTER, reverse_path="printer@example.org") is None


def test_listener_and_login_must_both_allow_a_recipient() -> None:
    listed = AddressList.parse(["example.org", "example.net"])
    for recipient, allowed in (("a@example.org", True), ("a@example.com", False), ("a@example.net", False)):
        refusal = rcpt(recipient=recipient, allowed_recipients=listed, login=PRINTER)
        assert (refusal is None) is allowed
    by_login = rcpt(recipient="a@example.net", allowed_recipients=listed, login=PRINTER)
    assert by_login is not None
    assert "printer" in by_login.reason
    assert "printer" not in by_login.reply.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Not by this way", "Not by this way"),
        ("two\r\nlines", "two  lines"),
        ("", "This mail is not taken here"),
    ],
)
def test_a_rule_refuses_in_its_own_words(text: str, said: str) -> None:
    refusal = rcpt(refused_by=Route((), "no-spam", None, Action.REFUSE, reply=text))
    assert refusal is not None
    assert refusal.reply.lines == (said,)
    assert "no-spam" in refusal.reason


# ---------------------------------------------------------------- rates


def rate_limits(address: str = "none", login: str = "none", everyone: str = "none") -> RateLimits:
    return RateLimits(Limits(parse_rates(address)), Limits(parse_rates(login)), Bucket(parse_rates(everyone)))


def kind_of(refusal: Refusal | None) -> str | None:
    return refusal.kind if refusal else None


@pytest.mark.parametrize(
    ("rates", "kind"),
    [
        ({"address": "2/minute", "login": "2/minute", "everyone": "2/minute"}, "rate_address"),
        ({"login": "2/minute", "everyone": "2/minute"}, "rate_login"),
        ({"everyone": "2/minute"}, "rate_global"),
    ],
)
def test_who_sends_too_fast_is_told_when_to_come_back(rates: dict[str, str], kind: str) -> None:
    limits = rate_limits(**rates)
    assert limits.refuse(NOW_S, "203.0.113.9", ROAMER) is None
    assert limits.refuse(NOW_S, "203.0.113.9", ROAMER) is None
    refusal = limits.refuse(NOW_S, "203.0.113.9", ROAMER)
    assert told(refusal) == "451 4.7.1"
    assert refusal is not None
    assert refusal.kind == kind
    wait_s = parse_retry_after(refusal.reply.text)
    assert wait_s == 31.0
    assert "2/minute" in refusal.reason
    assert limits.refuse(NOW_S + wait_s, "203.0.113.9", ROAMER) is None


def test_what_one_rate_refuses_the_others_do_not_count() -> None:
    limits = rate_limits(address="10/day", login="10/day", everyone="1/second")
    kinds = [kind_of(limits.refuse(NOW_S, "203.0.113.9", ROAMER)) for _ in range(50)]
    assert kinds == [None] + ["rate_global"] * 49
    kinds = [kind_of(limits.refuse(NOW_S + second, "203.0.113.9", ROAMER)) for second in range(1, 11)]
    assert kinds == [None] * 9 + ["rate_address"]


def test_a_login_has_its_rate_wherever_it_comes_from() -> None:
    limits = rate_limits(login="1/minute")
    assert limits.refuse(NOW_S, "203.0.113.9", ROAMER) is None
    assert kind_of(limits.refuse(NOW_S, "198.51.100.7", ROAMER)) == "rate_login"
    assert limits.refuse(NOW_S, "203.0.113.9", PRINTER) is None
    assert limits.refuse(NOW_S, "203.0.113.9") is None


def test_a_login_s_own_rate_goes_before_that_of_all_logins() -> None:
    limits = rate_limits(login="1/minute")
    generous = LoginRules("bulk", rates=parse_rates("3/minute"))
    unlimited = LoginRules("gateway", rates=())
    kinds = [kind_of(limits.refuse(NOW_S, "203.0.113.9", generous)) for _ in range(4)]
    assert kinds == [None, None, None, "rate_login"]
    assert not any(limits.refuse(NOW_S, "203.0.113.9", unlimited) for _ in range(10))


def test_addresses_of_one_ipv6_customer_share_their_rate() -> None:
    limits = rate_limits(address="1/minute")
    assert limits.refuse(NOW_S, "2001:db8:1:2::1") is None
    assert kind_of(limits.refuse(NOW_S, "2001:db8:1:2::2")) == "rate_address"
    assert limits.refuse(NOW_S, "2001:db8:1:3::1") is None


def test_a_message_that_came_to_nothing_is_not_counted() -> None:
    limits = rate_limits(address="1/day", login="1/day", everyone="1/day")
    for _ in range(5):
        assert limits.refuse(NOW_S, "2001:db8::1", ROAMER) is None
        limits.give_back("2001:db8::1", ROAMER)
    assert limits.refuse(NOW_S, "2001:db8::1", ROAMER) is None
    assert kind_of(limits.refuse(NOW_S, "2001:db8::1", ROAMER)) == "rate_address"


RELAYS = {"smarthost": True, "bulk": False}


@pytest.mark.parametrize("named", [(), ("smarthost",)])
def test_a_relay_that_is_there_may_be_named(named: tuple[str, ...]) -> None:
    assert refuse_named_relay(named, RELAYS) is None


@pytest.mark.parametrize(
    ("named", "answer"),
    [
        (("gone",), "554 5.4.4"),
        (("Smarthost",), "554 5.4.4"),
        (("",), "554 5.4.4"),
        (("bulk",), "451 4.4.4"),
        (("smarthost", "bulk"), "554 5.6.0"),
    ],
)
def test_a_relay_that_cannot_be_used_is_refused_and_never_replaced(
    named: tuple[str, ...], answer: str
) -> None:
    refusal = refuse_named_relay(named, RELAYS)
    assert told(refusal) == answer
    assert refusal is not None and refusal.kind == "relay"


def test_what_a_stranger_calls_a_relay_is_shown_to_the_operator_and_not_sent_back() -> None:
    refusal = refuse_named_relay(("a\x1b[2J",), RELAYS)
    assert refusal is not None
    assert "\x1b" not in refusal.reason and "[2J" in refusal.reason and "[2J" not in refusal.reply.text
