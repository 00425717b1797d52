"""What a conversation in a text file cannot show: the driver's side, TLS, waiting, closing, reply lines."""

from __future__ import annotations

import gc
import weakref

import pytest
from tests.wire.desk import Desk

from dispatch.mail.reply import Reply, reply
from dispatch.smtp import wording
from dispatch.smtp.events import (
    ContentChunk,
    ContentEnded,
    ContentStarted,
    Hello,
    MailOffered,
    Quit,
    RecipientOffered,
    TlsOffered,
    TransactionReset,
)
from dispatch.smtp.server import ServerCore, ServerSettings
from dispatch.smtp.states import MOVES, OUT_OF_SEQUENCE, Command, State

SETTINGS = ServerSettings("mx.example")
ENVELOPE = b"HELO client\r\nMAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\n"


def core_with_content_offered() -> ServerCore:
    """Stands at ContentEnded, which waits for its answer."""
    desk = Desk(SETTINGS)
    desk.say(ENVELOPE + b"DATA\r\n")
    core = desk.core
    core.receive(b"hi\r\n.\r\n")
    assert core.next_event() == ContentChunk(b"hi\r\n")
    assert core.next_event() == ContentEnded(4)
    return core


def test_nothing_happens_while_an_answer_is_awaited() -> None:
    core = core_with_content_offered()
    core.receive(b"MAIL FROM:<c@c.example>\r\n")
    assert core.next_event() is None
    assert core.take_output() == b""
    core.answer(reply(250, "2.0.0", "queued"))
    assert core.next_event() == MailOffered("c@c.example")
    assert core.take_output() == b"250 2.0.0 queued\r\n"


def test_replies_to_a_pipelined_group_go_out_together() -> None:
    desk = Desk(SETTINGS)
    desk.pump()
    assert desk.say(ENVELOPE) == b"250 mx.example\r\n250 2.1.0 OK\r\n250 2.1.5 OK\r\n"


def test_a_client_lost_while_its_message_is_made_durable_does_not_reset_it() -> None:
    core = core_with_content_offered()
    core.lost()
    assert core.next_event() is None
    core.answer(reply(250, "2.0.0", "queued"))
    assert core.take_output() == b""
    assert core.wants_close


def test_a_client_lost_within_its_content_resets_the_transaction_once() -> None:
    desk = Desk(SETTINGS)
    desk.say(ENVELOPE + b"DATA\r\n")
    desk.core.receive(b"hi\r\n.\r\n")
    assert desk.core.next_event() == ContentChunk(b"hi\r\n")  # the end is known, but not told yet
    desk.core.lost()
    assert desk.core.next_event() == TransactionReset()
    assert desk.core.next_event() is None


def test_a_client_that_half_closed_is_answered_before_the_end() -> None:
    core = core_with_content_offered()
    core.receive(b"NOOP\r\nMAIL FROM:<unfinished")
    core.eof()
    assert core.next_event() is None
    core.answer(reply(250, "2.0.0", "queued"))
    assert core.next_event() is None
    assert core.take_output() == b"250 2.0.0 queued\r\n250 2.0.0 OK\r\n"
    assert core.wants_close


def test_shutdown_within_a_transaction_resets_it_and_says_421_last() -> None:
    desk = Desk(SETTINGS)
    desk.say(ENVELOPE)
    desk.core.close(reply(421, "4.3.2", "going down"))
    desk.core.receive(b"DATA\r\n")
    assert desk.pump() == b"421 4.3.2 going down\r\n"
    assert desk.happened[-1] == TransactionReset()
    assert desk.core.wants_close


def test_a_connection_can_be_refused_instead_of_greeted() -> None:
    core = ServerCore(SETTINGS)
    core.refuse(reply(421, "4.7.0", "too many connections"))
    core.receive(b"EHLO client\r\n")
    assert core.next_event() is None
    assert core.take_output() == b"421 4.7.0 too many connections\r\n"
    assert core.wants_close


def test_quit_within_a_transaction_tells_both() -> None:
    desk = Desk(SETTINGS)
    desk.say(ENVELOPE + b"QUIT\r\nNOOP\r\n")
    assert desk.happened[-2:] == [TransactionReset(), Quit()]
    assert desk.core.wants_close


