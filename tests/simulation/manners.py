"""SMTP clients as they are: in haste, sloppy, stubborn, slow, broken, and gone at the worst moment.

A `Client` is one connection. Its manners, talks over `speech`, are drawn from the seed: lock-step, pipelined,
chained, in chunks, all at once, rude. A *doom* ends the connection at one byte of what it says, by a reset, a
close, a half-close or a stall; what counts as the end of data having left is decided by that byte alone.

Clients assert what no server may do: acknowledge what it refused, or answer out of step.

Not simulated: TLS, AUTH, SMTPUTF8 and DSN. The listener's conversations have tests of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from random import Random
from typing import Literal, Protocol

from tests.simulation.books import Books, Offering
from tests.simulation.contents import Shape, content_of, sender_of, shape_of, stuffed_content_of
from tests.simulation.speech import Loop, Reply, Speaker, Talk, Way

from dispatch.mail.ids import MessageId

WILD_SHARE = 0.5
"""Of the connections, how many misbehave in some way, at a trouble of 1."""
DOOM_SHARE = 0.3
"""Of the messages on such connections, how many end them."""
_QUEUED = re.compile(r"queued as spl_([0-9a-f]{32})\Z")
_PAUSES_S = (0.01, 0.3, 3.0, 20.0)

_REMARKS = (
    b"NOOP\r\n",
    b"NOOP with words\r\n",
    b"RSET\r\n",
    b"VRFY somebody\r\n",
    b"XYZZY\r\n",
    b"HELP\r\n",
    b"\r\n",
    b"\x00\xff\x80 \t\r\n",
    b"NOOP\nMAIL FROM:<smuggled@example.org>\r\n",
    b"X" * 3000 + b"\r\n",
    b"MAIL FROM:<unclosed@example.org\r\n",
    b"RCPT TO:<early@example.org>\r\n",
    b"DATA\r\n",
    b"BDAT 6 LAST\r\nearly\n",
    b"MAIL FROM:<large@example.org> SIZE=99999999999999\r\n",
)
"""Each gets one answer, and is the beginning of nothing."""
_REMARKS_WITHIN = (
    b"NOOP\r\n",
    b"VRFY somebody\r\n",
    b"MAIL FROM:<nested@example.org>\r\n",
    b"RCPT TO:<>\r\n",
    b"RCPT TO:<t1@example.org> SOLVE=YES\r\n",
    b"DATA now\r\n",
    b"EXPN list\r\n",
)
"""The same, within a transaction that has a recipient."""
_LAST_WORDS = (b"GET / HTTP/1.1\r\n", b"BDAT many\r\n", b"QUIT\r\nNOOP\r\n")
"""Behind these a server closes."""

Place = Literal["envelope", "content", "end", "behind", "forgotten"]
_DOOMS: tuple[tuple[Place, tuple[Way, ...]], ...] = (
    ("envelope", ("abort", "close", "half", "stall")),
    ("content", ("abort", "close", "half", "stall")),
    ("end", ("abort", "close", "half", "stall")),
    ("behind", ("abort", "close", "close", "half", "half", "stall")),
    ("behind", ("abort", "close", "close", "half", "half", "stall")),
    ("forgotten", ("close",)),
)


Hearing = Generator[float | None, Reply, Reply | None]


class Owner(Protocol):
    """What a client asks and tells: the crowd."""

    loop: Loop
    random: Random
    books: Books
    trouble: float

    def take_up(self) -> Offering | None:
        """What is to be offered next."""
        ...

    def acknowledged(self, offering: Offering, message_id: MessageId) -> None: ...

    def refused(self, offering: Offering, reply: Reply) -> None: ...

    def lost(self, offering: Offering) -> None:
        """It ended without an answer."""
        ...

    def gone(self, client: Client) -> None: ...


class Client(Speaker):
    """One connection."""

    def __init__(self, crowd: Owner) -> None:
        super().__init__(crowd.loop)
        random = crowd.random
        self._crowd = crowd
        self._random = random
        self._wild = not crowd.books.calm and random.random() < WILD_SHARE * crowd.trouble
        self._drips = self._wild and random.random() < 0.15
        self._left = random.choice((1, 1, 2, 3, 5, 10, 30))
        """How many messages it offers at most."""
        self._offered: tuple[str, ...] = ()
        """The extensions of the server."""
        self._open: list[Offering] = []
        """In the order in which they were begun."""
        self._doom: tuple[Offering, Place, Way] | None = None

    # ------------------------------------------------------------ Speaker

    def left(self, sent_bytes: int) -> None:
        for offering in self._open:
            if not offering.whole and offering.ends_at is not None and offering.ends_at <= sent_bytes:
                self._crowd.books.left(offering)

    def told_to_go(self, reply: Reply) -> None:
        for offering in [each for each in self._open if each.whole]:
            self._refused(offering, reply)

    def gone(self) -> None:
        for offering in self._open:
            self._crowd.lost(offering)
        self._open.clear()
        self._crowd.gone(self)

    # ------------------------------------------------------------ talks

    def converse(self) -> Talk:
        greeting = yield None
        if greeting.code != 220:
            return
        self.greeted = True
        if self._wild and self._random.random() < 0.2:
            yield from self._remark()
        self.say(b"HELO [192.0.2.1]\r\n" if self._wild and self._random.random() < 0.1 else b"EHLO crowd\r\n")
        hello = yield None
        if hello.code != 250:
            return
        self._offered = tuple(hello.text.split("\r\n")[1:])
        manner = self._choose_manner()
        while (offering := self._take_up()) is not None:
            if self._wild and self._random.random() < 0.3:
                yield from self._dawdle()
            yield from manner(offering)
        if self._random.random() < 0.8:
            self.say(b"QUIT\r\n")
            yield None

    def _choose_manner(self) -> Callable[[Offering], Talk]:
        manners: list[Callable[[Offering], Talk]] = [self._lock_step]
        if "PIPELINING" in self._offered:
            manners += (self._pipelined, self._chained, self._chained, self._chained)
            if self._wild:
                manners.append(self._rude)
            if "CHUNKING" in self._offered:
                manners += (self._chunked, self._all_at_once)
        return self._random.choice(manners)

    def _take_up(self) -> Offering | None:
        if self._left <= 0 or self.mute:
            return None
        offering = self._crowd.take_up()
        if offering is None:
            return None
        self._left -= 1
        self._open.append(offering)
        if self._wild and self._doom is None and not self._crowd.books.calm:
            random = self._random
            if random.random() < DOOM_SHARE:
                place, ways = random.choice(_DOOMS)
                self._doom = (offering, place, random.choice(ways))
        return offering

    def _lock_step(self, offering: Offering) -> Talk:
        """A command, an answer."""
        self._doom_part(offering, "envelope", 60)
        self.say(self._mail_command(offering))
        mail = reply = yield None
        if mail.code < 400:
            for address in offering.recipients:
                self.say(_rcpt_command(address))
                reply = yield None
                offering.answered(address, reply.code)
        if not offering.accepted:
            self._refused(offering, reply)
            yield from self._forget()
            return
        if self._wild and self._random.random() < 0.3:
            self.say(self._random.choice(_REMARKS_WITHIN))
            remark = yield None
            assert remark.code >= 500 or remark.code in (250, 252), f"{remark} within a transaction"
        if self._is_forgotten(offering):
            yield from self._forget()
            self._cut(offering)
            return
        self.say(b"DATA\r\n")
        go_ahead = yield None
        if go_ahead.code == 354:
            yield from self._content(offering)
            self._answered(offering, (yield None))
        else:
            self._refused(offering, go_ahead)
            yield from self._forget()

    def _pipelined(self, offering: Offering) -> Talk:
        """The envelope in one write."""
        self._say_envelope(offering, b"DATA\r\n")
        refusal = yield from self._hear_envelope(offering)
        if refusal is None:
            yield from self._content(offering)
            self._answered(offering, (yield None))
        else:
            self._refused(offering, refusal)
            yield from self._forget()

    def _chained(self, offering: Offering) -> Talk:
        """The next envelope behind the content (RFC 2920 section 3.1)."""
        self._say_envelope(offering, b"DATA\r\n")
        current: Offering | None = offering
        while current is not None:
            refusal = yield from self._hear_envelope(current)
            if refusal is not None:
                self._refused(current, refusal)
                yield from self._forget()
                return
            yield from self._content(current)
            following = self._take_up()
            if following is not None:
                self._say_envelope(following, b"DATA\r\n")
            self._answered(current, (yield None))
            current = following

    def _chunked(self, offering: Offering) -> Talk:
        """BDAT, and an answer for each chunk."""
        self._say_envelope(offering, b"")
        refusal = yield from self._hear_recipients(offering)
        if refusal is None:
            chunks = self._chunks(offering)
            for chunk in chunks[:-1]:
                self.say(chunk)
                reply = yield None
                if self._wild and self._random.random() < 0.1:
                    yield self._random.choice(_PAUSES_S)
                if reply.code >= 400:
                    refusal = reply
                    break
                if self._is_forgotten(offering):
                    yield from self._forget()
                    self._cut(offering)
                    return
            else:
                self.say(chunks[-1])
                offering.ends_at = self.said_bytes
                self._answered(offering, (yield None))
                return
        assert refusal is not None
        self._refused(offering, refusal)
        yield from self._forget()

    def _all_at_once(self, offering: Offering) -> Talk:
        """Envelopes and chunks of several messages in one write, which BDAT allows (RFC 3030 section 4.2)."""
        batch = self._batch(offering)
        chunk_counts = []
        for each in batch:
            if each is not offering:
                self.say(b"RSET\r\n")
            self._say_envelope(each, b"")
            chunks = self._chunks(each)
            chunk_counts.append(len(chunks))
            for chunk in chunks:
                self.say(chunk)
            each.ends_at = self.said_bytes
        for each, chunk_count in zip(batch, chunk_counts, strict=True):
            if each is not offering:
                yield None
            refusal = yield from self._hear_recipients(each)
            for _ in range(chunk_count - 1):
                reply = yield None
                if reply.code >= 400 and refusal is None:
                    refusal = reply
            self._answered(each, (yield None), refusal)

    def _rude(self, offering: Offering) -> Talk:
        """The same with DATA, without waiting for 354: works with servers that are kind."""
        batch = self._batch(offering)
        for each in batch:
            if each is not offering:
                self.say(b"RSET\r\n")
            self._say_envelope(each, b"DATA\r\n")
            content = stuffed_content_of(each.token)
            self._doom_content(each, len(content))
            self.say(content)
            each.ends_at = self.said_bytes
        for each in batch:
            if each is not offering:
                yield None
            refusal = yield from self._hear_envelope(each)
            if refusal is not None:
                # What follows was taken for commands.
                self._refused(each, refusal)
                self.cut_off()
                return
            self._answered(each, (yield None))

    # ------------------------------------------------------------ parts of talks

    def _batch(self, offering: Offering) -> list[Offering]:
        batch = [offering]
        while self._random.random() < 0.5 and (another := self._take_up()) is not None:
            batch.append(another)
        return batch

    def _say_envelope(self, offering: Offering, last: bytes) -> None:
        envelope = self._mail_command(offering)
        envelope += b"".join(map(_rcpt_command, offering.recipients)) + last
        self._doom_part(offering, "envelope", len(envelope))
        self.say(envelope)

    def _hear_recipients(self, offering: Offering) -> Hearing:
        """The answers to MAIL and each RCPT; returns the one that refuses all."""
        mail = reply = yield None
        for address in offering.recipients:
            reply = yield None
            if mail.code < 400:
                offering.answered(address, reply.code)
            else:
                assert reply.code >= 400, f"{reply} to RCPT, and MAIL was refused"
        if mail.code >= 400:
            return mail
        return None if offering.accepted else reply

    def _hear_envelope(self, offering: Offering) -> Hearing:
        """The same, and the answer to DATA."""
        refusal = yield from self._hear_recipients(offering)
        go_ahead = yield None
        if refusal is None:
            return None if go_ahead.code == 354 else go_ahead
        assert go_ahead.code >= 400, f"{go_ahead} to DATA, and nobody was accepted"
        return refusal

    def _content(self, offering: Offering) -> Talk:
        content = stuffed_content_of(offering.token)
        self._doom_content(offering, len(content))
        if self._drips:
            for _ in range(self._random.randrange(5)):
                at = self._random.randrange(len(content))
                self.say(content[:at])
                content = content[at:]
                yield self._random.choice(_PAUSES_S)
        self.say(content)
        offering.ends_at = self.said_bytes

    def _chunks(self, offering: Offering) -> list[bytes]:
        """The content in BDAT commands, now and then an empty one."""
        random = self._random
        content = content_of(offering.token)
        cuts = sorted(random.randrange(len(content) + 1) for _ in range(random.choice((0, 0, 1, 2, 4))))
        if random.random() < 0.2:
            cuts.append(len(content))
        chunks = [
            b"BDAT %d\r\n%b" % (end - start, content[start:end])
            for start, end in zip([0, *cuts], cuts, strict=False)
        ]
        start = cuts[-1] if cuts else 0
        chunks.append(b"BDAT %d LAST\r\n%b" % (len(content) - start, content[start:]))
        self._doom_content(offering, sum(map(len, chunks)))
        return chunks

    def _mail_command(self, offering: Offering) -> bytes:
        token = offering.token
        command = f"MAIL FROM:<{sender_of(token)}>"
        chance = self._random.random()
        if chance < 0.3 and any(line.startswith("SIZE") for line in self._offered):
            command += f" SIZE={len(content_of(token))}"
        if chance < 0.9 and shape_of(token) is Shape.EIGHT_BIT and "8BITMIME" in self._offered:
            command += " BODY=8BITMIME"
        return command.encode() + b"\r\n"

    def _remark(self) -> Talk:
        """Something that leads to nothing."""
        remark = self._random.choice(_LAST_WORDS if self._random.random() < 0.05 else _REMARKS)
        self.say(remark)
        reply = yield None
        if remark.startswith(b"MAIL") and reply.code < 400:
            yield from self._forget()

    def _dawdle(self) -> Talk:
        if self._random.random() < 0.6:
            yield from self._remark()
        else:
            yield self._random.choice(_PAUSES_S)

    def _forget(self) -> Talk:
        """Leave the transaction; EHLO does it too (RFC 5321 section 4.1.4)."""
        self.say(b"EHLO again\r\n" if self._wild and self._random.random() < 0.2 else b"RSET\r\n")
        reply = yield None
        assert reply.code == 250, f"{reply} to RSET"

    # ------------------------------------------------------------ dooms and ends

    def _is_forgotten(self, offering: Offering) -> bool:
        return self._doom is not None and self._doom[0] is offering and self._doom[1] == "forgotten"

    def _doom_part(self, offering: Offering, place: Place, size_bytes: int) -> None:
        """So many bytes of this kind follow: if it is their doom, choose one of them."""
        if self._doom is None or self._doom[0] is not offering or self._doom[1] != place:
            return
        match place:
            case "envelope":
                at = self._random.randrange(1, size_bytes)
            case "content":
                at = self._random.randrange(1, size_bytes - 4)
            case "end":
                at = size_bytes - self._random.randrange(1, 5)
            case _:
                at = size_bytes
        self.light(self.said_bytes + at, self._doom[2])

    def _doom_content(self, offering: Offering, size_bytes: int) -> None:
        for place in ("content", "end", "behind"):
            self._doom_part(offering, place, size_bytes)

    def _answered(self, offering: Offering, reply: Reply, refusal: Reply | None = None) -> None:
        """To the end of data. `refusal`: what its envelope was refused with."""
        if reply.code >= 400:
            self._refused(offering, refusal or reply)
            return
        queued = _QUEUED.search(reply.text)
        assert reply.code == 250 and queued and refusal is None, f"{reply} to the end of data"
        self._open.remove(offering)
        self._crowd.acknowledged(offering, MessageId(bytes.fromhex(queued[1])))

    def _refused(self, offering: Offering, reply: Reply) -> None:
        self._open.remove(offering)
        self._crowd.refused(offering, reply)

    def _cut(self, offering: Offering) -> None:
        self._open.remove(offering)
        self._crowd.lost(offering)


def _rcpt_command(address: str) -> bytes:
    return f"RCPT TO:<{address}>\r\n".encode()
