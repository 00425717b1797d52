"""The client's side of an SMTP session (RFC 5321), without I/O: bytes and exchanges in, bytes and events out.

The driver's contract::

    core.receive(data)               whatever the socket gave
    core.begin(exchange)             when there is `room`
    core.next_event()                until None
    core.end_content(exchange, ...)  the one call that puts an end of data into the output
    core.secured(tls)                the handshake that `TlsWanted` asked for has succeeded
    core.take_output()               buffers to write, in order, after the events

Groups (RFC 2920): where the host offers PIPELINING, MAIL, all RCPT and DATA go out in one write. DATA ends a
group, as section 3.1 demands; the next group begins behind the end of data, which the same section allows. So
when another exchange waits, its envelope leaves in the same write as the content before it, and a busy
session needs one round trip a message. Without PIPELINING, or where it was found broken, all is lock-step.

Replies are matched with commands by order alone (`_awaiting`). A reply that nothing was asked for, or that
does not fit what was asked, ends the session: guessing would credit one message with another one's answer.

Traps, each with a test:

- All recipients refused, and still DATA answered 354: an empty content is sent, as RFC 2920 section 3.1 says.
  It has no recipients, so nobody can get it. Where MAIL was refused and yet a recipient accepted, the session
  is cut instead.
- 503 to a group whose earlier commands all succeeded means that the host lost count, not that the recipient
  is bad.
- 421 closes the session wherever it comes (RFC 5321 section 3.8); to a command that crossed it on a kept
  connection it is no answer.
- Behind a failed BDAT the state is indeterminate until RSET (RFC 3030 section 2).
- Clear text behind the 220 to STARTTLS would be taken for answers given under TLS (CVE-2021-38371): it ends
  the session, wherever the bytes were cut.

Deliberately not here: what is said before the first exchange (`client_opening`), time (the driver asks
`awaited` and keeps the deadline), the *sending* record (the driver makes it directly before `end_content`),
and what a refusal means for the mail (`policy.verdict`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Generic

from dispatch.mail.reply import Reply
from dispatch.mail.report import Fault, FaultKind, Stage
from dispatch.smtp.client_auth import Credentials
from dispatch.smtp.client_commands import UnwritableCommand, command
from dispatch.smtp.client_content import Framing
from dispatch.smtp.client_exchange import (
    Closed,
    ContentWanted,
    Done,
    Event,
    Exchange,
    K,
    Ready,
    TlsWanted,
    Untried,
)
from dispatch.smtp.client_extensions import NO_EXTENSIONS
from dispatch.smtp.client_opening import GaveUp, Handshake, Move, Opened, Opening, Say, Security
from dispatch.smtp.client_preparation import Chunking, Unsuited, prepare
from dispatch.smtp.client_states import PHASE_MOVES, PHASE_STAGE, STEPS, Awaited, Phase, Step
from dispatch.smtp.replies import ReplyParser, ReplyViolation, ViolationReason

Heard = Callable[[Awaited | None, Reply], None]
"""None: the reply answers nothing that was asked."""

_DATA = b"DATA\r\n"
_END_OF_DATA = b".\r\n"


class ClientCore(Generic[K]):
    """One session, from the greeting to its end."""

    def __init__(
        self,
        helo_name: str,
        *,
        pipelining: bool = True,
        chunking: Chunking = "auto",
        peer: str = "",
        tls: str | None = None,
        security: Security = "none",
        credentials: Credentials | None = None,
        had_tls: bool = False,
    ) -> None:
        """`tls`: the connection has it from its first byte (RFC 8314 section 3). `had_tls`: the host offered
        STARTTLS before. Raises `UnwritableCommand` for a `helo_name` that is not one word of ASCII.
        """
        self.phase = Phase.GREETING
        self.extensions = NO_EXTENSIONS
        """Those in force, once `Ready`; what was offered before the handshake never is."""
        self.peer = peer
        self.tls = tls
        """Protocol and cipher, for the record; None in clear text."""
        self._opening = Opening(helo_name, security, credentials, had_tls=had_tls)
        self._pipelining_wished = pipelining
        self._grouped = False
        self._chunking: Chunking = chunking
        self._parser = ReplyParser()
        self._awaiting: deque[Awaited] = deque((Awaited.GREETING,))
        self._untaken = 0
        """How many of those at the end of `_awaiting` belong to commands that are still in `_output`."""
        self._output: list[bytes] = []
        self._events: deque[Event[K]] = deque()
        self._current: Exchange[K] | None = None
        """The one whose replies are awaited."""
        self._next: Exchange[K] | None = None
        """Written behind the content of the current one."""
        self._unwritten: Exchange[K] | None = None
        """Begun, and not yet written: it could not be without waiting."""
        self._begun = 0
        self.replies_taken = 0
        """Counts complete replies: how a driver tells progress from trickled bytes."""
        self.heard: Heard | None = None
        """Is told of each reply, and what it answers, without what belongs to credentials."""
        self._needs_reset = False
        self._abandoned = False
        """An envelope was written whose content will never follow: the current exchange is the last one."""

    # What the driver asks

    @property
    def room(self) -> bool:
        """Whether `begin` may be called: at most one exchange waits behind the current one."""
        return (
            self._unwritten is None
            and self._next is None
            and not self._abandoned
            and self.phase is Phase.READY
        )

    @property
    def idle(self) -> bool:
        """Ready, with no exchange in hand."""
        return self._current is None and self._unwritten is None and self.phase is Phase.READY

    @property
    def grouped(self) -> bool:
        """Commands are sent in groups, and an exchange can be written behind another one."""
        return self._grouped

    @property
    def awaited(self) -> Awaited | None:
        """What the peer owes us next; None when it owes nothing."""
        return self._awaiting[0] if self._awaiting else None

    @property
    def behind(self) -> bool:
        """An exchange waits for the end of the current one."""
        return self._next is not None or (self._unwritten is not None and self._current is not None)

    def wants_content(self, exchange: Exchange[K]) -> bool:
        """The content of this exchange is still wanted: false when it ended since `ContentWanted`."""
        if exchange.sent or (exchange is not self._current and exchange is not self._next):
            return False
        return exchange.stage is Stage.CONTENT or exchange.blind

    @property
    def has_events(self) -> bool:
        return bool(self._events)

    def next_event(self) -> Event[K] | None:
        return self._events.popleft() if self._events else None

    def take_output(self) -> list[bytes]:
        """Buffers to write now, in this order."""
        output = self._output
        if output:
            self._output = []
            self._untaken = 0
        return output

    # What the driver tells

    def receive(self, data: bytes) -> None:
        """Take in what the peer sent, in any chunks; behind the end nothing is kept."""
        if self.phase is Phase.CLOSED:
            return
        parser = self._parser
        parser.receive(data)
        try:
            while self.phase is not Phase.TLS and (reply := parser.next_reply()) is not None:
                self._take(reply)
            if self.phase is Phase.TLS and parser.pending:
                raise ReplyViolation(ViolationReason.BEHIND_STARTTLS)
        except ReplyViolation as violation:
            # Broken answers to AUTH may quote what was said.
            detail = violation.reason if self.phase is Phase.AUTH else violation
            self.lost(Fault(FaultKind.PROTOCOL, str(detail)))

    def secured(self, tls: str) -> None:
        """The handshake succeeded, with this protocol and cipher: all begins anew (RFC 3207 section 4.2)."""
        assert self.phase is Phase.TLS, "no handshake was asked for"
        self.tls = tls
        self._parser = ReplyParser()
        self._follow(self._opening.hello())

    def begin(self, exchange: Exchange[K]) -> None:
        """Start it as soon as the protocol allows; behind the current one if there is one."""
        if self.phase is not Phase.READY:
            self._events.append(Untried(exchange, exchange.broken(_TOO_LATE)))
            return
        assert self.room, "one exchange already waits behind the current one"
        exchange.peer = self.peer
        exchange.tls = self.tls
        exchange.dsn = self.extensions.dsn
        try:
            prepare(exchange, self.extensions, self._chunking, grouped=self._grouped)
        except (Unsuited, UnwritableCommand) as reason:
            fault = Fault(FaultKind.UNSUITED, str(reason))
            self._events.append(Done(exchange, exchange.broken(fault)))
            return
        self._unwritten = exchange
        self._write_envelope_if_due()

    def send_block(self, exchange: Exchange[K], block: bytes) -> None:
        """Part of the content, framed (`client_content`), not the last one."""
        assert exchange is self._current and exchange.stage is Stage.CONTENT, "no content is wanted"
        if exchange.framing is Framing.LINES:
            self._output.append(block)
        elif block:
            self._output += (b"BDAT %d\r\n" % len(block), block)
            self._await((Awaited.CHUNK,))

    def end_content(self, exchange: Exchange[K], block: bytes) -> None:
        """The last part of the content, framed, and the end of data behind it.

        From the next `take_output` on, a lost reply leaves the exchange uncertain. A waiting exchange's
        envelope follows in the same output.
        """
        assert self.wants_content(exchange), "no content is wanted"
        exchange.sent = True
        if exchange.framing is Framing.LINES:
            exchange.stage = Stage.END_OF_DATA
            self._output += (block, _END_OF_DATA)
            self._await((Awaited.END_OF_DATA,))
        else:
            if exchange.blind:
                self._output += exchange.commands
                self._await((Awaited.MAIL, *(Awaited.RCPT,) * len(exchange.recipients)))
            else:
                exchange.stage = Stage.END_OF_DATA
            self._output += (b"BDAT %d LAST\r\n" % len(block), block)
            self._await((Awaited.LAST_CHUNK,))
        self._write_envelope_if_due()

    def fail_content(self, exchange: Exchange[K], fault: Fault) -> None:
        """The content cannot be sent to its end: nobody gets this message, and the session is dropped."""
        assert self.wants_content(exchange), "no content is wanted"
        exchange.stage = Stage.CONTENT
        self._events.append(Done(exchange, exchange.broken(fault)))
        if exchange is self._next:
            # The one before it has its end of data out: it keeps the session until its answer.
            self._next = None
            self._abandoned = True
        else:
            self._current = None
            self._end(None, None)

    def withdraw(self) -> Exchange[K] | None:
        """Take back the exchange that waits behind the current one; None where there is none to take back.

        If its envelope was written already, the session ends with the current exchange.
        """
        exchange = None
        if self._current is not None and self._unwritten is not None:
            exchange, self._unwritten = self._unwritten, None
        elif self._next is not None and not self._next.sent:
            exchange, self._next = self._next, None
            self._abandoned = True
        return exchange

    def quit(self) -> None:
        """Say good-bye (RFC 5321 section 4.1.1.10); only when `idle`."""
        assert self.idle, "an exchange is under way"
        self._move_to(Phase.QUIT)
        self._output.append(command("QUIT"))
        self._await((Awaited.QUIT,))

    def lost(self, fault: Fault) -> None:
        """The connection is gone, or must go: time ran out, or the peer broke the protocol."""
        if self.phase is Phase.CLOSED:
            return
        current = self._current
        broken = self._pipelining_broken(fault)
        if current is not None:
            self._current = None
            report = current.broken(fault)
            elsewhere = current.untouched and self._reused
            if elsewhere or (broken and not current.sent and current.outcome is None):
                self._events.append(Untried(current, report))
            else:
                self._events.append(Done(current, report))
        self._end(None, fault, pipelining_broken=broken)

    # Replies

    def _take(self, reply: Reply) -> None:
        if self.phase is Phase.CLOSED:
            return
        self.replies_taken += 1
        if self.phase is Phase.AUTH:
            reply = self._opening.redacted(reply)
        if self.heard is not None:
            self.heard(self.awaited, reply)
        if reply.code == 421:
            self._told_to_go(reply)
            return
        awaiting = self._awaiting
        if len(awaiting) <= self._untaken:
            self._take_unasked(reply)
            return
        awaited = awaiting.popleft()
        step = STEPS[awaited][reply.code // 100 - 2]
        if step is Step.VIOLATION:
            raise ReplyViolation(ViolationReason.OUT_OF_PLACE, f"{reply} to {awaited.name}")
        _HANDLERS[awaited](self, reply, step)

    def _take_unasked(self, reply: Reply) -> None:
        current = self._current
        if current is None or current.stage is not Stage.CONTENT or reply.code < 400:
            raise ReplyViolation(ViolationReason.UNASKED, str(reply))
        # Refused in the middle of the content. To go on would be to send the rest for nothing.
        self._current = None
        self._events.append(Done(current, current.settled(reply, Stage.CONTENT)))
        self._end(reply, None)

    def _told_to_go(self, reply: Reply) -> None:
        current, self._current = self._current, None
        if current is not None:
            if current.untouched and self._reused:
                self._events.append(Untried(current, current.settled(reply, Stage.MAIL)))
            else:
                self._events.append(Done(current, current.outcome or current.settled(reply, current.stage)))
        self._end(reply, None)

    def _on_opening(self, reply: Reply, step: Step) -> None:
        self._follow(self._opening.answered(self.phase, reply, step, encrypted=self.tls is not None))

    def _follow(self, move: Move) -> None:
        match move:
            case Say(phase, line, awaited):
                if phase is not self.phase:
                    self._move_to(phase)
                self._output.append(line)
                self._await((awaited,))
            case Handshake():
                self._move_to(Phase.TLS)
                if self._parser.pending:
                    raise ReplyViolation(ViolationReason.BEHIND_STARTTLS)
                self._events.append(TlsWanted())
            case Opened():
                self.extensions = self._opening.extensions
                self._grouped = self._pipelining_wished and self.extensions.pipelining
                self._move_to(Phase.READY)
                self._events.append(Ready())
            case GaveUp(stage, reply, fault):
                self._end(reply, fault, stage=stage)

    def _on_mail(self, reply: Reply, step: Step) -> None:
        current = self._current
        assert current is not None
        current.stage = Stage.RCPT
        if step is Step.GO:
            if not self._grouped:
                self._write_step(current)
            return
        current.outcome = current.settled(reply, Stage.MAIL)
        if not self._grouped:
            self._finish(current)

    def _on_rcpt(self, reply: Reply, step: Step) -> None:
        current = self._current
        assert current is not None
        if step is Step.GO:
            current.accepted += 1
        else:
            self._suspect_lost_count(current, reply)
            current.refusals[current.answered] = reply
        current.answered += 1
        if current.answered < len(current.recipients):
            if not self._grouped:
                self._write_step(current)
        elif current.blind:
            current.stage = Stage.END_OF_DATA
        elif current.framing is not Framing.LINES or not self._grouped:
            self._after_last_rcpt(current)
        else:
            current.stage = Stage.DATA

    def _after_last_rcpt(self, current: Exchange[K]) -> None:
        """DATA was not said yet, so without recipients it need not be."""
        if not current.accepted or current.outcome is not None:
            self._needs_reset = True
            self._finish(current)
        elif current.framing is Framing.LINES:
            current.stage = Stage.DATA
            self._output.append(_DATA)
            self._await((Awaited.DATA,))
        else:
            self._want_content(current)

    def _on_data(self, reply: Reply, step: Step) -> None:
        current = self._current
        assert current is not None
        if step is Step.GO:
            if current.accepted and current.outcome is None:
                self._want_content(current)
            elif current.accepted:
                self._finish(current)
                raise ReplyViolation(ViolationReason.OUT_OF_PLACE, f"{reply} to DATA behind a refused MAIL")
            else:
                self._output.append(_END_OF_DATA)
                self._await((Awaited.EMPTY_END_OF_DATA,))
                self._finish(current)
            return
        if current.outcome is None:
            self._needs_reset = True
            if current.accepted:
                self._suspect_lost_count(current, reply)
                current.outcome = current.settled(reply, Stage.DATA)
        self._finish(current)

    def _on_end_of_data(self, reply: Reply, step: Step) -> None:
        current = self._current
        assert current is not None
        current.outcome = current.settled(reply, Stage.END_OF_DATA)
        self._finish(current)

    def _on_empty_end_of_data(self, reply: Reply, step: Step) -> None:
        self._write_envelope_if_due()

    def _on_chunk(self, reply: Reply, step: Step) -> None:
        if step is Step.GO:
            return
        current, self._current = self._current, None
        assert current is not None
        self._events.append(Done(current, current.settled(reply, current.stage)))
        self._end(reply, None)

    def _on_last_chunk(self, reply: Reply, step: Step) -> None:
        current = self._current
        assert current is not None
        if step is not Step.GO and self._next is None:
            self._needs_reset = True
        if current.outcome is None and current.accepted:
            current.outcome = current.settled(reply, Stage.END_OF_DATA)
        self._finish(current)

    def _on_rset(self, reply: Reply, step: Step) -> None:
        if step is Step.CLOSE:
            self.lost(Fault(FaultKind.PROTOCOL, f"RSET refused: {reply}"))
        elif not self._grouped and self._current is not None:
            self._write_step(self._current)

    def _on_quit(self, reply: Reply, step: Step) -> None:
        self._end(None, None)

    # Commands

    def _write_envelope_if_due(self) -> None:
        exchange = self._unwritten
        if exchange is None or self.phase is not Phase.READY or self._abandoned:
            return
        current = self._current
        reset = self._needs_reset
        if not self._grouped:
            if current is not None or self._awaiting:
                return
        elif current is not None:
            if not current.sent:
                return
            exchange.chained = True
            # Were all its recipients refused, BDAT leaves the transaction open: that is not known yet.
            reset = reset or current.framing is not Framing.LINES
        self._unwritten = None
        self._begun += 1
        if current is None:
            self._current = exchange
        else:
            self._next = exchange
        self._needs_reset = False
        if reset:
            self._output.append(command("RSET"))
            self._await((Awaited.RSET,))
        if exchange.blind:
            self._events.append(ContentWanted(exchange))
        elif self._grouped:
            awaited = (Awaited.MAIL, *(Awaited.RCPT,) * len(exchange.recipients))
            if exchange.framing is Framing.LINES:
                exchange.commands.append(_DATA)
                awaited = (*awaited, Awaited.DATA)
            self._output.append(b"".join(exchange.commands))
            self._await(awaited)
        elif not reset:
            self._write_step(exchange)

    def _write_step(self, exchange: Exchange[K]) -> None:
        """Lock-step: the one command whose turn it is, MAIL or the next RCPT."""
        if exchange.stage is Stage.MAIL:
            self._output.append(exchange.commands[0])
            self._await((Awaited.MAIL,))
        else:
            self._output.append(exchange.commands[1 + exchange.answered])
            self._await((Awaited.RCPT,))

    def _await(self, awaited: tuple[Awaited, ...]) -> None:
        self._awaiting.extend(awaited)
        self._untaken += len(awaited)

    # Ends

    def _want_content(self, current: Exchange[K]) -> None:
        current.stage = Stage.CONTENT
        self._events.append(ContentWanted(current))

    def _finish(self, exchange: Exchange[K]) -> None:
        """All of this exchange is answered; without an outcome, every recipient was refused at RCPT."""
        self._events.append(Done(exchange, exchange.outcome or exchange.refused()))
        self._current = self._next
        self._next = None
        if self._abandoned:
            self._end(None, None)
        else:
            self._write_envelope_if_due()

    def _end(
        self,
        reply: Reply | None,
        fault: Fault | None,
        *,
        stage: Stage | None = None,
        pipelining_broken: bool = False,
    ) -> None:
        stage = stage or PHASE_STAGE.get(self.phase)
        self._move_to(Phase.CLOSED)
        for exchange in (self._next, self._unwritten):
            if exchange is not None:
                exchange.peer = self.peer
                report = exchange.settled(reply, Stage.MAIL) if reply else exchange.broken(fault or _TOO_LATE)
                ended = Done(exchange, report) if exchange.sent else Untried(exchange, report)
                self._events.append(ended)
        self._next = self._unwritten = None
        self._awaiting.clear()
        self._output.clear()
        self._untaken = 0
        self._events.append(Closed(stage, reply, fault, pipelining_broken))

    def _move_to(self, phase: Phase) -> None:
        assert phase in PHASE_MOVES[self.phase], f"a session cannot go from {self.phase} to {phase}"
        self.phase = phase

    @property
    def _reused(self) -> bool:
        """The session has carried an exchange before: its connection may have died of age since."""
        return self._begun > 1

    def _suspect_lost_count(self, current: Exchange[K], reply: Reply) -> None:
        """503 says that a command came out of order; ours did not, so the host mislaid one of the group."""
        if reply.code == 503 and self._grouped and current.outcome is None and not current.sent:
            raise ReplyViolation(ViolationReason.OUT_OF_PLACE, f"{reply} in a group that was in order")

    def _pipelining_broken(self, fault: Fault) -> bool:
        """Whether this looks like a host that cannot do what it offers: groups mangled or half answered."""
        current = self._current
        if not self._grouped or current is None:
            return False
        if fault.kind is FaultKind.PROTOCOL:
            return self._next is not None or (not current.sent and current.stage is not Stage.CONTENT)
        if fault.kind is FaultKind.TIMEOUT:
            return current.stage in (Stage.RCPT, Stage.DATA) or (current.chained and current.untouched)
        return False


_TOO_LATE = Fault(FaultKind.DROPPED, "the session ended before its turn")

_Handler = Callable[[ClientCore[Any], Reply, Step], None]
_HANDLERS: dict[Awaited, _Handler] = {
    Awaited.GREETING: ClientCore._on_opening,
    Awaited.EHLO: ClientCore._on_opening,
    Awaited.HELO: ClientCore._on_opening,
    Awaited.STARTTLS: ClientCore._on_opening,
    Awaited.AUTH: ClientCore._on_opening,
    Awaited.MAIL: ClientCore._on_mail,
    Awaited.RCPT: ClientCore._on_rcpt,
    Awaited.DATA: ClientCore._on_data,
    Awaited.END_OF_DATA: ClientCore._on_end_of_data,
    Awaited.EMPTY_END_OF_DATA: ClientCore._on_empty_end_of_data,
    Awaited.CHUNK: ClientCore._on_chunk,
    Awaited.LAST_CHUNK: ClientCore._on_last_chunk,
    Awaited.RSET: ClientCore._on_rset,
    Awaited.QUIT: ClientCore._on_quit,
}
