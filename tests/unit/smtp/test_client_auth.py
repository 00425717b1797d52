"""Who we are to a host: mechanisms, refusals, and secrets that nobody gets to see."""

from __future__ import annotations

import base64
import json
import traceback
from dataclasses import replace

import pytest
from tests.unit.smtp.client_talk import TLS, Talk, ehlo_reply

from dispatch.mail.reply import Reply
from dispatch.mail.report import Fault, FaultKind, Report, Stage
from dispatch.policy.verdict import Scope, is_authentication_failure, judge
from dispatch.smtp.client_auth import Authentication, Credentials, Unanswerable
from dispatch.smtp.client_commands import UnwritableCommand
from dispatch.smtp.client_exchange import Closed
from dispatch.smtp.client_opening import Say
from dispatch.smtp.client_states import Awaited, Phase

SECRET = "correct horse battery"
PASSWORD = Credentials("user@a.example", SECRET)
TOKEN = Credentials("user@a.example", "ya29.token-of-a-bearer", ("XOAUTH2",))
CRAM = Credentials("tim", "tanstaaftanstaaf", ("CRAM-MD5",))
EVERY = ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER")
GOOGLE = {"status": "400", "schemes": "Bearer", "scope": "https://mail.google.com/"}


def b64(text: str | bytes) -> bytes:
    return base64.b64encode(text.encode() if isinstance(text, str) else text)


def asked(credentials: Credentials, *extensions: str, tls: str | None = TLS) -> tuple[Talk, bytes]:
    """A session that has heard the offer, and what it said to that."""
    talk = Talk(credentials=credentials, tls=tls)
    talk.hear(b"220 hi\r\n")
    return talk, talk.hear(ehlo_reply(*extensions))


def ended(talk: Talk) -> Closed:
    """The end of a session that never became ready."""
    (closed,) = talk.closed
    assert talk.ready == 0
    assert closed.stage is Stage.AUTH
    return closed


def fault_of(talk: Talk) -> Fault:
    closed = ended(talk)
    assert closed.reply is None
    assert closed.fault is not None
    return closed.fault


def refusal_of(talk: Talk) -> Reply:
    closed = ended(talk)
    assert closed.fault is None
    assert closed.reply is not None
    return closed.reply


# ------------------------------------------------------------------- mechanisms


def test_plain_is_said_at_once() -> None:
    talk, said = asked(PASSWORD, "AUTH LOGIN PLAIN", "PIPELINING")
    assert said == b"AUTH PLAIN " + b64(f"\0user@a.example\0{SECRET}") + b"\r\n"
    assert talk.core.awaited is Awaited.AUTH
    assert not talk.core.room
    assert talk.hear(b"235 2.7.0 welcome\r\n") == b"", "a second EHLO is for security layers only"
    assert talk.ready == 1
    assert talk.core.grouped
    assert talk.begin().startswith(b"MAIL FROM:")


def test_login_answers_prompts_in_order_whatever_they_say() -> None:
    talk, said = asked(PASSWORD, "AUTH LOGIN")
    assert said == b"AUTH LOGIN\r\n"
    assert talk.hear(b"334 Wer da?\r\n") == b64("user@a.example") + b"\r\n"
    assert talk.hear(b"334\r\n") == b64(SECRET) + b"\r\n"
    talk.hear(b"235 ok\r\n")
    assert talk.ready == 1


def test_cram_md5_proves_the_secret_without_sending_it() -> None:
    """The example of RFC 2195 section 2."""
    talk, said = asked(CRAM, "AUTH PLAIN CRAM-MD5")
    assert said == b"AUTH CRAM-MD5\r\n"
    answer = talk.hear(b"334 " + b64("<1896.697170952@postoffice.reston.mci.net>") + b"\r\n")
    assert base64.b64decode(answer) == b"tim b913a602c7eda7a495b4e6e7334d3890"
    talk.hear(b"235 ok\r\n")
    assert talk.ready == 1


def test_xoauth2_sends_the_token_as_it_is() -> None:
    talk, said = asked(TOKEN, "AUTH PLAIN XOAUTH2")
    verb, mechanism, response = said.split()
    assert (verb, mechanism) == (b"AUTH", b"XOAUTH2")
    assert base64.b64decode(response) == b"user=user@a.example\x01auth=Bearer ya29.token-of-a-bearer\x01\x01"
    talk.hear(b"235 ok\r\n")
    assert talk.ready == 1


