"""What upstreams take, what they notice, and what the relay that ships makes of their worst."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

import pytest
from tests.simulation.books import Books
from tests.simulation.clients import Crowd
from tests.simulation.contents import (
    Shape,
    content_of,
    handed_over_content_of,
    recipients_of,
    sender_of,
    token_of,
)
from tests.simulation.hosts import Host, Taken
from tests.simulation.machine import Machine, Process
from tests.simulation.network import End, SimulatedNetwork
from tests.simulation.taken import Offered
from tests.unit.simulation.straight_relay import StraightRelay

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import MessageId, new_message_id, spool_form
from dispatch.mail.message import ContentFile, Message, Origin, Summary
from dispatch.mail.report import Report, Stage
from dispatch.mime.handover import for_relay
from dispatch.mime.inspect import inspect
from dispatch.mime.trace import front_fields, received_field
from dispatch.ports import File, Leave, Transaction
from dispatch.relays.smart_host import SmartHost
from dispatch.relays.smtp import SmtpRelay

PORT = 2501
HANDED_OVER = [shape for shape in Shape if shape not in (Shape.LOOP, Shape.BARE_NEWLINE, Shape.LARGE)]
"""The others are refused by intake, or too large for a test that runs often."""


def stored_content(token: int, message_id: MessageId) -> bytes:
    """As intake keeps it."""
    content, recipients = content_of(token), recipients_of(token)
    inspection = inspect(content, "relay.test")
    id_text = spool_form(message_id)
    received = received_field(
        client_name="crowd",
        client_address="192.0.2.1",
        own_name="relay.test",
        with_type="ESMTP",
        id_text=id_text,
        recipient=recipients[0] if len(recipients) == 1 else None,
        epoch_s=1_700_000_000,
    )
    trace = front_fields(
        received,
        has_date=inspection.has_date,
        has_message_id=inspection.has_message_id,
        starts_with_body=inspection.starts_with_body,
        own_name="relay.test",
        id_text=id_text,
        epoch_s=1_700_000_000,
    )
    return trace + content[inspection.header_start :]


class StoredFile:
    """`ports.File` to read from."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read_at(self, offset: int, size_bytes: int) -> bytes:
        return self._content[offset : offset + size_bytes]

    def close(self) -> None:
        """Nothing is open."""


class Site:
    """The relay that ships, and one host, on one loop."""

    def __init__(self, seed: int, folder: Path, trouble: float | None = None, **settings: object) -> None:
        self.process = Process(Machine(seed, folder))
        self.random = random = Random(seed)
        self.network = SimulatedNetwork(random)
        self.taken = Taken()
        loop = self.process.loop
        trouble = random.random() if trouble is None else trouble
        self.host = Host(loop, self.network, PORT, random, self.taken, trouble)
        self.reports: dict[MessageId, Report] = {}
        self.started: dict[MessageId, Transaction] = {}
        self.sendings: Counter[MessageId] = Counter()
        self._files: dict[str, bytes] = {}
        self._serial = 0
        self._left = 0
        host = SmartHost(hosts=("up.example",), port=PORT, helo_name="relay.test", **settings)  # type: ignore[arg-type]
        self.relay = SmtpRelay(
            host,
            clock=self.process,
            network=self.network.of(loop),
            worker=self.process.worker("content"),
            open_content=self._open,
        )

    def hand_over(self, count: int) -> None:
        """Start so many transactions, as the relay has room, and wait for their reports."""
        self._left = count
        self.process.run(self._handed_over())

    def wait(self, seconds: float) -> None:
        self.process.pass_time(seconds)

    def close(self) -> None:
        self.process.run(self.relay.close(1.0))
        self.process.bury()

    async def _handed_over(self) -> None:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + 10 * 86_400
        self._start()
        while self._left or len(self.reports) < len(self.started):
            await asyncio.sleep(5)
            assert loop.time() < end_s, f"no report for {self.started.keys() - self.reports.keys()}"

    def _start(self) -> None:
        while self._left and self.relay.free() > 0:
            self._left -= 1
            self._serial += 1
            token = token_of(self._serial, self.random.choice(HANDED_OVER))
            message_id = new_message_id(self._serial, self.random.randbytes(10))
            transaction = self._transaction(token, message_id)
            self.started[message_id] = transaction
            self.relay.start(transaction, self._done)

    def _transaction(self, token: int, message_id: MessageId) -> Transaction:
        stored = for_relay(stored_content(token, message_id), verbatim=False)
        recipients = recipients_of(token)
        indexes = tuple(range(len(recipients)))
        if len(recipients) > 2 and self.random.random() < 0.5:
            indexes = indexes[1:]
        content: bytes | ContentFile = stored
        if token & 15 == Shape.BULKY:
            self._files[str(token)] = stored
            content = ContentFile(str(token), len(stored))
        envelope = Envelope(
            sender_of(token),
            tuple(map(Recipient, recipients)),
            "8BITMIME" if token & 15 == Shape.EIGHT_BIT else "7BIT",
        )
        origin = Origin("smtp", "192.0.2.1")
        message = Message(message_id, 0, envelope, origin, Summary(), len(stored))
        return Transaction(message, indexes, content, self._sending)

    def _open(self, content: ContentFile) -> File:
        return StoredFile(self._files[content.name])  # type: ignore[return-value]

    def _sending(self, transaction: Transaction, leave: Leave) -> None:
        self.sendings[transaction.message.id] += 1
        self.process.call_later(0, partial(leave, None))

    def _done(self, transaction: Transaction, report: Report) -> None:
        assert transaction.message.id not in self.reports, "reported twice"
        self.reports[transaction.message.id] = report
        self._start()


