"""A smart host tried out, for a person who watches: each step with its time and the peer's words.

Names, connection, TLS, login and, where one is given, a message go the way that all mail goes (`smtp_dial`,
`smtp_connection`): what is tried is what will be used. It is only told of; and commands go out one by one, so
that each has its own answer and time. Where a certificate is not taken, the host is asked once more, only
to show it: whoever wants to pin it needs its fingerprint.

Nothing that is told holds a secret: commands are named, not quoted, and answers to AUTH come without what
they repeat of it.

Deliberately not here: what the settings say (`app.checkups`), and a time limit for the whole.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Set
from functools import partial
from typing import NamedTuple, NoReturn, cast

import msgspec

from dispatch.mail.delivery import Move
from dispatch.mail.message import ContentFile
from dispatch.mail.reply import Reply
from dispatch.mail.report import CHECK_RESULT, CheckStep, Fault, FaultKind, Report, Stage
from dispatch.policy.verdict import judge
from dispatch.ports import Chance, Clock, NameFault, Network, Resolver, Transaction, Worker
from dispatch.relays.addresses import Exchangers, LoopsBack, NullMx, Whereabouts, is_address
from dispatch.relays.direct_domain import DomainUpstream, Ourselves, demands_of
from dispatch.relays.smart_host import SmartHost, TokenSource, Trust
from dispatch.relays.smtp_connection import Job, SmtpConnection, Terms, peer_name
from dispatch.relays.smtp_dial import Dial, Upstream
from dispatch.relays.sts import StsPolicies
from dispatch.security.peer import certificate_in_words
from dispatch.security.tls import describe, explain
from dispatch.smtp.client_auth import Credentials
from dispatch.smtp.client_exchange import Closed
from dispatch.smtp.client_states import Awaited

CERTIFICATE = "certificate"

_COMMANDS = {
    Awaited.GREETING: "greeting",
    Awaited.EHLO: "EHLO",
    Awaited.HELO: "HELO",
    Awaited.STARTTLS: "STARTTLS",
    Awaited.AUTH: "AUTH",
    Awaited.MAIL: "MAIL FROM",
    Awaited.RCPT: "RCPT TO",
    Awaited.DATA: "DATA",
    Awaited.END_OF_DATA: "end of data",
    Awaited.EMPTY_END_OF_DATA: "end of data",
    Awaited.CHUNK: "BDAT",
    Awaited.LAST_CHUNK: "BDAT LAST",
    Awaited.RSET: "RSET",
    Awaited.QUIT: "QUIT",
}

Tell = Callable[[CheckStep], None]


class Means(NamedTuple):
    """What the session stands on."""

    clock: Clock
    network: Network
    resolver: Resolver | None
    chance: Chance | None
    worker: Worker


class Direct(NamedTuple):
    """What direct delivery knows besides."""

    ourselves: Ourselves
    policies: StsPolicies | None


class Telling:
    """Makes steps of what happens; each takes the time since the one before it, unless it knows better."""

    def __init__(self, clock: Clock, tell: Tell) -> None:
        self._clock = clock
        self._tell = tell
        self._last_s = clock.monotonic()

    def now_s(self) -> float:
        return self._clock.monotonic()

    def say(self, what: str, fine: bool, words: str, since_s: float | None = None) -> None:
        now_s = self._clock.monotonic()
        began_s = self._last_s if since_s is None else since_s
        self._last_s = now_s
        self._tell(CheckStep(what, fine, words, round((now_s - began_s) * 1000)))


class Checkup:
    """One session, from the first name looked up to QUIT; `over` is called once, at its end."""

    def __init__(
        self,
        host: SmartHost,
        means: Means,
        *,
        tell: Tell,
        over: Callable[[], None],
        direct: Direct | None = None,
        only_certificate: bool = False,
    ) -> None:
        """`direct`: the host is a mail domain, to which mail goes directly. `only_certificate`: tell of it
        alone, and log nobody in."""
        clock = means.clock
        telling = Telling(clock, (lambda step: None) if only_certificate else tell)
        said = Telling(clock, tell) if only_certificate else telling
        source = host.credentials
        if source is not None and not isinstance(source, Credentials):
            host = msgspec.structs.replace(host, credentials=partial(_told_token, source, telling))
        self._host = host
        self._means = means
        self._telling = telling
        self._over = over
        self._again = partial(
            Checkup, _unverified(host), means, tell=tell, over=over, direct=direct, only_certificate=True
        )
        self._only_certificate = only_certificate
        where = _ToldWhereabouts(clock, means.resolver, means.chance, host.source_address, telling)
        self._network = _ToldNetwork(means.network, telling, said.say)
        if direct is None:
            self._upstream = Upstream(host, clock, self._network, where)
        else:
            demands = demands_of(host, self._network, direct.policies)
            self._upstream = DomainUpstream(host, clock, self._network, where, direct.ourselves, demands)
        self._direct = direct is not None
        self._transaction: Transaction | None = None
        self._dial: Dial | None = None
        self._second: Checkup | None = None
        self._connection: SmtpConnection | None = None
        """Once its session is open."""
        self._ended = False

    def start(self, transaction: Transaction | None = None) -> None:
        """`transaction` has its content in memory; without one the session is opened, and that is all."""
        self._transaction = transaction
        self._dial = Dial(self, self._upstream)

    def stop(self) -> None:
        """Cut it; nothing more is told, and `over` is not called."""
        self._ended = True
        if self._second is not None:
            self._second.stop()
        elif self._connection is not None:
            self._connection.abort("the test was broken off")
        elif self._dial is not None:
            self._dial.stop("the test was broken off")

    # smtp_dial.DialOwner

    @property
    def others_open(self) -> bool:
        return False

    def make(self, terms: Terms) -> SmtpConnection:
        if terms.demanded:
            self._telling.say("demand", True, terms.demanded)
        return SmtpConnection(
            self,
            self._host,
            self._means.clock,
            self._means.worker,
            _no_file,
            terms,
            pipelining=False,
            heard=self._heard,
        )

    def dial_failed(self, dial: Dial, ended: Closed) -> None:
        if self._ended:
            return
        report = Report(ended.stage or Stage.CONNECT, (ended.reply,), None if ended.reply else _fault(ended))
        self._result(report)
        distrusted = ended.fault is not None and ended.fault.kind is FaultKind.TLS
        if distrusted and not (self._only_certificate or self._network.shown):
            self._second = self._again()
            self._second.start()
            return
        self._end()

    # smtp_connection.ConnectionOwner

    def ready(self, connection: SmtpConnection) -> None:
        assert self._dial is not None
        self._connection = connection
        self._dial.opened()
        if self._transaction is not None:
            connection.start(Job(self._transaction, lambda transaction, report: None))
            return
        self._telling.say(CHECK_RESULT, True, "a session was opened: the relay can be used")
        connection.quit()

    def behind(self) -> Job | None:
        return None

    def finished(self, connection: SmtpConnection, job: Job, report: Report) -> None:
        self._result(report)
        if connection.idle:
            connection.quit()
        else:
            connection.abort("the test is over")

    def untried(self, connection: SmtpConnection, job: Job, report: Report) -> None:
        self._result(report)

    def prompt_changed(self, prompt: bool) -> None:
        """Nothing is put behind anything."""

    def withdrawn(self, job: Job) -> None:
        raise AssertionError("nothing was put behind anything")

    def retired(self, connection: SmtpConnection) -> None:
        """Nobody waits for it."""

    def closed(self, connection: SmtpConnection, closed: Closed) -> None:
        if connection is self._connection:
            self._end()
        elif self._dial is not None:
            self._dial.session_ended(closed)

    # What is told

    def _heard(self, awaited: Awaited | None, reply: Reply) -> None:
        what = "unasked" if awaited is None else _COMMANDS[awaited]
        self._telling.say(what, reply.code < 400, str(reply))

    def _result(self, report: Report) -> None:
        outcome = judge(report, direct=self._direct)[0]
        self._telling.say(CHECK_RESULT, outcome.move is Move.DELIVER, outcome.reason)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._over()


class _ToldWhereabouts(Whereabouts):
    """What DNS says."""

    def __init__(
        self,
        clock: Clock,
        resolver: Resolver | None,
        chance: Chance | None,
        source_address: str | None,
        telling: Telling,
    ) -> None:
        super().__init__(clock, resolver, chance, source_address)
        self._telling = telling

    async def exchangers(self, domain: str, own_names: Set[str] = frozenset()) -> Exchangers:
        what, since_s = f"MX of {domain.rstrip('.')}", self._telling.now_s()
        try:
            found = await super().exchangers(domain, own_names)
        except LoopsBack:
            self._telling.say(what, False, "they name this relay", since_s)
            raise
        except NullMx:
            self._telling.say(what, False, "the domain takes no mail (null MX)", since_s)
            raise
        except NameFault as fault:
            self._telling.say(what, False, str(fault), since_s)
            raise
        words = ", ".join(name.rstrip(".") for name in found.names)
        self._telling.say(what, True, "none: it is its own host" if found.own_host else words, since_s)
        return found

    async def addresses_of(self, host: str) -> list[str]:
        what, since_s = f"addresses of {host.rstrip('.')}", self._telling.now_s()
        try:
            addresses = await super().addresses_of(host)
        except NameFault as fault:
            self._telling.say(what, False, str(fault), since_s)
            raise
        if not is_address(host):
            self._telling.say(what, True, ", ".join(addresses), since_s)
        return addresses


class _ToldNetwork:
    """Connections and handshakes, and of these the certificate, by `certificate`."""

    def __init__(
        self, network: Network, telling: Telling, certificate: Callable[[str, bool, str], None]
    ) -> None:
        self._network = network
        self._telling = telling
        self._certificate = certificate
        self.shown = False
        """A certificate was."""

    async def connect(
        self,
        host: str,
        port: int,
        protocol: Callable[[], asyncio.Protocol],
        timeout_s: float,
        source_address: str | None = None,
    ) -> None:
        what, since_s = f"connect to {peer_name((host, port))}", self._telling.now_s()
        try:
            await self._network.connect(host, port, protocol, timeout_s, source_address)
        except OSError as error:
            self._telling.say(what, False, str(error) or type(error).__name__, since_s)
            raise
        words = "connected" if source_address is None else f"connected from {source_address}"
        self._telling.say(what, True, words, since_s)

    async def secure(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.Protocol,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str | None = None,
        timeout_s: float,
    ) -> asyncio.Transport:
        since_s = self._telling.now_s()
        try:
            secured = await self._network.secure(
                transport,
                protocol,
                context,
                server_side=server_side,
                server_name=server_name,
                timeout_s=timeout_s,
            )
        except OSError as error:
            words = explain(error) if isinstance(error, ssl.SSLError) else str(error) or type(error).__name__
            self._telling.say("TLS", False, words, since_s)
            raise
        session = cast("ssl.SSLObject | None", secured.get_extra_info("ssl_object"))
        shown = None if session is None else session.getpeercert(binary_form=True)
        self._telling.say("TLS", True, "a session" if session is None else describe(session), since_s)
        if shown is not None:
            self.shown = True
            self._certificate(CERTIFICATE, True, certificate_in_words(shown))
        return secured


async def _told_token(source: TokenSource, telling: Telling, refused: Credentials | None) -> Credentials:
    since_s = telling.now_s()
    try:
        credentials = await source(refused)
    except OSError as error:
        telling.say("access token", False, str(error), since_s)
        raise
    telling.say("access token", True, "given", since_s)
    return credentials


def _unverified(host: SmartHost) -> SmartHost:
    """The same, taken whatever its certificate is; it is shown no credentials then."""
    return msgspec.structs.replace(host, trust=Trust(verify=False), credentials=None)


def _fault(ended: Closed) -> Fault:
    return ended.fault or Fault(FaultKind.DROPPED, "the session ended without a word")


def _no_file(content: ContentFile) -> NoReturn:
    raise FileNotFoundError(f"{content.name}: what is tried has its content in memory")
