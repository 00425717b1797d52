"""What goes to a host that offers more or less: parameters, BDAT, and messages that do not suit."""

from __future__ import annotations

import pytest
from tests.unit.smtp.client_talk import ALL_EXTENSIONS, CONTENT, Talk, codes, ehlo_reply, envelope

from dispatch.mail.envelope import BodyType, Envelope, Recipient
from dispatch.mail.report import Fault, FaultKind, Stage
from dispatch.smtp.body import BareNewline
from dispatch.smtp.client_content import ContentFramer, Framing, frame
from dispatch.smtp.client_extensions import parse_extensions
from dispatch.smtp.replies import ReplyParser

LARGE = b"Subject: large\r\n\r\n" + b".dots and text\r\n" * 20_000


def unsuited(talk: Talk, what: Envelope, content: bytes = CONTENT) -> str:
    """Why the message does not suit the host; nothing of it was said."""
    assert talk.begin("m", what, content) == b""
    report = talk.reports["m"]
    assert report.stage is Stage.MAIL
    assert report.fault is not None
    assert report.fault.kind is FaultKind.UNSUITED
    assert talk.core.idle, "the session is as good as before"
    return report.fault.detail


def test_parameters_are_passed_on_where_offered() -> None:
    what = Envelope(
        "gr\u00fcn@a.example",
        (Recipient("b@b.example", "SUCCESS,FAILURE", "rfc822;b+2Bc@b.example"),),
        "8BITMIME",
        True,
        "HDRS",
        "id+3D1",
    )
    assert Talk().open(*ALL_EXTENSIONS).begin("m", what).decode() == (
        "MAIL FROM:<gr\u00fcn@a.example> SIZE=22 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=id+3D1\r\n"
        "RCPT TO:<b@b.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b+2Bc@b.example\r\n"
        "DATA\r\n"
    )


def test_parameters_are_left_out_where_the_message_can_do_without() -> None:
    what = Envelope(
        "", (Recipient("b@b.example", "NEVER", "rfc822;b@b.example"),), "8BITMIME", True, "FULL", "id"
    )
    assert Talk().open("PIPELINING").begin("m", what) == b"MAIL FROM:<>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n"


@pytest.mark.parametrize(
    ("what", "content", "lacks"),
    [
        (envelope(body="8BITMIME"), b"gr\xc3\xbcn\r\n", "8BITMIME"),
        (envelope(smtputf8=True), b"gr\xc3\xbcn\r\n", "SMTPUTF8"),
        (envelope("gr\u00fcn@b.example"), CONTENT, "SMTPUTF8"),
        (envelope(sender="gr\u00fcn@a.example"), CONTENT, "SMTPUTF8"),
        (envelope(body="BINARYMIME"), CONTENT, "BINARYMIME"),
        (envelope(), CONTENT * 100, "SIZE"),
    ],
)
def test_message_that_needs_what_the_host_lacks_fails_before_mail(
    what: Envelope, content: bytes, lacks: str
) -> None:
    assert unsuited(Talk().open("PIPELINING", "SIZE 1000"), what, content).startswith(lacks)


def test_binary_needs_chunking_to_be_allowed() -> None:
    assert "BINARYMIME" in unsuited(Talk(chunking="off").open(*ALL_EXTENSIONS), envelope(body="BINARYMIME"))


@pytest.mark.parametrize(
    "what",
    [
        envelope("b@b.example\r\nRSET"),
        envelope("b@b.example\x00"),
        envelope("b@b.example> SIZE=1"),
        envelope("b c@b.example"),
        envelope('"open@b.example'),
        envelope("b@b.example\u2028", smtputf8=True),
        envelope("\udcff@b.example", smtputf8=True),
        envelope(sender="a@a.example\n"),
        Envelope("a@a.example", (Recipient("b@b.example", original="rfc822;x y"),)),
        Envelope("a@a.example", (Recipient("b@b.example", notify="NEVER\r\nDATA"),)),
        Envelope("a@a.example", (Recipient("b@b.example"),), envid="x\r\nQUIT"),
    ],
)
def test_argument_that_would_become_a_command_is_never_written(what: Envelope) -> None:
    unsuited(Talk().open(*ALL_EXTENSIONS), what)