def audit(site: Site) -> Counter[str]:
    """Taken is what was reported delivered, or uncertain; how often each recipient fared how."""
    site.taken.check()
    taken: dict[MessageId, set[str]] = {}
    for taking in site.taken.takings:
        assert taking.message_id not in taken, "taken twice"
        taken[taking.message_id] = set(taking.recipients)
    fared: Counter[str] = Counter()
    for message_id, transaction in site.started.items():
        report = site.reports[message_id]
        assert site.sendings[message_id] <= 2, "asked once, and once more where the first session had ended"
        has_it = taken.get(message_id, set())
        recipients = transaction.message.envelope.recipients
        addresses = [recipients[index].address for index in transaction.indexes]
        assert has_it <= set(addresses), "taken for somebody that was not asked for"
        stages = report.reply_stage or (report.stage,) * len(addresses)
        for address, reply, stage in zip(addresses, report.replies, stages, strict=True):
            if reply is None:
                uncertain = report.stage is Stage.END_OF_DATA
                verdict = "uncertain" if uncertain else "failed"
            else:
                verdict = "delivered" if reply.positive and stage is Stage.END_OF_DATA else "refused"
            if verdict == "delivered":
                assert address in has_it, f"{address} is called delivered"
            elif verdict != "uncertain":
                assert address not in has_it, f"{address} has what was reported {report}"
            if verdict in ("delivered", "uncertain"):
                assert site.sendings[message_id], "left without a word"
            fared[verdict + (", taken" if address in has_it else "")] += 1
        if report.fault is not None:
            fared[f"{report.stage.value}: {report.fault.kind.value}"] += 1
    return fared


# ---------------------------------------------------------------- hosts by themselves


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    made = Process(Machine(1, tmp_path))
    yield made
    made.bury()


def test_a_good_host_takes_everything_at_once(process: Process) -> None:
    network, taken, books = SimulatedNetwork(Random(2)), Taken(), Books()
    Host(process.loop, network, PORT, Random(3), taken, 0.0)
    StraightRelay(process.loop, network, 25, PORT)
    crowd = Crowd(process.loop, network, 25, Random(4), books, trouble=0.0)
    crowd.offer(100)
    process.pass_time(300)
    assert crowd.done and len(books.acknowledged) == 100
    for taking in taken.takings:
        assert books.invitation(taking.message_id, taking.token, taking.recipients) == "acknowledged"
    # What stands between them removes nothing: a Bcc that arrives is noticed.
    whole = {Shape.PLAIN, Shape.BARE, Shape.DATED, Shape.DOTTED, Shape.EIGHT_BIT, Shape.HEADLESS}
    assert {taking.token for taking in taken.takings} >= {t for t in books.offered if t & 15 in whole}
    assert taken.faults and all("arrived changed" in str(fault) for fault in taken.faults)


def _offer(token: int, content: bytes, **other: object) -> list[str]:
    """What is wrong with it."""
    taken = Taken()
    fields = {"reverse_path": sender_of(token), "recipients": recipients_of(token), "chunked": False}
    taken.take(Offered(content=content, **{**fields, **other}), PORT, 1, 0.0)  # type: ignore[arg-type]
    assert bool(taken.takings) != bool(taken.faults)
    return [str(fault) for fault in taken.faults]


