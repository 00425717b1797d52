"""What a client session says to what it hears, and what it reports of it."""

from __future__ import annotations

import pytest
from tests.unit.smtp.client_talk import CONTENT, Talk, codes, ehlo_reply, envelope

from dispatch.mail.report import Fault, FaultKind, Stage
from dispatch.smtp.client import ClientCore
from dispatch.smtp.client_commands import UnwritableCommand
from dispatch.smtp.client_states import PHASE_MOVES, STEPS, Awaited, Phase

GROUP = b"MAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n"
ACCEPTED = b"250 ok\r\n250 ok\r\n354 go\r\n"
ENDED = CONTENT + b".\r\n"
DROPPED = Fault(FaultKind.DROPPED, "gone")


def test_envelope_goes_out_in_one_write() -> None:
    talk = Talk().open("PIPELINING")
    assert talk.begin() == GROUP
    assert talk.hear(ACCEPTED) == ENDED
    assert talk.hear(b"250 2.0.0 queued\r\n") == b""
    report = talk.reports["m"]
    assert (report.stage, codes(report), report.fault) == (Stage.END_OF_DATA, [250], None)
    assert report.peer == "192.0.2.1:25"
    assert talk.core.idle


def test_next_envelope_leaves_with_the_content() -> None:
    talk = Talk().open("PIPELINING")
    talk.begin("one")
    assert talk.begin("two") == b"", "DATA ends a group: nothing may follow it before the content"
    assert talk.hear(ACCEPTED) == ENDED + GROUP
    assert talk.hear(b"250 one\r\n" + ACCEPTED) == ENDED
    assert talk.hear(b"250 two\r\n") == b""
    assert [talk.reports[key].replies[0].text for key in ("one", "two")] == ["one", "two"]  # type: ignore[union-attr]
    assert talk.sending == ["one", "two"]


def test_envelope_that_comes_late_goes_behind_the_end_of_data_too() -> None:
    talk = Talk().open("PIPELINING")
    talk.begin("one")
    talk.hear(ACCEPTED)
    assert talk.begin("two") == GROUP
    assert not talk.core.room
    assert talk.hear(b"554 refused\r\n" + ACCEPTED) == ENDED
    assert codes(talk.reports["one"]) == [554]


def test_without_pipelining_each_command_waits_for_its_answer() -> None:
    talk = Talk().open("SIZE")
    assert talk.begin(what=envelope("b@b.example", "c@c.example")) == b"MAIL FROM:<a@a.example> SIZE=22\r\n"
    assert talk.hear(b"250 ok\r\n") == b"RCPT TO:<b@b.example>\r\n"
    assert talk.hear(b"250 ok\r\n") == b"RCPT TO:<c@c.example>\r\n"
    assert talk.hear(b"550 no\r\n") == b"DATA\r\n"
    assert talk.begin("next") == b""
    assert talk.hear(b"354 go\r\n") == ENDED
    assert talk.hear(b"250 ok\r\n") == b"MAIL FROM:<a@a.example> SIZE=22\r\n"
    report = talk.reports["m"]
    assert codes(report) == [250, 550]
    assert report.reply_stage == (Stage.END_OF_DATA, Stage.RCPT)


def test_lock_step_skips_data_when_nobody_is_left_and_resets_before_the_next() -> None:
    talk = Talk(pipelining=False).open("PIPELINING")
    talk.begin("one")
    talk.hear(b"250 ok\r\n")
    assert talk.hear(b"550 no\r\n") == b""
    assert codes(talk.reports["one"]) == [550]
    assert talk.reports["one"].stage is Stage.RCPT
    assert talk.begin("two") == b"RSET\r\n"
    assert talk.hear(b"250 ok\r\n") == b"MAIL FROM:<a@a.example>\r\n"


def test_lock_step_ends_at_a_refused_mail_without_reset() -> None:
    talk = Talk().open()
    talk.begin("one")
    assert talk.hear(b"451 later\r\n") == b""
    assert (talk.reports["one"].stage, codes(talk.reports["one"])) == (Stage.MAIL, [451])
    assert talk.begin("two") == b"MAIL FROM:<a@a.example>\r\n"


