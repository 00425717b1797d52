"""The simplest driver of a client core: sends content as soon as it is wanted, and notes all that happens."""

from __future__ import annotations

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.reply import Reply
from dispatch.mail.report import Report
from dispatch.smtp.client import ClientCore
from dispatch.smtp.client_auth import Credentials
from dispatch.smtp.client_content import frame
from dispatch.smtp.client_exchange import Closed, ContentWanted, Done, Exchange, Ready, TlsWanted, Untried
from dispatch.smtp.client_opening import Security
from dispatch.smtp.client_preparation import Chunking

CONTENT = b"Subject: x\r\n\r\nHello.\r\n"
TLS = "TLSv1.3 TLS_AES_256_GCM_SHA384"
ALL_EXTENSIONS = ("PIPELINING", "SIZE 10000000", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "BINARYMIME")


def envelope(*recipients: str, sender: str = "a@a.example", **parameters: object) -> Envelope:
    paths = recipients or ("b@b.example",)
    return Envelope(sender, tuple(Recipient(path) for path in paths), **parameters)  # type: ignore[arg-type]


def ehlo_reply(*extensions: str) -> bytes:
    lines = ["host.example", *extensions]
    last = len(lines) - 1
    return "".join(f"250{' ' if i == last else '-'}{line}\r\n" for i, line in enumerate(lines)).encode()


class Talk:
    """One session; what the client says is returned by the call that made it speak."""

    def __init__(
        self,
        *,
        pipelining: bool = True,
        chunking: Chunking = "auto",
        tls: str | None = None,
        security: Security = "none",
        credentials: Credentials | None = None,
        had_tls: bool = False,
    ) -> None:
        self.core: ClientCore[str] = ClientCore(
            "client.example",
            pipelining=pipelining,
            chunking=chunking,
            peer="192.0.2.1:25",
            tls=tls,
            security=security,
            credentials=credentials,
            had_tls=had_tls,
        )
        self.contents: dict[str, bytes] = {}
        self.reports: dict[str, Report] = {}
        self.untried: dict[str, Report] = {}
        self.sending: list[str] = []
        """Whose end of data was about to leave, in order."""
        self.ready = 0
        self.handshakes = 0
        self.closed: list[Closed] = []
        self.holding = False
        """Content is wanted, and not given until the test says so."""
        self.wanted: list[Exchange[str]] = []

    def open(self, *extensions: str) -> Talk:
        assert self.hear(b"220 host.example ESMTP\r\n") == b"EHLO client.example\r\n"
        assert self.hear(ehlo_reply(*extensions)) == b""
        assert self.ready == 1
        return self

    def begin(
        self,
        key: str = "m",
        what: Envelope | None = None,
        content: bytes = CONTENT,
        indexes: tuple[int, ...] | None = None,
        *,
        pump: bool = True,
    ) -> bytes:
        what = what or envelope()
        self.contents[key] = content
        every = tuple(range(len(what.recipients)))
        self.core.begin(
            Exchange(key, what, indexes or every, len(content), ascii_only=content.isascii(), whole=True)
        )
        return self.pump() if pump else b""

    def hear(self, data: bytes) -> bytes:
        self.core.receive(data)
        return self.pump()

    def hear_in_pieces(self, pieces: list[bytes]) -> bytes:
        return b"".join(self.hear(piece) for piece in pieces)

    def secured(self) -> bytes:
        self.core.secured(TLS)
        return self.pump()

    def give_content(self) -> bytes:
        self._give_content()
        return self.pump()

    def _give_content(self) -> None:
        for exchange in self.wanted:
            if self.core.wants_content(exchange):
                self.sending.append(exchange.key)
                self.core.end_content(exchange, frame(self.contents[exchange.key], exchange.framing))
        self.wanted.clear()

    def pump(self) -> bytes:
        while (event := self.core.next_event()) is not None:
            assert not self.closed, "nothing may happen behind the end"
            if isinstance(event, Ready):
                self.ready += 1
            elif isinstance(event, TlsWanted):
                self.handshakes += 1
            elif isinstance(event, Done):
                assert event.exchange.key not in self.reports, "reported twice"
                self.reports[event.exchange.key] = event.report
            elif isinstance(event, Untried):
                self.untried[event.exchange.key] = event.report
            elif isinstance(event, ContentWanted):
                self.wanted.append(event.exchange)
                if not self.holding:
                    self._give_content()
            else:
                self.closed.append(event)
        return b"".join(self.core.take_output())


def codes(report: Report) -> list[int | None]:
    return [reply.code if isinstance(reply, Reply) else None for reply in report.replies]