def test_oauthbearer_escapes_the_user() -> None:
    credentials = Credentials("a=b,c@a.example", "token", ("OAUTHBEARER",))
    _, said = asked(credentials, "AUTH OAUTHBEARER")
    assert base64.b64decode(said.split()[2]) == b"n,a=a=3Db=2Cc@a.example,\x01auth=Bearer token\x01\x01"


def test_names_beyond_ascii_are_sent_as_utf8() -> None:
    _, said = asked(Credentials("gr\u00fcn", "\u00e4 b"), "AUTH PLAIN")
    assert base64.b64decode(said.split()[2]).decode() == "\0gr\u00fcn\0\u00e4 b"


@pytest.mark.parametrize("mechanism", ["PLAIN", "XOAUTH2", "OAUTHBEARER"])
def test_response_too_long_for_its_command_waits_for_the_host(mechanism: str) -> None:
    """RFC 4954 section 4."""
    token = "t" * 2000
    talk, said = asked(Credentials("u", token, (mechanism,)), f"AUTH {mechanism}")
    assert said == f"AUTH {mechanism}\r\n".encode()
    assert token.encode() in base64.b64decode(talk.hear(b"334 \r\n"))
    talk.hear(b"235 ok\r\n")
    assert talk.ready == 1


def test_command_with_its_response_fills_a_line_and_no_more() -> None:
    lines = [asked(Credentials("u", "x" * length), "AUTH PLAIN")[1] for length in range(300, 400)]
    longest = max(map(len, lines))
    assert 508 < longest <= 512
    assert lines[-1] == b"AUTH PLAIN\r\n"


@pytest.mark.parametrize(
    ("allowed", "offers", "chosen"),
    [
        (("PLAIN", "LOGIN"), ("AUTH LOGIN PLAIN",), b"PLAIN"),
        (("LOGIN", "PLAIN"), ("AUTH PLAIN LOGIN",), b"LOGIN"),
        (("PLAIN", "LOGIN"), ("AUTH=LOGIN",), b"LOGIN"),
        (("PLAIN", "LOGIN"), ("AUTH GSSAPI", "auth=login plain"), b"PLAIN"),
        (("OAUTHBEARER", "XOAUTH2"), ("AUTH LOGIN XOAUTH2",), b"XOAUTH2"),
        (("CRAM-MD5", "PLAIN"), ("AUTH PLAIN CRAM-MD5",), b"CRAM-MD5"),
    ],
)
def test_first_allowed_mechanism_that_is_offered_is_taken(
    allowed: tuple[str, ...], offers: tuple[str, ...], chosen: bytes
) -> None:
    _, said = asked(Credentials("u", "p", allowed), *offers)
    assert said.split()[1] == chosen


@pytest.mark.parametrize(
    ("offers", "named"),
    [(("AUTH GSSAPI CRAM-MD5 XOAUTH2",), "GSSAPI CRAM-MD5 XOAUTH2"), (("PIPELINING",), "no AUTH")],
)
def test_nothing_in_common_is_said_with_what_the_host_offers(offers: tuple[str, ...], named: str) -> None:
    talk, said = asked(PASSWORD, *offers)
    assert said == b""
    detail = fault_of(talk).detail
    assert named in detail
    assert "PLAIN, LOGIN" in detail


def test_host_that_knows_only_helo_offers_no_auth() -> None:
    talk = Talk(credentials=PASSWORD, tls=TLS)
    talk.hear(b"220 hi\r\n")
    talk.hear(b"502 what\r\n")
    assert talk.hear(b"250 hello\r\n") == b""
    assert "no AUTH" in fault_of(talk).detail


# ------------------------------------------------------------------- clear text


def test_credentials_never_go_over_clear_text_unasked() -> None:
    talk, said = asked(PASSWORD, "AUTH PLAIN", tls=None)
    assert said == b""
    fault = fault_of(talk)
    assert fault.kind is FaultKind.TLS
    assert "clear text" in fault.detail


def test_credentials_go_over_clear_text_where_the_operator_says_so() -> None:
    talk, said = asked(replace(PASSWORD, in_clear=True), "AUTH PLAIN", tls=None)
    assert said.startswith(b"AUTH PLAIN ")
    talk.hear(b"235 ok\r\n")
    assert talk.ready == 1


def test_refused_starttls_does_not_bring_credentials_into_clear_text() -> None:
    for credentials, said in ((PASSWORD, b""), (replace(PASSWORD, in_clear=True), b"AUTH")):
        talk = Talk(credentials=credentials, security="auto")
        talk.hear(b"220 hi\r\n")
        assert talk.hear(ehlo_reply("STARTTLS", "AUTH PLAIN")) == b"STARTTLS\r\n"
        assert talk.hear(b"454 not now\r\n")[:4] == said
        assert bool(talk.closed) is (said == b"")


