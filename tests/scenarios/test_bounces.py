"""Senders are told what became of their mail, once, by a notice that comes out like any other mail."""

from __future__ import annotations

import os
import signal
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.policy import default
from typing import cast

import pytest
from tests.scenarios.relay import Relay, until
from tests.scenarios.upstream import Received, Upstream, always

SENDER = "me@example.org"
THREE = ("first@example.net", "nobody@example.net", "third@example.net")
LETTER = (
    b"From: Me <me@example.org>\r\nTo: list@example.net\r\nSubject: Lunch\r\n"
    b"Message-ID: <lunch@example.org>\r\n\r\nAt noon?\r\n"
)
AT_ONCE = {"gather_seconds": 0}


def notices_at(upstream: Upstream) -> list[Received]:
    return [received for received in upstream.delivered if received.reverse_path == ""]


def the_notice(upstream: Upstream) -> Received:
    until(lambda: notices_at(upstream), "a notice comes out")
    [notice] = notices_at(upstream)
    return notice


def parsed(notice: Received) -> EmailMessage:
    return cast(EmailMessage, message_from_bytes(notice.content, policy=default))


def report_of(notice: Received) -> list[Message]:
    """The blocks of fields: of the message, then of each recipient."""
    parts = list(parsed(notice).iter_parts())
    return cast(list[Message], parts[1].get_payload())


def send(relay: Relay, *recipients: tuple[str, list[str]], options: tuple[str, ...] = ()) -> str:
    """A message with these recipients and their parameters; the id that it was accepted with."""
    with relay.client() as client:
        client.mail(SENDER, list(options))
        for address, parameters in recipients:
            code, text = client.rcpt(address, parameters)
            assert code == 250, (code, text)
        code, text = client.data(LETTER)
    assert code == 250, (code, text)
    return text.decode().split()[-1]


def test_one_of_three_is_refused(relay: Relay, upstream: Upstream) -> None:
    upstream.script = always("RCPT", "550 5.1.1 No such user here", containing="nobody")
    relay.configure(upstream.table(), bounce=AT_ONCE).start()
    message_id = send(
        relay,
        (THREE[0], []),
        (THREE[1], ["ORCPT=rfc822;nobody+40example.net"]),
        (THREE[2], []),
        options=("RET=FULL", "ENVID=lunch-1"),
    )

    notice = the_notice(upstream)
    assert notice.recipients == [SENDER], "it goes to the reverse-path, from the null one"
    letter = parsed(notice)
    assert letter.get_content_type() == "multipart/report"
    assert letter["From"] == "Mail relay <MAILER-DAEMON@relay.test>"
    assert letter["To"] == SENDER
    assert letter["In-Reply-To"] == "<lunch@example.org>"
    about, *recipients = report_of(notice)
    assert about["Original-Envelope-Id"] == "lunch-1"
    assert about["Reporting-MTA"] == "dns; relay.test"
    [block] = recipients
    assert block["Original-Recipient"] == "rfc822; nobody@example.net"
    assert block["Final-Recipient"] == "rfc822; nobody@example.net"
    assert (block["Action"], block["Status"]) == ("failed", "5.1.1")
    assert "No such user here" in block["Diagnostic-Code"]
    original = list(letter.iter_parts())[2]
    assert original.get_content_type() == "message/rfc822"
    [enclosed] = cast(list[EmailMessage], original.get_payload())
    assert enclosed.get_content().splitlines() == ["At noon?"]

    relay.story_in_state(message_id, "partially delivered")
    until(lambda: relay.said("dsn_sent", id=message_id, kind="failure", recipients=1), "it is said")
    assert relay.counted("dsn_sent") == 1


def test_of_a_large_message_the_header_goes_back(relay: Relay, upstream: Upstream) -> None:
    upstream.script = always("RCPT", "550 5.1.1 No such user here", containing="you")
    relay.configure(upstream.table(), bounce=AT_ONCE).start()
    relay.send(b"Subject: Large\r\n\r\n" + (b"x" * 70 + b"\r\n") * 20_000)
    _, _, original = parsed(the_notice(upstream)).iter_parts()
    assert original.get_content_type() == "text/rfc822-headers"
    assert "Subject: Large" in original.get_content()


