"""A message that a program offers becomes a submission: asked of the same policy as mail over SMTP, composed,
kept.

The checks are those of the other door, in its order (`policy.admission`): the disk, the key's sources and
senders, each recipient, and last the rates, so that what is refused anyway costs its sender nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from itertools import chain

import msgspec

from dispatch.intake.acceptance import Submission
from dispatch.intake.http.keyring import KnownKey
from dispatch.intake.http.messages import Offer
from dispatch.intake.http.problems import FieldError, Problem, invalid, of_refusal
from dispatch.intake.incoming import Incoming
from dispatch.intake.smtp_session import Desk
from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import MessageId
from dispatch.mail.message import Origin
from dispatch.mail.reply import Reply
from dispatch.mime.compose import compose
from dispatch.policy.admission import RateLimits, Refusal, refuse_mail, refuse_named_relay, refuse_rcpt
from dispatch.ports import Chance, DiskLevel, Worker

TOKEN_BYTES = 12
BESIDE_BYTES_MIN = 262_144
"""What is composed of more is composed beside the loop."""


class Submitter:
    """One for the process."""

    def __init__(self, desk: Desk, chance: Chance, rates: RateLimits, worker: Worker) -> None:
        """`rates` are those of this door; `worker` composes what is large."""
        self._desk = desk
        self._chance = chance
        self.rates = rates
        self._worker = worker

    def demand_room(self, client_address: str) -> None:
        """Before the key is looked at. Raises `Problem` where the address has had its share."""
        refusal = self.rates.refuse_address(self._desk.clock.monotonic(), client_address)
        if refusal is not None:
            self.told(refusal, Origin("api", client_address))
            raise of_refusal(refusal)

    def has_disk(self) -> bool:
        """The spool takes mail."""
        return self._desk.disk_level() is not DiskLevel.SUSPENDED

    def told(self, refusal: Refusal, origin: Origin, sender: str | None = None, recipient: str = "") -> None:
        """The operator."""
        self._desk.refused(refusal, origin, sender, recipient)

    async def submit(self, offer: Offer, key: KnownKey, origin: Origin) -> MessageId | Refusal:
        """The id, once the message is on stable storage. Raises `Problem` for fields that cannot be used."""
        reverse_path = offer.draft.sender.address
        self._demand_sender(reverse_path, key, origin)
        self._demand_recipients(offer, key, origin)
        self._demand_relay(offer, key, origin)
        refusal = self.rates.refuse(self._desk.clock.monotonic(), origin.client_address, key.login.rules)
        if refusal is not None:
            self.told(refusal, origin, reverse_path)
            raise of_refusal(refusal)
        try:
            blocks = await self._composed(offer)
            said = await self._kept(self._submission(offer, key, origin), blocks)
        except BaseException:
            self.rates.give_back(origin.client_address, key.login.rules)
            raise
        if isinstance(said, Refusal):
            self.rates.give_back(origin.client_address, key.login.rules)
            self.told(said, origin, reverse_path)
        return said

    def _demand_sender(self, reverse_path: str, key: KnownKey, origin: Origin) -> None:
        refusal = refuse_mail(
            disk_suspended=not self.has_disk(),
            source_allowed=True,
            allow_list_empty=False,
            client_address=origin.client_address,
            declared_size_bytes=None,
            size_bytes_max=None,
            login=key.login.rules,
            login_source_allowed=True,
            reverse_path=reverse_path,
        )
        if refusal is not None:
            self.told(refusal, origin, reverse_path)
            raise of_refusal(refusal, "from" if refusal.kind == "sender" else "")

    def _demand_recipients(self, offer: Offer, key: KnownKey, origin: Origin) -> None:
        """All that may not be written to are told at once."""
        desk = self._desk
        sender = offer.draft.sender.address
        refused: list[tuple[str, Refusal]] = []
        for address, path in offer.recipients:
            refusal = refuse_rcpt(
                recipients=len(offer.recipients),
                recipients_max=desk.rules.recipients_max,
                declared_size_bytes=None,
                recipient=address,
                allowed_recipients=desk.rules.allowed_recipients,
                login=key.login.rules,
                suppressed=desk.suppressed(address),
                refused_by=desk.refused_by(sender, address, origin),
            )
            if refusal is not None:
                self.told(refusal, origin, sender, address)
                if refusal.kind == "recipients":
                    detail = f"more than {desk.rules.recipients_max} recipients"
                    raise Problem(400, "too_many_recipients", detail)
                refused.append((path, refusal))
        if refused:
            first = of_refusal(refused[0][1])
            errors = [FieldError(path, refusal.reply.text) for path, refusal in refused]
            raise Problem(first.status, first.code, first.detail, errors=errors, headers=first.headers)

    def _demand_relay(self, offer: Offer, key: KnownKey, origin: Origin) -> None:
        if not offer.relay:
            return
        if not key.login.rules.may_name_relay:
            raise Problem(
                403,
                "relay_not_allowed",
                "this key may not name a relay",
                errors=[FieldError("relay", "may not be set with this key")],
            )
        refusal = refuse_named_relay([offer.relay], self._desk.acceptance.rules.relays)
        if refusal is not None:
            self.told(refusal, origin, offer.draft.sender.address)
            raise of_refusal(refusal, "relay")

    def _submission(self, offer: Offer, key: KnownKey, origin: Origin) -> Submission:
        addresses = (offer.draft.sender.address, *(address for address, _ in offer.recipients))
        headers = chain(offer.draft.to, offer.draft.cc, offer.draft.reply_to)
        ascii_only = all(map(str.isascii, chain(addresses, (mailbox.address for mailbox in headers))))
        recipients = tuple(Recipient(address) for address, _ in offer.recipients)
        envelope = Envelope(
            addresses[0], recipients, "7BIT" if ascii_only else "8BITMIME", smtputf8=not ascii_only
        )
        return Submission(
            envelope,
            origin,
            "HTTP" if origin.tls is None else "HTTPS",
            0,
            tags=tuple(dict.fromkeys((*key.login.tags, *offer.tags))),
            priority=offer.priority or key.login.priority,
            pin=offer.relay or key.login.rules.relay,
        )

    async def _composed(self, offer: Offer) -> Iterable[bytes]:
        """Raises `Problem`."""
        token = self._chance.token(TOKEN_BYTES).hex()
        draft = offer.draft
        size_bytes = sum(len(block) for each in draft.attachments for block in each.blocks)
        size_bytes += len(draft.text or "") + len(draft.html or "")
        try:
            if size_bytes < BESIDE_BYTES_MIN:
                return compose(draft, token)
            made: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
            self._worker.call(lambda: list(compose(draft, token)), partial(_settle, made))
            return await made
        except ValueError as error:
            raise invalid([FieldError("headers", str(error))]) from None

    async def _kept(self, submission: Submission, blocks: Iterable[bytes]) -> MessageId | Refusal:
        """Nobody who goes away meanwhile takes it back: what was begun is answered, or lost with the
        process."""
        answer: asyncio.Future[MessageId | Refusal] = asyncio.get_running_loop().create_future()

        def answered(said: Reply, message_id: MessageId | None, refusal: Refusal | None) -> None:
            result = message_id if message_id is not None else refusal
            assert result is not None, f"refused without a reason: {said}"
            if not answer.done():
                answer.set_result(result)

        flow = _Flow()
        incoming: Incoming = self._desk.incoming()
        incoming.begin(submission, flow)
        size_bytes = 0
        try:
            for block in blocks:
                incoming.add(block)
                size_bytes += len(block)
                await flow.ready()
        except BaseException:
            incoming.drop()
            raise
        incoming.end(msgspec.structs.replace(submission, size_bytes=size_bytes), answered)
        return await answer


class _Flow:
    """Whoever composes waits while the disk does."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    def pause(self) -> None:
        self._open.clear()

    def resume(self) -> None:
        self._open.set()

    async def ready(self) -> None:
        if not self._open.is_set():
            await self._open.wait()


def _settle(made: asyncio.Future[list[bytes]], result: list[bytes] | Exception) -> None:
    if made.done():
        return
    if isinstance(result, Exception):
        made.set_exception(result)
    else:
        made.set_result(result)
