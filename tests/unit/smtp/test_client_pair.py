"""Our client core against our server core, without sockets: what one sends is what the other takes."""

from __future__ import annotations

import pytest
from tests.unit.smtp.client_talk import CONTENT, Talk, codes, envelope
from tests.wire.desk import Desk, Kept

from dispatch.mail.envelope import BodyType
from dispatch.mail.reply import Reply
from dispatch.mail.report import FaultKind, Stage
from dispatch.smtp import wording
from dispatch.smtp.client_auth import Credentials
from dispatch.smtp.client_opening import Security
from dispatch.smtp.client_preparation import Chunking
from dispatch.smtp.client_states import Phase
from dispatch.smtp.events import AuthOffered, Event
from dispatch.smtp.server_settings import ServerSettings

CONTENTS = [CONTENT, b"", b".\r\n", b"..\r\n.a\r\n\r\n.\r\n", b"\r\n.\r\n" * 50, b"x" * 5000 + b"\r\n"]


SETTINGS = ServerSettings(server_name="server.example")
GUARDED = ServerSettings(server_name="server.example", starttls=True, auth_mechanisms=("PLAIN", "LOGIN"))


class Doorman(Desk):
    """Knows one user, with one password."""

    def _handle(self, event: Event) -> None:
        if isinstance(event, AuthOffered):
            known = (event.user, event.password) == ("gr\u00fcn", b"pass word")
            self.core.answer(wording.AUTHENTICATED if known else wording.AUTHENTICATION_FAILED)
        else:
            super()._handle(event)


class Pair:
    """A session of the two, in which bytes travel in pieces of some length."""

    def __init__(
        self,
        piece: int,
        *,
        chunking: Chunking = "auto",
        pipelining: bool = True,
        answers: dict[str, Reply] | None = None,
        settings: ServerSettings = SETTINGS,
        security: Security = "none",
        credentials: Credentials | None = None,
    ) -> None:
        self.client = Talk(
            chunking=chunking, pipelining=pipelining, security=security, credentials=credentials
        )
        self.desk = Doorman(settings, answers)
        self._piece = piece
        self.carry(b"", self.desk.pump())

    def carry(self, to_server: bytes, to_client: bytes) -> None:
        """Carry bytes to and fro until both have said what they had to say."""
        while to_server or to_client:
            answers = [self.desk.say(piece) for piece in self._pieces(to_server)]
            heard = to_client + b"".join(answers)
            to_server = b"".join(self.client.hear(piece) for piece in self._pieces(heard))
            to_client = b""
            if self.client.core.phase is Phase.TLS:
                self.desk.core.secured()
                to_server = self.client.secured()

    def send(self, *keys: str, **options: object) -> None:
        said = b"".join(self.client.begin(key, **options) for key in keys)  # type: ignore[arg-type]
        self.carry(said, b"")

    def _pieces(self, data: bytes) -> list[bytes]:
        return [data[at : at + self._piece] for at in range(0, len(data), self._piece)]


@pytest.mark.parametrize("piece", [1, 3, 1000, 1_000_000])
@pytest.mark.parametrize("chunking", ["off", "always"])
@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("content", CONTENTS)
def test_content_arrives_as_it_was(content: bytes, pipelining: bool, chunking: Chunking, piece: int) -> None:
    pair = Pair(piece, chunking=chunking, pipelining=pipelining)
    pair.send("one", content=content)
    pair.send("two", content=content)
    kept = Kept("a@a.example", ("b@b.example",), content)
    assert pair.desk.kept == [kept, kept]
    assert [codes(pair.client.reports[key]) for key in ("one", "two")] == [[250], [250]]


@pytest.mark.parametrize("chunking", ["off", "always"])
def test_envelopes_behind_contents_keep_messages_apart(chunking: Chunking) -> None:
    pair = Pair(50, chunking=chunking)
    pair.send("one", "two")
    pair.send("three", "four", what=envelope("c@c.example", "d@d.example", sender=""))
    assert [kept.recipients for kept in pair.desk.kept] == [("b@b.example",)] * 2 + [
        ("c@c.example", "d@d.example")
    ] * 2
    assert len(pair.client.reports) == 4
    assert pair.client.closed == []


@pytest.mark.parametrize("chunking", ["off", "always"])
def test_refused_recipients_do_not_get_it(chunking: Chunking) -> None:
    refusal = Reply(550, "5.1.1", ("who",))
    pair = Pair(50, chunking=chunking, answers={"RCPT c@c.example": refusal})
    pair.send("one", "two", what=envelope("b@b.example", "c@c.example"))
    assert [kept.recipients for kept in pair.desk.kept] == [("b@b.example",)] * 2
    report = pair.client.reports["two"]
    assert report.replies[1] == refusal
    assert report.reply_stage == (Stage.END_OF_DATA, Stage.RCPT)


@pytest.mark.parametrize("chunking", ["off", "always"])
def test_session_goes_on_behind_a_message_for_nobody(chunking: Chunking) -> None:
    pair = Pair(50, chunking=chunking, answers={"RCPT c@c.example": Reply(550, "5.1.1", ("who",))})
    pair.send("nobody", what=envelope("c@c.example"))
    pair.send("one", "two")
    assert codes(pair.client.reports["nobody"]) == [550]
    assert [kept.recipients for kept in pair.desk.kept] == [("b@b.example",)] * 2
    assert pair.client.closed == []


@pytest.mark.parametrize("body", ["7BIT", "8BITMIME", "BINARYMIME"])
def test_bodies_suit_or_are_refused_before_anything_is_said(body: BodyType) -> None:
    pair = Pair(50)
    pair.send("m", what=envelope(body=body), content="gr\u00fcn\r\n".encode())
    if body == "BINARYMIME":
        assert pair.desk.kept == []
        assert codes(pair.client.reports["m"]) == [None]
    else:
        assert len(pair.desk.kept) == 1


@pytest.mark.parametrize("piece", [1, 3, 1_000_000])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("user", ["gr\u00fcn", "gr\u00fcn" * 200])
def test_login_under_tls_is_followed_by_mail_or_refused(user: str, mechanism: str, piece: int) -> None:
    credentials = Credentials(user, "pass word", (mechanism,))
    pair = Pair(piece, settings=GUARDED, security="starttls_required", credentials=credentials)
    assert pair.client.handshakes == 1
    if user == "gr\u00fcn":
        pair.send("one", "two")
        assert len(pair.desk.kept) == 2
        assert pair.client.reports["two"].tls is not None
    else:
        (closed,) = pair.client.closed
        assert (closed.stage, closed.reply) == (Stage.AUTH, wording.AUTHENTICATION_FAILED)


def test_login_is_not_tried_in_clear_text() -> None:
    pair = Pair(50, settings=GUARDED, credentials=Credentials("gr\u00fcn", "pass word"))
    (closed,) = pair.client.closed
    assert closed.stage is Stage.AUTH
    assert closed.fault is not None
    assert closed.fault.kind is FaultKind.TLS
    assert not [event for event in pair.desk.happened if isinstance(event, AuthOffered)]
