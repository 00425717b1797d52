"""What a text file cannot show of AUTH: passwords, TLS, endless lines, clients that do not wait."""

from __future__ import annotations

from base64 import b64decode, b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.wire.desk import Desk

from dispatch.mail.reply import Reply, reply
from dispatch.smtp import wording
from dispatch.smtp.events import AuthOffered, Hello, MailOffered
from dispatch.smtp.server import ServerSettings
from dispatch.smtp.states import MOVES, State

SETTINGS = ServerSettings("mx.example", starttls=True, auth_mechanisms=("PLAIN", "LOGIN"))
IN_CLEAR = ServerSettings("mx.example", auth_mechanisms=("PLAIN", "LOGIN"), auth_in_clear=True)
NOT_SERVED = ServerSettings("mx.example")
WRONG = reply(535, "5.7.8", "wrong")


def b64(text: bytes) -> bytes:
    return b64encode(text)


def plain(user: bytes, password: bytes) -> bytes:
    return b"AUTH PLAIN " + b64(b"\0" + user + b"\0" + password) + b"\r\n"


def greeted(
    rules: ServerSettings = IN_CLEAR, answers: dict[str, Reply] | None = None, *, secured: bool = False
) -> Desk:
    desk = Desk(rules, answers, secured=secured)
    desk.say(b"EHLO client\r\n")
    desk.happened.clear()
    return desk


class TestWhatTheDriverIsAsked:
    def test_plain_gives_name_and_password_as_they_were_sent(self) -> None:
        desk = greeted()
        desk.say(plain("jürgen".encode(), "p\u00e4ß: w\r\nord".encode()))
        assert desk.happened == [AuthOffered("PLAIN", "jürgen", "päß: w\r\nord".encode())]

    def test_login_gives_passwords_that_are_no_utf_8(self) -> None:
        desk = greeted()
        desk.say(b"AUTH LOGIN\r\n" + b64(b"bob") + b"\r\n" + b64(b"\0\xff") + b"\r\n")
        assert desk.happened == [AuthOffered("LOGIN", "bob", b"\0\xff")]

    def test_the_password_is_never_shown(self) -> None:
        offered = AuthOffered("PLAIN", "bob", b"secret")
        shown = [repr(offered), str(offered), f"{offered}", repr(offered.__rich_repr__()), repr([offered])]
        assert not [text for text in shown if "secret" in text]
        assert not [text for text in shown if "bob" not in text]

    def test_nothing_goes_on_while_a_password_is_checked(self) -> None:
        desk = greeted()
        core = desk.core
        core.receive(plain(b"bob", b"secret") + b"MAIL FROM:<a@a.example>\r\n")
        assert isinstance(core.next_event(), AuthOffered)
        assert core.next_event() is None
        assert core.state is State.AUTH
        assert not core.authenticated
        core.answer(wording.AUTHENTICATED)
        assert core.authenticated
        assert core.next_event() == MailOffered("a@a.example")
        assert core.take_output() == b"235 2.7.0 logged in\r\n"

    def test_a_client_lost_meanwhile_is_not_logged_in(self) -> None:
        desk = greeted()
        desk.core.receive(plain(b"bob", b"secret"))
        assert isinstance(desk.core.next_event(), AuthOffered)
        desk.core.lost()
        desk.core.answer(wording.AUTHENTICATED)
        assert not desk.core.authenticated
        assert desk.core.take_output() == b""

    def test_a_driver_that_gives_up_closes(self) -> None:
        desk = greeted(answers={"AUTH": reply(421, "4.3.2", "going down")})
        assert desk.say(plain(b"bob", b"secret")) == b"421 4.3.2 going down\r\n"
        assert desk.core.wants_close

    def test_mechanisms_that_nobody_wrote_are_a_mistake_of_the_caller(self) -> None:
        with pytest.raises(ValueError, match="CRAM-MD5"):
            ServerSettings("mx.example", auth_mechanisms=("PLAIN", "CRAM-MD5"))