def test_nobody_is_told_who_asked_not_to_be(relay: Relay, upstream: Upstream) -> None:
    upstream.script = always("RCPT", "550 5.1.1 No such user here", containing="quiet")
    relay.configure(upstream.table(), bounce=AT_ONCE).start()
    quiet = send(relay, ("quiet@example.net", ["NOTIFY=NEVER"]))
    relay.story_in_state(quiet, "bounced")
    # What is told of the second one shows that the first one was passed over.
    send(relay, ("loud-quiet@example.net", ["NOTIFY=FAILURE"]))
    [block] = report_of(the_notice(upstream))[1:]
    assert block["Final-Recipient"] == "rfc822; loud-quiet@example.net"


def test_a_notice_that_is_refused_makes_no_other_one(relay: Relay, upstream: Upstream) -> None:
    upstream.script = always("RCPT", "550 5.1.1 No such user here")
    relay.configure(upstream.table(), bounce=AT_ONCE).start()
    send(relay, ("you@example.net", []))
    [sent] = until(lambda: relay.said("dsn_sent"), "the notice is handed in")
    relay.story_in_state(sent["notice"], "bounced")
    assert relay.counted("dsn_sent") == 1
    assert len(relay.history()) == 2


def test_nobody_is_told_where_it_is_switched_off(relay: Relay, upstream: Upstream) -> None:
    upstream.script = always("RCPT", "550 5.1.1 No such user here", containing="you")
    relay.configure(upstream.table(dsn="authenticated"), bounce=AT_ONCE).start()
    relay.story_in_state(send(relay, ("you@example.net", [])), "bounced")
    relay.configure(upstream.table(dsn="on"), bounce=AT_ONCE).reload()
    second = send(relay, ("you.too@example.net", []))
    until(lambda: notices_at(upstream), "a notice comes out")
    [sent] = relay.said("dsn_sent")
    assert sent["id"] == second


def test_mail_that_expires_is_told(relay: Relay, upstream: Upstream) -> None:
    upstream.script = always("RCPT", "451 4.2.1 Not now", containing="you")
    spool = {"max_age_hours": 0.0005}
    relay.configure(upstream.table(), spool=spool, bounce=AT_ONCE | {"delay_notice_hours": "none"}).start()
    send(relay, ("you@example.net", []))
    [block] = report_of(the_notice(upstream))[1:]
    assert (block["Action"], block["Status"]) == ("failed", "4.4.7")
    assert "Not now" in block["Diagnostic-Code"]


def test_mail_that_waits_for_long_is_told(relay: Relay, upstream: Upstream) -> None:
    upstream.script = always("RCPT", "451 4.2.1 Not now", containing="you")
    relay.configure(upstream.table(), bounce=AT_ONCE | {"delay_notice_hours": 0.0005}).start()
    message_id = send(relay, ("you@example.net", []))
    notice = the_notice(upstream)
    [block] = report_of(notice)[1:]
    assert (block["Action"], block["Status"]) == ("delayed", "4.2.1")
    assert block["Will-Retry-Until"]
    assert list(parsed(notice).iter_parts())[2].get_content_type() == "text/rfc822-headers"

    upstream.script = lambda step, argument, count: None
    relay.story_in_state(message_id, "delivered")
    assert relay.counted("dsn_sent") == 1, "once a recipient"


@pytest.mark.parametrize("role", ["intake", "control"])
def test_a_process_dies_and_the_notice_comes_once(relay: Relay, upstream: Upstream, role: str) -> None:
    upstream.script = always("RCPT", "550 5.1.1 No such user here", containing="you")
    relay.configure(upstream.table(), bounce={"gather_seconds": 1}).start()
    since = relay.mark()
    message_id = send(relay, ("you@example.net", []))
    relay.story_in_state(message_id, "bounced")
    os.kill(relay.pid_of(role), signal.SIGKILL)
    until(lambda: relay.said("child_ready", since=since, role=role), f"{role} is back")
    the_notice(upstream)
    assert relay.stop() == 0
    assert len(notices_at(upstream)) == 1
