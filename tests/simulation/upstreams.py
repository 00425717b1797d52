"""Simulated upstreams: relays that answer as chance wills, and remember whatever reached them.

An upstream has *taken* a recipient's mail when the end of data reached it and it took it over, whether its
reply reached us or not. The worst case is simulated: what it takes, it takes at the very moment at which the
end of data leaves, so that a crash in any later step finds it delivered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random

from tests.simulation.machine import Death, Process

from dispatch.mail.ids import MessageId
from dispatch.mail.message import ContentFile
from dispatch.mail.reply import Reply, reply
from dispatch.mail.report import Fault, FaultKind, Report, Stage
from dispatch.ports import Transaction
from dispatch.spool.faults import LogUnwell

Done = Callable[[Transaction, Report], None]

TAKEN = reply(250, "2.0.0", "taken")
LATER = reply(451, "4.3.0", "not now")
NEVER = reply(554, "5.7.1", "not this")
NO_SUCH_USER = reply(550, "5.1.1", "no such user")
FULL_MAILBOX = reply(452, "4.2.2", "mailbox full")
TIMEOUT_S = 60.0


class Received:
    """What reached the upstreams, over all lives of our processes."""

    def __init__(self) -> None:
        self.sendings: Counter[tuple[MessageId, int]] = Counter()
        """How often the end of data was about to leave for them."""
        self.taken: dict[tuple[MessageId, int], list[int]] = {}
        """At which of these times an upstream took it over: more than once is a duplicate."""
        self.files: set[str] = set()
        """Content files that must be there when they are read."""
        self.poison: set[MessageId] = set()
        """Whoever tries one of these dies."""
        self.tries: Counter[MessageId] = Counter()


class Upstream:
    """`ports.Relay`: one life of a relay. `kind` 1 is as bad as can be, 0 takes everything."""

    def __init__(self, process: Process, received: Received, random: Random, trouble: float) -> None:
        self._process = process
        self._received = received
        self._random = random
        self.trouble = trouble
        self.slots = random.choice((1, 2, 5, 20))
        self.under_way: set[tuple[MessageId, int]] = set()
        self._in_flight = 0
        self._closing = False

    def free(self) -> int:
        return 0 if self._closing else self.slots - self._in_flight

    def start(self, transaction: Transaction, done: Done) -> None:
        keys = {(transaction.message.id, index) for index in transaction.indexes}
        assert keys, "a transaction without recipients"
        assert not keys & self.under_way, "tried twice at the same time"
        self._received.tries[transaction.message.id] += 1
        if transaction.message.id in self._received.poison:
            raise Death("poison")
        self.under_way |= keys
        self._in_flight += 1
        if isinstance(transaction.content, ContentFile):
            assert transaction.content.name in self._received.files, "its content file was removed"
        else:
            assert transaction.content, "its content is gone"
        if self._closing:
            self._later(transaction, done, self._fault(transaction, Stage.CONNECT, FaultKind.DROPPED))
        else:
            self._process.call_later(self._delay_s(), partial(self._envelope, transaction, done))

    async def close(self, grace_s: float) -> None:
        self.shut()

    def shut(self) -> None:
        """Start nothing more; what is under way goes on."""
        self._closing = True

    def _delay_s(self) -> float:
        return self._random.choice((0.0, 0.001, 0.02, 0.3, 2.0))

    def _envelope(self, transaction: Transaction, done: Done) -> None:
        count = len(transaction.indexes)
        if self._closing or self._random.random() < self.trouble * 0.3:
            stage = self._random.choice((Stage.CONNECT, Stage.EHLO, Stage.MAIL, Stage.RCPT, Stage.CONTENT))
            kind = self._random.choice((FaultKind.DROPPED, FaultKind.REFUSED, FaultKind.TIMEOUT))
            self._end(transaction, done, self._fault(transaction, stage, kind))
            return
        if self._random.random() < self.trouble * 0.2:
            answer = self._random.choice((LATER, NEVER, reply(421, "4.3.2", "closing")))
            self._end(transaction, done, Report(Stage.MAIL, (answer,) * count))
            return
        refused: list[Reply | None] = [
            self._random.choice((NO_SUCH_USER, FULL_MAILBOX))
            if self._random.random() < self.trouble * 0.2
            else None
            for _ in transaction.indexes
        ]
        if all(refused):
            self._end(transaction, done, Report(Stage.RCPT, tuple(refused)))
            return
        self._content(transaction, done, refused)

    def _content(self, transaction: Transaction, done: Done, refused: list[Reply | None]) -> None:
        self._received.sendings.update((transaction.message.id, index) for index in transaction.indexes)
        transaction.sending(transaction, partial(self._leave, transaction, done, refused))

    def _leave(
        self, transaction: Transaction, done: Done, refused: list[Reply | None], error: Exception | None
    ) -> None:
        if error is not None:
            assert isinstance(error, LogUnwell), f"not noted as sending: {error!r}"
            self._end(
                transaction, done, self._fault(transaction, Stage.CONTENT, FaultKind.CONTENT_UNREADABLE)
            )
            return
        verdict = self._random.random()
        if verdict >= self.trouble * 0.5:
            self._take(transaction, refused)
            self._later(transaction, done, self._answered(refused, TAKEN))
        elif verdict < self.trouble * 0.2:
            self._later(transaction, done, self._answered(refused, self._random.choice((LATER, NEVER))))
        else:
            if self._random.random() < 0.6:
                self._take(transaction, refused)
            never = self._random.random() < 0.2
            kind = FaultKind.TIMEOUT if never else FaultKind.DROPPED
            report = self._answered(refused, None, Fault(kind, "no reply"))
            self._process.call_later(
                TIMEOUT_S if never else self._delay_s(), partial(self._end, transaction, done, report)
            )

    def _take(self, transaction: Transaction, refused: list[Reply | None]) -> None:
        for index, refusal in zip(transaction.indexes, refused, strict=True):
            if refusal is None:
                key = transaction.message.id, index
                self._received.taken.setdefault(key, []).append(self._received.sendings[key])

    def _answered(
        self, refused: list[Reply | None], last: Reply | None, fault: Fault | None = None
    ) -> Report:
        stages = tuple(Stage.END_OF_DATA if refusal is None else Stage.RCPT for refusal in refused)
        replies = tuple(last if refusal is None else refusal for refusal in refused)
        return Report(Stage.END_OF_DATA, replies, fault, reply_stage=stages)

    def _fault(self, transaction: Transaction, stage: Stage, kind: FaultKind) -> Report:
        return Report(stage, (None,) * len(transaction.indexes), Fault(kind, "simulated"))

    def _later(self, transaction: Transaction, done: Done, report: Report) -> None:
        self._process.call_later(self._delay_s(), partial(self._end, transaction, done, report))

    def _end(self, transaction: Transaction, done: Done, report: Report) -> None:
        self._in_flight -= 1
        self.under_way -= {(transaction.message.id, index) for index in transaction.indexes}
        done(transaction, report)