class TestTls:
    def test_auth_is_offered_once_tls_is_up(self) -> None:
        desk = Desk(SETTINGS)
        assert b"AUTH" not in desk.say(b"EHLO client\r\n")
        desk.say(b"STARTTLS\r\n")
        desk.core.secured()
        assert b"250-AUTH PLAIN LOGIN\r\n" in desk.say(b"EHLO client\r\n")
        assert desk.say(plain(b"bob", b"secret")) == b"235 2.7.0 logged in\r\n"

    def test_auth_is_offered_where_tls_came_first(self) -> None:
        desk = Desk(SETTINGS, secured=True)
        assert b"250-AUTH PLAIN LOGIN\r\n" in desk.say(b"EHLO client\r\n")
        assert desk.say(b"MAIL FROM:<a@a.example> AUTH=<>\r\n").startswith(b"250")

    def test_who_logged_in_in_clear_is_forgotten(self) -> None:
        desk = Desk(
            ServerSettings("mx.example", starttls=True, auth_mechanisms=("PLAIN",), auth_in_clear=True)
        )
        desk.say(b"EHLO client\r\n" + plain(b"bob", b"secret"))
        assert desk.core.authenticated
        desk.say(b"STARTTLS\r\n")
        desk.core.secured()
        assert not desk.core.authenticated
        assert b"250-AUTH PLAIN\r\n" in desk.say(b"EHLO client\r\n")
        assert desk.say(plain(b"bob", b"secret")).startswith(b"235")

    def test_who_failed_in_clear_is_not(self) -> None:
        rules = ServerSettings(
            "mx.example", starttls=True, auth_mechanisms=("PLAIN",), auth_in_clear=True, auth_failures_max=1
        )
        desk = greeted(rules, {"AUTH": WRONG})
        desk.say(plain(b"bob", b"one"))
        desk.say(b"STARTTLS\r\n")
        desk.core.secured()
        desk.say(b"EHLO client\r\n")
        assert desk.say(plain(b"bob", b"two")) == wording.encode_reply(wording.TOO_MANY_FAILED_LOGINS)


