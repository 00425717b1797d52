"""One client's conversation: the sans-IO core asks, admission policy answers, acceptance makes durable.

Nothing here touches a socket: bytes come in through `received`, go out through `Wire`. One turn takes
all that arrived, answers what can be answered, and writes once (RFC 2920 section 3.2). While a message
is being made durable the core stands still: later commands stay in its buffer, and their replies can
never overtake the 250.

Traps: an answer may come from within the call that asked for it (a refusal needs no disk, a password that was
right before no hash), so a turn never begins within another one. And once content is on its way to the disk,
nothing but the log's own answer may be said to its end of data: a 421 in its place would be a refusal of mail
that is then delivered (RFC 1047). Where the log has none for too long, nothing is said, and the connection
closed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec

from dispatch.intake.acceptance import Acceptance, Submission
from dispatch.intake.credentials import Credentials, KnownLogin
from dispatch.intake.incoming import Incoming
from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import MessageId
from dispatch.mail.message import Origin
from dispatch.mail.reply import Reply, reply
from dispatch.mime.trace import WithType
from dispatch.policy.admission import RateLimits, Refusal, refuse_mail, refuse_rcpt
from dispatch.policy.local_names import LocalNames
from dispatch.policy.logins import ANYBODY, AddressList, LoginRules
from dispatch.policy.routing import Route
from dispatch.ports import Clock, DiskLevel
from dispatch.smtp import wording
from dispatch.smtp.events import (
    AuthOffered,
    ContentChunk,
    ContentEnded,
    ContentRefused,
    ContentStarted,
    Event,
    Hello,
    MailOffered,
    Quit,
    RecipientOffered,
    TlsOffered,
    TransactionReset,
)
from dispatch.smtp.server import ServerCore, ServerSettings

THROTTLE_S = 2.0
"""How long each MAIL waits while the disk is nearly full."""
ANSWER_S = 300.0
"""How long a client waits for the answer to its end of data, at most: half of what RFC 5321 section
4.5.3.2.6 asks of its patience. While no disk says whether the message is kept, either answer could be a lie.
Without one the client must offer it again: it may arrive twice, and is not lost."""

# RFC 3848, RFC 6531 section 4.3: by UTF-8, by TLS, by login.
_WITH: dict[tuple[bool, bool, bool], WithType] = {
    (False, False, False): "ESMTP",
    (False, False, True): "ESMTPA",
    (False, True, False): "ESMTPS",
    (False, True, True): "ESMTPSA",
    (True, False, False): "UTF8SMTP",
    (True, False, True): "UTF8SMTPA",
    (True, True, False): "UTF8SMTPS",
    (True, True, True): "UTF8SMTPSA",
}
_OK = reply(250, "2.0.0", "OK")
_SENDER_OK = reply(250, "2.1.0", "Sender OK")
_RECIPIENT_OK = reply(250, "2.1.5", "Recipient OK")
_GO_AHEAD = reply(354, None, "End data with <CR><LF>.<CR><LF>")
_SHUTTING_DOWN = reply(421, "4.3.2", "Shutting down, try again later")
_TIMED_OUT = reply(421, "4.4.2", "Timed out waiting for you")


class Wire(Protocol):
    """The session's side of a connection."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None:
        """Close once everything is written."""
        ...

    def pause(self) -> None:
        """Read no more for now."""
        ...

    def resume(self) -> None: ...

    def secure(self) -> None:
        """Begin TLS behind what is written; `SmtpSession.secured` follows, or the connection is lost."""
        ...


class SessionRules(msgspec.Struct, frozen=True):
    """What holds for every session from its next command on."""

    core: ServerSettings
    """For sessions that begin now."""
    recipients_max: int
    allow_list_empty: bool
    login_required: bool = False
    allowed_recipients: AddressList = ANYBODY
    local_names: LocalNames = LocalNames()


class Desk(msgspec.Struct):
    """What all sessions share."""

    clock: Clock
    acceptance: Acceptance
    incoming: Callable[[], Incoming]
    rules: SessionRules
    source_allowed: Callable[[str], bool]
    """Whether an address may submit mail (`listener.allowed_cidrs`)."""
    disk_level: Callable[[], DiskLevel]
    refused: Callable[[Refusal, Origin, str | None, str], None]
    """Counts and logs a refusal: of this client, with the sender that it named (None: it had not), and of
    this recipient (empty: of no single one)."""
    credentials: Credentials
    rates: RateLimits
    refused_by: Callable[[str, str, Origin], Route | None]
    """The rule that refuses mail from this sender to this recipient, if one does."""
    suppressed: Callable[[str], bool]
    """This recipient is not taken, because it must not be tried."""