def test_content_behind_a_refused_data_is_never_executed() -> None:
    desk = Desk(SETTINGS, {"DATA": reply(451, "4.3.0", "later")})
    said = desk.say(ENVELOPE + b"DATA\r\nRSET\r\nMAIL FROM:<evil@a.example>\r\n.\r\n")
    assert said.endswith(wording.encode_reply(wording.CONTENT_BEFORE_GO_AHEAD))
    assert desk.core.wants_close
    assert desk.happened[-1] == TransactionReset()


def test_content_behind_a_data_without_recipients_is_never_executed() -> None:
    desk = Desk(SETTINGS, {"RCPT": reply(550, "5.1.1", "unknown")})
    said = desk.say(ENVELOPE + b"DATA\r\nRSET\r\nMAIL FROM:<evil@a.example>\r\n.\r\n")
    assert said.endswith(wording.encode_reply(wording.CONTENT_BEFORE_GO_AHEAD))
    assert MailOffered("evil@a.example") not in desk.happened


def test_content_sent_with_its_data_is_content_where_data_is_accepted() -> None:
    desk = Desk(SETTINGS)
    desk.say(ENVELOPE + b"DATA\r\nhi\r\n.\r\n" + ENVELOPE + b"DATA\r\nho\r\n.\r\n")
    assert [kept.content for kept in desk.kept] == [b"hi\r\n", b"ho\r\n"]


def test_ehlo_announces_what_is_served() -> None:
    desk = Desk(ServerSettings("mx.example", size_bytes_max=0, starttls=True))
    desk.pump()
    lines = desk.say(b"EHLO client\r\n").decode().split("\r\n")
    assert lines == [
        "250-mx.example",
        "250-PIPELINING",
        "250-SIZE",
        "250-8BITMIME",
        "250-SMTPUTF8",
        "250-ENHANCEDSTATUSCODES",
        "250-STARTTLS",
        "250-DSN",
        "250 CHUNKING",
        "",
    ]


class TestStartTls:
    settings = ServerSettings("mx.example", starttls=True)

    def test_it_is_not_offered_where_tls_came_first(self) -> None:
        desk = Desk(self.settings, secured=True)
        assert b"STARTTLS" not in desk.say(b"EHLO client\r\n")
        assert desk.say(b"STARTTLS\r\n").startswith(b"503")

    def test_everything_said_in_clear_is_forgotten(self) -> None:
        desk = Desk(self.settings)
        desk.say(b"EHLO client\r\n")
        assert desk.say(b"STARTTLS\r\n") == b"220 2.0.0 ready to start TLS\r\n"
        desk.core.secured()
        assert desk.say(b"MAIL FROM:<a@a.example>\r\n").startswith(b"503 5.5.1 say EHLO first")
        assert b"STARTTLS" not in desk.say(b"EHLO client\r\n")
        assert desk.say(b"STARTTLS\r\n").startswith(b"503")

    def test_what_is_pipelined_behind_it_is_not_executed(self) -> None:
        desk = Desk(self.settings)
        desk.say(b"EHLO client\r\n")
        assert desk.say(b"STARTTLS\r\nMAIL FROM:<evil@a.example>\r\n").startswith(b"421 4.7.0")
        assert desk.core.wants_close
        assert desk.happened == [Hello("client", True)]

    def test_what_comes_before_the_220_is_not_executed(self) -> None:
        core = ServerCore(self.settings)
        core.receive(b"EHLO client\r\n")
        assert core.next_event() == Hello("client", True)
        core.answer(wording.HELLO_ACCEPTED)
        core.receive(b"STARTTLS\r\n")
        assert core.next_event() == TlsOffered()
        core.receive(b"M")
        core.answer(wording.TLS_ACCEPTED)
        assert core.next_event() is None
        assert core.take_output().endswith(wording.encode_reply(wording.BYTES_BEHIND_STARTTLS))
        assert core.wants_close

    def test_it_can_be_refused_and_has_its_place(self) -> None:
        desk = Desk(self.settings, {"STARTTLS": reply(454, "4.7.0", "no certificate")})
        desk.pump()
        assert desk.say(b"STARTTLS\r\n").startswith(b"503")
        desk.say(b"EHLO client\r\n")
        assert desk.say(b"STARTTLS now\r\n").startswith(b"501")
        assert desk.say(b"STARTTLS\r\n") == b"454 4.7.0 no certificate\r\n"
        assert desk.say(b"MAIL FROM:<a@a.example>\r\n").startswith(b"250")
        assert desk.say(b"STARTTLS\r\n").startswith(b"503")


