"""Two upstreams beside each other: rules say who gets which mail, and the trouble of one stays its own."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator

import pytest
from tests.scenarios.relay import Relay, until
from tests.scenarios.upstream import STALL, Received, Upstream, always, at

from dispatch.security.passwords import hash_password

MESSAGES = 200
LATER = {"retry_delays_seconds": [36_000]}


@pytest.fixture
def other() -> Iterator[Upstream]:
    one = Upstream()
    yield one
    one.close()


def tables(upstream: Upstream, other: Upstream, *rules: str) -> list[str]:
    """Both relays, the first one the default, and rules behind the last of them."""
    last = "\n".join([other.table(name="other"), *(f"[[rules]]\n{rule}" for rule in rules)])
    return [upstream.table(default=True), last]


TO_OTHER = 'name = "elsewhere"\nrecipient = "*.example.com, Example.NET"\nrelays = ["other"]'


def subjects(received: list[Received]) -> set[str]:
    return {each.content.partition(b"\r\n\r\n")[2].decode().strip() for each in received}


def test_a_message_to_two_recipients_is_split_and_each_gets_it_once(
    relay: Relay, upstream: Upstream, other: Upstream
) -> None:
    relay.configure(*tables(upstream, other, TO_OTHER)).start()
    to = ("a@example.org", "b@EXAMPLE.net", "c@example.com", "d@x.y.example.com")
    message_id = relay.send(to=to)
    relay.story_in_state(message_id, "delivered")
    assert [each.recipients for each in upstream.received] == [["a@example.org", "c@example.com"]]
    assert [each.recipients for each in other.received] == [["b@EXAMPLE.net", "d@x.y.example.com"]]
    assert upstream.received[0].content.endswith(b"It works.\r\n")


def test_an_upstream_that_hangs_after_the_data_delays_only_its_own_mail(
    relay: Relay, upstream: Upstream, other: Upstream
) -> None:
    other.script = always("content", STALL)
    relay.configure(*tables(upstream, other, TO_OTHER)).start()
    with relay.client() as client:
        for number in range(MESSAGES):
            content = b"Subject: x\r\n\r\n%d\r\n" % number
            client.sendmail("me@example.org", [f"u{number}@example.org", f"u{number}@example.net"], content)
    until(lambda: len(upstream.delivered) == MESSAGES, "all mail of the one that works has arrived")
    assert subjects(upstream.delivered) == {str(number) for number in range(MESSAGES)}
    assert other.received, "the other has whole messages"
    assert not other.delivered, "and hangs"

    other.script = lambda step, argument, count: None
    other.release()
    until(lambda: len(other.delivered) == MESSAGES, "the rest follows")
    assert subjects(other.delivered) == {str(number) for number in range(MESSAGES)}
    assert all(each.recipients[0].endswith("@example.org") for each in upstream.received)


def test_a_changed_rule_is_for_mail_that_comes_and_not_for_mail_that_waits(
    relay: Relay, upstream: Upstream, other: Upstream
) -> None:
    other.script = always("RCPT", "451 4.3.0 Later")
    relay.configure(*tables(upstream, other, TO_OTHER), spool=LATER).start()
    waiting = relay.send()
    until(lambda: relay.said("retrying"), "it waits for its retry")

    relay.configure(*tables(upstream, other), spool=LATER).reload()
    relay.send(to=("new@example.net",))
    until(lambda: upstream.delivered, "what comes takes the default relay now")
    [row] = relay.queue()
    assert (row["relay"], row["state"]) == ("other", "waiting")
    relay.kill()
    relay.start()
    [row] = relay.queue()
    assert row["relay"] == "other", "a restart does not move it either"

    gone = tables(upstream, other)[0]
    relay.configure(gone, spool=LATER).reload()
    relay.cli("queue", "retry", waiting)
    until(lambda: len(upstream.delivered) == 2, "its relay is gone: a retry follows the rules there are now")
    assert {each.recipients[0] for each in upstream.delivered} == {"new@example.net", "you@example.net"}


def test_what_was_sent_when_delivery_died_goes_to_no_other_relay(
    relay: Relay, upstream: Upstream, other: Upstream
) -> None:
    """Its reply is pending, the rule goes, and then the processes are killed."""
    other.script = at("content", STALL)
    relay.configure(*tables(upstream, other, TO_OTHER)).start()
    message_id = relay.send(to=("b@example.net",))
    until(lambda: other.received, "the other has the whole message, and does not answer")
    relay.configure(*tables(upstream, other)).reload()
    relay.kill()
    relay.start()
    story = relay.story_in_state(message_id, "delivered")
    assert [each["move"] for each in story["timeline"]] == ["lose reply", "retry", "deliver"]
    assert len(other.received) == 2, "the duplicate that the policy accepts"
    assert not upstream.received, "and no failover, which nobody asked for"
    [line] = relay.said("uncertain", id=message_id)
    assert line["relay"] == "other"


def test_a_person_releases_what_a_rule_holds_while_the_rule_stands(
    relay: Relay, upstream: Upstream, other: Upstream
) -> None:
    hold = 'name = "review"\npriority = 1\nrecipient = "example.net"\naction = "hold"'
    relay.configure(*tables(upstream, other, hold, TO_OTHER)).start()
    held = relay.send(to=("b@example.net",))
    kept = relay.send(to=("c@example.net",))
    until(lambda: len(relay.queue("--state", "held")) == 2, "both are held")
    assert relay.json("queue", "release", held)["changed"] == 1
    story = relay.story_in_state(held, "delivered")
    assert [each["move"] for each in story["timeline"]] == ["hold", "release", "deliver"]
    assert [each.recipients for each in other.delivered] == [["b@example.net"]], "as if nothing held it"
    assert [row["id"] for row in relay.queue("--state", "held")] == [kept]
    assert not upstream.received


def test_a_rule_holds_mail_until_it_is_gone_and_a_person_releases_it(
    relay: Relay, upstream: Upstream, other: Upstream
) -> None:
    hold = 'name = "review"\nrecipient = "example.net"\naction = "hold"'
    relay.configure(*tables(upstream, other, hold)).start()
    held = relay.send(to=("a@example.org", "b@example.net"))
    until(lambda: upstream.delivered, "the other recipient's mail is not held")
    [row] = until(lambda: relay.queue("--state", "held"), "it is held")
    assert row["recipient"] == "b@example.net"
    assert row["reason"] == "the rule 'review' holds it"
    relay.configure(*tables(upstream, other, TO_OTHER)).reload()
    relay.cli("queue", "release", held)
    until(lambda: other.delivered, "released, it goes where the rules say now")
    assert other.delivered[0].recipients == ["b@example.net"]


def test_a_login_is_pinned_to_its_relay_and_another_one_names_it(
    relay: Relay, upstream: Upstream, other: Upstream
) -> None:
    password = hash_password("secret", rounds=4)
    logins = [
        f'[[logins]]\nname = "pinned"\npassword = "{password}"\nrelay = "other"',
        f'[[logins]]\nname = "naming"\npassword = "{password}"\nmay_name_relay = true',
    ]
    first, last = tables(upstream, other, 'name = "rest"\nrecipient = "*"\nrelays = ["default"]')
    first = first.replace('name = "upstream"', 'name = "default"')
    relay.configure(first, "\n".join([last, *logins]), listener={"allow_unsecure_auth": True}).start()
    content = b"X-Dispatch-Relay: other\r\nSubject: x\r\n\r\n%s\r\n"
    for login in ("pinned", "naming", None):
        with relay.client() as client:
            if login is not None:
                client.login(login, "secret")
            client.sendmail("me@example.org", ["you@example.net"], content % (login or "nobody").encode())
    until(lambda: len(upstream.delivered) + len(other.delivered) == 3, "all of it has arrived")
    assert subjects(other.delivered) == {"pinned", "naming"}
    assert subjects(upstream.delivered) == {"nobody"}
    assert not any(b"X-Dispatch" in each.content for each in upstream.delivered + other.delivered)

    off = last.replace('name = "other"', 'name = "other"\nenabled = false', 1)
    relay.configure(first, "\n".join([off, *logins]), listener={"allow_unsecure_auth": True}).reload()
    with relay.client() as client:
        client.login("pinned", "secret")
        client.sendmail("me@example.org", ["you@example.net"], content % b"later")
    with relay.client() as client:
        client.login("naming", "secret")
        with pytest.raises(smtplib.SMTPDataError) as refused:
            client.sendmail("me@example.org", ["you@example.net"], content % b"refused")
    assert refused.value.smtp_code == 451
    [row] = until(lambda: relay.queue("--state", "held"), "it is held")
    assert row["reason"] == "the relay 'other' that it must take is disabled or missing"
    assert [line["relay"] for line in relay.said("pin_holds")] == ["other"]
    relay.configure(first, "\n".join([last, *logins]), listener={"allow_unsecure_auth": True}).reload()
    relay.cli("queue", "release", row["id"])
    until(lambda: len(other.delivered) == 3, "released, it takes its relay")


def test_a_copy_reaches_the_archive_once_though_everything_is_killed_meanwhile(
    relay: Relay, upstream: Upstream, other: Upstream
) -> None:
    keep = 'name = "keep"\nrecipient = "*.example, example.net"\nrelays = ["upstream"]\ncopy_to = "other"'
    relay.configure(*tables(upstream, other, keep), spool={"retry_delays_seconds": [2]}).start()
    other.stop()
    kept = relay.send(to=("a@example.net", "b@example.net"))
    relay.send(to=("c@example.org",))
    until(lambda: len(upstream.delivered) == 2, "the mail itself waits for nobody")
    until(lambda: relay.queue("--relay", "other"), "its copies wait")
    assert relay.story(kept)["state"] == "delivered"
    relay.kill()
    other.start()
    relay.start()
    until(lambda: other.delivered, "the archive has them")
    story = until(
        lambda: [s for s in [relay.story(kept)] if s["deliveries"][-1]["state"] == "delivered"], "known"
    )[0]
    told = [(each["address"], each["relay"], each["copy"]) for each in story["deliveries"]]
    assert told == [
        ("a@example.net", "upstream", False),
        ("b@example.net", "upstream", False),
        ("a@example.net", "other", True),
        ("b@example.net", "other", True),
    ]
    assert [sorted(each.recipients) for each in other.delivered] == [["a@example.net", "b@example.net"]]
    assert len(upstream.delivered) == 2 and not relay.queue()
