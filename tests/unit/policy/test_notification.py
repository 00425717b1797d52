"""Who is told what became of a message: NOTIFY, the relay's policy, and what each final state means."""

from __future__ import annotations

import msgspec
import pytest

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import new_message_id
from dispatch.mail.message import Message, Origin, Summary
from dispatch.mail.reply import reply
from dispatch.policy.notification import (
    RECIPIENTS_PER_NOTICE_MAX,
    DsnRules,
    NoticeKind,
    Standing,
    Told,
    asked_for,
    delay_due,
    gathered,
    notice_for,
    notice_id,
    notices_for,
)

S = DeliveryState
NOW_MS = 1_800_000_000_000
RULES = DsnRules("relay.example.org", "mailer-daemon@relay.example.org", "on")
NO_SUCH_USER = reply(550, "5.1.1", "no such user")
LATER = reply(451, "4.3.2", "come back later")


def message(
    notify: str | None = None, *, recipients: int = 1, reverse_path: str = "alice@example.org", **origin: str
) -> Message:
    return Message(
        new_message_id(NOW_MS, bytes(10)),
        NOW_MS,
        Envelope(
            reverse_path,
            tuple(
                Recipient(f"bob{n}@example.net", notify, f"rfc822;Bob{n}@example.net")
                for n in range(recipients)
            ),
            ret="HDRS",
            envid="QQ1",
        ),
        Origin("smtp", "192.0.2.9", **origin),
        Summary("Lunch", message_id="<m1@example.org>"),
        4096,
    )


def standing(state: DeliveryState, index: int = 0, **more: object) -> Standing:
    return msgspec.structs.replace(Standing(index, state, NOW_MS, "smart"), **more)


def told(notify: str | None, one: Standing) -> Told | None:
    found = notices_for(message(notify), [one], RULES)
    assert len(found) <= 1
    return found[0] if found else None


def bounced(index: int = 0, **more: object) -> Standing:
    return standing(S.BOUNCED, index, reply=NO_SUCH_USER, peer="192.0.2.1:25", **more)


# ---------------------------------------------------------------- NOTIFY


FAILURE, DELAY, SUCCESS = NoticeKind.FAILURE, NoticeKind.DELAY, NoticeKind.SUCCESS


@pytest.mark.parametrize(
    ("notify", "kinds"),
    [
        (None, {FAILURE, DELAY}),
        ("NEVER", set()),
        ("FAILURE", {FAILURE}),
        ("DELAY", {DELAY}),
        ("SUCCESS", {SUCCESS}),
        ("SUCCESS,FAILURE,DELAY", {SUCCESS, FAILURE, DELAY}),
    ],
)
def test_a_sender_is_told_what_notify_asks_for_and_nothing_else(
    notify: str | None, kinds: set[NoticeKind]
) -> None:
    assert asked_for(notify) == kinds
    seen = {
        found.kind
        for one in (bounced(), standing(S.WAITING, reply=LATER), standing(S.DELIVERED))
        if (found := told(notify, one))
    }
    assert seen == kinds


def test_each_recipient_is_asked_for_by_itself() -> None:
    mail = message(recipients=3)
    never = msgspec.structs.replace(mail.envelope.recipients[1], notify="NEVER")
    recipients = (mail.envelope.recipients[0], never, mail.envelope.recipients[2])
    mail = msgspec.structs.replace(
        mail, envelope=msgspec.structs.replace(mail.envelope, recipients=recipients)
    )
    assert [one.index for one in notices_for(mail, [bounced(n) for n in range(3)], RULES)] == [0, 2]


def test_the_null_reverse_path_is_told_nothing() -> None:
    mail = message("SUCCESS,FAILURE,DELAY", reverse_path="", login="alice")
    assert notices_for(mail, [bounced(), standing(S.DELIVERED)], RULES) == ()


@pytest.mark.parametrize(
    ("policy", "login", "tells"),
    [
        ("on", None, True),
        ("on", "alice", True),
        ("off", "alice", False),
        ("authenticated", None, False),
        ("authenticated", "alice", True),
    ],
)
def test_the_policy_of_the_relay_has_the_last_word(policy: str, login: str | None, tells: bool) -> None:
    mail = message("FAILURE", login=login) if login else message("FAILURE")
    other = "off" if tells else "on"
    rules = msgspec.structs.replace(RULES, default_policy=other, policies={"smart": policy})
    assert bool(notices_for(mail, [bounced()], rules)) is tells
    default = msgspec.structs.replace(RULES, default_policy=policy, policies={"other": other})
    assert bool(notices_for(mail, [bounced()], default)) is tells


