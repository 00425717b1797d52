"""When a client hears 250, and what is left behind when it does not."""

from __future__ import annotations

import msgspec
from tests.unit.intake.door import Door

from dispatch.intake.smtp_session import ANSWER_S, THROTTLE_S
from dispatch.policy.suppression import SuppressionList
from dispatch.ports import AppendFault, DiskLevel

ENVELOPE = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\n"
MESSAGE = b"Subject: hello\r\n\r\nbody\r\n"
OFFER = ENVELOPE + b"DATA\r\n"
END = MESSAGE + b".\r\n"
CHUNKED = ENVELOPE + b"BDAT %d LAST\r\n" % len(MESSAGE) + MESSAGE
LOOP = b"Received: by mx.test; Mon, 1 Jan 2024 00:00:00 +0000\r\n" * 40


def test_250_is_said_only_when_the_log_has_it(door: Door) -> None:
    session, wire = door.open()
    session.received(OFFER)
    assert wire.heard() == ["250", "250", "354"]
    session.received(END)
    door.loop.advance(60)
    assert wire.heard() == []
    door.log.answer()
    assert wire.heard() == ["250"]
    ((message, content),) = door.log.messages
    assert content.endswith(MESSAGE) and b"Received: from client.test" in content
    assert message.envelope.recipients[0].address == "b@example.org"
    assert message.size_bytes == len(content)


def test_a_full_log_is_a_452_and_a_sick_one_a_451(door: Door) -> None:
    session, wire = door.open()
    for full, code in ((True, "452"), (False, "451")):
        session.received(OFFER)
        wire.heard()
        session.received(END)
        door.log.answer(AppendFault(full=full, detail="simulated"))
        assert wire.heard() == [code]
    assert door.budget.held_bytes == 0


def test_what_is_pipelined_behind_a_message_waits_and_is_answered_behind_it(door: Door) -> None:
    session, wire = door.open()
    session.received(OFFER)
    wire.heard()
    session.received(END + ENVELOPE)
    session.received(b"NOOP\r\n")
    assert wire.heard() == [] and wire.pauses == 1
    door.log.answer()
    assert wire.heard() == ["250", "250", "250", "250"] and wire.pauses == 0


def test_a_chain_of_refused_messages_in_one_packet_is_answered_one_by_one(door: Door) -> None:
    """As many as a client is forgiven; each is answered at once, and must not be within the one before."""
    session, wire = door.open()
    body = LOOP + MESSAGE
    session.received((ENVELOPE + b"BDAT %d LAST\r\n" % len(body) + body) * 119)
    assert wire.heard() == ["250", "250", "554"] * 119
    assert not door.log.records


def test_messages_by_bdat_are_taken_in_turn(door: Door) -> None:
    session, wire = door.open()
    session.received(CHUNKED * 3)
    for _ in range(3):
        assert wire.heard() == ["250", "250"]
        door.log.answer()
        said = wire.said
        assert said.startswith(b"250 2.0.0 queued as spl_")
        wire.said = said.partition(b"\r\n")[2]
    assert len(door.log.records) == 3


def test_a_connection_cut_before_the_end_of_data_leaves_nothing(door: Door) -> None:
    session, _ = door.open()
    session.received(OFFER + MESSAGE)
    session.lost()
    assert not door.log.records and door.budget.held_bytes == 0


def test_a_connection_cut_behind_the_end_of_data_is_in_the_log_once(door: Door) -> None:
    session, wire = door.open()
    session.received(OFFER + END)
    wire.heard()
    session.lost()
    door.log.answer()
    assert len(door.log.records) == 1 and wire.heard() == [] and door.budget.held_bytes == 0


def test_a_half_closed_connection_is_answered_and_then_closed(door: Door) -> None:
    session, wire = door.open()
    session.received(OFFER + END)
    session.eof()
    wire.heard()
    assert not wire.closed
    door.log.answer()
    assert wire.heard() == ["250"] and wire.closed


def test_a_foreign_source_is_refused_at_mail(door: Door) -> None:
    session, wire = door.open("198.51.100.1")
    session.received(ENVELOPE + b"DATA\r\n")
    assert wire.heard()[0] == "550"
    assert [refusal.kind for refusal in door.refusals] == ["denied"]


def test_mail_is_slowed_down_while_the_disk_is_nearly_full(door: Door) -> None:
    door.level = DiskLevel.THROTTLED
    session, wire = door.open()
    session.received(ENVELOPE)
    door.loop.advance(THROTTLE_S - 0.1)
    assert wire.heard() == [] and not session.expire()
    door.loop.advance(0.2)
    assert wire.heard() == ["250", "250"]


def test_a_client_that_leaves_while_it_is_slowed_down_is_forgotten(door: Door) -> None:
    door.level = DiskLevel.THROTTLED
    session, wire = door.open()
    session.received(ENVELOPE)
    session.lost()
    door.loop.advance(THROTTLE_S)
    assert wire.heard() == []


