"""Which submissions are refused, in which order, and what the client is told."""

from typing import Any

import pytest

from dispatch.policy.admission import (
    Refusal,
    refuse_connection,
    refuse_content,
    refuse_mail,
    refuse_rcpt,
    refuse_undurable,
)


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
