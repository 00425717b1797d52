"""The server core against any client: how bytes are cut makes no difference; it does what a model says."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.wire.desk import Desk, Kept

from dispatch.mail.reply import Reply, reply
from dispatch.smtp.events import ContentRefused
from dispatch.smtp.server import ServerSettings
from dispatch.smtp.states import State

addresses = st.sampled_from([b"a@a.example", b"b@b.example", b"c@c.example", b'"q @>"@d.example', b"root"])
texts = st.lists(
    st.sampled_from([b"hi", b".", b"\r\n", b"\r", b"\n", b"\x00", b"QUIT\r\n", b"\r\n.", b"xxxxxxxxx"]),
    max_size=8,
).map(b"".join)
commands = st.one_of(
    st.sampled_from(
        [b"EHLO x", b"HELO x", b"HELO", b"RSET", b"NOOP", b"VRFY x", b"", b"FOO", b"STARTTLS", b"x" * 70]
    ),
    st.sampled_from(
        [b"QUIT", b"GET / HTTP/1.1", b"BDAT", b"NOOP\nQUIT", b"NOOP\rRSET", b"DATA x", b"x" * 61 + b"\n"]
    ),
    st.builds(b"MAIL FROM:<%s>".__mod__, addresses),
    st.builds(b"MAIL FROM:<%s> SIZE=31".__mod__, addresses),
    st.builds(b"RCPT TO:<%s>".__mod__, addresses),
).map(lambda line: line + b"\r\n")
chunks = st.builds(
    lambda text, last: b"BDAT %d%s\r\n%s" % (len(text), last, text), texts, st.sampled_from([b"", b" LAST"])
)
envelope = st.just(b"EHLO x\r\nMAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\n")
data = st.just(b"DATA\r\n")
ended = texts.map(lambda text: text + b"\r\n.\r\n")
dialogues = st.lists(st.one_of(commands, commands, chunks, envelope, data, ended), max_size=14)
refusals = st.dictionaries(
    st.sampled_from(["EHLO", "MAIL", "RCPT", "DATA", "END", "RCPT a@a.example", "MAIL b@b.example"]),
    st.sampled_from([reply(550, "5.7.1", "no"), reply(451, "4.3.0", "later"), reply(421, "4.3.2", "bye")]),
    max_size=2,
)
rules = st.builds(
    ServerSettings,
    st.just("mx.example"),
    size_bytes_max=st.sampled_from([0, 5, 30]),
    recipients_max=st.sampled_from([1, 2, 1000]),
    bare_newline=st.sampled_from(["reject", "normalise"]),
    commands_bad_max=st.sampled_from([2, 20]),
    commands_idle_max=st.sampled_from([3, 100]),
    transactions_max=st.sampled_from([None, 1]),
    command_line_bytes_max=st.just(64),
)


def groups(dialogue: list[bytes]) -> list[bytes]:
    """What is sent without waiting: DATA is the last of its group (RFC 2920 section 3.1)."""
    joined = b"".join(dialogue)
    return [group for group in re.split(rb"(?<=DATA\r\n)|(?<=DATA x\r\n)", joined) if group]


def told(desk: Desk) -> list[object]:
    """Events; how much of a content is told before it is refused is left open."""
    happened = []
    for event in desk.happened:
        if isinstance(event, ContentRefused) and happened and isinstance(happened[-1], bytes):
            happened.pop()
        happened.append(event)
    return happened


@given(dialogues, rules, refusals, st.data())
@settings(max_examples=300, deadline=None)
def test_how_the_bytes_are_cut_makes_no_difference(
    dialogue: list[bytes], rules: ServerSettings, refusals: dict[str, Reply], draw: st.DataObject
) -> None:
    whole, cut, single = Desk(rules, refusals), Desk(rules, refusals), Desk(rules, refusals)
    for group in groups(dialogue):
        said = whole.say(group)
        places = sorted(draw.draw(st.sets(st.integers(1, len(group)), max_size=6)) | {len(group)})
        parts = [group[a:b] for a, b in zip([0, *places], places, strict=False)]
        assert b"".join(cut.say(part) for part in parts) == said
        assert b"".join(single.say(group[at : at + 1]) for at in range(len(group))) == said
    for desk in (whole, cut, single):
        desk.hang_up()
    assert told(cut) == told(single) == told(whole)
    assert cut.kept == single.kept == whole.kept
    assert cut.core.wants_close and single.core.wants_close and whole.core.wants_close


@given(st.binary(max_size=300), rules)
@settings(max_examples=200, deadline=None)
def test_no_bytes_break_it(noise: bytes, rules: ServerSettings) -> None:
    desk = Desk(rules)
    desk.say(b"EHLO x\r\nMAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\n" + noise + b"\r\n")
    desk.hang_up()
    assert all(re.fullmatch(rb"[2-5][0-9][0-9][ -][ -~]*", line) for line in desk.pump().split(b"\r\n")[:-1])


class Dialogue(RuleBasedStateMachine):
    """A model that knows what RFC 5321 says about sequence, and nothing of how the core does it."""

    LIMIT = 40
    RECIPIENTS = 3

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(
            ServerSettings(
                "mx.example",
                size_bytes_max=self.LIMIT,
                recipients_max=self.RECIPIENTS,
                commands_bad_max=10_000,
                commands_idle_max=10_000,
            )
        )
        self.desk.pump()
        self.greeted = False
        self.sender: bytes | None = None
        self.recipients: list[bytes] = []
        self.refusals = 0
        self.chunked: bytes | None = None
        self.kept: list[Kept] = []

    def say(self, data: bytes) -> int:
        """The code of the one reply."""
        said = self.desk.say(data)
        codes = {int(line[:3]) for line in said.split(b"\r\n")[:-1]}
        assert len(codes) == 1, said
        return codes.pop()

    def forget(self) -> None:
        self.sender, self.recipients, self.chunked = None, [], None

    def keep(self, content: bytes) -> None:
        assert self.sender is not None
        recipients = tuple(address.decode() for address in self.recipients)
        self.kept.append(Kept(self.sender.decode(), recipients, content))

    @rule(verb=st.sampled_from([b"EHLO", b"helo"]))
    def hello(self, verb: bytes) -> None:
        assert self.say(verb + b" client\r\n") == 250
        self.greeted = True
        self.forget()

    @rule()
    def reset(self) -> None:
        assert self.say(b"RSET\r\n") == 250
        self.forget()

    @rule(
        line=st.sampled_from(
            [(b"NOOP", 250), (b"VRFY a", 252), (b"HELP", 214), (b"EXPN a", 502), (b"AUTH PLAIN", 502)]
        )
    )
    def remark(self, line: tuple[bytes, int]) -> None:
        assert self.say(line[0] + b"\r\n") == line[1]

    @rule(address=addresses, refused=st.booleans())
    def mail(self, address: bytes, refused: bool) -> None:
        self.desk.answers = {"MAIL": reply(550, "5.7.1", "no")} if refused else {}
        code = self.say(b"MAIL FROM:<%s>\r\n" % address)
        if not self.greeted or self.sender is not None:
            assert code == 503
        elif refused:
            assert code == 550
        else:
            assert code == 250
            self.sender = address
            self.refusals = 0

    @rule(address=addresses, refused=st.booleans())
    def recipient(self, address: bytes, refused: bool) -> None:
        self.desk.answers = {"RCPT": reply(550, "5.1.1", "no")} if refused else {}
        code = self.say(b"RCPT TO:<%s>\r\n" % address)
        if self.sender is None or self.chunked is not None:
            assert code == 503
        elif code == 452:
            assert self.RECIPIENTS in (len(self.recipients), self.refusals)
        elif refused:
            assert code == 550
            self.refusals += 1
        else:
            assert code == 250
            self.recipients.append(address)

    @rule(content=texts, refused=st.booleans())
    def data(self, content: bytes, refused: bool) -> None:
        self.desk.answers = {"END": reply(452, "4.3.1", "full")} if refused else {}
        code = self.say(b"DATA\r\n")
        if not self.recipients or self.chunked is not None:
            assert code == 503
            return
        assert code == 354
        # The client stuffs dots behind CRLF, as it must, and so sends exactly one message.
        stuffed = re.sub(rb"\A\.|(?<=\r\n)\.", b"..", content)
        if not stuffed.endswith(b"\r\n"):
            stuffed += b"\r\n"
            content += b"\r\n"
        self.verdict(self.say(stuffed + b".\r\n"), content, refused)

    def verdict(self, code: int, content: bytes, refused: bool) -> None:
        bare = re.search(rb"\r(?!\n)|(?<!\r)\n", content)
        if bare or len(content) > self.LIMIT:
            assert code in ({550} if bare else set()) | ({552} if len(content) > self.LIMIT else set())
        elif refused:
            assert code == 452
        else:
            assert code == 250
            self.keep(content)
        self.forget()

    @rule(content=texts, last=st.booleans(), refused=st.booleans())
    def chunk(self, content: bytes, last: bool, refused: bool) -> None:
        self.desk.answers = {"END": reply(452, "4.3.1", "full")} if refused else {}
        code = self.say(b"BDAT %d%s\r\n%s" % (len(content), b" LAST" if last else b"", content))
        if not self.recipients:
            assert code == 503
            return
        so_far = (self.chunked or b"") + content
        if last:
            self.verdict(code, so_far, refused)
        elif code == 250:
            self.chunked = so_far
        else:
            self.verdict(code, so_far, refused)

    @invariant()
    def nothing_is_kept_but_what_was_accepted(self) -> None:
        assert self.desk.kept == self.kept

    @precondition(lambda self: self.sender is None)
    @invariant()
    def no_transaction_is_left_open(self) -> None:
        assert self.desk.core.state in (State.CONNECTED, State.READY)


Dialogue.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestDialogue = Dialogue.TestCase
