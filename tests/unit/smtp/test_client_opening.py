"""How a session comes to its beginning: STARTTLS in every mode, and what somebody in between may try."""

from __future__ import annotations

import pytest
from tests.unit.smtp.client_talk import TLS, Talk, codes, ehlo_reply

from dispatch.mail.report import Fault, FaultKind, Stage
from dispatch.smtp.client_auth import Credentials
from dispatch.smtp.client_opening import Security
from dispatch.smtp.client_states import Awaited, Phase

GREETING = b"220 host.example ESMTP\r\n"
EHLO = b"EHLO client.example\r\n"
GO = b"220 2.0.0 go\r\n"
SECURITIES: tuple[Security, ...] = ("none", "auto", "starttls", "starttls_required")
ENCRYPTING = SECURITIES[1:]
INSISTING = SECURITIES[2:]


def offered(*extensions: str, security: Security = "auto", had_tls: bool = False) -> tuple[Talk, bytes]:
    """A session that has heard the offer, and what it said to that."""
    talk = Talk(security=security, had_tls=had_tls)
    assert talk.hear(GREETING) == EHLO
    return talk, talk.hear(ehlo_reply(*extensions))


def fault_of(talk: Talk, stage: Stage) -> Fault:
    """The fault that ended the session at this stage, before anything else could be said."""
    (closed,) = talk.closed
    assert (closed.stage, closed.reply) == (stage, None)
    assert talk.ready == 0
    assert closed.fault is not None
    return closed.fault


@pytest.mark.parametrize("security", ENCRYPTING)
def test_offer_of_tls_is_taken_and_ehlo_said_again_behind_it(security: Security) -> None:
    talk, said = offered("STARTTLS", "PIPELINING", security=security)
    assert said == b"STARTTLS\r\n"
    assert talk.core.awaited is Awaited.STARTTLS
    assert talk.hear(GO) == b"", "the next bytes are the handshake's"
    assert (talk.handshakes, talk.ready, talk.core.awaited) == (1, 0, None)
    assert talk.secured() == EHLO
    assert talk.hear(ehlo_reply("PIPELINING")) == b""
    assert talk.ready == 1
    talk.begin()
    talk.core.lost(Fault(FaultKind.DROPPED, "gone"))
    talk.pump()
    assert talk.reports["m"].tls == TLS


def test_only_what_was_offered_under_tls_counts() -> None:
    talk, _ = offered("STARTTLS", "PIPELINING", "SIZE 1000", "DSN", "SMTPUTF8", "CHUNKING", "AUTH PLAIN")
    talk.hear(GO)
    talk.secured()
    assert not talk.core.grouped
    talk.hear(ehlo_reply("8BITMIME"))
    extensions = talk.core.extensions
    assert extensions.eight_bit
    assert not (extensions.pipelining or extensions.size or extensions.dsn or extensions.chunking)
    assert extensions.auth == ()
    assert not talk.core.grouped
    assert talk.begin() == b"MAIL FROM:<a@a.example>\r\n", "lock-step, and without SIZE"


def test_extensions_of_a_clear_ehlo_are_forgotten_by_a_host_that_then_knows_only_helo() -> None:
    talk, _ = offered("STARTTLS", "PIPELINING", "DSN")
    talk.hear(GO)
    talk.secured()
    assert talk.hear(b"502 what\r\n") == b"HELO client.example\r\n"
    talk.hear(b"250 hello\r\n")
    assert talk.ready == 1
    assert not talk.core.extensions.pipelining
    assert not talk.core.extensions.dsn


def test_second_offer_of_tls_is_passed_over() -> None:
    talk, _ = offered("STARTTLS")
    talk.hear(GO)
    talk.secured()
    assert talk.hear(ehlo_reply("STARTTLS")) == b""
    assert (talk.ready, talk.handshakes) == (1, 1)