@pytest.mark.parametrize(
    "address", ['"a b"@b.example', '"a>b"@b.example', '"a\\"b"@b.example', "b@[192.0.2.1]"]
)
def test_odd_address_is_written_as_it_is(address: str) -> None:
    assert f"RCPT TO:<{address}>\r\n".encode() in Talk().open("PIPELINING").begin("m", envelope(address))


def test_exchange_behind_a_content_that_does_not_suit_is_reported_alone() -> None:
    talk = Talk().open("PIPELINING")
    talk.begin("one")
    talk.begin("two", envelope("gr\u00fcn@b.example"))
    assert set(talk.reports) == {"two"}
    talk.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    talk.hear(b"250 ok\r\n")
    assert codes(talk.reports["one"]) == [250]


# ------------------------------------------------------------------- EHLO


def test_extensions_are_read_without_regard_to_case() -> None:
    parser = ReplyParser()
    parser.receive(
        ehlo_reply("size 1000", "Pipelining", "AUTH PLAIN login", "auth=LOGIN", "STARTTLS", "X-FOO")
    )
    reply = parser.next_reply()
    assert reply is not None
    offered = parse_extensions(reply)
    assert offered.size_bytes_max == 1000
    assert offered.pipelining
    assert offered.auth == ("PLAIN", "LOGIN")
    assert offered.starttls
    assert not offered.chunking


@pytest.mark.parametrize("size", ["SIZE", "SIZE 0", "SIZE many", "SIZE -1", "SIZE " + "9" * 40])
def test_size_that_names_no_limit_limits_nothing(size: str) -> None:
    talk = Talk().open("PIPELINING", size)
    assert b" SIZE=22\r\n" in talk.begin()


# ------------------------------------------------------------------- BDAT


def test_large_content_goes_by_bdat_once_its_recipients_are_accepted() -> None:
    talk = Talk().open(*ALL_EXTENSIONS)
    assert b"DATA" not in talk.begin(content=LARGE)
    assert talk.hear(b"250 ok\r\n250 ok\r\n") == b"BDAT %d LAST\r\n" % len(LARGE) + LARGE
    talk.hear(b"250 ok\r\n")
    assert codes(talk.reports["m"]) == [250]


def test_small_content_goes_by_data_where_the_host_has_the_choice() -> None:
    assert Talk().open(*ALL_EXTENSIONS).begin().endswith(b"DATA\r\n")


@pytest.mark.parametrize("body", ["7BIT", "BINARYMIME"])
def test_content_for_nobody_is_not_sent_by_bdat(body: BodyType) -> None:
    talk = Talk().open(*ALL_EXTENSIONS)
    talk.begin("one", envelope(body=body), LARGE)
    assert talk.hear(b"250 ok\r\n550 who\r\n") == b""
    assert codes(talk.reports["one"]) == [550]
    assert talk.begin("two").startswith(b"RSET\r\nMAIL")


def test_binary_content_is_sent_as_it_is() -> None:
    talk = Talk().open(*ALL_EXTENSIONS)
    binary = b"\n.\r\x00.\r\n.\r\nno line end"
    assert b" BODY=BINARYMIME\r\n" in talk.begin("m", envelope(body="BINARYMIME"), binary)
    assert talk.hear(b"250 ok\r\n250 ok\r\n") == b"BDAT %d LAST\r\n" % len(binary) + binary


def test_content_in_chunks_may_be_refused_early() -> None:
    talk = Talk().open(*ALL_EXTENSIONS)
    talk.holding = True
    talk.begin(content=LARGE)
    talk.hear(b"250 ok\r\n250 ok\r\n")
    talk.core.send_block(talk.wanted[0], b"one")
    talk.core.send_block(talk.wanted[0], b"two")
    assert talk.pump() == b"BDAT 3\r\noneBDAT 3\r\ntwo"
    talk.hear(b"250 ok\r\n552 too much\r\n")
    assert (talk.reports["m"].stage, codes(talk.reports["m"])) == (Stage.CONTENT, [552])
    assert talk.sending == []


