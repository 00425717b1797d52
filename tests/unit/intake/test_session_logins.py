"""What a client may do that has logged in, and one that has not."""

from __future__ import annotations

from base64 import b64encode

import msgspec
import pytest
from tests.unit.intake.door import HASHED, PASSWORD, ROUTER, Door, HandWire

from dispatch.intake.credentials import KnownLogin
from dispatch.intake.smtp_session import SmtpSession
from dispatch.policy.limits import parse_rates
from dispatch.policy.logins import AddressList, LoginRules
from dispatch.policy.routing import Action, Route
from dispatch.policy.size_limits import NO_LIMITS, SizeLimits
from dispatch.security.networks import Networks
from dispatch.smtp.server import ServerSettings

MESSAGE = b"Subject: hello\r\n\r\nbody\r\n"
TLS = "TLSv1.3 TLS_AES_256_GCM_SHA384"


def plain(user: str, password: str) -> bytes:
    return b"AUTH PLAIN " + b64encode(f"\0{user}\0{password}".encode()) + b"\r\n"


def mail(sender: str = "a@example.org") -> bytes:
    return f"MAIL FROM:<{sender}>\r\n".encode()


def rcpt(recipient: str = "b@example.org") -> bytes:
    return f"RCPT TO:<{recipient}>\r\n".encode()


def know(door: Door, name: str = "app", **rules: object) -> None:
    """A login; `networks`, `tags` and `priority` are its own, the rest are its rules."""
    own = {key: rules.pop(key) for key in ("networks", "tags", "priority") if key in rules}
    door.logins[name] = KnownLogin(LoginRules(name, **rules), HASHED, **own)  # type: ignore[arg-type]


def open_session(
    door: Door, address: str = "192.0.2.1", *, tls: str | None = TLS, **settings: object
) -> tuple[SmtpSession, HandWire]:
    core = ServerSettings(
        "mx.test", size_bytes_max=8 << 20, starttls=True, auth_mechanisms=("PLAIN", "LOGIN"), **settings
    )
    door.desk.rules = msgspec.structs.replace(door.desk.rules, core=core)
    wire = HandWire()
    session = SmtpSession(door.desk, wire, address, tls)
    session.greet()
    session.received(b"EHLO client.test\r\n")
    wire.said = b""
    return session, wire


def say(door: Door, session: SmtpSession, wire: HandWire, *lines: bytes) -> list[str]:
    """What is answered to all of it, once the passwords are checked."""
    session.received(b"".join(lines))
    door.loop.settle()
    return wire.heard()


@pytest.fixture
def door() -> Door:
    door = Door()
    know(door)
    return door


def test_mail_of_a_login_carries_its_name_its_tags_and_how_it_came(door: Door) -> None:
    know(door, tags=("billing", "eu"), priority="bulk")
    session, wire = open_session(door)
    assert say(door, session, wire, plain("App", PASSWORD)) == ["235"]
    content = b"X-Dispatch-Tag: eu\r\nX-Dispatch-Tag: june\r\n" + MESSAGE
    assert say(door, session, wire, mail(), rcpt(), b"DATA\r\n") == ["250", "250", "354"]
    session.received(content + b".\r\n")
    ((message, stored),) = door.log.messages
    assert message.origin.login == "app" and message.origin.tls == TLS
    assert message.summary.tags == ("billing", "eu", "june") and message.priority == "bulk"
    assert b"with ESMTPSA" in stored and b"TLS_AES_256_GCM_SHA384" in stored


def test_a_message_that_says_its_priority_keeps_it(door: Door) -> None:
    know(door, priority="bulk")
    session, wire = open_session(door)
    say(door, session, wire, plain("app", PASSWORD), mail(), rcpt(), b"DATA\r\n")
    session.received(b"X-Dispatch-Priority: high\r\n" + MESSAGE + b".\r\n")
    assert door.log.messages[0][0].priority == "high"


@pytest.mark.parametrize(
    ("user", "password"), [("app", "a guess"), ("nobody", PASSWORD), ("app", PASSWORD + "x")]
)
def test_a_wrong_password_and_an_unknown_user_are_answered_alike(
    door: Door, user: str, password: str
) -> None:
    session, wire = open_session(door)
    session.received(plain(user, password))
    door.loop.settle()
    assert wire.said == b"535 5.7.8 user name or password is wrong\r\n"
    assert door.refusals[-1].kind == "login" and password not in door.refusals[-1].reason


def test_what_is_said_while_a_password_is_checked_is_answered_behind_it(door: Door) -> None:
    session, wire = open_session(door)
    session.received(plain("app", PASSWORD))
    session.received(mail())
    assert wire.heard() == []
    door.loop.settle()
    assert wire.heard() == ["235", "250"]


def test_a_connection_that_ends_while_its_password_is_checked_leaves_nothing(door: Door) -> None:
    session, wire = open_session(door)
    session.received(plain("app", PASSWORD))
    session.lost()
    door.loop.settle()
    assert wire.said == b""


