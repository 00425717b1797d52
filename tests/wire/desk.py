"""The simplest driver of a server core: answers at once, keeps what it accepted, notes what happened."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from dispatch.mail.reply import Reply
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

QUEUED = Reply(250, "2.0.0", ("queued",))


class Kept(msgspec.Struct, frozen=True):
    """A message that was answered 250."""

    reverse_path: str
    recipients: tuple[str, ...]
    content: bytes


class Desk:
    """Drives a core; `answers` maps an event's name, or that and its address or user, to another answer."""

    def __init__(
        self, settings: ServerSettings, answers: dict[str, Reply] | None = None, *, secured: bool = False
    ) -> None:
        self.core = ServerCore(settings, secured=secured)
        self.answers = answers or {}
        self.kept: list[Kept] = []
        self.happened: list[object] = []
        """Events in order; the chunks of a content joined."""
        self.on_event: Callable[[Event], None] | None = None
        self._offered: MailOffered | None = None
        self._recipients: list[str] = []
        self._content: list[bytes] | None = None
        self.core.greet()

    def say(self, data: bytes) -> bytes:
        """Feed bytes, and return what the core says to them."""
        self.core.receive(data)
        return self.pump()

    def hang_up(self) -> bytes:
        self.core.eof()
        return self.pump()

    def pump(self) -> bytes:
        while (event := self.core.next_event()) is not None:
            if self.on_event is not None:
                self.on_event(event)
            self._note(event)
            self._handle(event)
        return self.core.take_output()

    def _note(self, event: Event) -> None:
        happened = self.happened
        if isinstance(event, ContentChunk) and happened and isinstance(happened[-1], bytes):
            happened[-1] += event.data
        else:
            happened.append(event.data if isinstance(event, ContentChunk) else event)

    def _handle(self, event: Event) -> None:
        match event:
            case Hello():
                self._answer("EHLO", wording.HELLO_ACCEPTED)
            case TlsOffered():
                self._answer("STARTTLS", wording.TLS_ACCEPTED)
            case AuthOffered(_, user):
                assert self._offered is None
                self._answer("AUTH", wording.AUTHENTICATED, user)
            case MailOffered(reverse_path):
                if self._answer("MAIL", wording.MAIL_ACCEPTED, reverse_path):
                    assert self._offered is None, "a transaction within a transaction"
                    self._offered, self._recipients = event, []
            case RecipientOffered(address):
                if self._answer("RCPT", wording.RECIPIENT_ACCEPTED, address):
                    self._recipients.append(address)
            case ContentStarted():
                assert self._offered is not None and self._recipients
                self._content = [] if self._answer("DATA", wording.GO_AHEAD) else None
            case ContentChunk(data):
                assert self._content is not None and data
                self._content.append(data)
            case ContentEnded(size_bytes):
                assert self._offered is not None and self._content is not None
                content = b"".join(self._content)
                assert size_bytes == len(content)
                if self._answer("END", QUEUED):
                    self.kept.append(Kept(self._offered.reverse_path, tuple(self._recipients), content))
                self._offered = self._content = None
            case ContentRefused() | TransactionReset():
                assert self._offered is not None, "nothing was under way"
                self._offered = self._content = None
            case Quit():
                assert self._offered is None

    def _answer(self, command: str, yes: Reply, address: str = "") -> bool:
        reply = self.answers.get(f"{command} {address}") or self.answers.get(command, yes)
        self.core.answer(reply)
        return reply.positive