def blind(*recipients: str) -> tuple[Talk, bytes]:
    talk = Talk(chunking="always").open(*ALL_EXTENSIONS)
    return talk, talk.begin("m", envelope(*recipients))


def test_envelope_and_content_may_leave_in_one_write() -> None:
    talk, said = blind()
    assert said == (b"MAIL FROM:<a@a.example> SIZE=22\r\nRCPT TO:<b@b.example>\r\nBDAT 22 LAST\r\n" + CONTENT)
    assert talk.sending == ["m"]
    talk.hear(b"250 ok\r\n250 ok\r\n250 queued\r\n")
    assert codes(talk.reports["m"]) == [250]


def test_blind_content_goes_to_those_who_were_accepted() -> None:
    talk, _ = blind("b@b.example", "c@b.example")
    talk.hear(b"250 ok\r\n550 who\r\n250 ok\r\n250 queued\r\n")
    assert codes(talk.reports["m"]) == [550, 250]
    assert talk.begin("two").startswith(b"MAIL")


def test_blind_content_for_nobody_is_refused_and_reset() -> None:
    talk, _ = blind("b@b.example", "c@b.example")
    talk.hear(b"250 ok\r\n550 who\r\n551 who\r\n503 no recipients\r\n")
    assert codes(talk.reports["m"]) == [550, 551]
    assert talk.reports["m"].stage is Stage.RCPT
    assert talk.begin("two").startswith(b"RSET\r\nMAIL")


def test_exchange_behind_blind_content_is_reset_in_any_case() -> None:
    talk, _ = blind()
    assert talk.begin("two").startswith(b"RSET\r\nMAIL")
    talk.hear(b"250 ok\r\n550 who\r\n503 no\r\n250 reset\r\n250 ok\r\n250 ok\r\n250 queued\r\n")
    assert codes(talk.reports["m"]) == [550]
    assert codes(talk.reports["two"]) == [250]


def test_blind_content_is_uncertain_from_the_first_moment() -> None:
    talk, _ = blind("b@b.example", "c@b.example")
    talk.hear(b"250 ok\r\n550 who\r\n")
    talk.core.lost(Fault(FaultKind.DROPPED, "gone"))
    talk.pump()
    assert talk.untried == {}
    assert (talk.reports["m"].stage, codes(talk.reports["m"])) == (Stage.END_OF_DATA, [550, None])


# ------------------------------------------------------------------- framing


@pytest.mark.parametrize("framing", [Framing.LINES, Framing.CHUNKS])
@pytest.mark.parametrize("content", [b"a\nb\r\n", b"a\rb\r\n", b"a\r\n\r", b"\n.\n", b"a\r\r\nb\r\n"])
def test_bare_newline_never_leaves(content: bytes, framing: Framing) -> None:
    with pytest.raises(BareNewline):
        frame(content, framing)
    for cut in range(len(content) + 1):
        framer = ContentFramer(framing)
        with pytest.raises(BareNewline):
            framer.frame(content[:cut], last=False)
            framer.frame(content[cut:], last=True)


@pytest.mark.parametrize(
    "content", [b".\r\n..a\r\n\r\n.", b"", b"no end", b"a\r\n.b\r\n", b".", b"\r\n.\r\n"]
)
def test_dots_are_stuffed_wherever_the_blocks_are_cut(content: bytes) -> None:
    lines = content.removesuffix(b"\r\n").split(b"\r\n") if content else []
    expected = b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines)
    assert frame(content, Framing.LINES) == expected
    for cut in range(len(content) + 1):
        framer = ContentFramer(Framing.LINES)
        assert framer.frame(content[:cut], last=False) + framer.frame(content[cut:], last=True) == expected
