"""Properties of the client core: cuts change nothing; no host makes it crash, hang or misspeak."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.smtp.client_talk import ALL_EXTENSIONS, Talk, ehlo_reply, envelope

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.report import Fault, FaultKind, Report, Stage
from dispatch.smtp.client_preparation import Chunking
from dispatch.smtp.replies import ReplyParser, ReplyViolation

EXAMPLES = 150

codes = st.sampled_from([200, 220, 250, 251, 354, 334, 421, 450, 451, 452, 503, 550, 552, 554])
texts = st.sampled_from([b"ok", b"2.0.0 ok", b"5.1.1 who", b"", b"\xff\x00", b"x" * 600])
contents = st.sampled_from([b"", b"Hi.\r\n", b".\r\n..\r\n", b"no end", b"x" * 3000 + b"\r\n.\r\n"])


@st.composite
def replies(draw: st.DrawFn) -> bytes:
    """One reply, of one or more lines; sometimes something that is none."""
    code = b"%d" % draw(codes)
    lines = draw(st.lists(texts, min_size=1, max_size=3))
    end = draw(st.sampled_from([b"\r\n", b"\n"]))
    last = len(lines) - 1
    reply = b"".join(code + (b" " if at == last else b"-") + text + end for at, text in enumerate(lines))
    return draw(st.sampled_from([reply, reply, reply, reply, b"rubbish\r\n", code + b"x\r\n"]))


@st.composite
def scripts(draw: st.DrawFn) -> list[bytes]:
    """What a host says to its commands: some transactions that go well, and whatever comes in between."""
    well = [b"250 ok\r\n", b"250-ok\r\n250 2.1.5 ok\r\n", b"550 who\r\n", b"354 go\r\n", b"250 queued\r\n"]
    parts = draw(st.lists(st.one_of(st.just(well), st.lists(replies(), min_size=1, max_size=5)), max_size=4))
    return [reply for part in parts for reply in part]


@st.composite
def cuts(draw: st.DrawFn) -> list[int]:
    return draw(st.lists(st.integers(1, 40), min_size=1, max_size=20))


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    cut, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        cut.append(data[at : at + size])
        at, turn = at + size, turn + 1
    return cut


class Host:
    """Answers every command that it hears with the next reply of its script, never ahead of a command."""

    def __init__(self, script: list[bytes]) -> None:
        self._script = list(script)
        self._heard = b""
        self._in_content = False

    def hear(self, said: bytes) -> bytes:
        self._heard += said
        answers = []
        while self._script:
            if self._in_content:
                end = 0 if self._heard.startswith(b".\r\n") else self._heard.find(b"\r\n.\r\n") + 2
                if end < 2 and not self._heard.startswith(b".\r\n"):
                    break
                self._heard = self._heard[end + 3 :]
                self._in_content = False
                answers.append(self._script.pop(0))
                continue
            line, found, rest = self._heard.partition(b"\r\n")
            if not found:
                break
            if line.startswith(b"BDAT"):
                size = int(line.split()[1])
                if len(rest) < size:
                    break
                rest = rest[size:]
            self._heard = rest
            answers.append(self._script.pop(0))
            self._in_content = line == b"DATA" and answers[-1].startswith(b"354")
        return b"".join(answers)


def converse(script: list[bytes], sizes: list[int] | None, chunking: Chunking, bodies: list[bytes]) -> Talk:
    """Messages one behind the other to a host that follows a script, until nothing is said any more."""
    talk = Talk(chunking=chunking).open(*ALL_EXTENSIONS)
    host = Host(script)
    queue = [(f"m{at}", envelope("b@b.example", "c@c.example"), body) for at, body in enumerate(bodies)]
    said = b""
    for _ in range(1000):
        while queue and talk.core.room and not talk.closed:
            said += talk.begin(*queue.pop(0))
        heard = host.hear(said)
        said = b""
        if not heard:
            break
        for piece in pieces(heard, sizes) if sizes else [heard]:
            said += talk.hear(piece)
    else:
        raise AssertionError("the conversation does not end")
    talk.core.lost(Fault(FaultKind.DROPPED, "the script is at its end"))
    talk.pump()
    return talk


def told(talk: Talk) -> tuple[dict[str, Report], dict[str, Report], list[str], list[object]]:
    return talk.reports, talk.untried, talk.sending, list(talk.closed)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.lists(replies(), max_size=16),
    cuts(),
    st.sampled_from(["off", "auto", "always"]),
    st.lists(contents, max_size=3),
)
def test_cuts_change_no_report(
    script: list[bytes], sizes: list[int], chunking: Chunking, bodies: list[bytes]
) -> None:
    assert told(converse(script, sizes, chunking, bodies)) == told(converse(script, None, chunking, bodies))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data(), st.sampled_from(["off", "always"]))
def test_every_recipient_has_a_reply_or_there_is_a_fault(data: st.DataObject, chunking: Chunking) -> None:
    script = data.draw(scripts())
    talk = converse(script, None, chunking, [b"one\r\n", b"two\r\n"])
    assert set(talk.reports) | set(talk.untried) == set(talk.contents)
    assert not set(talk.reports) & set(talk.untried)
    assert not set(talk.untried) & set(talk.sending), "what may have been delivered is never tried elsewhere"
    for key, report in (*talk.reports.items(), *talk.untried.items()):
        assert len(report.replies) == 2
        assert (report.fault is not None) == (None in report.replies)
        assert all(reply.text.isprintable() for reply in report.replies if reply is not None)
        if report.stage is Stage.END_OF_DATA:
            assert key in talk.sending
    assert len(talk.sending) == len(set(talk.sending))


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=200), replies()), max_size=30), st.sampled_from(["off", "always"])
)
def test_no_host_makes_it_crash_or_say_a_bare_newline(stream: list[bytes], chunking: Chunking) -> None:
    talk = Talk(chunking=chunking)
    said = talk.hear(b"220 hi\r\n") + talk.hear(ehlo_reply(*ALL_EXTENSIONS))
    for at, data in enumerate(stream):
        if talk.core.room and not talk.closed:
            said += talk.begin(f"m{at}", envelope("b@b.example"), b".a\r\n.\r\nb")
        said += talk.hear(data)
    talk.core.lost(Fault(FaultKind.DROPPED, "gone"))
    said += talk.pump()
    assert re.search(rb"\r(?!\n)|(?<!\r)\n", said) is None
    assert set(talk.reports) | set(talk.untried) == set(talk.contents)
    assert len(talk.closed) == 1


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_no_argument_becomes_a_second_command(sender: str, recipient: str, parameter: str) -> None:
    what = Envelope(sender, (Recipient(recipient, original=parameter),), envid=parameter, smtputf8=True)
    talk = Talk().open(*ALL_EXTENSIONS)
    said = talk.begin("m", what)
    if said:
        lines = said.split(b"\r\n")
        assert [line[:5] for line in lines] == [b"MAIL ", b"RCPT ", b"DATA", b""]
        assert f"FROM:<{sender}> SIZE=".encode() in lines[0]
        assert f"TO:<{recipient}> ORCPT={parameter}".encode() in lines[1]
        assert not any(byte < 32 or byte == 127 for line in lines for byte in line)
    else:
        assert talk.reports["m"].fault is not None


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.one_of(replies(), st.binary(max_size=60)), max_size=12), cuts())
def test_cuts_change_no_reply(stream: list[bytes], sizes: list[int]) -> None:
    data = b"".join(stream)

    def read(parts: list[bytes]) -> list[object]:
        parser = ReplyParser()
        seen: list[object] = []
        try:
            for part in parts:
                parser.receive(part)
                while (reply := parser.next_reply()) is not None:
                    seen.append(reply)
        except ReplyViolation as violation:
            seen.append(str(violation))
        return seen

    assert read(pieces(data, sizes)) == read([data])