def test_host_that_does_not_know_ehlo_is_asked_with_helo() -> None:
    talk = Talk()
    talk.hear(b"220 old\r\n")
    assert talk.hear(b"502 what?\r\n") == b"HELO client.example\r\n"
    talk.hear(b"250 hello\r\n")
    assert talk.ready == 1
    assert talk.begin() == b"MAIL FROM:<a@a.example>\r\n"


@pytest.mark.parametrize(
    ("conversation", "stage", "code"),
    [
        ([b"554 go away\r\n"], Stage.GREETING, 554),
        ([b"421 too busy\r\n"], Stage.GREETING, 421),
        ([b"220 hi\r\n", b"451 not now\r\n"], Stage.EHLO, 451),
        ([b"220 hi\r\n", b"500 what\r\n", b"550 no\r\n"], Stage.EHLO, 550),
    ],
)
def test_refused_session_names_stage_and_reply(conversation: list[bytes], stage: Stage, code: int) -> None:
    talk = Talk()
    for said in conversation:
        talk.hear(said)
    (closed,) = talk.closed
    assert closed.stage is stage
    assert closed.reply is not None
    assert closed.reply.code == code
    assert closed.fault is None


def test_each_recipient_gets_its_own_reply() -> None:
    talk = Talk().open("PIPELINING")
    talk.begin(what=envelope("b@x.example", "c@x.example", "d@x.example"))
    assert talk.hear(b"250 ok\r\n250 ok\r\n550 5.1.1 who\r\n452 4.5.3 many\r\n354 go\r\n") == ENDED
    talk.hear(b"250 2.0.0 ok\r\n")
    report = talk.reports["m"]
    assert codes(report) == [250, 550, 452]
    assert report.reply_stage == (Stage.END_OF_DATA, Stage.RCPT, Stage.RCPT)
    assert report.fault is None


def test_only_the_recipients_of_the_transaction_are_named() -> None:
    talk = Talk().open("PIPELINING")
    said = talk.begin(what=envelope("b@x.example", "c@x.example", "d@x.example"), indexes=(0, 2))
    assert b"<c@x.example>" not in said
    assert b"<b@x.example>" in said
    assert b"<d@x.example>" in said


def test_recipients_are_named_in_the_order_in_which_they_are_asked_for() -> None:
    """All of them, in another order than the envelope's: the replies must not change places."""
    talk = Talk().open("PIPELINING")
    said = talk.begin(what=envelope("b@x.example", "c@x.example"), indexes=(1, 0))
    assert said.index(b"<c@x.example>") < said.index(b"<b@x.example>")


def test_data_refused_for_want_of_recipients_resets_before_the_next() -> None:
    talk = Talk().open("PIPELINING")
    talk.begin("one")
    assert talk.hear(b"250 ok\r\n550 who\r\n503 no recipients\r\n") == b""
    assert (talk.reports["one"].stage, codes(talk.reports["one"])) == (Stage.RCPT, [550])
    assert talk.begin("two") == b"RSET\r\n" + GROUP
    assert talk.hear(b"250 reset\r\n" + ACCEPTED) == ENDED


def test_data_refused_stands_for_every_accepted_recipient() -> None:
    talk = Talk().open("PIPELINING")
    talk.begin(what=envelope("b@x.example", "c@x.example"))
    assert talk.hear(b"250 ok\r\n550 who\r\n250 ok\r\n451 later\r\n") == b""
    report = talk.reports["m"]
    assert (report.stage, codes(report)) == (Stage.DATA, [550, 451])
    assert report.reply_stage == (Stage.RCPT, Stage.DATA)


def test_content_for_nobody_is_empty() -> None:
    talk = Talk().open("PIPELINING")
    talk.begin("one")
    assert talk.hear(b"250 ok\r\n550 who\r\n354 go\r\n") == b".\r\n"
    assert talk.sending == []
    assert codes(talk.reports["one"]) == [550]
    assert talk.begin("two") == GROUP
    assert talk.hear(b"554 no valid recipients\r\n" + ACCEPTED) == ENDED