def test_a_drain_does_not_wait_for_passwords(door: Door) -> None:
    session, wire = open_session(door)
    session.received(plain("app", PASSWORD))
    assert wire.heard() == [], "it is being looked at"
    session.drain()
    assert wire.heard() == ["421"] and wire.closed
    door.loop.settle()
    assert wire.heard() == []


def test_who_fails_too_often_is_locked_out_and_mail_without_a_login_goes_on(door: Door) -> None:
    for _ in range(5):
        session, wire = open_session(door)
        assert say(door, session, wire, plain("app", "wrong")) == ["535"]
    session, wire = open_session(door)
    assert say(door, session, wire, plain("app", PASSWORD)) == ["454"]
    assert door.refusals[-1].kind == "lockout"
    assert say(door, session, wire, mail(), rcpt()) == ["250", "250"]
    door.loop.advance(61)
    session, wire = open_session(door)
    assert say(door, session, wire, plain("app", PASSWORD)) == ["235"]


def test_without_tls_no_password_is_taken_unless_that_is_allowed(door: Door) -> None:
    session, wire = open_session(door, tls=None)
    assert say(door, session, wire, plain("app", PASSWORD)) == ["538"]
    session, wire = open_session(door, tls=None, auth_in_clear=True)
    assert say(door, session, wire, plain("app", PASSWORD)) == ["235"]


def test_where_a_login_is_required_nobody_else_may_send(door: Door) -> None:
    door.desk.rules = msgspec.structs.replace(door.desk.rules, login_required=True)
    session, wire = open_session(door)
    assert say(door, session, wire, mail()) == ["530"]
    assert say(door, session, wire, plain("app", PASSWORD), mail()) == ["235", "250"]


def test_a_login_with_networks_of_its_own_may_send_from_there_and_only_there(door: Door) -> None:
    know(door, networks=Networks.parse(["198.51.100.0/24"]))
    session, wire = open_session(door, "198.51.100.7")
    assert say(door, session, wire, mail()) == ["550"], "the listener does not know the place"
    assert say(door, session, wire, plain("app", PASSWORD), mail()) == ["235", "250"]
    session, wire = open_session(door, "192.0.2.1")
    assert say(door, session, wire, plain("app", PASSWORD)) == ["535"]


def test_a_login_does_not_open_the_door_by_itself(door: Door) -> None:
    session, wire = open_session(door, "203.0.113.9")
    assert say(door, session, wire, plain("app", PASSWORD), mail()) == ["235", "550"]


def test_a_login_is_kept_to_its_senders_and_recipients(door: Door) -> None:
    know(
        door,
        allowed_senders=AddressList.parse(["example.org"]),
        allowed_recipients=AddressList.parse(["b@example.org"]),
    )
    session, wire = open_session(door)
    say(door, session, wire, plain("app", PASSWORD))
    assert say(door, session, wire, mail("x@example.net")) == ["553"]
    assert say(door, session, wire, mail(), rcpt("c@example.org"), rcpt()) == ["250", "550", "250"]
    session, wire = open_session(door)
    say(door, session, wire, plain("app", PASSWORD))
    assert say(door, session, wire, b"MAIL FROM:<>\r\n") == ["250"], "notifications have no sender"


def test_a_revoked_login_is_nobody_from_its_next_message_on(door: Door) -> None:
    door.desk.rules = msgspec.structs.replace(door.desk.rules, login_required=True)
    session, wire = open_session(door)
    assert say(door, session, wire, plain("app", PASSWORD), mail(), b"RSET\r\n") == ["235", "250", "250"]
    del door.logins["app"]
    assert say(door, session, wire, mail()) == ["530"]


def test_a_password_that_is_changed_while_it_is_checked_is_wrong(door: Door) -> None:
    session, wire = open_session(door)
    session.received(plain("app", PASSWORD))
    know(door)
    door.logins["app"] = msgspec.structs.replace(door.logins["app"], hashed=HASHED.replace("$04$", "$05$"))
    door.loop.settle()
    assert wire.heard() == ["535"]


def test_rates_count_messages_and_not_what_came_to_nothing(door: Door) -> None:
    know(door, rates=parse_rates("2/minute"))
    session, wire = open_session(door)
    say(door, session, wire, plain("app", PASSWORD))
    for _ in range(5):
        assert say(door, session, wire, mail(), rcpt(), rcpt("c@example.org"), b"RSET\r\n")[1] == "250"
    for _ in range(2):
        assert say(door, session, wire, mail(), rcpt(), rcpt(), b"DATA\r\n") == ["250", "250", "250", "354"]
        session.received(MESSAGE + b".\r\n")
        door.log.answer()
        assert wire.heard() == ["250"]
    assert say(door, session, wire, mail(), rcpt()) == ["250", "451"]
    assert door.refusals[-1].kind == "rate_login"
    door.loop.advance(31)
    assert say(door, session, wire, b"RSET\r\n", mail(), rcpt()) == ["250", "250", "250"]


