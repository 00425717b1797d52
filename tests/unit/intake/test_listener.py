"""What a listener does to connections in the course of time."""

from __future__ import annotations

import asyncio
from typing import cast

from tests.unit.intake.door import Door

from dispatch.intake.listener import ConnectionRules, SmtpListener
from dispatch.intake.smtp_session import ANSWER_S
from dispatch.ports import AppendFault, Network

SILENCE_S = 2 * ANSWER_S
MESSAGE = (
    b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nSubject: hello\r\n\r\nbody\r\n.\r\n"
)


def nothing(event: str, /, **fields: object) -> None:
    """Nobody reads the log."""


class Transport:
    """A client at the other end, who reads everything at once."""

    def __init__(self) -> None:
        self.said = b""
        self.closed = False

    def get_extra_info(self, name: str) -> object:
        return ("192.0.2.1", 40_000) if name == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None:
        """It never waits."""

    def write(self, data: bytes) -> None:
        assert not self.closed, "said after the close"
        self.said += data

    def close(self) -> None:
        self.closed = True

    def codes(self) -> list[str]:
        lines, self.said = self.said.decode().splitlines(), b""
        return [line[:3] for line in lines if line[3:4] == " "]


def offered(door: Door, listener: SmtpListener) -> Transport:
    """A connection over which a message has been offered whole."""
    transport = Transport()
    connection = listener.accept()
    connection.connection_made(cast(asyncio.BaseTransport, transport))
    connection.data_received(b"EHLO client.test\r\n" + MESSAGE)
    assert transport.codes() == ["220", "250", "250", "250", "354"]
    return transport


def test_a_message_that_no_disk_decides_about_is_given_back_in_time_without_a_word(door: Door) -> None:
    """However long clients may be silent: they would wait ten minutes, and nobody longer."""
    listener = SmtpListener(door.desk, ConnectionRules(10, 10, SILENCE_S), cast("Network", None), nothing)
    undecided = offered(door, listener)
    door.loop.advance(ANSWER_S - 2)
    refused = offered(door, listener)
    assert not undecided.closed
    door.loop.advance(4)
    assert undecided.closed and undecided.codes() == []
    assert not refused.closed, "it has waited for a moment"
    door.log.answer(AppendFault(full=False, detail="simulated"))
    door.log.answer(AppendFault(full=False, detail="simulated"))
    assert undecided.codes() == [] and refused.codes() == ["451"]
    assert door.budget.held_bytes == 0