def test_a_stranger_gets_no_notice_unless_the_operator_says_so() -> None:
    assert notices_for(message(), [bounced()], DsnRules("relay", "daemon@relay")) == ()


# ---------------------------------------------------------------- what is told


def test_a_bounce_is_told_with_the_words_and_the_host_that_refused() -> None:
    found = told(None, bounced())
    assert found is not None
    recipient = found.recipient
    assert (recipient.address, recipient.original) == ("bob0@example.net", "rfc822;Bob0@example.net")
    assert (recipient.action, recipient.status, recipient.reply) == ("failed", "5.1.1", NO_SUCH_USER)
    assert recipient.remote_mta == "[192.0.2.1]"
    assert recipient.last_attempt_ms == NOW_MS
    assert recipient.will_retry_until_ms is None


def test_a_peer_with_an_ipv6_address_is_named_as_a_literal() -> None:
    found = told(None, standing(S.BOUNCED, reply=NO_SUCH_USER, peer="[2001:db8::1]:25"))
    assert found is not None
    assert found.recipient.remote_mta == "[IPv6:2001:db8::1]"


@pytest.mark.parametrize(
    ("enhanced", "status"),
    [("5.7.1", "5.7.1"), (None, "5.0.0"), ("4.7.1", "5.0.0"), ("5.x", "5.0.0"), ("2.0.0", "5.0.0")],
)
def test_a_status_is_the_enhanced_code_or_the_class_of_the_reply(enhanced: str | None, status: str) -> None:
    found = told(None, standing(S.BOUNCED, reply=reply(554, enhanced, "no")))
    assert found is not None
    assert found.recipient.status == status


def test_mail_that_no_host_was_asked_about_bounces_with_the_status_it_would_have_got() -> None:
    found = told(None, standing(S.BOUNCED, reason="5.6.7 the relay cannot take this message (mail): …"))
    assert found is not None
    assert found.recipient.status == "5.6.7"
    assert found.recipient.reply is None


def test_mail_that_an_operator_returned_says_so_and_repeats_none_of_their_words() -> None:
    found = told(None, standing(S.BOUNCED, by="operator", reason="5.1.1 that idiot again"))
    assert found is not None
    assert found.recipient.status == "5.0.0"
    assert "administrator" in found.recipient.explanation
    assert "idiot" not in repr(found)


def test_expired_mail_failed_for_its_age_and_the_last_answer_explains_it() -> None:
    found = told(None, standing(S.EXPIRED, reply=LATER, peer="192.0.2.1:25"))
    assert found is not None
    assert (found.kind, found.recipient.action, found.recipient.status) == (FAILURE, "failed", "4.4.7")
    assert found.recipient.reply == LATER


@pytest.mark.parametrize("state", [S.EXPIRED, S.WAITING])
def test_what_the_relay_said_of_our_credentials_is_not_the_senders_business(state: DeliveryState) -> None:
    found = told(None, standing(state, reply=reply(535, "5.7.8", "bad password for relay7")))
    assert found is not None
    assert found.recipient.reply is None
    assert found.recipient.status.startswith("4.4.")
    assert found.recipient.remote_mta == ""


def test_mail_given_up_because_its_reply_was_lost_may_have_arrived_and_the_words_say_so() -> None:
    found = told(None, standing(S.GAVE_UP, by="uncertain policy"))
    assert found is not None
    assert (found.kind, found.recipient.action, found.recipient.status) == (FAILURE, "failed", "4.4.2")
    assert "may have arrived" in found.recipient.explanation


def test_mail_to_a_suppressed_address_was_accepted_and_so_its_sender_is_told() -> None:
    found = told(None, standing(S.SUPPRESSED))
    assert found is not None
    assert (found.recipient.action, found.recipient.status) == ("failed", "5.7.1")


@pytest.mark.parametrize(
    "state",
    [S.CAPTURED, S.CANCELLED, S.DISCARDED, S.HELD, S.QUARANTINED, S.ATTEMPTING, S.UNCERTAIN],
)
def test_nothing_is_told_of_what_was_meant_to_be_quiet_or_is_not_decided(state: DeliveryState) -> None:
    assert told("SUCCESS,FAILURE,DELAY", standing(state, reply=NO_SUCH_USER)) is None


