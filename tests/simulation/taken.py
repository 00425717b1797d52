"""What upstreams took over, and whether each byte of it is what its client sent.

A message counts as taken at the moment at which an upstream, having its end of data, takes it over: whether
the reply reaches anybody is another matter. What is wrong with it is kept as a fault, for whoever looks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.simulation.contents import fields_of, handed_over_content_of, recipients_of, sender_of
from tests.simulation.letters import Letters

from dispatch.mail.ids import MessageId

_DATE_TIME = rb"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000\r\n"
_RECEIVED = re.compile(
    rb"Received: from [!-~]+(?: |\r\n\t)\(\[[0-9.]+\]\)\r\n"
    rb"\tby [!-~]+ \(Dispatch\) with E?SMTP\r\n"
    rb"\tid spl_([0-9a-f]{32})(?:\r\n\tfor <([^>\r\n]+)>)?;\r\n"
    rb"\t" + _DATE_TIME
)
_DATE = re.compile(rb"Date: " + _DATE_TIME)
_MESSAGE_ID = re.compile(rb"Message-ID: <spl_([0-9a-f]{32})@[!-~]+>\r\n")
_TOKEN = re.compile(rb"X-Token: (\d+)\r\n")


class Offered(NamedTuple):
    """A transaction as an upstream sees it at its end of data."""

    reverse_path: str
    recipients: Sequence[str]
    """Those that it accepted."""
    content: bytes
    chunked: bool
    """It came by BDAT: its last line need not be ended."""


class Taking(NamedTuple):
    """One transaction that an upstream took over."""

    message_id: MessageId
    token: int | None
    """None: it is a notice of the relay's own."""
    recipients: tuple[str, ...]
    port: int
    connection: int
    at_s: float


class Taken:
    """By all upstreams together."""

    def __init__(self, letters: Letters | None = None) -> None:
        """`letters`: the notices that there can be; none at all without."""
        self._letters = letters or Letters()
        self.takings: list[Taking] = []
        self.faults: list[AssertionError] = []
        self.told: Callable[[Taking], None] = lambda taking: None
        """Called with each, at its moment."""

    def take(self, offered: Offered, port: int, connection: int, at_s: float) -> None:
        """Record it, and what is wrong with it."""
        try:
            message_id, token = self._identify(offered)
        except AssertionError as fault:
            self.faults.append(fault)
            return
        taking = Taking(message_id, token, tuple(offered.recipients), port, connection, at_s)
        self.takings.append(taking)
        self.told(taking)

    def _identify(self, offered: Offered) -> tuple[MessageId, int | None]:
        """Our id and the client's token. Raises `AssertionError` where anything is not as it was sent."""
        content = offered.content
        received = _RECEIVED.match(content)
        assert received is not None, f"arrived without our Received field: {content[:300]!r}"
        message_id = MessageId(bytes.fromhex(received[1].decode()))
        if not offered.reverse_path and self._letters.is_for(
            content[received.end() :], tuple(offered.recipients)
        ):
            return message_id, None
        return message_id, _token_of(offered, received)

    def fault(self, what: str) -> None:
        self.faults.append(AssertionError(what))

    def check(self) -> None:
        """Raise the first fault, if there is one."""
        if self.faults:
            raise self.faults[0]


def _token_of(offered: Offered, received: re.Match[bytes]) -> int:
    """The client's. Raises `AssertionError` where anything is not as it was sent."""
    content = offered.content
    token_field = _TOKEN.search(content)
    assert token_field is not None, f"arrived without a token: {content[:500]!r}"
    token = int(token_field[1])
    at = received.end()
    has_date, has_message_id = fields_of(token)
    for missing, field in ((not has_date, _DATE), (not has_message_id, _MESSAGE_ID)):
        if missing:
            found = field.match(content, at)
            assert found is not None, f"token {token} arrived without {field.pattern!r}: {content[:500]!r}"
            assert field is _DATE or found[1] == received[1], f"token {token}: two ids in {content[:500]!r}"
            at = found.end()

    expected = handed_over_content_of(token)
    arrived = content[at:]
    if arrived != expected:
        ended = expected if expected.endswith(b"\r\n") else expected + b"\r\n"
        assert arrived == ended, f"token {token} arrived changed: {_difference(arrived, expected)}"
    assert offered.chunked or arrived.endswith(b"\r\n"), f"token {token}: DATA that ends in no line"

    everybody = recipients_of(token)
    strangers = set(offered.recipients).difference(everybody)
    assert not strangers, f"token {token} arrived for {strangers}"
    assert len(set(offered.recipients)) == len(offered.recipients), f"token {token}: {offered.recipients}"
    named = received[2]
    assert named is None or named.decode() in everybody, f"token {token}: Received names {named!r}"
    assert offered.reverse_path == sender_of(token), f"token {token} arrived from {offered.reverse_path!r}"
    return token


def _difference(arrived: bytes, expected: bytes) -> str:
    pairs = zip(arrived, expected, strict=False)
    at = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(arrived), len(expected)))
    around = slice(max(0, at - 20), at + 40)
    return f"at {at} of {len(expected)} bytes {arrived[around]!r} in place of {expected[around]!r}"