def test_mechanisms_offered_before_tls_do_not_count() -> None:
    talk = Talk(credentials=replace(PASSWORD, mechanisms=EVERY), security="starttls")
    talk.hear(b"220 hi\r\n")
    talk.hear(ehlo_reply("STARTTLS", "AUTH PLAIN"))
    talk.hear(b"220 go\r\n")
    talk.secured()
    assert talk.hear(ehlo_reply("AUTH CRAM-MD5")) == b"AUTH CRAM-MD5\r\n"


# ------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "refusal",
    [
        "535 5.7.8 Username and Password not accepted",
        "534 5.7.9 stronger mechanism wanted",
        "454 4.7.0 Temporary authentication failure",
        "538 5.7.11 encryption wanted",
        "500 5.5.6 line too long",
        "501 5.5.2 cannot decode",
        "504 5.5.4 mechanism unknown",
        "432 4.7.12 password transition needed",
    ],
)
@pytest.mark.parametrize("offer", ["AUTH PLAIN", "AUTH LOGIN"])
def test_refusal_ends_the_session_and_is_the_relays_matter(refusal: str, offer: str) -> None:
    talk, _ = asked(PASSWORD, offer)
    if offer == "AUTH LOGIN":
        talk.hear(b"334 VXNlcm5hbWU6\r\n")
        talk.hear(b"334 UGFzc3dvcmQ6\r\n")
    assert talk.hear(f"{refusal}\r\n".encode()) == b""
    reply = refusal_of(talk)
    assert str(reply) == refusal
    (outcome,) = judge(Report(Stage.AUTH, (reply,)))
    assert (outcome.scope, outcome.burns_attempt) == (Scope.RELAY, False)
    assert is_authentication_failure(outcome) is reply.permanent


def test_421_to_auth_is_a_refusal() -> None:
    talk, _ = asked(PASSWORD, "AUTH PLAIN")
    talk.hear(b"421 4.7.0 too many failures\r\n")
    assert refusal_of(talk).code == 421


@pytest.mark.parametrize(
    ("mechanism", "farewell"), [("XOAUTH2", b"\r\n"), ("OAUTHBEARER", b64(b"\x01") + b"\r\n")]
)
def test_complaint_about_a_token_goes_with_the_refusal(mechanism: str, farewell: bytes) -> None:
    talk, _ = asked(replace(TOKEN, mechanisms=(mechanism,)), f"AUTH {mechanism}")
    assert talk.hear(b"334 " + b64(json.dumps(GOOGLE)) + b"\r\n") == farewell
    assert talk.hear(b"535-5.7.8 Not accepted.\r\n535 5.7.8 Learn more\r\n") == b""
    assert refusal_of(talk) == Reply(
        535,
        "5.7.8",
        ("Not accepted.", "Learn more", "status 400, schemes Bearer, scope https://mail.google.com/"),
    )


@pytest.mark.parametrize(
    ("complaint", "shown"),
    [
        (b64('{"status": 401}'), "status 401"),
        (b64('{"status": "inva\\nlid"}'), "status inva\ufffdlid"),
        (b64("no\tJSON\x07"), "no JSON\ufffd"),
        (b64('{"status": ["x"]}'), '{"status": ["x"]}'),
        (b64('{"status":' * 150), ('{"status":' * 150)[:200]),
        (b64("x" * 900), "x" * 200),
        (b64(b"\xff"), "\ufffd"),
        (b"not base64!", "not base64!"),
    ],
)
def test_odd_complaint_is_shown_as_far_as_it_can_be(complaint: bytes, shown: str) -> None:
    talk, _ = asked(TOKEN, "AUTH XOAUTH2")
    assert talk.hear(b"334 " + complaint + b"\r\n") == b"\r\n"
    talk.hear(b"535 no\r\n")
    assert refusal_of(talk).lines == ("no", shown)


@pytest.mark.parametrize(
    ("credentials", "challenges"),
    [
        (PASSWORD, [b"334 \r\n"]),
        (replace(PASSWORD, mechanisms=("LOGIN",)), [b"334 a\r\n", b"334 b\r\n", b"334 c\r\n"]),
        (CRAM, [b"334 not base64!\r\n"]),
        (CRAM, [b"334 PDE+\r\n", b"334 PDI+\r\n"]),
        (TOKEN, [b"334 e30=\r\n", b"334 e30=\r\n"]),
    ],
)
def test_challenge_without_an_answer_ends_the_session(
    credentials: Credentials, challenges: list[bytes]
) -> None:
    talk, _ = asked(credentials, f"AUTH {credentials.mechanisms[0]}")
    *answered, last = challenges
    assert all(talk.hear(challenge) for challenge in answered)
    assert talk.hear(last) == b""
    assert fault_of(talk).kind is FaultKind.PROTOCOL