def test_mail_is_refused_while_the_disk_is_full(door: Door) -> None:
    door.level = DiskLevel.SUSPENDED
    session, wire = door.open()
    session.received(ENVELOPE)
    assert wire.heard()[0] == "452"


def test_a_drain_closes_idle_sessions_and_lets_a_transaction_finish(door: Door) -> None:
    idle, idle_wire = door.open()
    idle.drain()
    assert idle_wire.heard() == ["421"] and idle_wire.closed
    busy, wire = door.open()
    busy.received(OFFER)
    busy.drain()
    busy.received(END)
    assert wire.heard() == ["250", "250", "354"] and not wire.closed
    door.log.answer()
    assert wire.heard() == ["250", "421"] and wire.closed


def test_a_drain_lets_no_pipelined_message_begin(door: Door) -> None:
    session, wire = door.open()
    session.received(CHUNKED * 2)
    session.drain()
    wire.heard()
    door.log.answer()
    assert wire.heard() == ["250", "421"] and wire.closed
    assert len(door.log.records) == 1


def test_a_session_that_is_cut_while_its_message_is_stored_hears_no_refusal(door: Door) -> None:
    """RFC 1047: what is delivered after all must not have been refused."""
    session, wire = door.open()
    session.received(OFFER + END)
    wire.heard()
    session.cut()
    assert wire.heard() == [] and wire.closed
    door.log.answer()
    assert wire.heard() == []


def test_a_silent_client_is_told_so_and_its_message_forgotten(door: Door) -> None:
    session, wire = door.open()
    session.received(OFFER + MESSAGE)
    wire.heard()
    assert session.expire()
    assert wire.heard() == ["421"] and wire.closed and door.budget.held_bytes == 0


def test_a_client_is_not_called_silent_while_we_keep_it_waiting(door: Door) -> None:
    session, wire = door.open()
    session.received(OFFER + END)
    assert not session.expire() and not wire.closed


def test_a_client_whose_message_no_disk_decides_about_hears_nothing_in_the_end(door: Door) -> None:
    """It may be delivered yet: to its client it is neither accepted nor refused (RFC 1047)."""
    session, wire = door.open()
    session.received(OFFER + END)
    wire.heard()
    door.loop.advance(ANSWER_S - 1)
    assert not session.unanswered(door.loop.monotonic())
    door.loop.advance(1)
    assert session.unanswered(door.loop.monotonic())
    session.cut()
    assert wire.heard() == [] and wire.closed
    door.log.answer()
    assert wire.heard() == [] and door.budget.held_bytes == 0


def test_the_wait_of_a_message_is_counted_for_itself(door: Door) -> None:
    session, wire = door.open()
    for _ in range(3):
        session.received(OFFER + END)
        door.loop.advance(ANSWER_S - 1)
        assert not session.unanswered(door.loop.monotonic())
        door.log.answer()
    door.loop.advance(2 * ANSWER_S)
    assert not session.unanswered(door.loop.monotonic()), "nothing waits any more"
    assert wire.heard() == ["250", "250", "354", "250"] * 3


def test_rset_forgets_envelope_and_content(door: Door) -> None:
    session, wire = door.open()
    session.received(ENVELOPE + b"BDAT 5\r\nhelloRSET\r\n" + CHUNKED)
    assert wire.heard() == ["250", "250", "250", "250", "250", "250"]
    door.log.answer()
    ((message, content),) = door.log.messages
    assert len(message.envelope.recipients) == 1 and b"hello" not in content.partition(b"\r\n\r\n")[2]
    assert door.budget.held_bytes == 0


def test_a_suppressed_recipient_is_refused_and_the_others_are_not(door: Door) -> None:
    door.suppressed = SuppressionList.of(["gone@example.net"])
    session, wire = door.open()
    session.received(
        b"MAIL FROM:<a@example.org>\r\nRCPT TO:<Gone@EXAMPLE.net>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"
    )
    assert b"550 5.1.1 This recipient is suppressed" in wire.said
    assert wire.heard() == ["250", "550", "250", "354"]
    assert [refusal.kind for refusal in door.refusals] == ["suppressed"]


def test_every_refusal_is_told_with_whom_it_concerns(door: Door) -> None:
    """Also those of size, number and manners, which any server would make."""
    door.desk.rules = msgspec.structs.replace(door.desk.rules, recipients_max=1)
    session, wire = door.open()
    session.received(b"MAIL FROM:<big@example.org> SIZE=900000000\r\n")
    session.received(ENVELOPE + b"RCPT TO:<c@example.org>\r\nRSET\r\n" + b"HUH\r\n" * 21)
    assert wire.heard() == ["552", "250", "250", "452", "250", *["500"] * 20, "421"]
    assert door.refused == [
        ("size", "big@example.org", ""),
        ("recipients", "a@example.org", "c@example.org"),
        ("protocol", None, ""),
    ]
    assert wire.closed