def test_content_for_nobody_is_never_counted_as_delivered() -> None:
    talk = Talk().open("PIPELINING")
    talk.begin()
    talk.hear(b"250 ok\r\n550 who\r\n354 go\r\n")
    assert talk.hear(b"250 queued\r\n") == b""
    assert codes(talk.reports["m"]) == [550]
    assert talk.core.idle


def test_refused_sender_stands_for_all_recipients() -> None:
    talk = Talk().open("PIPELINING")
    talk.begin("one")
    talk.hear(b"550 5.7.1 you?\r\n503 mail first\r\n")
    assert talk.reports == {}
    talk.hear(b"503 mail first\r\n")
    assert (talk.reports["one"].stage, codes(talk.reports["one"])) == (Stage.MAIL, [550])
    assert talk.begin("two") == GROUP, "there is no transaction to reset"


def test_recipient_behind_a_refused_sender_gets_not_even_an_empty_message() -> None:
    talk = Talk().open("PIPELINING")
    talk.begin()
    assert talk.hear(b"550 no\r\n250 ok\r\n354 go\r\n") == b""
    assert codes(talk.reports["m"]) == [550]
    (closed,) = talk.closed
    assert closed.fault is not None
    assert closed.fault.kind is FaultKind.PROTOCOL


@pytest.mark.parametrize("lost", ["250 ok\r\n503 sequence\r\n", "250 ok\r\n250 ok\r\n503 sequence\r\n"])
def test_host_that_loses_count_in_a_group_is_tried_again_in_lock_step(lost: str) -> None:
    talk = Talk().open("PIPELINING")
    talk.begin()
    talk.hear(lost.encode())
    assert talk.reports == {}
    assert set(talk.untried) == {"m"}
    assert talk.closed[0].pipelining_broken


def test_503_in_lock_step_is_a_reply() -> None:
    talk = Talk(pipelining=False).open("PIPELINING")
    talk.begin()
    talk.hear(b"250 ok\r\n")
    talk.hear(b"503 authenticate first\r\n")
    assert codes(talk.reports["m"]) == [503]
    assert talk.closed == []


def test_no_answer_within_a_group_makes_the_host_lock_step() -> None:
    talk = Talk().open("PIPELINING")
    talk.begin()
    talk.hear(b"250 ok\r\n")
    talk.core.lost(Fault(FaultKind.TIMEOUT, "300 s"))
    talk.pump()
    assert set(talk.untried) == {"m"}
    assert talk.closed[0].pipelining_broken


def test_lost_after_the_end_of_data_is_uncertain_for_the_accepted() -> None:
    talk = Talk().open("PIPELINING")
    talk.begin(what=envelope("b@x.example", "c@x.example"))
    talk.hear(b"250 ok\r\n250 ok\r\n550 who\r\n354 go\r\n")
    talk.core.lost(DROPPED)
    talk.pump()
    report = talk.reports["m"]
    assert (report.stage, codes(report), report.fault) == (Stage.END_OF_DATA, [None, 550], DROPPED)


@pytest.mark.parametrize(
    ("heard", "stage", "expected"),
    [
        (b"", Stage.MAIL, [None, None]),
        (b"250 ok\r\n", Stage.RCPT, [None, None]),
        (b"250 ok\r\n550 who\r\n", Stage.RCPT, [550, None]),
        (b"250 ok\r\n550 who\r\n250 ok\r\n", Stage.DATA, [550, None]),
        (b"250 ok\r\n550 who\r\n250 ok\r\n354 go\r\n", Stage.CONTENT, [550, None]),
        (b"250 ok\r\n550 who\r\n550 who\r\n", Stage.RCPT, [550, 550]),
        (b"554 no\r\n", Stage.MAIL, [554, 554]),
    ],
)
def test_lost_before_the_end_of_data_is_reported_where_it_was(
    heard: bytes, stage: Stage, expected: list[int | None]
) -> None:
    talk = Talk().open("PIPELINING")
    talk.holding = True
    talk.begin(what=envelope("b@x.example", "c@x.example"))
    talk.hear(heard)
    talk.core.lost(DROPPED)
    talk.pump()
    report = talk.reports["m"]
    assert (report.stage, codes(report)) == (stage, expected)
    assert (report.fault is None) == (None not in expected)
    assert talk.sending == []