@pytest.mark.parametrize("security", SECURITIES)
def test_connection_that_began_with_tls_is_not_encrypted_twice(security: Security) -> None:
    talk = Talk(tls=TLS, security=security, had_tls=True).open("STARTTLS", "PIPELINING")
    assert talk.handshakes == 0
    talk.begin()
    talk.hear(b"550 no\r\n550 no\r\n550 no\r\n")
    assert talk.reports["m"].tls == TLS


def test_mode_none_takes_no_offer() -> None:
    talk, said = offered("STARTTLS", security="none", had_tls=True)
    assert said == b""
    assert (talk.ready, talk.core.tls) == (1, None)


@pytest.mark.parametrize(("security", "had_tls"), [("auto", False), ("auto", True), ("starttls", False)])
def test_without_an_offer_mail_goes_in_clear_text_where_it_may(security: Security, had_tls: bool) -> None:
    talk, said = offered("PIPELINING", security=security, had_tls=had_tls)
    assert said == b""
    assert (talk.ready, talk.core.tls) == (1, None)


@pytest.mark.parametrize(
    ("security", "had_tls"), [("starttls", True), ("starttls_required", False), ("starttls_required", True)]
)
def test_missing_offer_ends_the_session_where_tls_is_wanted(security: Security, had_tls: bool) -> None:
    talk, said = offered("PIPELINING", "XSTARTTLS", security=security, had_tls=had_tls)
    assert said == b""
    fault = fault_of(talk, Stage.STARTTLS)
    assert fault.kind is FaultKind.TLS
    assert "STARTTLS" in fault.detail


def test_refused_ehlo_does_not_lead_around_tls() -> None:
    talk = Talk(security="starttls_required")
    talk.hear(GREETING)
    assert talk.hear(b"500 what\r\n") == b"HELO client.example\r\n"
    assert talk.hear(b"250 hello\r\n") == b""
    assert fault_of(talk, Stage.STARTTLS).kind is FaultKind.TLS


@pytest.mark.parametrize("refusal", [b"454 4.7.0 no certificate today\r\n", b"502 what\r\n", b"554 no\r\n"])
@pytest.mark.parametrize("security", INSISTING)
def test_refused_starttls_ends_the_session(security: Security, refusal: bytes) -> None:
    talk, _ = offered("STARTTLS", security=security)
    assert talk.hear(refusal) == b""
    fault = fault_of(talk, Stage.STARTTLS)
    assert fault.kind is FaultKind.TLS
    assert refusal.decode().strip() in fault.detail
    assert talk.handshakes == 0


def test_refused_starttls_leaves_mode_auto_in_clear_text() -> None:
    talk, _ = offered("STARTTLS", "PIPELINING")
    talk.hear(b"454 4.7.0 no certificate today\r\n")
    assert (talk.ready, talk.core.tls) == (1, None)
    assert talk.core.grouped


def test_421_to_starttls_is_the_hosts_own_word() -> None:
    talk, _ = offered("STARTTLS", security="starttls_required")
    talk.hear(b"421 4.3.2 shutting down\r\n")
    (closed,) = talk.closed
    assert closed.stage is Stage.STARTTLS
    assert closed.reply is not None
    assert closed.reply.code == 421


@pytest.mark.parametrize("answer", [b"250 ok\r\n", b"334 \r\n", b"garbage\r\n"])
def test_answer_to_starttls_that_is_none_ends_the_session(answer: bytes) -> None:
    talk, _ = offered("STARTTLS")
    talk.hear(answer)
    assert fault_of(talk, Stage.STARTTLS).kind is FaultKind.PROTOCOL
    assert talk.handshakes == 0


INJECTED = [
    b"250-injected.example\r\n250 AUTH PLAIN\r\n",
    b"250 ok\r\n",
    b"250-half",
    b"2",
    b"\n",
    b"\x16\x03\x01",
    b"421 bye\r\n",
]