def test_a_rule_that_refuses_says_so_at_the_recipient(door: Door) -> None:
    door.refusing = Route((), "no-lists", None, Action.REFUSE, reply="no newsletters from here")
    session, wire = open_session(door)
    session.received(mail() + rcpt())
    assert wire.said.endswith(b"550 5.7.1 no newsletters from here\r\n")


def test_after_starttls_all_that_was_said_in_clear_is_forgotten(door: Door) -> None:
    session, wire = open_session(door, tls=None, auth_in_clear=True)
    assert say(door, session, wire, plain("app", PASSWORD), b"STARTTLS\r\n") == ["235", "220"]
    assert wire.handshakes == 1
    session.secured(TLS)
    assert say(door, session, wire, mail()) == ["503"], "it has to say EHLO again"
    assert say(door, session, wire, b"EHLO again.test\r\n", mail(), rcpt(), b"DATA\r\n")[1:] == [
        "250",
        "250",
        "354",
    ]
    session.received(MESSAGE + b".\r\n")
    ((message, _),) = door.log.messages
    assert message.origin.login is None and message.origin.tls == TLS
    assert message.origin.client_name == "again.test"


def test_who_speaks_behind_starttls_is_cut_and_no_handshake_begins(door: Door) -> None:
    session, wire = open_session(door, tls=None)
    session.received(b"STARTTLS\r\n" + mail())
    assert wire.heard() == ["421"] and wire.closed and not wire.handshakes


def test_a_handshake_that_hangs_ends_without_a_word(door: Door) -> None:
    session, wire = open_session(door, tls=None)
    assert say(door, session, wire, b"STARTTLS\r\n") == ["220"]
    session.drain()
    assert not wire.closed, "it is in the middle of something"
    assert session.expire() and wire.closed and wire.said == b""


NAMING = b"X-Dispatch-Relay: bulk\r\n" + MESSAGE


def send(door: Door, content: bytes, **rules: object) -> list[str]:
    """The answer to its end of data, of a login with these rules."""
    know(door, **rules)
    session, wire = open_session(door)
    say(door, session, wire, plain("app", PASSWORD), mail(), rcpt(), b"DATA\r\n")
    session.received(content + b".\r\n")
    if door.log.waiting:
        door.log.answer()
    return wire.heard()


def relays(door: Door, **switched_on: bool) -> None:
    door.acceptance.rules = msgspec.structs.replace(
        door.acceptance.rules, relays=switched_on, sizes=SizeLimits(ROUTER, {"bulk": 1000})
    )


@pytest.mark.parametrize(
    ("rules", "pin"),
    [
        ({}, ""),
        ({"relay": "smarthost"}, "smarthost"),
        ({"may_name_relay": True}, "bulk"),
        ({"relay": "smarthost", "may_name_relay": True}, "bulk"),
    ],
)
def test_a_relay_pin_is_kept_with_the_message(door: Door, rules: dict[str, object], pin: str) -> None:
    relays(door, bulk=True, smarthost=False)
    assert send(door, NAMING, **rules) == ["250"]
    assert door.log.messages[0][0].pin == pin


def test_without_a_login_no_message_names_its_relay(door: Door) -> None:
    relays(door, bulk=True)
    session, wire = open_session(door)
    assert say(door, session, wire, mail(), rcpt(), b"DATA\r\n") == ["250", "250", "354"]
    session.received(NAMING + b".\r\n")
    assert door.log.messages[0][0].pin == ""


@pytest.mark.parametrize(("switched_on", "answer"), [({}, "554"), ({"bulk": False}, "451")])
@pytest.mark.parametrize("body_bytes", [0, 2 << 20], ids=["small", "in a file"])
def test_a_message_that_names_a_relay_that_cannot_be_used_is_not_kept(
    door: Door, switched_on: dict[str, bool], answer: str, body_bytes: int
) -> None:
    relays(door, **switched_on)
    door.acceptance.rules = msgspec.structs.replace(door.acceptance.rules, sizes=NO_LIMITS)
    content = NAMING + b"x" * 78 * (body_bytes // 80) + b"\r\n"
    assert send(door, content, may_name_relay=True) == [answer]
    door.loop.settle()
    assert door.refusals[-1].kind == "relay" and not door.log.records and not door.files


def test_the_limit_of_a_pinned_relay_counts_and_of_no_other(door: Door) -> None:
    relays(door, bulk=True, smarthost=True)
    declared = b"MAIL FROM:<a@example.org> SIZE=1001\r\n"
    for rules, answers in (({"relay": "bulk"}, "552"), ({}, "250"), ({"may_name_relay": True}, "250")):
        know(door, **rules)
        session, wire = open_session(door)
        said = say(door, session, wire, plain("app", PASSWORD), declared, rcpt())
        assert said == ["235", "250", answers], rules
    large = NAMING + b"x" * 1000 + b"\r\n"
    assert send(door, large, may_name_relay=True) == ["552"]
    assert "relay bulk" in door.refusals[-1].reason
    assert send(door, large, relay="smarthost") == ["250"], "the default relay's limit is no matter here"