def test_kept_connection_that_died_leaves_its_next_exchange_untried() -> None:
    talk = Talk().open("PIPELINING")
    talk.begin("one")
    talk.hear(ACCEPTED)
    talk.hear(b"250 ok\r\n")
    talk.begin("two")
    talk.core.lost(DROPPED)
    talk.pump()
    assert set(talk.untried) == {"two"}
    assert talk.untried["two"].stage is Stage.MAIL


def test_421_that_crossed_our_mail_leaves_it_untried() -> None:
    talk = Talk().open("PIPELINING")
    talk.begin("one")
    talk.hear(ACCEPTED)
    talk.begin("two")
    talk.hear(b"250 ok\r\n421 idle too long\r\n")
    assert codes(talk.reports["one"]) == [250]
    assert set(talk.untried) == {"two"}
    assert codes(talk.untried["two"]) == [421]


@pytest.mark.parametrize(
    ("heard", "stage", "expected"),
    [
        (b"", Stage.MAIL, [421, 421]),
        (b"250 ok\r\n550 who\r\n", Stage.RCPT, [550, 421]),
        (b"250 ok\r\n550 who\r\n250 ok\r\n", Stage.DATA, [550, 421]),
        (b"250 ok\r\n550 who\r\n250 ok\r\n354 go\r\n", Stage.END_OF_DATA, [550, 421]),
        (b"554 no\r\n", Stage.MAIL, [554, 554]),
    ],
)
def test_421_closes_the_session_and_is_the_answer(heard: bytes, stage: Stage, expected: list[int]) -> None:
    talk = Talk().open("PIPELINING")
    talk.begin(what=envelope("b@x.example", "c@x.example"))
    talk.hear(heard)
    talk.hear(b"421 going down\r\n")
    report = talk.reports["m"]
    assert (report.stage, codes(report), report.fault) == (stage, expected, None)
    assert talk.closed[0].reply is not None
    assert talk.core.phase is Phase.CLOSED


def test_refusal_in_the_middle_of_the_content_is_the_answer() -> None:
    talk = Talk().open("PIPELINING")
    talk.holding = True
    talk.begin()
    talk.hear(ACCEPTED)
    talk.core.send_block(talk.wanted[0], b"half\r\n")
    assert talk.pump() == b"half\r\n"
    talk.hear(b"552 5.3.4 too large\r\n")
    assert (talk.reports["m"].stage, codes(talk.reports["m"])) == (Stage.CONTENT, [552])
    assert talk.give_content() == b""
    assert talk.sending == []


@pytest.mark.parametrize("said", [b"250 ok\r\n", b"354 again\r\n"])
def test_answer_before_the_end_of_data_accepts_nothing(said: bytes) -> None:
    talk = Talk().open("PIPELINING")
    talk.begin()
    assert talk.hear(ACCEPTED + said) == b"", "it came with the 354: the content had not left"
    report = talk.reports["m"]
    assert report.stage is Stage.CONTENT
    assert report.fault is not None
    assert report.fault.kind is FaultKind.PROTOCOL
    assert talk.sending == []


@pytest.mark.parametrize("said", [b"250 who asked\r\n", b"421 idle\r\n", b"broken\r\n"])
def test_idle_session_ends_when_the_host_speaks(said: bytes) -> None:
    talk = Talk().open("PIPELINING")
    talk.hear(said)
    assert len(talk.closed) == 1
    assert not talk.core.room