@pytest.mark.parametrize("shape", Shape)
def test_content_is_known_to_the_byte(shape: Shape) -> None:
    token, message_id = token_of(2, shape), new_message_id(1, bytes(10))
    stored = stored_content(token, message_id)
    if shape is Shape.BARE_NEWLINE:
        trace, _, _ = stored.partition(b"X-Token")
        stored = trace + handed_over_content_of(token)
    arrives = for_relay(stored, verbatim=False)
    if shape is Shape.OPEN_ENDED:
        assert not _offer(token, arrives, chunked=True)
        assert "no line" in _offer(token, arrives)[0]
        arrives += b"\r\n"
    assert not _offer(token, arrives)
    random = Random(shape)
    for _ in range(20):
        at = random.randrange(len(arrives) - len(handed_over_content_of(token)), len(arrives))
        assert _offer(token, arrives[:at] + bytes([arrives[at] ^ 1]) + arrives[at + 1 :])
    assert _offer(token, arrives[:-3] + b"\r\n")
    assert _offer(token, arrives + b"\r\n", chunked=True)
    cleaned = handed_over_content_of(token)
    if cleaned not in content_of(token) and shape not in (Shape.BARE_NEWLINE, Shape.BODY_ONLY):
        assert "arrived changed" in _offer(token, stored)[0], "Bcc is not for others"


def test_mail_for_strangers_or_from_strangers_is_noticed() -> None:
    token, message_id = token_of(2, Shape.PLAIN), new_message_id(1, bytes(10))
    content = stored_content(token, message_id)
    assert len(recipients_of(token)) == 2
    assert not _offer(token, content, recipients=recipients_of(token)[1:])
    assert "arrived for" in _offer(token, content, recipients=("t1r0@example.org",))[0]
    assert _offer(token, content, recipients=recipients_of(token)[:1] * 2)
    assert "arrived from" in _offer(token, content, reverse_path="other@example.org")[0]
    assert "Received" in _offer(token, content_of(token))[0]
    another = stored_content(token_of(3, Shape.PLAIN), message_id)
    assert _offer(token, another), "another one's content"


class Script(asyncio.Protocol):
    """Says one thing after each answer."""

    def __init__(self, *says: bytes) -> None:
        self._says = list(says)
        self.heard = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, End)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data
        if data.endswith(b"\n") and self._says:
            self.transport.write(self._says.pop(0))

    def codes(self) -> list[bytes]:
        return [line[:3] for line in self.heard.split(b"\r\n") if line[3:4] == b" "]


