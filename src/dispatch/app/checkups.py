"""Tests of relays for people: settings become one session, told step by step (`relays.checkup`).

Control does them, or where no relay runs the command itself: so that what is not saved yet can be tried, and
what delivery has under way is not disturbed. The time limits are those of somebody who waits in front of a
screen, not those of the protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import msgspec

from dispatch.app.configuring import Configuring
from dispatch.app.lanes import departure, direct_template, dnssec_from, ourselves, smart_host
from dispatch.app.machine import Machine
from dispatch.app.mail_policies import MailPolicies
from dispatch.app.tokens import TokenSources
from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import new_message_id, spool_form
from dispatch.mail.message import Message, Origin, Summary
from dispatch.mail.report import CHECK_RESULT, CheckStep
from dispatch.mime.trace import front_fields
from dispatch.observe import Reporter
from dispatch.policy.mail_domains import destination
from dispatch.ports import Leave, Transaction
from dispatch.relays.checkup import Checkup, Direct, Means
from dispatch.relays.smart_host import SmartHost, Timeouts, TokenSource
from dispatch.settings import Relay, Settings
from dispatch.settings.kinds import shown
from dispatch.settings.renewed_tokens import RenewedToken
from dispatch.settings.requests import KeepToken, Refused, TestRelay
from dispatch.smtp.grammar import is_address

WHOLE_S = 120.0
"""How long a test takes at most."""
PATIENCE = Timeouts(
    connect_s=15.0,
    handshake_s=15.0,
    greeting_s=30.0,
    ehlo_s=30.0,
    mail_s=30.0,
    rcpt_s=30.0,
    data_s=30.0,
    block_s=30.0,
    end_of_data_s=60.0,
)
SUBJECT = "A test of the mail relay"
TEXT = (
    "This message was sent by hand, to see whether mail leaves through this relay. It does.\r\n"
    "Nothing needs to be done.\r\n"
)


class Checkups:
    def __init__(self, machine: Machine, configuring: Configuring, report: Reporter) -> None:
        """`configuring` knows the relays, and keeps what a server gives in place of a refresh token."""
        self._machine = machine
        self._configuring = configuring
        self._report = report

    async def steps(self, test: TestRelay) -> AsyncIterator[CheckStep | Refused]:
        """As they come. Left half-way, the session is cut."""
        settings = self._configuring.settings_for(test)
        if isinstance(settings, Refused):
            yield settings
            return
        (relay,) = [relay for relay in settings.effective_relays() if relay.name == test.name]
        mistakes = _mistakes(relay, test)
        if mistakes:
            yield Refused(mistakes)
            return
        machine, told = self._machine, asyncio.Queue[CheckStep | None]()
        worker = machine.threads.worker("test")
        host, direct = self._host(settings, relay, test)
        asks = machine.resolver
        resolver = asks((), "none") if direct is None else asks(relay.dns_servers, dnssec_from(relay))
        means = Means(machine.clock, machine.network, resolver, machine.chance, worker)
        over = partial(told.put_nowait, None)
        checkup = Checkup(host, means, tell=told.put_nowait, over=over, direct=direct)
        expired = machine.clock.call_later(WHOLE_S, partial(_expire, checkup, told))
        try:
            checkup.start(self._letter(settings, relay, test) if test.recipient else None)
            while (step := await told.get()) is not None:
                yield step
        finally:
            expired.cancel()
            checkup.stop()
            worker.close()

    def _host(self, settings: Settings, relay: Relay, test: TestRelay) -> tuple[SmartHost, Direct | None]:
        replace = msgspec.structs.replace
        if relay.kind == "direct":
            domain = destination(test.recipient)
            template = replace(direct_template(settings, relay), hosts=(domain,), lookup="mx")
            policies = MailPolicies(self._machine).of(relay)
            return replace(template, timeouts=PATIENCE), Direct(ourselves(settings, relay), policies)
        tokens = self._tokens(relay) if relay.oauth_provider else None
        return replace(smart_host(settings, relay, tokens), timeouts=PATIENCE), None

    def _tokens(self, relay: Relay) -> TokenSource:
        configuring = self._configuring

        def keep(name: str, renewed: RenewedToken) -> None:
            configuring.handle(KeepToken(name, renewed))

        return TokenSources(self._machine, self._report, configuring.renewed_tokens(), keep).source(relay)

    def _letter(self, settings: Settings, relay: Relay, test: TestRelay) -> Transaction:
        """A short message, made ready to leave as any other."""
        now_s = int(self._machine.clock.wall())
        message_id = new_message_id(now_s * 1000, self._machine.chance.token(10))
        own_name = settings.listener.server_name
        front = front_fields(
            b"",
            has_date=False,
            has_message_id=False,
            starts_with_body=False,
            own_name=own_name,
            id_text=spool_form(message_id),
            epoch_s=now_s,
        )
        words = (
            f"From: <{test.sender}>\r\nTo: <{test.recipient}>\r\nSubject: {SUBJECT}\r\n"
            "Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n"
            f"Content-Type: text/plain; charset=utf-8\r\n\r\n{TEXT}"
        )
        stored = front + words.encode()
        international = not f"{test.sender}{test.recipient}".isascii()
        envelope = Envelope(
            test.sender,
            (Recipient(test.recipient),),
            body="8BITMIME" if international else "7BIT",
            smtputf8=international,
        )
        origin = Origin("internal", "127.0.0.1", own_name)
        message = Message(message_id, now_s * 1000, envelope, origin, Summary(), len(stored))
        leaving = departure(settings, relay)
        return Transaction(leaving.message(message), (0,), leaving.content(stored, now_s), _leave)


def _mistakes(relay: Relay, test: TestRelay) -> tuple[str, ...]:
    if relay.kind == "capture":
        return (f"relay {relay.name} is the local inbox: there is nothing to be reached",)
    if not test.recipient:
        if relay.kind == "direct":
            return (f"relay {relay.name} delivers directly: name a recipient (--to), whose domain is tried",)
        return ()
    named = (("sender", test.sender), ("recipient", test.recipient))
    wrong = [f"{what} {shown(address)} is no address" for what, address in named if not is_address(address)]
    return tuple(wrong)


def _leave(transaction: Transaction, leave: Leave) -> None:
    """It is no accepted mail: no record is due before its end leaves."""
    leave(None)


def _expire(checkup: Checkup, told: asyncio.Queue[CheckStep | None]) -> None:
    checkup.stop()
    words = f"not done within {WHOLE_S:.0f} s: given up"
    told.put_nowait(CheckStep(CHECK_RESULT, False, words, round(WHOLE_S * 1000)))
    told.put_nowait(None)
