"""One attempt to get a session: over the hosts of a relay and their addresses, until one opens.

Rules:

- Hosts in their order; of each host all addresses. The next one is tried when connecting fails, and when the
  host ends the session before it is open: by its greeting, its EHLO, or TLS.
- Not behind AUTH: refused credentials are refused everywhere, and asking around gets accounts locked. And not
  for a refusal while other sessions are open: that host is well and wants no more of them.
- The addresses of one host race (`race`).
- In mode *auto* a handshake that failed is followed by one session in clear text at the same address, where
  nothing forbids it; for `CLEAR_S` the host is then not asked for TLS.

Deliberately not here: how many dials there are, and what becomes of the transactions that wait (`smtp`).
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

from dispatch.mail.report import Fault, FaultKind, Stage
from dispatch.ports import Clock, NameFault, Network
from dispatch.relays.addresses import NullMx, Whereabouts
from dispatch.relays.race import ConnectFailed, Race
from dispatch.relays.smart_host import SmartHost
from dispatch.relays.smtp_connection import SmtpConnection, Terms, peer_name
from dispatch.relays.smtp_tls import ClientTls, SessionTls, clear_text_will_do, trust_of
from dispatch.smtp.client_auth import Credentials
from dispatch.smtp.client_exchange import Closed
from dispatch.smtp.client_opening import Security

CLEAR_S = 900.0
"""How long a host whose TLS failed is spoken to in clear text before TLS is tried again."""
NAMES_MAX = 1000
"""Hosts of which something is remembered."""
FINAL = frozenset({FaultKind.NULL_MX, FaultKind.NO_DOMAIN, FaultKind.LOOP})
"""What waiting does not mend."""


class Unusable(Exception):
    """A host, or all of its domain, that must not or cannot be used, and why."""

    def __init__(self, kind: FaultKind, detail: str) -> None:
        super().__init__(detail)
        self.fault = Fault(kind, detail)


class Upstream:
    """What all dials of a relay share: how to reach its hosts, and what was learnt of them.

    Direct delivery asks more of DNS, and more of some hosts (`direct_domain`).
    """

    def __init__(self, host: SmartHost, clock: Clock, network: Network, where: Whereabouts) -> None:
        self.host = host
        self.clock = clock
        self.network = network
        self.where = where
        self.tls: SessionTls = ClientTls(trust_of(host), network, host.timeouts.handshake_s)
        self.refused: Credentials | None = None
        """What a host last refused: a source of tokens is told."""
        self._had_tls: set[str] = set()
        self._clear_until: dict[str, float] = {}

    async def credentials(self) -> Credentials | None:
        """Raises `OSError` where a source of tokens has none."""
        source = self.host.credentials
        if source is None or isinstance(source, Credentials):
            return source
        refused, self.refused = self.refused, None
        return await source(refused)

    async def exchangers(self, configured: str) -> list[str]:
        """The hosts that one of `host.hosts` stands for. Raises `NameFault`, `NullMx` and `Unusable`."""
        return await self.where.hosts_of(configured) if self.host.lookup == "mx" else [configured]

    async def addresses(self, server_name: str) -> list[str]:
        """In the order to try them. Raises `NameFault` and `Unusable`."""
        return await self.where.addresses_of(server_name)

    async def terms(self, server_name: str, credentials: Credentials | None) -> Terms:
        """Raises `NameFault` and `Unusable`."""
        mode = self.host.tls
        security: Security = "none" if mode == "implicit" else mode
        if self._clear_until.get(server_name, 0.0) > self.clock.monotonic() and clear_text_will_do(
            self.host, credentials
        ):
            security = "none"
        had_tls = server_name in self._had_tls
        return Terms(self.tls, server_name, mode == "implicit", security, had_tls, credentials)

    def had_tls(self, server_name: str) -> None:
        _make_room(self._had_tls)
        self._had_tls.add(server_name)

    def goes_clear(self, server_name: str) -> None:
        _make_room(self._clear_until)
        self._clear_until[server_name] = self.clock.monotonic() + CLEAR_S


def _make_room(names: set[str] | dict[str, float]) -> None:
    # Names come from DNS, which may invent them without end.
    if len(names) >= NAMES_MAX:
        names.clear()


class DialOwner(Protocol):
    """What a dial asks of its pool."""

    @property
    def others_open(self) -> bool:
        """There are sessions that can take what waits."""
        ...

    def make(self, terms: Terms) -> SmtpConnection:
        """A connection that is not connected yet."""
        ...

    def dial_failed(self, dial: Dial, ended: Closed) -> None:
        """No session came of it; comes at most once, and never behind `opened` or `stop`."""
        ...


class Dial:
    """From the first name looked up until a session is open, or none can be had."""

    def __init__(self, owner: DialOwner, upstream: Upstream) -> None:
        self._owner = owner
        self._up = upstream
        self._hosts = deque(upstream.where.usable_first(upstream.host.hosts))
        self._exchangers: deque[str] = deque()
        """Of the host in hand, from its MX records; itself where it is not looked up like that."""
        self._configured = ""
        self._server_name = ""
        self._addresses: list[str] = []
        """Of the exchanger in hand, not tried yet."""
        self._address = ""
        self._credentials: Credentials | None = None
        self._demanded = ""
        """`Terms.demanded` of the connection."""
        self.connection: SmtpConnection | None = None
        """The one that is connected just now, or whose session is opened."""
        self._ended: Closed | None = None
        self._told: Closed | None = None
        """What there is to say of it all if nothing better comes."""
        self._over = False
        self._go_on()

    @property
    def peer(self) -> str:
        """Address and port that were tried last; empty where it did not come to that."""
        if self.connection is not None and self.connection.peer:
            return self.connection.peer
        return peer_name((self._address, self._up.host.port)) if self._address else ""

    @property
    def tls(self) -> str | None:
        return None if self.connection is None else self.connection.tls

    # What the pool tells

    def opened(self) -> None:
        """The session is open."""
        assert self.connection is not None
        self._over = True
        self._remember_tls(self.connection)
        for place in (self._address, self._server_name, self._configured):
            self._up.where.works(place)

    def session_ended(self, closed: Closed) -> None:
        """The host ended it before it was open."""
        self._ended = closed
        if self._task.done():
            self._carry_on()

    def stop(self, why: str) -> None:
        self._over = True
        self._task.cancel()
        if self.connection is not None:
            self.connection.abort(why)

    # Its course

    def _go_on(self) -> None:
        self._task = asyncio.ensure_future(self._reach())
        self._task.add_done_callback(self._reached)

    async def _reach(self) -> None:
        """Until a connection stands, or `_ended` says why none does."""
        self.connection = None
        try:
            self._credentials = await self._up.credentials()
        except OSError as error:
            refused = isinstance(error, PermissionError)
            kind = FaultKind.AUTHENTICATION if refused else FaultKind.CREDENTIALS_ABSENT
            self._ended = _ended(Stage.AUTH, Fault(kind, f"no access token: {error}"))
            return
        while True:
            try:
                if not self._addresses:
                    await self._look_up_next()
                await self._connect()
                return
            except Exception as error:
                self._note(_ended(Stage.CONNECT, _fault_of(error)))
                if self._exhausted:
                    self._ended = self._told
                    return

    def _reached(self, task: asyncio.Task[None]) -> None:
        if self._over or task.cancelled():
            return
        task.result()
        if self._ended is not None:
            self._carry_on()

    def _carry_on(self) -> None:
        """This session did not open: the next one, or the end."""
        ended, self._ended = self._ended, None
        if self._over or ended is None:
            return
        connection = self.connection
        if connection is not None:
            ended = self._explained(ended)
            self._remember_tls(connection)
            if ended.stage is Stage.AUTH and ended.reply is not None and ended.reply.permanent:
                self._up.refused = self._credentials
            if self._may_go_clear(connection, ended):
                self._up.goes_clear(self._server_name)
                self._addresses.insert(0, self._address)
            elif ended.stage is not Stage.AUTH:
                self._failed(self._address)
        self._note(ended)
        if ended.stage is Stage.AUTH or self._exhausted or (ended.reply and self._owner.others_open):
            self._over = True
            self._owner.dial_failed(self, self._told or ended)
        else:
            self._go_on()

    @property
    def _exhausted(self) -> bool:
        return not (self._addresses or self._exchangers or self._hosts)

    def _may_go_clear(self, connection: SmtpConnection, ended: Closed) -> bool:
        return (
            connection.offered_tls
            and ended.stage is Stage.STARTTLS
            and not self._demanded
            and clear_text_will_do(self._up.host, self._credentials)
        )

    def _explained(self, ended: Closed) -> Closed:
        """The same, where TLS failed that somebody demands."""
        if not self._demanded or ended.stage is not Stage.STARTTLS or ended.fault is None:
            return ended
        return ended._replace(fault=Fault(FaultKind.POLICY, f"{self._demanded}: {ended.fault.detail}"))

    def _note(self, ended: Closed) -> None:
        """What waiting does not mend is the last thing to say of hosts of which another one only failed."""
        final = ended.fault is not None and ended.fault.kind in FINAL
        if self._told is None or not final:
            self._told = ended

    def _failed(self, address: str) -> None:
        where = self._up.where
        where.failed(address)
        if not self._addresses:
            where.failed(self._server_name)
            if not self._exchangers:
                where.failed(self._configured)

    def _remember_tls(self, connection: SmtpConnection) -> None:
        if connection.offered_tls:
            self._up.had_tls(self._server_name)

    async def _look_up_next(self) -> None:
        """The addresses of the next exchanger. Raises `NameFault`, `NullMx` and `Unusable`."""
        up, where = self._up, self._up.where
        try:
            if not self._exchangers:
                self._server_name = self._configured = self._hosts.popleft()
                self._exchangers.extend(where.usable_first(await up.exchangers(self._configured)))
            self._server_name = self._exchangers.popleft()
            self._addresses = await up.addresses(self._server_name)
        except (NameFault, NullMx, Unusable):
            where.failed(self._server_name)
            raise

    async def _connect(self) -> None:
        host = self._up.host
        try:
            terms = await self._up.terms(self._server_name, self._credentials)
        except Exception:
            # It says something of the host, whatever its address.
            self._addresses = []
            self._up.where.failed(self._server_name)
            raise
        self._demanded = terms.demanded
        self.connection = connection = self._owner.make(terms)
        if len(self._addresses) == 1:
            self._address = self._addresses.pop()
            try:
                await self._dial(self._address, lambda: connection, host.timeouts.connect_s)
            except BaseException:
                self.connection = None
                self._failed(self._address)
                raise
            return
        race = Race(self._addresses, self._dial, connection, self._up.clock, host.timeouts.connect_s)
        try:
            self._address = await race.winner
        except ConnectFailed:
            self.connection = None
            raise
        finally:
            race.stop()
            self._addresses = [each for each in self._addresses if each not in (*race.failed, self._address)]
            for address in race.failed:
                self._failed(address)

    async def _dial(self, address: str, protocol: Callable[[], asyncio.Protocol], timeout_s: float) -> None:
        host = self._up.host
        await self._up.network.connect(address, host.port, protocol, timeout_s, host.source_address)


def _ended(stage: Stage, fault: Fault) -> Closed:
    return Closed(stage, None, fault, pipelining_broken=False)


def _fault_of(error: BaseException) -> Fault:
    """What a failed attempt to connect says, in the report's words."""
    detail = str(error) or type(error).__name__
    match error:
        case ConnectFailed():
            # The first address is the preferred one.
            kind = _fault_of(next(iter(error.errors.values()))).kind
        case Unusable(fault=fault):
            return fault
        case NullMx():
            kind, detail = FaultKind.NULL_MX, "its MX record says so (RFC 7505)"
        case NameFault() | socket.gaierror():
            kind = FaultKind.UNRESOLVED
        case TimeoutError():
            kind = FaultKind.TIMEOUT
        case ConnectionRefusedError():
            kind = FaultKind.REFUSED
        case _ if f"[Errno {errno.ECONNREFUSED}]" in detail:
            # asyncio names the errors of several addresses in the text of one `OSError`.
            kind = FaultKind.REFUSED
        case _:
            kind = FaultKind.UNREACHABLE
    return Fault(kind, detail)
