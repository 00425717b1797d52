"""Conversations with the server core, one file a happening, named after what becomes of the mail.

A file holds what was said, in order:

    # why this matters
    set size_bytes_max = 20            a setting that differs from the default
    answer RCPT bob@b.example: 550 5.1.1 unknown      what the driver says instead of yes
    answer AUTH mallory: 535 5.7.8 wrong              the same, to a login of that user
    S: 220 mx.example ESMTP Dispatch   a line from the server
    C: EHLO client.example             a line from the client, CRLF follows
    c: MAIL FROM:<a@a.example>\\n       bytes from the client, Python escapes, nothing follows
    hang up                            the client sends no more
    => a@a.example -> b@b.example: Hi\\r\\n    a message that was accepted (all of them, at the end)
    => nothing

Each is played turn by turn, byte by byte, with every turn cut in two at every place, and with all turns that
RFC 2920 lets a client send without waiting as one; the conversation must be the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.wire.desk import Desk, Kept

from dispatch.mail.reply import Reply
from dispatch.smtp.server import ServerSettings

FILES = sorted((Path(__file__).parent / "server").glob("*.txt"))


class Conversation:
    def __init__(self, path: Path) -> None:
        self.settings: dict[str, Any] = {"server_name": "mx.example"}
        self.answers: dict[str, Reply] = {}
        self.greeting = b""
        self.turns: list[tuple[bytes, bytes]] = []
        """What the client says, and what it is answered."""
        self.hangs_up = False
        self.kept: list[Kept] = []
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            try:
                self._read(line)
            except (ValueError, KeyError, IndexError) as error:
                raise ValueError(f"{path.name}, line {number}: {error}") from error

    def _read(self, line: str) -> None:
        key, _, rest = line.partition(" ")
        match key:
            case "" | "#":
                pass
            case "set":
                name, _, value = rest.partition(" = ")
                setting = json.loads(value)
                self.settings[name] = tuple(setting) if isinstance(setting, list) else setting
            case "answer":
                command, _, text = rest.partition(": ")
                code, enhanced, words = text.split(" ", 2)
                self.answers[command] = Reply(int(code), enhanced, (words,))
            case "S:":
                said = rest.encode() + b"\r\n"
                if not self.turns:
                    self.greeting += said
                else:
                    asked, answered = self.turns[-1]
                    self.turns[-1] = (asked, answered + said)
            case "C:":
                self._client(rest.encode() + b"\r\n")
            case "c:":
                self._client(unescaped(rest))
            case "hang":
                self.hangs_up = True
            case "=>" if rest == "nothing":
                pass
            case "=>":
                envelope, _, content = rest.partition(": ")
                reverse_path, _, recipients = envelope.partition(" -> ")
                self.kept.append(Kept(reverse_path, tuple(recipients.split(", ")), unescaped(content)))
            case _:
                raise ValueError(f"what is {key!r}?")

    def _client(self, said: bytes) -> None:
        if self.turns and not self.turns[-1][1]:
            self.turns[-1] = (self.turns[-1][0] + said, b"")
        else:
            self.turns.append((said, b""))

    def desk(self) -> Desk:
        desk = Desk(ServerSettings(**self.settings), self.answers)
        assert desk.pump() == self.greeting
        return desk

    def check_end(self, desk: Desk) -> None:
        if self.hangs_up:
            desk.hang_up()
        assert desk.kept == self.kept


def unescaped(text: str) -> bytes:
    return text.encode("latin-1", "backslashreplace").decode("unicode_escape").encode("latin-1")


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def conversation(request: pytest.FixtureRequest) -> Conversation:
    return Conversation(request.param)


def test_turn_by_turn(conversation: Conversation) -> None:
    desk = conversation.desk()
    for said, answered in conversation.turns:
        assert desk.say(said) == answered
    conversation.check_end(desk)


def test_byte_by_byte(conversation: Conversation) -> None:
    desk = conversation.desk()
    for said, answered in conversation.turns:
        assert b"".join(desk.say(said[at : at + 1]) for at in range(len(said))) == answered
    conversation.check_end(desk)


def test_in_two_packets(conversation: Conversation) -> None:
    longest = max(len(said) for said, _ in conversation.turns)
    for cut in range(1, min(longest, 400)):
        desk = conversation.desk()
        for said, answered in conversation.turns:
            parts = [part for part in (said[:cut], said[cut:]) if part]
            assert b"".join(desk.say(part) for part in parts) == answered
        conversation.check_end(desk)


def test_pipelined(conversation: Conversation) -> None:
    groups: list[tuple[bytes, bytes]] = []
    waits, challenged = True, False
    for said, answered in conversation.turns:
        if waits:
            groups.append((said, answered))
        else:
            groups[-1] = (groups[-1][0] + said, groups[-1][1] + answered)
        verb = said.rsplit(b"\r\n", 2)[-2].upper() if said.endswith(b"\r\n") else b""
        # RFC 2920 section 3.1; and what answers a challenge is no command.
        waits = challenged or verb.startswith((b"EHLO", b"HELO", b"DATA", b"STARTTLS", b"AUTH"))
        challenged = answered.startswith(b"334 ")
    desk = conversation.desk()
    for said, answered in groups:
        assert desk.say(said) == answered
    conversation.check_end(desk)