class SmtpSession:
    """A conversation from greeting to close."""

    def __init__(self, desk: Desk, wire: Wire, client_address: str, tls: str | None = None) -> None:
        """`tls`: version and cipher, where the connection began with a handshake."""
        self._desk = desk
        self._wire = wire
        self._rules = desk.rules
        self._core = ServerCore(desk.rules.core, secured=tls is not None)
        self._origin = Origin("smtp", client_address, tls=tls)
        self._extended = False
        self._login: KnownLogin | None = None
        self._counted = False
        """The transaction under way was counted by the rates."""
        self._mail: MailOffered | None = None
        self._recipients: list[Recipient] = []
        self._aliased = False
        """Some of them are not as the client wrote them."""
        self._incoming: Incoming | None = None
        self._waiting = False
        """A message of this client is being made durable, or an answer is delayed."""
        self._storing_since_s: float | None = None
        """It is the former; since when."""
        self._proving = False
        """A password is looked at, or waits for that."""
        self._turning = False
        self._held_back = False
        """It speaks on while it waits: it is not read meanwhile, so that its words need no memory."""
        self._securing = False
        """A handshake is under way: nothing may be said."""
        self._draining = False
        self.closed = False

    def greet(self, refusal: Refusal | None = None) -> None:
        """Say the banner, or turn the connection away."""
        if refusal is None:
            self._core.greet()
        else:
            self._tell(refusal)
            self._core.refuse(refusal.reply)
        self._flush()

    def received(self, data: bytes) -> None:
        self._core.receive(data)
        if not self._waiting:
            self._turn()
        elif not self._held_back:
            self._held_back = True
            self._wire.pause()

    def eof(self) -> None:
        """The client will send no more, or is gone."""
        self._core.eof()
        self._turn()

    def lost(self) -> None:
        """The connection is gone. What was offered whole is in the log's hands; the rest is forgotten."""
        self.closed = True
        if not self._waiting:
            self._forget()

    def drain(self) -> None:
        """Close as soon as no transaction is under way. No password is waited for: a crowd of guessers would
        make a stop last."""
        self._draining = True
        if self._proving or not (self._mail is not None or self._waiting or self._securing):
            self._end(_SHUTTING_DOWN)

    def expire(self) -> bool:
        """The client kept silent for too long; False while it is us who keep it waiting."""
        if self._waiting:
            return False
        if self._securing:
            # Nothing that we say would be understood.
            self._core.lost()
            self._flush()
            return True
        self._end(_TIMED_OUT)
        return True

    def unanswered(self, now_s: float) -> bool:
        """It has waited too long for what becomes of its message: it should be cut."""
        return self._storing_since_s is not None and now_s - self._storing_since_s >= ANSWER_S

    def cut(self) -> None:
        """No time is left. Where a message is being made durable: no answer, rather than a wrong one."""
        if self._storing_since_s is not None or self._securing:
            self._core.lost()
            self._flush()
        else:
            self._end(_SHUTTING_DOWN)

    def _end(self, last: Reply) -> None:
        self._core.close(last)
        self._forget()
        self._flush()

    def _turn(self) -> None:
        if self._turning:
            return
        self._turning = True
        core = self._core
        while (event := core.next_event()) is not None:
            self._handle(event)
        self._turning = False
        busy = self._mail is not None or self._waiting or self._securing
        if self._draining and not busy and not core.wants_close:
            core.close(_SHUTTING_DOWN)
        self._flush()

    def _flush(self) -> None:
        if self.closed:
            return
        output = self._core.take_output()
        if output:
            self._wire.write(output)
        if self._core.wants_close:
            self.closed = True
            if self._core.cut_off is not None:
                self._tell(Refusal(self._core.cut_off, "the client was cut off", "protocol"))
            self._wire.close()
        elif self._securing:
            self._wire.secure()

    def secured(self, tls: str) -> None:
        """The handshake is done: all that was said before is forgotten (RFC 3207 section 4.2)."""
        self._securing = False
        self._core.secured()
        self._extended = False
        self._login = None
        self._origin = Origin("smtp", self._origin.client_address, tls=tls)
        if self._draining:
            self._end(_SHUTTING_DOWN)

    def _handle(self, event: Event) -> None:
        match event:
            case ContentChunk(data):
                if self._incoming is not None:
                    self._incoming.add(data)
            case MailOffered():
                self._offered(event)
            case RecipientOffered():
                self._recipient(event)
            case ContentStarted():
                self._content_started()
            case ContentEnded(size_bytes):
                self._content_ended(size_bytes)
            case Hello(name, extended):
                self._extended = extended
                self._origin = msgspec.structs.replace(self._origin, client_name=name)
                self._core.answer(_OK)
            case ContentRefused(said, reason):
                self._tell(Refusal(said, reason, "size" if reason == "size" else "newline"))
                self._forget()
            case TransactionReset() | Quit():
                self._forget()
            case AuthOffered():
                self._prove(event)
            case TlsOffered():
                # Whoever speaks on before TLS is up is cut by the core; then there is nothing to begin.
                self._core.answer(wording.TLS_ACCEPTED)
                self._securing = not self._core.wants_close

    def _prove(self, offered: AuthOffered) -> None:
        self._waiting = self._proving = True
        if not self._held_back:
            # What a stranger says behind his password needs no memory.
            self._held_back = True
            self._wire.pause()
        address = self._origin.client_address
        self._desk.credentials.prove(address, offered.user, offered.password, self._proven)

    def _proven(self, proven: KnownLogin | Refusal) -> None:
        self._proving = False
        if isinstance(proven, Refusal):
            self._tell(proven)
            self._go_on(proven.reply)
            return
        self._login = proven
        self._origin = msgspec.structs.replace(self._origin, login=proven.name)
        self._go_on(wording.AUTHENTICATED)

    def _offered(self, offered: MailOffered) -> None:
        if self._draining:
            # A client that pipelines has the next transaction under way before the last is answered.
            self._core.answer(_SHUTTING_DOWN)
            return
        desk = self._desk
        self._rules = desk.rules
        reverse_path = self._rules.local_names.reverse_path(offered.reverse_path)
        if reverse_path != offered.reverse_path:
            offered = msgspec.structs.replace(offered, reverse_path=reverse_path)
        level = desk.disk_level()
        address = self._origin.client_address
        login = self._current_login()
        at_home = login is not None and login.networks is not None and login.permits_source(address)
        refusal = refuse_mail(
            disk_suspended=level is DiskLevel.SUSPENDED,
            source_allowed=at_home or desk.source_allowed(address),
            allow_list_empty=self._rules.allow_list_empty,
            client_address=address,
            declared_size_bytes=offered.size_bytes,
            size_bytes_max=desk.acceptance.rules.size_bytes_max,
            login=None if login is None else login.rules,
            login_source_allowed=login is None or login.permits_source(address),
            login_required=self._rules.login_required,
            reverse_path=offered.reverse_path,
        )
        if refusal is not None:
            self._refuse(refusal, offered.reverse_path)
            return
        self._mail = offered
        if level is DiskLevel.THROTTLED:
            self._waiting = True
            desk.clock.call_later(THROTTLE_S, self._throttled)
        else:
            self._core.answer(_SENDER_OK)

    def _current_login(self) -> KnownLogin | None:
        """As the settings have it now: who was revoked is nobody from here on, whatever he has proven."""
        if self._login is not None:
            self._login = self._desk.credentials.still(self._login)
            if self._login is None:
                self._origin = msgspec.structs.replace(self._origin, login=None)
        return self._login

    def _throttled(self) -> None:
        self._go_on(_SENDER_OK)

    def _recipient(self, offered: RecipientOffered) -> None:
        desk, login = self._desk, None if self._login is None else self._login.rules
        addresses = self._rules.local_names.recipients(offered.address)
        refusal = self._refusal_of(addresses, login)
        if refusal is None and not self._counted:
            refusal = desk.rates.refuse(desk.clock.monotonic(), self._origin.client_address, login)
            self._counted = refusal is None
        if refusal is not None:
            self._refuse(refusal, recipient=offered.address)
            return
        if offered.smtputf8 and self._mail is not None:
            self._mail = msgspec.structs.replace(self._mail, smtputf8=True)
        self._aliased = self._aliased or addresses != (offered.address,)
        for address in addresses:
            recipient = Recipient(address, offered.notify, offered.original)
            # Several local names may be one person, who gets the message once.
            if not self._aliased or recipient not in self._recipients:
                self._recipients.append(recipient)
        self._core.answer(_RECIPIENT_OK)

    def _refusal_of(self, addresses: tuple[str, ...], login: LoginRules | None) -> Refusal | None:
        """Of the recipients that one RCPT stands for: all of them may be written to, or none is."""
        mail = self._mail
        assert mail is not None, "RCPT outside a transaction"
        for address in addresses:
            relay, relay_size_bytes_max = self._size_limit(mail, address, login)
            refusal = refuse_rcpt(
                recipients=len(self._recipients) + len(addresses),
                recipients_max=self._rules.recipients_max,
                declared_size_bytes=mail.size_bytes,
                relay=relay,
                relay_size_bytes_max=relay_size_bytes_max,
                recipient=address,
                allowed_recipients=self._rules.allowed_recipients,
                login=login,
                suppressed=self._desk.suppressed(address),
                refused_by=self._desk.refused_by(mail.reverse_path, address, self._origin),
            )
            if refusal is not None:
                return refusal
        return None

    def _size_limit(
        self, mail: MailOffered, recipient: str, login: LoginRules | None
    ) -> tuple[str, int | None]:
        """The relay whose limit counts, and the limit; None where it is not known yet."""
        if mail.size_bytes is None or (login is not None and login.may_name_relay):
            # Which relay such a login's message names, only the content says.
            return "", None
        desk, pin = self._desk, "" if login is None else login.relay
        now_ms = int(desk.clock.wall() * 1000)
        limits = desk.acceptance.rules.sizes
        return limits.at_rcpt(mail.size_bytes, mail.reverse_path, recipient, self._origin, now_ms, pin)

    def _content_started(self) -> None:
        self._incoming = self._desk.incoming()
        self._incoming.begin(self._submission(0), self._wire)
        self._core.answer(_GO_AHEAD)

    def _content_ended(self, size_bytes: int) -> None:
        incoming, self._incoming = self._incoming, None
        assert incoming is not None, "content outside a transaction"
        self._waiting = True
        self._storing_since_s = self._desk.clock.monotonic()
        incoming.end(self._submission(size_bytes), partial(self._answered, self._origin))

    def _submission(self, size_bytes: int) -> Submission:
        mail = self._mail
        assert mail is not None, "content outside a transaction"
        envelope = Envelope(
            mail.reverse_path, tuple(self._recipients), mail.body, mail.smtputf8, mail.ret, mail.envid
        )
        origin, login = self._origin, self._login
        with_type: WithType = "SMTP"
        if self._extended:
            with_type = _WITH[mail.smtputf8, origin.tls is not None, login is not None]
        if login is None:
            return Submission(envelope, origin, with_type, size_bytes)
        return Submission(
            envelope,
            origin,
            with_type,
            size_bytes,
            login.tags,
            login.priority,
            pin=login.rules.relay,
            may_name_relay=login.rules.may_name_relay,
        )

    def _answered(
        self, origin: Origin, answer: Reply, message_id: MessageId | None, refusal: Refusal | None
    ) -> None:
        """The log has spoken; the client may be gone by now (RFC 1047)."""
        if refusal is not None:
            assert self._mail is not None, "content outside a transaction"
            self._desk.refused(refusal, origin, self._mail.reverse_path, "")
        else:
            self._counted = False
        self._forget()
        self._go_on(answer)

    def _go_on(self, answer: Reply) -> None:
        """The wait is over."""
        self._waiting = False
        self._storing_since_s = None
        if self.closed:
            return
        self._core.answer(answer)
        if self._held_back:
            self._held_back = False
            self._wire.resume()
        self._turn()

    def _refuse(self, refusal: Refusal, sender: str | None = None, recipient: str = "") -> None:
        self._tell(refusal, sender, recipient)
        self._core.answer(refusal.reply)

    def _tell(self, refusal: Refusal, sender: str | None = None, recipient: str = "") -> None:
        """The operator. `sender` where the transaction has none yet."""
        if sender is None and self._mail is not None:
            sender = self._mail.reverse_path
        self._desk.refused(refusal, self._origin, sender, recipient)

    def _forget(self) -> None:
        """Nothing of the transaction under way is kept."""
        self._mail = None
        self._recipients = []
        self._aliased = False
        if self._counted:
            self._counted = False
            login = None if self._login is None else self._login.rules
            self._desk.rates.give_back(self._origin.client_address, login)
        if self._incoming is not None:
            self._incoming.drop()
            self._incoming = None
