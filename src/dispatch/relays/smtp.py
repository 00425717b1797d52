"""A smart host as a relay: a pool of kept connections, and which of them takes which transaction.

Duty: implement `ports.Relay` for one `SmartHost`. A transaction goes, in this order, to an idle
connection (the one used last, as it is the least likely to have died of age), to a new connection, or
behind the content of a busy one. It is reported once, whatever happens.

Rules:

- `max_concurrency` counts connections. `free` counts one more place for every connection whose host answers
  promptly: there the next envelope leaves with the current content, which is what makes a busy connection
  cost one round trip a message.
- A connection is opened for a transaction that waits, by a `smtp_dial.Dial`, which knows where. If that fails
  and no other is open, the host is away: all transactions beyond those that other attempts are under way for
  are reported. If others are open, the host only wants no more of them: the transactions wait for those, and
  none is opened for `HOLD_S`.
- A transaction under which a kept connection died, before the peer answered to any of it and before its end
  of data, is tried once more, on a fresh connection. Never one whose end of data had left.
- What a host cannot do (PIPELINING that it offers) is remembered for the life of the relay.

Deliberately not here: retries, failover, rates, breakers (the queue), and what a reply means
(`policy.verdict`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from dispatch.mail.report import Fault, FaultKind, Report, Stage
from dispatch.ports import Chance, Clock, Network, Resolver, Timer, Transaction, Worker
from dispatch.relays.addresses import Whereabouts
from dispatch.relays.smart_host import SmartHost
from dispatch.relays.smtp_connection import Job, SmtpConnection, Terms
from dispatch.relays.smtp_content import OpenContent
from dispatch.relays.smtp_dial import Dial, Upstream
from dispatch.smtp.client_commands import helo_argument
from dispatch.smtp.client_exchange import Closed

HOLD_S = 5.0
"""After a refused connection, while others are open: how long none is opened."""


class SmtpRelay:
    """`ports.Relay` for one smart host."""

    def __init__(
        self,
        host: SmartHost,
        *,
        clock: Clock,
        network: Network,
        worker: Worker,
        open_content: OpenContent,
        resolver: Resolver | None = None,
        chance: Chance | None = None,
        upstream: Upstream | None = None,
    ) -> None:
        """`worker` reads large content, which `open_content` opens on its thread. Without a `resolver` the
        network is given names; without `chance` hosts of equal preference stay in the answer's order.
        `upstream`: where the host is and how it is spoken to, in place of what follows from these.

        Raises `UnwritableCommand` for a `helo_name` that cannot be said.
        """
        helo_argument(host.helo_name)
        self.host = host
        self._clock = clock
        self._upstream = upstream or Upstream(
            host, clock, network, Whereabouts(clock, resolver, chance, host.source_address)
        )
        self._worker = worker
        self._open_content = open_content
        self._waiting: deque[Job] = deque()
        self._waiting_fresh: deque[Job] = deque()
        """Those that lost a kept connection: only a new one will do."""
        self._idle: list[SmtpConnection] = []
        self._open: dict[SmtpConnection, None] = {}
        """Ready, busy or idle."""
        self._opening: dict[Dial, None] = {}
        """From dialling until ready."""
        self._unfinished = 0
        self._prompt = 0
        self._lock_step = host.pipelining == "off"
        self._hold: Timer | None = None
        self._closing = False
        self._empty = asyncio.Event()

    @property
    def connections(self) -> int:
        """Open, and on their way to be."""
        return len(self._open) + len(self._opening)

    @property
    def idle(self) -> bool:
        """A connection has nothing to do: the next transaction goes there."""
        return bool(self._idle)

    def end_idle(self) -> int:
        """Close the connections that have nothing to do; how many they were."""
        count = len(self._idle)
        while self._idle:
            self._take_idle().quit()
        return count

    # ports.Relay

    def free(self) -> int:
        return 0 if self._closing else max(0, self.host.max_concurrency + self._prompt - self._unfinished)

    def start(self, transaction: Transaction, done: Callable[[Transaction, Report], None]) -> None:
        job = Job(transaction, done)
        self._unfinished += 1
        if self._closing:
            self._clock.call_later(0, lambda: self._give_up(job, _CLOSING))
        elif self._idle:
            self._take_idle().start(job)
        else:
            self._waiting.append(job)
            self._open_as_needed()

    def try_again(self) -> None:
        """Nothing rests here."""

    async def close(self, grace_s: float) -> None:
        self._closing = True
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
        opening, self._opening = self._opening, {}
        for dial in opening:
            dial.stop("the relay is closing")
        self._give_up_waiting(len(self._waiting) + len(self._waiting_fresh), _CLOSING)
        self.end_idle()
        if self._open:
            self._empty.clear()
            timer = self._clock.call_later(grace_s, self._empty.set)
            await self._empty.wait()
            timer.cancel()
        for connection in list(self._open):
            connection.abort("cut: the relay is closing")

    # smtp_connection.ConnectionOwner

    def ready(self, connection: SmtpConnection) -> None:
        dial = self._dial_of(connection)
        assert dial is not None, "nobody asked for this connection"
        del self._opening[dial]
        self._open[connection] = None
        dial.opened()
        if self._waiting_fresh:
            connection.start(self._waiting_fresh.popleft())
        else:
            self._serve(connection)

    def behind(self) -> Job | None:
        return self._waiting.popleft() if self._waiting and not self._closing else None

    def finished(self, connection: SmtpConnection, job: Job, report: Report) -> None:
        # Serve first: what `done` starts in turn may then find the connection idle.
        if connection.idle and not connection.kept:
            self._serve(connection)
        self._report(job, report)

    def untried(self, connection: SmtpConnection, job: Job, report: Report) -> None:
        if job.retried or self._closing:
            self._report(job, report)
            return
        job.retried = True
        self._waiting_fresh.append(job)
        if connection not in self._open:
            self._open_as_needed()
        # Otherwise its end comes next: it makes room, and may say how to talk to this host.

    def withdrawn(self, job: Job) -> None:
        if self._closing:
            # No connection will be opened for it.
            self._give_up(job, _CLOSING)
            return
        self._waiting.appendleft(job)
        while self._idle and self._waiting:
            self._take_idle().start(self._waiting.popleft())
        self._open_as_needed()

    def prompt_changed(self, prompt: bool) -> None:
        self._prompt += 1 if prompt else -1

    def retired(self, connection: SmtpConnection) -> None:
        if connection.kept:
            connection.kept = False
            self._idle.remove(connection)

    def closed(self, connection: SmtpConnection, closed: Closed) -> None:
        if closed.pipelining_broken:
            self._lock_step = True
        if connection in self._open:
            del self._open[connection]
            self.retired(connection)
            self._open_as_needed()
        elif (dial := self._dial_of(connection)) is not None:
            dial.session_ended(closed)
        if not self._open:
            self._empty.set()

    # smtp_dial.DialOwner

    @property
    def others_open(self) -> bool:
        return bool(self._open)

    def make(self, terms: Terms) -> SmtpConnection:
        return SmtpConnection(
            self,
            self.host,
            self._clock,
            self._worker,
            self._open_content,
            terms,
            pipelining=not self._lock_step,
        )

    def dial_failed(self, dial: Dial, ended: Closed) -> None:
        del self._opening[dial]
        if self._open and self._hold is None:
            self._hold = self._clock.call_later(HOLD_S, self._end_hold)
        waiting = len(self._waiting_fresh) + (0 if self._open else len(self._waiting))
        self._give_up_waiting(waiting - len(self._opening), ended, dial.peer, dial.tls)
        self._open_as_needed()

    # The pool

    def _serve(self, connection: SmtpConnection) -> None:
        """The connection is idle: give it work, keep it, or end it."""
        if self._closing or connection.spent:
            connection.quit()
        elif self._waiting:
            connection.start(self._waiting.popleft())
        else:
            connection.kept = True
            self._idle.append(connection)

    def _take_idle(self) -> SmtpConnection:
        connection = self._idle.pop()
        connection.kept = False
        return connection

    def _open_as_needed(self) -> None:
        if self._closing or (self._hold is not None and self._open):
            return
        room = self.host.max_concurrency - len(self._open) - len(self._opening)
        if room <= 0:
            return
        wanted = len(self._waiting) + len(self._waiting_fresh) - len(self._opening)
        for _ in range(min(wanted, room)):
            self._opening[Dial(self, self._upstream)] = None

    def _dial_of(self, connection: SmtpConnection) -> Dial | None:
        return next((dial for dial in self._opening if dial.connection is connection), None)

    def _end_hold(self) -> None:
        self._hold = None
        self._open_as_needed()

    def _give_up_waiting(self, count: int, ended: Closed, peer: str = "", tls: str | None = None) -> None:
        """Report those that have waited longest; what `done` starts in turn is not among them."""
        jobs = [(self._waiting_fresh or self._waiting).popleft() for _ in range(count)]
        for job in jobs:
            self._give_up(job, ended, peer, tls)

    def _give_up(self, job: Job, ended: Closed, peer: str = "", tls: str | None = None) -> None:
        stage = ended.stage or Stage.CONNECT
        fault = None if ended.reply is not None else ended.fault or _VANISHED
        self._report(job, Report(stage, (ended.reply,) * len(job.transaction.indexes), fault, peer, tls))

    def _report(self, job: Job, report: Report) -> None:
        self._unfinished -= 1
        job.done(job.transaction, report)


_CLOSING = Closed(
    Stage.CONNECT, None, Fault(FaultKind.DROPPED, "the relay is closing"), pipelining_broken=False
)
_VANISHED = Fault(FaultKind.DROPPED, "the session ended without a word")