@pytest.mark.parametrize(
    ("says", "fault"),
    [
        ((b"EHLO x\r\nMAIL FROM:<>\r\n",), "said more behind b'EHLO"),
        ((b"HELO x\r\n", b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n"), "said more behind b'MAIL"),
        ((b"EHLO x\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<a@b>\r\n", b"DATA\r\nbody\r\n"), "behind b'DATA'"),
        ((b"HELO x\r\n", b"MAIL FROM:<> BODY=8BITMIME\r\n"), "8BITMIME' is not offered"),
        ((b"HELO x\r\n", b"MAIL FROM:<> SIZE=3\r\n"), "SIZE' is not offered"),
        ((b"EHLO x\r\n", b"MAIL FROM:<>\r\n", b"MAIL FROM:<>\r\n"), "transaction being under way"),
        ((b"EHLO x\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<a@b> NOTIFY=NEVER\r\n"), "NOTIFY"),
        ((b"HELO x\r\n", b"BDAT 0 LAST\r\n"), "CHUNKING is not offered"),
        ((b"HELO x\r\n", b"XYZZY\r\n"), "XYZZY"),
    ],
)
def test_bad_manners_of_a_relay_are_noticed(process: Process, says: tuple[bytes, ...], fault: str) -> None:
    network, taken = SimulatedNetwork(Random(1)), Taken()
    Host(process.loop, network, PORT, Random(3), taken, 0.0)
    # What is said in one write may still arrive in two.
    for _ in range(5):
        network.dial(process.loop, PORT, lambda: Script(*says))
    process.pass_time(60)
    with pytest.raises(AssertionError) as raised:
        taken.check()
    assert fault in str(raised.value)


@pytest.mark.parametrize(
    "content", [b"DATA\r\n", b"BDAT 3\r\nX-TBDAT 0\r\nBDAT 13 LAST\r\noken: 32\r\n.\r\n"]
)
def test_what_a_host_is_told_arrives_whichever_way(process: Process, content: bytes) -> None:
    network, taken = SimulatedNetwork(Random(1)), Taken()
    host = Host(process.loop, network, PORT, Random(3), taken, 0.0)
    host.chunking = True
    script = Script(
        b"EHLO x\r\n",
        b"MAIL FROM:<s@example.org>\r\nRCPT TO:<r@example.org>\r\n" + content,
        b"X-Token: 32\r\n..\r\n.\r\n" if content.startswith(b"DATA") else b"QUIT\r\n",
    )
    network.dial(process.loop, PORT, lambda: script)
    process.pass_time(60)
    ((fault),) = taken.faults
    assert repr(b"X-Token: 32\r\n.\r\n") in str(fault), "it is not one of ours, and shown whole"


def test_a_calm_host_lets_go_of_those_that_it_had_stalled(process: Process) -> None:
    network = SimulatedNetwork(Random(1))
    host = Host(process.loop, network, PORT, Random(3), Taken(), 1.0)
    scripts: list[Script] = []

    def script() -> Script:
        scripts.append(Script(b"EHLO x\r\n", *[b"RSET\r\n"] * 20))
        return scripts[-1]

    for _ in range(60):
        network.dial(process.loop, PORT, script)
    process.pass_time(4000)
    stalled = len(host.sessions)
    assert stalled > 5
    host.calm()
    process.pass_time(10)
    finished = [each for each in scripts if len(each.codes()) == 22]
    assert host.trouble == network.trouble_at[PORT] == 0.0
    assert len(host.sessions) == len(finished) < stalled, "kept are those that ended well"
    good = Script(b"EHLO x\r\n")
    network.dial(process.loop, PORT, lambda: good)
    process.pass_time(10)
    assert good.codes() == [b"220", b"250"]


def test_conversations_that_were_to_end_badly_end_well_once_it_is_calm(process: Process) -> None:
    network = SimulatedNetwork(Random(1))
    host = Host(process.loop, network, PORT, Random(3), Taken(), 1.0)
    scripts = [Script(b"EHLO x\r\n", *[b"RSET\r\n"] * 20) for _ in range(60)]
    for script in scripts:
        network.dial(process.loop, PORT, lambda script=script: script)  # type: ignore[misc]
    while not any(script.codes() for script in scripts):
        process.pass_time(0.0)
    host.calm()
    process.pass_time(4000)
    finished = sum(len(script.codes()) == 22 for script in scripts)
    assert finished == len(host.sessions) > 45


# ---------------------------------------------------------------- the relay that ships


def test_a_good_host_gets_everything_from_the_relay(tmp_path: Path) -> None:
    for seed in range(4):
        site = Site(seed, tmp_path, 0.0, max_concurrency=3, chunking=("auto", "always", "off", "auto")[seed])
        site.hand_over(150)
        fared = audit(site)
        assert fared.keys() == {"delivered, taken"} and len(site.taken.takings) == 150
        site.close()


def test_large_content_gets_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.HANDED_OVER", [Shape.LARGE])
    for seed in range(3):
        site = Site(seed, tmp_path, 0.0, chunking=("auto", "off", "auto")[seed])
        site.hand_over(3)
        assert audit(site).keys() == {"delivered, taken"}
        site.close()


def test_whatever_hosts_do_the_relay_reports_each_transaction_once_and_rightly(tmp_path: Path) -> None:
    fared: Counter[str] = Counter()
    for seed in range(30):
        random = Random(seed)
        site = Site(
            seed,
            tmp_path,
            max_concurrency=random.choice((1, 2, 5)),
            messages_per_connection_max=random.choice((1, 3, 1000)),
            chunking=random.choice(("auto", "always", "off")),
            pipelining=random.choice(("auto", "auto", "off")),
        )
        site.hand_over(100)
        # Some take the mail when the relay has long given up.
        site.wait(1000)
        site.host.calm()
        site.hand_over(5)
        fared += audit(site)
        assert len(site.reports) == 105
        site.close()
    assert fared["delivered, taken"] > 1000
    for verdict in ("uncertain", "uncertain, taken", "refused", "failed"):
        assert fared[verdict] > 20, f"{verdict}: {fared}"
    for stage in Stage:
        if stage not in (Stage.STARTTLS, Stage.AUTH, Stage.CONTENT):
            assert any(happened.startswith(f"{stage.value}: ") for happened in fared), f"{stage}: {fared}"


@pytest.mark.parametrize("chunking", ["always", "off"])
def test_replies_get_lost_behind_a_taking(tmp_path: Path, chunking: str) -> None:
    """Whichever way the content comes."""
    fared: Counter[str] = Counter()
    for seed in range(12):
        site = Site(seed, tmp_path, 1.0, chunking=chunking)
        site.hand_over(60)
        fared += audit(site)
        site.close()
    assert fared["uncertain, taken"] > 3
