"""The reactor that tells senders what became of their mail, put together.

Its rules are made from the settings; its ways lead to delivery, which has the content, and to intake, which
takes the notice.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from dispatch.app.folders import CONTENT
from dispatch.app.machine import Machine
from dispatch.intake import submit
from dispatch.intake.submit import Submit, Submitted
from dispatch.mail.envelope import Envelope
from dispatch.mail.message import ContentFile, Message
from dispatch.mail.reply import Reply
from dispatch.mime.dsn import HEADER_BYTES_MAX
from dispatch.observe import Reporter
from dispatch.outcomes.bounce import Accepting, Bounces, NoAnswer, Post
from dispatch.policy.notification import DsnRules
from dispatch.ports import Disk
from dispatch.queue import requests
from dispatch.queue.requests import ShowMessage, Shown
from dispatch.runtime.bus import socket_path
from dispatch.runtime.bus_client import BusClient, BusError, BusFault
from dispatch.settings import Settings
from dispatch.store.history import HistoryStore

Answered = TypeVar("Answered")

_FROM_DELIVERY: msgspec.msgpack.Decoder[requests.Answer] = msgspec.msgpack.Decoder(requests.Answer)
_FROM_INTAKE: msgspec.msgpack.Decoder[submit.Answer] = msgspec.msgpack.Decoder(submit.Answer)
_HOUR_MS = 3_600_000
_HOUR_S = 3600.0


def dsn_rules(settings: Settings) -> DsnRules:
    bounce, own_name = settings.bounce, settings.listener.server_name
    hours = bounce.delay_notice_hours
    return DsnRules(
        reporting_mta=own_name,
        sender=bounce.sender or f"MAILER-DAEMON@{own_name}",
        default_policy=settings.default_relay().dsn,
        policies={relay.name: relay.dsn for relay in settings.effective_relays()},
        delay_notice_after_s=None if hours is None else hours * _HOUR_S,
        gather_s=bounce.gather_seconds,
        full_bytes_max=bounce.return_content_max_bytes,
    )


def expiries(settings: Settings) -> Callable[[str], int | None]:
    """How long mail for a relay is tried, in milliseconds; None for ever."""
    hours = {relay.name: relay.max_age_hours for relay in settings.effective_relays()}

    def expires_after_ms(relay: str) -> int | None:
        lasts = hours.get(relay, settings.spool.max_age_hours)
        return None if lasts is None else int(lasts * _HOUR_MS)

    return expires_after_ms


class Bouncing:
    """Makes the reactor for the tables that there are, and keeps it at the settings in force."""

    def __init__(
        self, machine: Machine, settings: Settings, report: Reporter, post: Post | None = None
    ) -> None:
        """`post`: the ways out, where they are not the sockets of the other processes."""
        self._machine = machine
        self._settings = settings
        self._report = report
        self._post = post or OverTheBus(machine.folders.run, machine.disk)
        self._bounces: Bounces | None = None

    def apply(self, settings: Settings) -> None:
        self._settings = settings
        if self._bounces is not None:
            self._bounces.rules = dsn_rules(settings)

    def reactor(self, store: HistoryStore) -> Bounces:
        self._bounces = Bounces(
            store,
            self._post,
            dsn_rules(self._settings),
            expires_after_ms=lambda relay: expiries(self._settings)(relay),
            wall=self._machine.clock.wall,
            report=self._report,
        )
        return self._bounces


class OverTheBus:
    """`Post` over the sockets of the two processes. It blocks, for as long as the bus has patience."""

    def __init__(self, run: Path, disk: Disk) -> None:
        self._run = run
        self._disk = disk

    def original(self, message: Message, *, whole: bool) -> bytes | None:
        shown = self._ask("delivery", ShowMessage(message.id, content=True), _FROM_DELIVERY)
        if not isinstance(shown, Shown):
            raise NoAnswer(f"delivery: {type(shown).__name__} where a message was asked for")
        if shown.content is not None or shown.message is None:
            return shown.content
        file = shown.message.content_file
        return None if file is None else self._read(file, None if whole else 2 * HEADER_BYTES_MAX)

    def _read(self, file: ContentFile, size_bytes: int | None) -> bytes | None:
        """All of it, or its beginning; None where the file is gone."""
        try:
            opened = self._disk.open(f"{CONTENT}/{file.name}")
            try:
                return opened.read_at(0, file.size_bytes if size_bytes is None else size_bytes)
            finally:
                opened.close()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise NoAnswer(f"content file {file.name}: {error}") from error

    def submit(self, envelope: Envelope, content: bytes, key: str) -> Accepting | Reply:
        answer = self._ask("intake", Submit(envelope, content, key), _FROM_INTAKE)
        if isinstance(answer, Submitted):
            return Accepting(answer.id, answer.duplicate)
        return answer.reply

    def _ask(self, role: str, request: object, answers: msgspec.msgpack.Decoder[Answered]) -> Answered:
        try:
            with BusClient(socket_path(self._run, role), answers) as client:
                answer = client.ask(request)
        except BusFault as fault:
            raise NoAnswer(f"{role}: {fault}") from fault
        if isinstance(answer, BusError):
            raise NoAnswer(f"{role}: {answer.code}: {answer.message}")
        return answer