class TestLongResponses:
    @pytest.mark.parametrize("cut", [1000, 4096, 12_289, 12_291, 100_000])
    def test_too_long_a_response_is_refused_and_swallowed_whole(self, cut: int) -> None:
        desk = greeted()
        assert desk.say(b"AUTH LOGIN\r\n").startswith(b"334")
        line = b"A" * 20_000 + b"\r\n"
        said = b"".join(desk.say(line[at : at + cut]) for at in range(0, len(line), cut))
        assert said == b"500 5.5.6 response too long\r\n"
        assert len(desk.core._input.data) <= len(line)
        assert desk.say(b"NOOP\r\n") == b"250 2.0.0 OK\r\n"
        assert desk.happened == []

    def test_half_of_its_end_is_nothing_sent_early(self) -> None:
        desk = greeted()
        desk.say(b"AUTH LOGIN\r\n")
        assert desk.say(b"A" * 20_000 + b"\r") == b"500 5.5.6 response too long\r\n"
        assert desk.say(b"\nNOOP\r\n") == b"250 2.0.0 OK\r\n"

    def test_the_longest_response_that_counts_is_taken(self) -> None:
        desk = greeted()
        password = b"p" * (12_288 // 4 * 3 - len(b"\0bob\0"))
        desk.say(b"AUTH PLAIN\r\n" + b64(b"\0bob\0" + password) + b"\r\n")
        assert desk.happened == [AuthOffered("PLAIN", "bob", password)]

    def test_a_command_behind_it_has_its_own_limit_again(self) -> None:
        desk = greeted()
        desk.say(b"AUTH PLAIN\r\n" + b"A" * 3000 + b"\r\n")
        assert desk.say(b"NOOP " + b"x" * 3000 + b"\r\n") == b"500 5.5.2 command line too long\r\n"


EARLY = b64(b"bob") + b"\r\nRSET\r\nMAIL FROM:<evil@a.example>\r\n"
"""A name, a password that reads RSET in base64, and what would follow."""


class TestClientsThatDoNotWait:
    """RFC 2920 section 3.1: AUTH is the last of its group."""

    @pytest.mark.parametrize(
        ("rules", "said", "code"),
        [
            (NOT_SERVED, b"AUTH LOGIN\r\n", b"502"),
            (SETTINGS, b"AUTH LOGIN\r\n", b"538"),
            (SETTINGS, b"AUTH PLAIN\r\n", b"538"),
            (IN_CLEAR, b"AUTH\r\n", b"501"),
            (IN_CLEAR, b"AUTH CRAM-MD5\r\n", b"504"),
            (IN_CLEAR, b"AUTH LOGIN bob!\r\n", b"501"),
            (IN_CLEAR, b"AUTH LOGIN\r\nbob!\r\n", b"501"),
            (IN_CLEAR, b"AUTH LOGIN\r\n" + b"A" * 20_000 + b"\r\n", b"500"),
            (IN_CLEAR, b"AUTH LOGIN " + b"A" * 20_000 + b"\r\n", b"500"),
            (IN_CLEAR, b"AUTH LOGIN\n\r\n", b"500"),
            (IN_CLEAR, b"MAIL FROM:<a@a.example>\r\nAUTH LOGIN\r\n", b"503"),
            (IN_CLEAR, plain(b"bob", b"secret") + b"AUTH LOGIN\r\n", b"503"),
        ],
    )
    def test_passwords_behind_a_refused_auth_are_never_executed(
        self, rules: ServerSettings, said: bytes, code: bytes
    ) -> None:
        desk = greeted(rules)
        replies = desk.say(said + EARLY).split(b"\r\n")
        assert replies[-3].startswith(code)
        assert replies[-2:] == [wording.encode_reply(wording.RESPONSE_BEFORE_CHALLENGE)[:-2], b""]
        assert desk.core.wants_close
        assert MailOffered("evil@a.example") not in desk.happened

    @pytest.mark.parametrize("rules", [NOT_SERVED, SETTINGS, IN_CLEAR])
    def test_nothing_is_owed_behind_a_plain_login_in_one_line(self, rules: ServerSettings) -> None:
        desk = greeted(rules, {"AUTH": WRONG})
        assert desk.say(plain(b"bob", b"wrong") + b"NOOP\r\n").endswith(b"\r\n250 2.0.0 OK\r\n")
        assert desk.say(b"AUTH PLAIN !\r\nNOOP\r\n").endswith(b"\r\n250 2.0.0 OK\r\n")

    def test_a_refused_client_that_waits_goes_on(self) -> None:
        desk = greeted(SETTINGS)
        assert desk.say(b"AUTH LOGIN\r\n").startswith(b"538")
        assert desk.say(b"NOOP\r\n").startswith(b"250")


secrets = st.sampled_from([b"QxZsecretQxZ", b"QxZ\xff\xfeQxZ", b"QxZQxZ"])
initials = st.one_of(st.just(b""), st.just(b" ="), secrets.map(lambda secret: b" " + b64(secret)))
lines = st.one_of(
    st.builds(
        lambda name, initial: b"AUTH " + name + initial,
        st.sampled_from([b"PLAIN", b"LOGIN", b"login", b"X"]),
        initials,
    ),
    st.builds(lambda secret: plain(b"bob", secret)[:-2], secrets),
    st.builds(lambda secret: b64(b"\0bob\0" + secret), secrets),
    secrets.map(b64),
    secrets,
    st.sampled_from([b"*", b"", b"=", b64(b"bob"), b"QxZ\nQxZ", b"QxZ\rQxZ", b"QxZ" * 30, b"AUTH"]),
    st.sampled_from([b"EHLO x", b"NOOP", b"RSET", b"MAIL FROM:<a@a.example>", b"QUIT"]),
).map(lambda line: line + b"\r\n")
verdicts = st.dictionaries(
    st.just("AUTH"), st.sampled_from([WRONG, reply(454, "4.7.0", "later")]), max_size=1
)
auth_rules = st.builds(
    ServerSettings,
    st.just("mx.example"),
    auth_mechanisms=st.sampled_from([(), ("PLAIN",), ("PLAIN", "LOGIN")]),
    auth_in_clear=st.booleans(),
    auth_failures_max=st.sampled_from([1, 3]),
    commands_bad_max=st.sampled_from([2, 20]),
    command_line_bytes_max=st.just(64),
)


@given(st.lists(lines, max_size=10), auth_rules, verdicts, st.data())
@settings(max_examples=150, deadline=None)
def test_how_the_bytes_are_cut_makes_no_difference(
    dialogue: list[bytes], rules: ServerSettings, verdicts: dict[str, Reply], draw: st.DataObject
) -> None:
    whole, cut, single = greeted(rules, verdicts), greeted(rules, verdicts), greeted(rules, verdicts)
    for line in dialogue:
        said = whole.say(line)
        places = sorted(draw.draw(st.sets(st.integers(1, len(line)), max_size=4)) | {len(line)})
        parts = [line[a:b] for a, b in zip([0, *places], places, strict=False)]
        assert b"".join(cut.say(part) for part in parts) == said
        assert b"".join(single.say(line[at : at + 1]) for at in range(len(line))) == said
    assert cut.happened == single.happened == whole.happened
    assert cut.core.state is single.core.state is whole.core.state
    assert cut.core.authenticated is single.core.authenticated is whole.core.authenticated


@given(st.lists(lines, max_size=10), auth_rules, verdicts)
@settings(max_examples=150, deadline=None)
def test_passwords_are_in_no_reply_and_in_no_other_event(
    dialogue: list[bytes], rules: ServerSettings, verdicts: dict[str, Reply]
) -> None:
    desk = greeted(rules, verdicts)
    said = desk.say(b"".join(dialogue)) if dialogue else b""
    assert b"QxZ" not in said
    for line in said.split(b"\r\n"):
        if line.startswith(b"334 "):
            assert b64decode(line[4:]) in (b"", b"Username:", b"Password:")
    for event in desk.happened:
        if isinstance(event, AuthOffered):
            assert event.mechanism in rules.auth_mechanisms
            assert "secret" not in repr(event)
        else:
            assert event == Hello("x", True) or "QxZ" not in repr(event)


def test_no_command_stands_within_an_exchange() -> None:
    assert MOVES[State.AUTH] == {}


def test_the_words_that_drivers_need_say_the_right_codes() -> None:
    said = [
        wording.locked_out(60),
        wording.AUTHENTICATION_UNAVAILABLE,
        wording.AUTHENTICATION_REQUIRED,
        wording.AUTHENTICATION_FAILED,
        wording.ENCRYPTION_REQUIRED,
        wording.sender_not_permitted("a@a.example"),
    ]
    assert [(word.code, word.enhanced) for word in said] == [
        (454, "4.7.0"),
        (454, "4.7.0"),
        (530, "5.7.0"),
        (535, "5.7.8"),
        (538, "5.7.11"),
        (553, "5.7.1"),
    ]
    assert "60 seconds" in said[0].text
    assert "a@a.example" in said[-1].text


def test_the_core_keeps_no_password() -> None:
    desk = greeted()
    desk.core.receive(b"AUTH LOGIN " + b64(b"bob") + b"\r\n")
    assert desk.core.next_event() is None
    desk.core.receive(b64(b"secret") + b"\r\nNOOP\r\n")
    assert desk.core.next_event() == AuthOffered("LOGIN", "bob", b"secret")
    assert desk.core._input.data == b"NOOP\r\n"
    assert desk.core._authentication._exchange is None