def test_memory_does_not_grow_with_what_a_client_sends() -> None:
    desk = Desk(ServerSettings("mx.example", size_bytes_max=1000))
    desk.say(b"NOOP " + b"x" * 3000)
    for _ in range(100):
        desk.say(b"y" * 3000)
    assert len(desk.core._input.data) <= 3000
    desk.say(b"\r\n" + ENVELOPE + b"DATA\r\n")
    for _ in range(100):
        desk.say(b"z" * 3000)
    assert sum(len(happened) for happened in desk.happened if isinstance(happened, bytes)) <= 1000
    assert len(desk.core._input.data) <= 3000


def test_refused_recipients_are_limited_too() -> None:
    desk = Desk(ServerSettings("mx.example", recipients_max=2), {"RCPT": reply(550, "5.1.1", "unknown")})
    desk.say(b"HELO client\r\nMAIL FROM:<a@a.example>\r\n")
    said = desk.say(b"RCPT TO:<b@b.example>\r\n" * 4)
    assert [line[:3] for line in said.split(b"\r\n")] == [b"550", b"550", b"452", b"452", b""]
    assert desk.happened.count(RecipientOffered("b@b.example")) == 2


def test_refused_mail_uses_up_patience() -> None:
    desk = Desk(
        ServerSettings("mx.example", commands_idle_max=3, commands_bad_max=0),
        {"END": reply(451, "4.3.0", "no")},
    )
    desk.say(ENVELOPE + b"DATA\r\n")
    desk.say(b"hi\r\n.\r\nMAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n")
    assert desk.say(b"hi\r\n.\r\n") == b"451 4.3.0 no\r\n"
    assert desk.say(b"RSET\r\n").startswith(b"421 4.7.0")


def test_a_core_is_no_reference_cycle() -> None:
    gc.disable()
    try:
        core = core_with_content_offered()
        gone = weakref.ref(core)
        del core
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("text", ["no\r\n250 2.0.0 yes", "\x00\x1b[2J", "\x85\u2028é", "x" * 2000])
def test_a_reply_cannot_say_more_than_one_thing(text: str) -> None:
    hostile = reply(550, "5.7.1", text)
    said = wording.encode_reply(hostile)
    assert said.count(b"\r\n") == 1
    assert said.endswith(b"\r\n")
    assert said[:-2].decode("ascii").isprintable()
    assert len(said) <= 512
    assert wording.encode_reply(Reply(250, None, ("a\r\nb", "c\nd"))) == b"250-a??b\r\n250 c?d\r\n"


class TestTable:
    """The table is the documentation; these are its rules."""

    def test_every_refusal_has_its_words(self) -> None:
        for state, moves in MOVES.items():
            if moves:
                missing = set(Command) - set(moves) - set(OUT_OF_SEQUENCE[state])
                assert not missing, state

    def test_hello_and_reset_lead_back_from_everywhere_and_quit_out(self) -> None:
        for state, moves in MOVES.items():
            if moves:
                assert moves[Command.EHLO] is moves[Command.HELO] is State.READY
                assert moves[Command.RSET] is (State.CONNECTED if state is State.CONNECTED else State.READY)
                assert moves[Command.QUIT] is State.CLOSED

    def test_content_starts_only_behind_a_recipient(self) -> None:
        assert [state for state in State if Command.DATA in MOVES[state]] == [State.RCPT]
        assert [state for state in State if Command.BDAT in MOVES[state]] == [State.RCPT, State.CHUNKS]

    def test_own_replies_carry_enhanced_codes_of_their_class(self) -> None:
        replies = [value for value in vars(wording).values() if isinstance(value, Reply)]
        assert len(replies) > 30
        for own in replies:
            if own not in (wording.HELLO_ACCEPTED, wording.GO_AHEAD):
                assert own.enhanced is not None
                assert own.enhanced[0] == str(own.code)[0]


def test_content_started_is_asked_once_for_all_chunks() -> None:
    desk = Desk(SETTINGS)
    desk.say(ENVELOPE + b"BDAT 2\r\nhiBDAT 2\r\nhoBDAT 0 LAST\r\n")
    assert desk.happened.count(ContentStarted()) == 1
    assert desk.happened[-2:] == [b"hiho", ContentEnded(4)]
