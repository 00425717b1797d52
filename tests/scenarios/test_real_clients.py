"""Real clients hand mail in, real servers get it: the same bytes behind our trace, the same envelope."""

from __future__ import annotations

import email
import email.policy
import json
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from functools import partial
from pathlib import Path

import pytest
from tests.scenarios.clients import CLIENTS, node_sends, with_curl, with_smtplib
from tests.scenarios.offers import HEADER, INTERNATIONAL, OFFERS, YOU, Offer, without_our_trace
from tests.scenarios.relay import Relay, until
from tests.scenarios.sinks import Aiosmtpd, Arrived, Sink, SmtpSink
from tests.scenarios.upstream import Upstream

pytestmark = pytest.mark.timeout(600)  # programs may have to be installed first

SINKS: dict[str, Callable[[Path], Sink]] = {"aiosmtpd": Aiosmtpd, "smtp-sink": SmtpSink}


@pytest.fixture(params=list(SINKS))
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sink]:
    one = SINKS[request.param](tmp_path)
    yield one
    one.close()


@pytest.fixture
def smtputf8_sink(tmp_path: Path) -> Iterator[Aiosmtpd]:
    one = Aiosmtpd(tmp_path)
    yield one
    one.close()


def table(sink: Sink, **keys: object) -> str:
    settings = {"name": "sink", "host": "127.0.0.1", "port": sink.port} | keys
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())


def last_of(relay: Relay, sink: Sink, deliveries: int) -> Arrived:
    """The last message that arrived, once the relay says that so many recipients are settled."""
    until(lambda: len(relay.said("delivered")) + len(relay.said("failed")) >= deliveries, "they are settled")
    assert not relay.said("failed"), relay.said("failed")
    return sink.arrived()[-1]


@pytest.mark.parametrize("client", list(CLIENTS))
def test_arrives_byte_for_byte(relay: Relay, sink: Sink, client: str, tmp_path: Path) -> None:
    relay.configure(table(sink)).start()
    settled = 0
    for name, offer in OFFERS.items():
        CLIENTS[client](relay.port, tmp_path, offer)
        settled += len(offer.recipients)
        arrived = last_of(relay, sink, settled)
        assert arrived.sender == offer.sender, name
        assert arrived.recipients == list(offer.recipients), name
        assert without_our_trace(arrived.content, offer.content) == offer.content, name
    assert len(sink.arrived()) == len(OFFERS), "each once"


@pytest.mark.parametrize("client", list(CLIENTS))
def test_utf8_addresses_arrive(relay: Relay, smtputf8_sink: Aiosmtpd, client: str, tmp_path: Path) -> None:
    relay.configure(table(smtputf8_sink)).start()
    CLIENTS[client](relay.port, tmp_path, INTERNATIONAL)
    arrived = last_of(relay, smtputf8_sink, 1)
    assert (arrived.sender, tuple(arrived.recipients)) == (INTERNATIONAL.sender, INTERNATIONAL.recipients)
    assert without_our_trace(arrived.content, INTERNATIONAL.content) == INTERNATIONAL.content
    assert b"with UTF8SMTP\r\n" in arrived.content, "also where the client knows no parameter for it"


@pytest.mark.parametrize("send", [with_smtplib, with_curl])
def test_thirty_megabytes_arrive(relay: Relay, sink: Sink, send: object, tmp_path: Path) -> None:
    assert callable(send)
    relay.configure(table(sink), listener={"max_message_bytes": 40 << 20}).start()
    lines = b"".join(b"%08d %s\r\n" % (number, b".x" * 32) for number in range(30_000_000 // 75))
    offer = Offer("me@example.org", YOU, HEADER + b"\r\n" + lines)
    send(relay.port, tmp_path, offer)
    arrived = last_of(relay, sink, 1)
    # No assertion on the values themselves: explaining how 30 MB differ takes minutes.
    same = without_our_trace(arrived.content, offer.content) == offer.content
    assert same, (len(arrived.content), len(offer.content))


HIDDEN = (
    b"Bcc: secret@example.net,\r\n\tother@example.net\r\nbCC: third@example.net\r\n"
    b"X-Dispatch-Tag: one\r\nX-DISPATCH-Anything:\r\n folded\r\n"
)


@pytest.mark.parametrize("verbatim", [False, True])
def test_bcc_and_our_own_fields_are_removed_unless_verbatim(
    relay: Relay, upstream: Upstream, verbatim: bool
) -> None:
    relay.configure(upstream.table(verbatim=verbatim)).start()
    body = b"\r\nBcc: in the body stays\r\n"
    large = b"z" * 70 + b"\r\n"

    def arrived(count: int) -> bool:
        return len(upstream.delivered) == count

    for number, size in enumerate((0, 40_000), 1):  # from memory, and from a file of its own
        relay.send(HIDDEN + HEADER + body + large * size)
        until(partial(arrived, number), "it is delivered")
        rest = without_our_trace(upstream.delivered[-1].content, HEADER + b"\r\n")
        kept = (HIDDEN if verbatim else b"") + HEADER + body + large * size
        assert rest == kept, (rest[:400], kept[:400])


def test_what_nodemailer_composes_arrives(relay: Relay, smtputf8_sink: Aiosmtpd) -> None:
    relay.configure(table(smtputf8_sink)).start()
    mail: dict[str, object] = {
        "from": "Me <me@example.org>",
        "to": "you@example.net",
        "bcc": "secret@example.net",
        "subject": "Žluťoučký kůň",
        "text": "Grüße",
        "html": "<p>Grüße</p>",
        "attachments": [{"filename": "data.bin", "content": "AAECAwQF", "encoding": "base64"}],
    }
    node_sends(relay.port, mail)
    arrived = last_of(relay, smtputf8_sink, 2)
    assert arrived.recipients == ["you@example.net", "secret@example.net"]
    parsed = email.message_from_bytes(arrived.content, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    assert parsed["Subject"] == "Žluťoučký kůň"
    assert parsed["Bcc"] is None
    assert [part.get_content() for part in parsed.iter_attachments()] == [bytes(range(6))]
    assert len(parsed.get_all("Received", [])) == 1
