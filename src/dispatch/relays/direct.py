"""Direct delivery: mail goes to the hosts of its recipients' own domains, without a smart host.

Duty: implement `ports.Relay` over one pool of connections (`smtp.SmtpRelay`) for each domain. The recipients
of a transaction share their domain (`policy.mail_domains.destination`): the queue sees to it.

Rules:

- What happens at one domain is no business of another: pool, timeouts, what was learnt of hosts are its own,
  and so is every failure.
- A domain at which no session could be opened rests, each time twice as long, up to `REST_S_MAX`: what comes
  for it meanwhile hears at once why, so that its backlog does not hold connections that others could use.
  That counts as no attempt, unless waiting mends nothing.
- `max_concurrency` counts connections, idle ones too: these are closed where a domain needs a new one and
  there are as many as there may be.
- A domain without work is forgotten after `KEPT_S`, and earlier where there are more than `KEPT_MAX` of them.

Deliberately not here: how many transactions of a domain are under way (the queue's `DomainLine`), and what a
domain demands of a session (`direct_domain`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import chain

import msgspec

from dispatch.mail.report import Fault, FaultKind, Report, Stage
from dispatch.policy.mail_domains import destination
from dispatch.ports import Chance, Clock, Network, Resolver, Transaction, Worker
from dispatch.relays.addresses import Whereabouts
from dispatch.relays.direct_domain import DomainUpstream, Ourselves, demands_of
from dispatch.relays.smart_host import SmartHost
from dispatch.relays.smtp import SmtpRelay
from dispatch.relays.smtp_content import OpenContent
from dispatch.relays.smtp_dial import FINAL
from dispatch.relays.sts import StsPolicies

REST_S = 15.0
REST_S_MAX = 120.0
"""Of the first rest, and of any. A backlog of thousands comes round once in a rest."""
KEPT_S = 600.0
KEPT_MAX = 500

_OPENING = frozenset({Stage.CONNECT, Stage.GREETING, Stage.EHLO, Stage.STARTTLS})


class _Domain:
    """What is known of a domain while there is mail for it, and a while longer."""

    __slots__ = ("failed", "idle_since", "pool", "rest_s", "rests_until", "unfinished")

    def __init__(self, pool: SmtpRelay) -> None:
        self.pool = pool
        self.unfinished = 0
        self.idle_since = 0.0
        self.rest_s = 0.0
        """Its last rest was that long; 0: it is well."""
        self.rests_until = 0.0
        self.failed: Report | None = None
        """What is told while it rests."""

    def told(self, now_s: float) -> Report | None:
        """What there is to say instead of trying it; None where it does not rest."""
        report, wait_s = self.failed, self.rests_until - now_s
        if report is None or wait_s <= 0:
            return None
        if report.fault is None or report.fault.kind is not FaultKind.RESTS:
            return report
        return msgspec.structs.replace(
            report, fault=msgspec.structs.replace(report.fault, retry_after_s=wait_s)
        )

    def rest(self, report: Report, first_s: float, now_s: float) -> None:
        """No session could be opened, which the report says."""
        self.failed = report
        final = report.fault is not None and report.fault.kind in FINAL
        self.rest_s = first_s if final else min(max(2 * self.rest_s, first_s), REST_S_MAX)
        self.rests_until = now_s + self.rest_s

    def is_well(self) -> None:
        self.failed, self.rest_s, self.rests_until = None, 0.0, 0.0


class DirectRelay:
    """`ports.Relay` for every domain there is."""

    def __init__(
        self,
        template: SmartHost,
        *,
        max_concurrency: int,
        rest_s: float = REST_S,
        ourselves: Ourselves,
        clock: Clock,
        network: Network,
        worker: Worker,
        open_content: OpenContent,
        resolver: Resolver,
        chance: Chance,
        policies: StsPolicies | None = None,
    ) -> None:
        """`template`: what all domains have in common; its hosts are filled in, its `max_concurrency` is that
        of one domain, and its trust that of sessions whose domain demands a verified one. The other
        `max_concurrency` is that of all together. `rest_s`: below the shortest wait for a retry."""
        self._template = template
        self._max_concurrency = max_concurrency
        self._rest_s = min(rest_s, REST_S)
        self._ourselves = ourselves
        self._clock = clock
        self._network = network
        self._worker = worker
        self._open_content = open_content
        self._resolver = resolver
        self._chance = chance
        self._demands = demands_of(template, network, policies)
        self._domains: dict[str, _Domain] = {}
        self._idle: dict[str, _Domain] = {}
        """Those without work; that which has been for longest comes first."""
        self._unfinished = 0
        self._closing = False

    # ports.Relay

    def free(self) -> int:
        return 0 if self._closing else max(0, self._max_concurrency - self._unfinished)

    def start(self, transaction: Transaction, done: Callable[[Transaction, Report], None]) -> None:
        recipients = transaction.message.envelope.recipients
        name = destination(recipients[transaction.indexes[0]].address)
        domain = self._domain(name)
        self._unfinished += 1
        domain.unfinished += 1
        self._idle.pop(name, None)
        told = _CLOSING if self._closing else domain.told(self._clock.monotonic())
        ended = partial(self._ended, name, domain, done, told is None)
        if told is not None:
            # What ended before the envelope is the same for everybody.
            report = msgspec.structs.replace(told, replies=told.replies[:1] * len(transaction.indexes))
            self._clock.call_later(0, partial(ended, transaction, report))
            return
        if not domain.pool.idle:
            self._make_room()
        domain.pool.start(transaction, ended)

    def try_again(self) -> None:
        for domain in self._domains.values():
            domain.is_well()

    async def close(self, grace_s: float) -> None:
        self._closing = True
        await asyncio.gather(*(domain.pool.close(grace_s) for domain in self._domains.values()))

    # Domains

    @property
    def domains(self) -> int:
        """How many are remembered."""
        return len(self._domains)

    def _domain(self, name: str) -> _Domain:
        domain = self._domains.get(name)
        if domain is None:
            domain = self._domains[name] = _Domain(self._pool(name))
        return domain

    def _pool(self, name: str) -> SmtpRelay:
        host = msgspec.structs.replace(self._template, hosts=(name,), lookup="mx")
        where = Whereabouts(self._clock, self._resolver, self._chance, host.source_address)
        return SmtpRelay(
            host,
            clock=self._clock,
            network=self._network,
            worker=self._worker,
            open_content=self._open_content,
            upstream=DomainUpstream(host, self._clock, self._network, where, self._ourselves, self._demands),
        )

    def _ended(
        self,
        name: str,
        domain: _Domain,
        done: Callable[[Transaction, Report], None],
        tried: bool,
        transaction: Transaction,
        report: Report,
    ) -> None:
        self._unfinished -= 1
        domain.unfinished -= 1
        now = self._clock.monotonic()
        if not tried:
            pass
        elif report.stage not in _OPENING:
            domain.is_well()
        elif now >= domain.rests_until:
            domain.rest(_resting(report), self._rest_s, now)
        if not domain.unfinished and not self._closing:
            domain.idle_since = now
            self._idle[name] = domain
            self._forget(now)
        done(transaction, report)

    def _forget(self, now: float) -> None:
        for name, domain in list(self._idle.items()):
            if len(self._idle) <= KEPT_MAX and now - domain.idle_since < KEPT_S:
                break
            domain.pool.end_idle()
            del self._idle[name], self._domains[name]

    def _make_room(self) -> None:
        """For one connection more, at the cost of idle ones: first of domains that have no work."""
        count = sum(domain.pool.connections for domain in self._domains.values())
        for domain in chain(self._idle.values(), self._domains.values()):
            if count < self._max_concurrency:
                break
            count -= domain.pool.end_idle()


def _resting(report: Report) -> Report:
    """What is told of a session that could not be opened to those that come a moment later."""
    fault, (reply, *_) = report.fault, report.replies
    if fault is not None and fault.kind in FINAL:
        return report
    what = str(reply) if fault is None else f"{fault.kind.value}: {fault.detail}"
    return msgspec.structs.replace(report, replies=(None,), fault=Fault(FaultKind.RESTS, what))


_CLOSING = Report(Stage.CONNECT, (None,), Fault(FaultKind.DROPPED, "the relay is closing"))
