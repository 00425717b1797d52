"""One transaction as a client session sees it: what was asked, how far it came, what it was answered.

An `Exchange` is driven by `ClientCore` alone; whoever made it keeps its own matter in `key` and reads the
`Report` that comes with the event at its end. Events are the only way in which the core speaks.

Rules of the report (`mail.report`): a refusal at RCPT stands for its recipient only; a refusal at MAIL or
DATA, and the answer to the end of data, stand for all that were not refused before.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.reply import Reply
from dispatch.mail.report import Fault, Report, Stage
from dispatch.smtp.client_content import Framing

K = TypeVar("K")


class Exchange(Generic[K]):
    """One transaction in one session; made anew for every session that tries it."""

    __slots__ = (
        "accepted",
        "answered",
        "ascii_only",
        "blind",
        "chained",
        "commands",
        "dsn",
        "envelope",
        "framing",
        "key",
        "outcome",
        "peer",
        "recipients",
        "refusals",
        "sent",
        "size_bytes",
        "stage",
        "tls",
        "whole",
    )

    def __init__(
        self,
        key: K,
        envelope: Envelope,
        indexes: tuple[int, ...],
        size_bytes: int,
        *,
        ascii_only: bool = False,
        whole: bool = False,
    ) -> None:
        self.key = key
        self.envelope = envelope
        every = envelope.recipients
        self.recipients: tuple[Recipient, ...] = (
            every if len(every) == 1 else tuple([every[index] for index in indexes])
        )
        self.size_bytes = size_bytes
        self.ascii_only = ascii_only
        """Known to hold no byte above 127: needs neither 8BITMIME nor, for its content, SMTPUTF8."""
        self.whole = whole
        """The content is in memory and comes in one piece."""

        self.stage = Stage.MAIL
        self.framing = Framing.LINES
        self.blind = False
        """Envelope and content go out in one write, with no answer awaited before (BDAT)."""
        self.chained = False
        """Its commands were written behind the content of another one."""
        self.commands: list[bytes] = []
        self.sent = False
        """The end of data was handed out: without a reply the outcome is uncertain (RFC 1047)."""
        self.accepted = 0
        self.answered = 0
        self.refusals: dict[int, Reply] = {}
        """By position in `recipients`: what RCPT was refused with."""
        self.outcome: Report | None = None
        """Set early when MAIL was refused: the answers to the rest of the group change nothing."""
        self.peer = ""
        self.tls: str | None = None
        self.dsn = False
        """The host offers it (RFC 3461)."""

    @property
    def untouched(self) -> bool:
        """The peer has not answered to any of it, and cannot have taken it: it may be tried elsewhere."""
        return self.stage is Stage.MAIL and not self.sent

    def settled(self, reply: Reply, stage: Stage) -> Report:
        """The report when `reply`, given at `stage`, stands for all recipients not refused before."""
        count = len(self.recipients)
        if not self.refusals:
            return Report(stage, (reply,) * count, None, self.peer, self.tls, (), self.dsn)
        refusals = self.refusals
        if len(refusals) == count:
            stage = Stage.RCPT
        replies = tuple(refusals.get(position, reply) for position in range(count))
        stages = tuple(Stage.RCPT if position in refusals else stage for position in range(count))
        return Report(stage, replies, None, self.peer, self.tls, stages, self.dsn)

    def refused(self) -> Report:
        """The report when every recipient was refused at RCPT."""
        replies = tuple(self.refusals[position] for position in range(len(self.recipients)))
        return Report(Stage.RCPT, replies, None, self.peer, self.tls, (), self.dsn)

    def broken(self, fault: Fault) -> Report:
        """The report when the conversation ended before everybody had a reply."""
        if self.outcome is not None:
            return self.outcome
        count = len(self.recipients)
        if len(self.refusals) == count:
            return self.refused()
        stage = Stage.END_OF_DATA if self.sent else self.stage
        replies = tuple(map(self.refusals.get, range(count)))
        stages = tuple(stage if reply is None else Stage.RCPT for reply in replies)
        stages = stages if self.refusals else ()
        return Report(stage, replies, fault, self.peer, self.tls, stages, self.dsn)


class Ready(NamedTuple):
    """The session is open: exchanges may begin."""


class TlsWanted(NamedTuple):
    """The peer waits for the TLS handshake: then `secured`, or `lost` where it fails (RFC 3207)."""


class ContentWanted(NamedTuple, Generic[K]):
    """The peer waits for the content: `send_block` any number of times, then `end_content`."""

    exchange: Exchange[K]


class Done(NamedTuple, Generic[K]):
    """The exchange is over; comes exactly once for each, unless `Untried` does."""

    exchange: Exchange[K]
    report: Report


class Untried(NamedTuple, Generic[K]):
    """The session ended, and this exchange may be begun in another one without any risk of a duplicate."""

    exchange: Exchange[K]
    report: Report
    """What to say of it where it is not tried again."""


class Closed(NamedTuple):
    """The session is over: close the transport. The last event, exactly once."""

    stage: Stage | None
    """Where a session ended that never became ready; None behind `Ready`."""
    reply: Reply | None
    """The peer's refusal, where it gave one (a greeting of 554, 421 anywhere)."""
    fault: Fault | None
    pipelining_broken: bool
    """The peer lost its way among grouped commands: talk to this host in lock-step from now on."""


Event = Ready | TlsWanted | ContentWanted[K] | Done[K] | Untried[K] | Closed