@pytest.mark.parametrize("injected", INJECTED)
def test_clear_text_behind_the_220_is_never_heard(injected: bytes) -> None:
    """CVE-2021-38371."""
    faults = set()
    for cut in range(len(GO), len(GO + injected)):
        talk, _ = offered("STARTTLS")
        said = GO + injected
        talk.hear_in_pieces([said[:cut], said[cut:]])
        assert talk.handshakes == (1 if cut == len(GO) else 0)
        faults.add(fault_of(talk, Stage.STARTTLS))
    talk, _ = offered("STARTTLS")
    talk.hear(GO + injected)
    assert talk.handshakes == 0, "it came with the 220: no handshake may begin"
    assert faults == {fault_of(talk, Stage.STARTTLS)}
    (fault,) = faults
    assert fault.kind is FaultKind.PROTOCOL
    assert "injected" not in fault.detail


def test_answer_that_comes_before_the_question_ends_the_session() -> None:
    """The 220 to STARTTLS may not be sent ahead, with the reply to EHLO."""
    talk = Talk(security="auto")
    talk.hear(GREETING)
    assert talk.hear(ehlo_reply("STARTTLS") + GO) == b""
    assert talk.handshakes == 0
    assert fault_of(talk, Stage.STARTTLS).kind is FaultKind.PROTOCOL


@pytest.mark.parametrize("security", ENCRYPTING)
def test_failed_handshake_ends_the_session(security: Security) -> None:
    talk, _ = offered("STARTTLS", security=security)
    talk.hear(GO)
    fault = Fault(FaultKind.TLS, "certificate has expired")
    talk.core.lost(fault)
    assert talk.pump() == b""
    assert fault_of(talk, Stage.STARTTLS) == fault
    assert talk.core.phase is Phase.CLOSED


def test_exchange_that_was_begun_during_the_handshake_is_untried() -> None:
    talk, _ = offered("STARTTLS")
    talk.hear(GO)
    assert not talk.core.room
    talk.begin("early")
    assert set(talk.untried) == {"early"}


def conversation(security: Security, pieces: int | None) -> tuple[bytes, int, int, list[object], object]:
    """A whole session through STARTTLS and AUTH, the host's words in pieces; what came of it."""
    talk = Talk(security=security, credentials=Credentials("u", "p", ("LOGIN",)))
    said = b""

    def hear(words: bytes) -> None:
        nonlocal said
        size = pieces or len(words)
        said += talk.hear_in_pieces([words[at : at + size] for at in range(0, len(words), size)])

    hear(b"220-host.example\r\n220 hi\r\n")
    hear(ehlo_reply("STARTTLS", "AUTH LOGIN"))
    hear(GO)
    said += talk.secured()
    for words in (
        ehlo_reply("PIPELINING", "AUTH=LOGIN PLAIN"),
        b"334 VXNlcm5hbWU6\r\n",
        b"334-UGFz\r\n334 c3dvcmQ6\r\n",
        b"235 2.7.0 ok\r\n",
    ):
        hear(words)
    said += talk.begin()
    hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    hear(b"250 queued\r\n")
    return said, talk.ready, talk.handshakes, list(talk.closed), codes(talk.reports["m"])


@pytest.mark.parametrize("security", ENCRYPTING)
def test_chunks_do_not_matter(security: Security) -> None:
    whole = conversation(security, None)
    assert whole[0].startswith(EHLO + b"STARTTLS\r\n" + EHLO + b"AUTH LOGIN\r\ndQ==\r\ncA==\r\nMAIL FROM:")
    assert whole[1:] == (1, 1, [], [250])
    assert all(conversation(security, pieces) == whole for pieces in range(1, 30))


def test_dsn_is_known_from_the_offer_in_force() -> None:
    """Where it is not offered, the notice of relaying is ours to send (RFC 3461 section 5.2.2)."""
    assert Talk().open("DSN").core.extensions.dsn
    assert not Talk().open("PIPELINING").core.extensions.dsn