@pytest.mark.parametrize(
    "answers",
    [
        b"354 what\r\n",
        b"250 ok\r\n354 what\r\n",
        b"250 ok\r\n250 ok\r\n250 what\r\n",
    ],
)
def test_answer_that_does_not_fit_its_command_ends_the_session(answers: bytes) -> None:
    talk = Talk(pipelining=True).open("PIPELINING")
    talk.begin()
    talk.hear(answers)
    fault = talk.closed[0].fault
    assert fault is not None
    assert fault.kind is FaultKind.PROTOCOL
    assert talk.sending == []


def test_two_greetings_are_a_violation() -> None:
    talk = Talk()
    talk.hear(b"220 one\r\n220 two\r\n")
    assert talk.closed[0].stage is Stage.EHLO
    assert talk.closed[0].fault is not None


def test_exchange_behind_a_stalled_one_can_be_taken_back() -> None:
    talk = Talk().open("PIPELINING")
    talk.begin("one")
    talk.begin("two")
    talk.hear(ACCEPTED)
    taken = talk.core.withdraw()
    assert taken is not None
    assert taken.key == "two"
    assert not talk.core.room
    assert talk.hear(b"250 one\r\n") == b""
    assert codes(talk.reports["one"]) == [250]
    assert len(talk.closed) == 1, "an envelope without content: this session is over"
    assert talk.untried == {}


def test_exchange_that_was_not_written_is_taken_back_for_free() -> None:
    talk = Talk().open()
    talk.begin("one")
    talk.begin("two")
    taken = talk.core.withdraw()
    assert taken is not None
    assert taken.key == "two"
    for said in (b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"250 ok\r\n"):
        talk.hear(said)
    assert talk.core.idle


def test_content_that_fails_ends_the_session_without_an_end_of_data() -> None:
    talk = Talk().open("PIPELINING")
    talk.holding = True
    talk.begin()
    talk.hear(ACCEPTED)
    talk.core.send_block(talk.wanted[0], b"half\r\n")
    lost = Fault(FaultKind.CONTENT_LOST, "EIO")
    talk.core.fail_content(talk.wanted[0], lost)
    assert talk.pump() == b""
    assert (talk.reports["m"].stage, talk.reports["m"].fault) == (Stage.CONTENT, lost)
    assert len(talk.closed) == 1


def test_quit_ends_the_session() -> None:
    talk = Talk().open()
    talk.core.quit()
    assert talk.pump() == b"QUIT\r\n"
    talk.hear(b"221 bye\r\n")
    assert talk.closed[0].fault is None


def test_refused_reset_ends_the_session_and_leaves_the_next_untried() -> None:
    talk = Talk().open("PIPELINING")
    talk.begin("one")
    talk.hear(b"250 ok\r\n550 who\r\n554 no recipients\r\n")
    talk.begin("two")
    talk.hear(b"500 what\r\n")
    assert set(talk.untried) == {"two"}


def test_nothing_begins_in_a_session_that_ended() -> None:
    talk = Talk().open("PIPELINING")
    talk.hear(b"421 bye\r\n")
    talk.closed.clear()
    talk.begin("late")
    assert set(talk.untried) == {"late"}


@pytest.mark.parametrize("name", ["two words", "a\r\nMAIL FROM:<x>", "", "gr\u00fcn.example"])
def test_ehlo_name_that_cannot_be_said_is_refused_at_once(name: str) -> None:
    with pytest.raises(UnwritableCommand):
        ClientCore(name)


def test_every_answer_to_everything_awaited_has_a_meaning() -> None:
    assert set(STEPS) == set(Awaited)
    assert set(PHASE_MOVES) == set(Phase)
    assert all(Phase.CLOSED in moves for phase, moves in PHASE_MOVES.items() if phase is not Phase.CLOSED)


def test_ehlo_reply_may_come_byte_by_byte() -> None:
    talk = Talk()
    talk.hear(b"220 hi\r\n")
    for byte in ehlo_reply("PIPELINING", "SIZE 1000"):
        talk.hear(bytes([byte]))
    assert talk.core.grouped
    assert talk.core.extensions.size_bytes_max == 1000