def test_success_is_told_only_where_nobody_after_us_will() -> None:
    accepted = reply(250, "2.0.0", "queued as 1")
    found = told("SUCCESS", standing(S.DELIVERED, reply=accepted, peer="192.0.2.1:25"))
    assert found is not None
    assert (found.recipient.action, found.recipient.status) == ("relayed", "2.0.0")
    assert found.recipient.remote_mta == "[192.0.2.1]"
    assert told("SUCCESS", standing(S.DELIVERED, reply=accepted, dsn_passed_on=True)) is None


def test_a_delay_says_how_long_it_will_be_tried() -> None:
    found = told(None, standing(S.WAITING, reply=LATER, retry_until_ms=NOW_MS + 1))
    assert found is not None
    assert (found.kind, found.recipient.action, found.recipient.status) == (DELAY, "delayed", "4.3.2")
    assert found.recipient.will_retry_until_ms == NOW_MS + 1


# ---------------------------------------------------------------- when


def test_a_delay_is_told_once_and_after_its_time() -> None:
    since_ms = NOW_MS - 3_600_000
    assert delay_due(since_ms, None, NOW_MS, 3600)
    assert not delay_due(since_ms, None, NOW_MS - 1, 3600)
    assert not delay_due(since_ms, NOW_MS - 1, NOW_MS, 3600), "told already"
    assert not delay_due(since_ms, None, NOW_MS, None), "switched off"
    assert not delay_due(NOW_MS + 1, None, NOW_MS, 0), "a clock that jumped back delays nothing"


def pending(index: int, at_ms: int = NOW_MS, mail: Message | None = None) -> Told:
    return notices_for(mail or message(recipients=300), [bounced(index, at_ms=at_ms)], RULES)[0]


def test_recipients_who_failed_close_together_share_a_notice() -> None:
    first, second = pending(1), pending(0, NOW_MS + 59_000)
    assert gathered([first], NOW_MS + 59_999, 60) == ()
    assert gathered([first, second], NOW_MS + 60_000, 60) == ((second, first),)


def test_messages_and_kinds_have_notices_of_their_own() -> None:
    mail = message(recipients=2)
    other = msgspec.structs.replace(mail, id=new_message_id(NOW_MS, b"another id"))
    late = notices_for(mail, [standing(S.WAITING, 1)], RULES)[0]
    groups = gathered([pending(0, mail=mail), late, pending(0, mail=other)], NOW_MS + 60_000, 60)
    assert [(group[0].message_id, group[0].kind) for group in groups] == [
        (mail.id, FAILURE),
        (mail.id, DELAY),
        (other.id, FAILURE),
    ]


def test_a_clock_that_jumped_back_holds_no_notice() -> None:
    one = pending(0)
    assert gathered([one], NOW_MS - 86_400_000, 60) == ((one,),)


def test_a_crowd_of_recipients_gets_several_notices_of_bounded_length() -> None:
    groups = gathered([pending(index) for index in range(250)], NOW_MS + 60_000, 60)
    assert [len(group) for group in groups] == [RECIPIENTS_PER_NOTICE_MAX, RECIPIENTS_PER_NOTICE_MAX, 50]
    assert len({notice_id(group) for group in groups}) == 3


def test_the_same_is_told_under_the_same_id_and_a_second_failure_under_another() -> None:
    one, other = pending(0), pending(1)
    assert notice_id([one, other]) == notice_id([other, one]) == notice_id([pending(0), pending(1)])
    assert notice_id([one]) != notice_id([one, other])
    assert notice_id([one]) != notice_id([pending(0, NOW_MS + 5)])
    assert one.key == pending(0).key != pending(0, NOW_MS + 5).key


def test_a_notice_has_what_envelope_and_header_said() -> None:
    mail = message()
    one = pending(0, mail=mail)
    made = notice_for(mail, [one], RULES, NOW_MS + 7)
    assert made.id == notice_id([one])
    assert (made.at_ms, made.arrival_ms, made.size_bytes) == (NOW_MS + 7, NOW_MS, 4096)
    assert (made.to, made.sender) == ("alice@example.org", "mailer-daemon@relay.example.org")
    assert (made.envid, made.ret) == ("QQ1", "HDRS")
    assert (made.subject, made.message_id) == ("Lunch", "<m1@example.org>")
    assert made.recipients == (one.recipient,)