@pytest.mark.parametrize("answer", [b"354 go\r\n", b"gibberish\r\n", b"334-a\r\n335 b\r\n"])
def test_broken_answer_ends_the_session(answer: bytes) -> None:
    talk, _ = asked(PASSWORD, "AUTH PLAIN")
    talk.hear(answer)
    assert fault_of(talk).kind is FaultKind.PROTOCOL


def test_second_answer_is_not_taken_for_one_to_mail() -> None:
    talk, _ = asked(PASSWORD, "AUTH PLAIN")
    talk.hear(b"235 ok\r\n250 ok\r\n")
    (closed,) = talk.closed
    assert closed.fault is not None
    assert closed.fault.kind is FaultKind.PROTOCOL


# ------------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    ("user", "secret"),
    [("u\0x", "p"), ("u", "p\0x"), ("", "p"), ("u", ""), ("u", f"{SECRET}\udcff"), ("u\udcff", SECRET)],
)
def test_what_cannot_be_sent_is_refused_at_once_and_not_shown(user: str, secret: str) -> None:
    with pytest.raises(UnwritableCommand) as raised:
        Credentials(user, secret)
    assert SECRET not in "".join(traceback.format_exception(raised.value))


def test_control_characters_are_a_passwords_right_and_not_a_tokens() -> None:
    Credentials("u", "a\tb\x01c")
    for user, secret in (("u", "a\x01b"), ("u\r\n", "t")):
        with pytest.raises(UnwritableCommand):
            Credentials(user, secret, ("PLAIN", "OAUTHBEARER"))


@pytest.mark.parametrize("mechanisms", [(), ("PLAIN", "NTLM"), ("plain",)])
def test_unknown_mechanisms_are_refused_at_once(mechanisms: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="AUTH mechanisms"):
        Credentials("u", "p", mechanisms)


def echoes(line: bytes) -> list[bytes]:
    """How hosts repeat a line that they do not like, and some ways in which they should not."""
    word = line.split()[-1]
    return [
        b"500 5.5.1 unknown: " + line,
        b"535 5.7.8 <" + word[: len(word) // 2] + b">\r\n",
        b"535-5.7.8 no\r\n535 5.7.8 " + SECRET.encode() + b"\r\n",
        b"421 4.7.0 " + line,
        b"334 " + word + b"\r\n",
        b"354 " + line,
        b"2350 " + line,
        line,
        b"235-" + line + line,
    ]


@pytest.mark.parametrize("mechanism", EVERY)
@pytest.mark.parametrize("kind", range(9))
def test_no_secret_is_shown_though_the_host_repeats_it(mechanism: str, kind: int) -> None:
    credentials = Credentials("user@a.example", SECRET, (mechanism,))
    for size in (1, 7, 10_000):
        talk, line = asked(credentials, f"AUTH {mechanism}")
        told = [line]
        while mechanism in ("LOGIN", "CRAM-MD5") and len(told) < (3 if mechanism == "LOGIN" else 2):
            told.append(talk.hear(b"334 PDE+\r\n"))
        echo = echoes(told[-1])[kind]
        talk.hear_in_pieces([echo[at : at + size] for at in range(0, len(echo), size)])
        if not talk.closed:
            talk.hear(b"535 no\r\n")
        shown = repr((ended(talk), credentials, talk.core, vars(talk.core)))
        response = told[-1].split()[-1].decode()
        assert SECRET not in shown
        assert response not in shown
        assert response[:12] not in shown
        assert "user@a.example" in repr(credentials)


def test_line_to_be_said_is_not_shown() -> None:
    assert repr(Say(Phase.AUTH, b"AUTH PLAIN c2VjcmV0\r\n", Awaited.AUTH)) == "Say(auth, AUTH)"


def test_error_of_a_mechanism_names_neither_secret_nor_challenge() -> None:
    authentication = Authentication(PASSWORD, "PLAIN")
    authentication.first_line()
    with pytest.raises(Unanswerable) as raised:
        authentication.answer(Reply(334, None, (f"tell me {SECRET}",)))
    assert SECRET not in "".join(traceback.format_exception(raised.value))
