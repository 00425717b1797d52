"""What clients know of their mail, whatever they and the server do to each other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
from tests.simulation.books import Books, Offering
from tests.simulation.clients import REPEATS_MAX, Crowd
from tests.simulation.contents import Shape, content_of, recipients_of, sender_of, shape_of
from tests.simulation.machine import Machine, Process
from tests.simulation.network import SimulatedNetwork
from tests.simulation.speech import PATIENCE_S
from tests.unit.simulation.straight_relay import StraightRelay

from dispatch.intake.acceptance import Acceptance, AcceptanceRules
from dispatch.intake.credentials import Credentials
from dispatch.intake.incoming import Budget, Incoming
from dispatch.intake.listener import ConnectionRules, SmtpListener
from dispatch.intake.smtp_session import Desk, SessionRules, SmtpSession
from dispatch.mail.ids import MessageId, new_message_id
from dispatch.mail.message import Message
from dispatch.mail.reply import reply
from dispatch.policy.admission import RateLimits, Refusal
from dispatch.policy.limits import Bucket, Limits
from dispatch.policy.lockout import Lockout
from dispatch.ports import AppendFault, Buffer, DiskLevel, Lsn
from dispatch.security.credential_cache import CredentialCache
from dispatch.security.verifying import Verifier
from dispatch.smtp.body import DataDecoder
from dispatch.smtp.server import ServerSettings
from dispatch.spool.content import ContentFolder
from dispatch.spool.records import decode_mail

PORT = 25
DAY_S = 86_400.0
LOG_DELAYS_S = (*(0.0, 0.002, 0.05, 2.0) * 15, 400.0)


class Outside:
    """A crowd on a world of its own, and the machine that its relay is on."""

    def __init__(self, seed: int, folder: Path, **crowd: float) -> None:
        self.machine = Machine(seed, folder)
        self.random = self.machine.random
        self.world = self._process()
        self.network = SimulatedNetwork(Random(seed))
        self.books = Books()
        self.crowd = Crowd(self.world.loop, self.network, PORT, Random(seed), self.books, **crowd)

    def _process(self) -> Process:
        process = Process(self.machine)
        self.machine.processes.append(process)
        return process

    def run(self, done: Callable[[], bool], within_s: float = DAY_S) -> None:
        end_s = self.machine.now_s + within_s
        while not done():
            process = self.machine.turn(end_s)
            if process is None:
                break
            assert not process.loop.faults, process.loop.faults
        assert done(), f"not done after {within_s:.0f} s"

    def pass_time(self, seconds: float) -> None:
        end_s = self.machine.now_s + seconds
        self.run(lambda: self.machine.now_s >= end_s, seconds)

    def bury(self) -> None:
        for process in list(self.machine.processes):
            process.bury()


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    made = Outside(1, tmp_path, trouble=0.0)
    yield made
    made.bury()


# ---------------------------------------------------------------- against a server that trusts


def test_all_that_is_offered_is_taken_as_it_was_sent(outside: Outside) -> None:
    relay = StraightRelay(outside.world.loop, outside.network, PORT)
    outside.crowd.offer(300)
    outside.run(lambda: outside.crowd.done)
    books = outside.books
    assert len(books.offered) == len(books.acknowledged) == len(relay.kept) == 300
    assert not books.refused and not books.cut.total() and not books.unanswered.total()
    contents = {kept.id: kept for kept in relay.kept}
    for message_id, (token, recipients) in books.acknowledged.items():
        kept = contents[f"spl_{message_id.hex()}"]
        assert kept.content.removesuffix(b"\r\n") == content_of(token).removesuffix(b"\r\n")
        assert kept.envelope[0].startswith(f"MAIL FROM:<{sender_of(token)}>".encode())
        assert [rcpt[9:-3].decode() for rcpt in kept.envelope[1:]] == list(recipients_of(token))
        assert recipients == set(recipients_of(token))
        assert books.invitation(message_id, token, recipients) == "acknowledged"
    shapes = {shape_of(token) for token in books.offered}
    assert shapes >= set(Shape) - {Shape.LARGE}, "each kind of content, but none above a mebibyte unasked"


def test_large_mail_comes_where_it_is_asked_for(tmp_path: Path) -> None:
    outside = Outside(1, tmp_path, trouble=0.0, large_share=0.2)
    relay = StraightRelay(outside.world.loop, outside.network, PORT)
    outside.crowd.offer(20)
    outside.run(lambda: outside.crowd.done)
    assert 0 < sum(len(kept.content) > 1 << 20 for kept in relay.kept) < 10
    outside.bury()


def test_what_is_refused_for_now_is_offered_again_until_it_is_given_up(outside: Outside) -> None:
    relay = StraightRelay(outside.world.loop, outside.network, PORT)
    relay.answer = b"451 4.3.0 not now\r\n"
    outside.crowd.offer(4)
    outside.run(lambda: outside.crowd.done)
    books = outside.books
    assert len(books.given_up) == 4 and not books.acknowledged and not books.unanswered.total()
    assert Counter(refused.token for refused in books.refused) == dict.fromkeys(
        books.offered, REPEATS_MAX + 1
    )


def test_once_it_is_calm_nothing_is_given_up(outside: Outside) -> None:
    relay = StraightRelay(outside.world.loop, outside.network, PORT)
    relay.answer = b"451 4.3.0 not now\r\n"
    outside.books.calm = True
    outside.crowd.offer(4)
    outside.pass_time(3 * 3600)
    assert not outside.crowd.done and len(outside.books.refused) > 4 * REPEATS_MAX
    relay.answer = None
    outside.run(lambda: outside.crowd.done)
    assert len(outside.books.acknowledged) == 4


def test_what_is_refused_for_ever_is_offered_once(outside: Outside) -> None:
    relay = StraightRelay(outside.world.loop, outside.network, PORT)
    relay.answer = b"554 5.7.1 no\r\n"
    outside.crowd.offer(30)
    outside.run(lambda: outside.crowd.done)
    assert len(outside.books.refused) == 30 and not outside.books.given_up


def test_without_an_answer_the_end_of_data_stays_unanswered(outside: Outside) -> None:
    relay = StraightRelay(outside.world.loop, outside.network, PORT)
    relay.answer = b""
    outside.crowd.offer(1)
    outside.pass_time(PATIENCE_S - 1)
    ((token, count),) = outside.books.unanswered.items()
    assert count == 1, "counted from the moment at which the end of data leaves"
    stranger = new_message_id(0, bytes(10))
    assert outside.books.invitation(stranger, token, recipients_of(token)) == "unanswered"
    outside.run(lambda: outside.crowd.done)
    assert outside.books.unanswered == {token: REPEATS_MAX + 1} and list(outside.books.given_up) == [token]


def test_clients_find_a_relay_that_comes_up_later(outside: Outside) -> None:
    outside.crowd.offer(5)
    outside.pass_time(100)
    StraightRelay(outside.world.loop, outside.network, PORT)
    outside.run(lambda: outside.crowd.done)
    assert len(outside.books.acknowledged) == 5


@pytest.mark.parametrize("answer", [b"250 2.0.0 fine\r\n", b"354 more\r\n"])
def test_an_answer_that_is_none_is_noticed(outside: Outside, answer: bytes) -> None:
    relay = StraightRelay(outside.world.loop, outside.network, PORT)
    relay.answer = answer
    outside.crowd.offer(1)
    with pytest.raises(AssertionError, match="to the end of data"):
        outside.run(lambda: outside.crowd.done)


# ---------------------------------------------------------------- the books


def _offered(books: Books, *, accepted: Sequence[str] = ("a", "b")) -> Offering:
    offering = Offering(16, ("a", "b", "c"))
    for address in offering.recipients:
        offering.answered(address, 250 if address in accepted else 550)
    books.left(offering)
    return offering


def test_mail_arrives_by_its_acknowledgement_and_for_those_who_were_accepted() -> None:
    books, ours, other = Books(), MessageId(bytes(16)), MessageId(b"x" * 16)
    books.acknowledge(_offered(books), ours)
    assert books.invitation(ours, 16, ["a"]) == "acknowledged"
    assert books.invitation(ours, 16, ["c"]) == "uninvited", "refused at RCPT"
    assert books.invitation(ours, 32, ["a"]) == "uninvited", "another one's id"
    assert books.invitation(other, 16, ["a"]) == "uninvited", "the same mail twice"


def test_mail_without_an_answer_arrives_as_often_as_it_was_offered() -> None:
    books = Books()
    ids = [MessageId(bytes([number]) * 16) for number in range(3)]
    first, second = _offered(books), _offered(books)
    assert [books.invitation(each, 16, ["b"]) for each in ids] == ["unanswered"] * 2 + ["uninvited"]
    assert books.invitation(ids[0], 16, ["c"]) == "uninvited"
    books.refuse(first, 451, "not now")
    books.acknowledge(second, ids[0])
    assert books.invitation(ids[1], 16, ["b"]) == "uninvited", "that one was refused after all"


def test_what_was_cut_may_not_arrive() -> None:
    books = Books()
    books.lose(Offering(16, ("a",)))
    assert books.cut == {16: 1}
    assert books.invitation(MessageId(bytes(16)), 16, ["a"]) == "uninvited"


# ---------------------------------------------------------------- against the listener that ships


class KeptLog:
    """`ports.Log`: durable after a while, or never; of what is under way at a death, some stays."""

    durable = Lsn(0)

    def __init__(self, process: Process, kept: list[tuple[Message, bytes]]) -> None:
        self._process = process
        self._random = process.machine.random
        self._kept = kept
        self._pending: dict[int, bytes] = {}

    def append(self, record: Sequence[Buffer], done: Callable[[Lsn | AppendFault], None]) -> None:
        number = len(self._pending)
        self._pending[number] = b"".join(record)

        def settled() -> None:
            payload = self._pending[number]
            self._pending[number] = b""
            if self._random.random() < 0.03:
                done(AppendFault(self._random.random() < 0.5, "simulated"))
            else:
                self._kept.append(decode_mail(payload))
                done(Lsn(1))

        self._process.call_later(self._random.choice(LOG_DELAYS_S), settled)

    def died(self) -> None:
        self._kept += [
            decode_mail(payload)
            for payload in self._pending.values()
            if payload and self._random.random() < 0.5
        ]

    def flush(self) -> None:
        raise AssertionError("intake waits for the disk")

    def release(self, below: Lsn) -> None:
        raise AssertionError("not in a session")

    def close(self) -> None:
        raise AssertionError("not in a session")


class Intake:
    """One life of the station, as far as clients see it."""

    def __init__(self, outside: Outside, kept: list[tuple[Message, bytes]], process: Process) -> None:
        self._outside = outside
        self.process = process
        random = outside.random
        self.log = KeptLog(process, kept)
        acceptance = Acceptance(
            process, process.chance, self.log, AcceptanceRules("relay.test", 4 << 20, 30, 2)
        )
        files = ContentFolder(process.disk, "content/0", worker=process.worker("content"), incarnation=1)
        budget = Budget(random.choice((1 << 10, 1 << 20)))
        core = ServerSettings(
            "relay.test", size_bytes_max=4 << 20, bare_newline=random.choice(("reject", "normalise"))
        )
        desk = Desk(
            clock=process,
            acceptance=acceptance,
            incoming=lambda: Incoming(acceptance, files, budget),
            rules=SessionRules(core, random.choice((2, 100)), False),
            source_allowed=lambda address: address.startswith("192.0.2."),
            disk_level=lambda: random.choice((DiskLevel.AMPLE,) * 30 + (DiskLevel.SUSPENDED,)),
            refused=lambda refusal, origin, sender, recipient: None,
            credentials=Credentials(
                process,
                Verifier(process.worker("passwords"), process, CredentialCache(b"k" * 32)),
                Lockout(),
                {},
            ),
            rates=RateLimits(Limits(), Limits(), Bucket(())),
            refused_by=lambda sender, recipient, origin: None,
            suppressed=lambda recipient: False,
        )
        network = outside.network.of(process.loop)
        self.listener = SmtpListener(
            desk, ConnectionRules(6, 3, 300.0), network, lambda event, /, **fields: None
        )
        outside.network.listen(process.loop, PORT, self.listener.accept, "intake")

    def die(self) -> None:
        self._outside.network.process_died(self.process.loop)
        self.log.died()
        self.process.bury()


def _audit(books: Books, kept: list[tuple[Message, bytes]]) -> Counter[str]:
    """Everything acknowledged is kept, and everything kept is invited; how it came to be."""
    stored = {message.id: message for message, _ in kept}
    assert len(stored) == len(kept)
    for message_id, acknowledged in books.acknowledged.items():
        addresses = [recipient.address for recipient in stored[message_id].envelope.recipients]
        assert set(addresses) == acknowledged.recipients and len(addresses) == len(acknowledged.recipients)
    reasons: Counter[str] = Counter()
    for message in stored.values():
        recipients = [recipient.address for recipient in message.envelope.recipients]
        token = int(recipients[0][1:].partition("r")[0])
        reasons[books.invitation(message.id, token, recipients)] += 1
    assert not reasons["uninvited"]
    return reasons


def test_the_listener_keeps_what_it_acknowledged_and_nothing_uninvited(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for seed in range(60):
        outside = Outside(seed, tmp_path, large_share=0.002)
        kept: list[tuple[Message, bytes]] = []
        Intake(outside, kept, outside._process())
        outside.crowd.offer(40)
        outside.run(lambda outside=outside: outside.crowd.done)  # type: ignore[misc]
        books = outside.books
        seen += _audit(books, kept)
        seen["cut"] += books.cut.total()
        seen["unanswered for ever"] += books.unanswered.total()
        seen.update(str(refused.code) for refused in books.refused)
        outside.bury()
    for happened in ("acknowledged", "unanswered", "cut", "451", "452", "550", "554"):
        assert seen[happened] > 10, f"{happened}: {seen}"


def test_the_books_are_right_when_the_listener_dies_again_and_again(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for seed in range(40):
        outside = Outside(seed, tmp_path)
        kept: list[tuple[Message, bytes]] = []
        outside.crowd.offer(40)
        for _ in range(6):
            intake = Intake(outside, kept, outside._process())
            turns = int(2 ** outside.random.uniform(2, 10))
            while turns and outside.machine.turn(outside.machine.now_s + 30) is not None:
                turns -= 1
            intake.die()
            outside.pass_time(outside.random.choice((0.0, 0.1, 3.0)))
            seen += _audit(outside.books, kept)
        Intake(outside, kept, outside._process())
        outside.books.calm = True
        outside.run(lambda outside=outside: outside.crowd.done)  # type: ignore[misc]
        seen += _audit(outside.books, kept)
        assert len({each.token for each in outside.books.acknowledged.values()}) > 20
        outside.bury()
    assert seen["unanswered"] > 10


def _early_end_of_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last byte of the end of data is not waited for."""
    feed = DataDecoder.feed

    def hasty(self: DataDecoder, data: bytes, at: int = 0) -> tuple[bytes, int]:
        content, end = feed(self, data, at)
        return content, end + 1 if data[end : end + 1] == b"\n" and end >= 0 else end

    monkeypatch.setattr("dispatch.smtp.body._END_OF_DATA", b"\r\n.\r")
    monkeypatch.setattr(DataDecoder, "feed", hasty)


def _hasty_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that waits for the log is told 421."""

    def expire(self: SmtpSession) -> bool:
        self._end(reply(421, "4.4.2", "Timed out"))
        return True

    monkeypatch.setattr(SmtpSession, "expire", expire)


def _early_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """250 is said before the log has it."""
    append = KeptLog.append

    def promising(self: KeptLog, record: Sequence[Buffer], done: Callable[[Lsn | AppendFault], None]) -> None:
        append(self, record, lambda _: None)
        done(Lsn(1))

    monkeypatch.setattr(KeptLog, "append", promising)


def _refused_recipient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was one too many is kept all the same."""
    refuse = SmtpSession._refuse

    def forgetful(self: SmtpSession, refusal: Refusal) -> None:
        refuse(self, refusal)
        if refusal.kind == "recipients":
            self._recipients.append(self._recipients[0])

    monkeypatch.setattr(SmtpSession, "_refuse", forgetful)


def _content_that_was_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came before the connection broke is kept as if it were whole."""
    lost = SmtpSession.lost

    def greedy(self: SmtpSession) -> None:
        if self._incoming is not None and not self._waiting:
            self._content_ended(0)
        lost(self)

    monkeypatch.setattr(SmtpSession, "lost", greedy)


@pytest.mark.parametrize(
    "bug",
    [_early_end_of_data, _hasty_farewell, _early_answer, _refused_recipient, _content_that_was_cut],
)
def test_a_listener_with_a_bug_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: Callable[[pytest.MonkeyPatch], None]
) -> None:
    bug(monkeypatch)

    def run(seed: int) -> None:
        outside = Outside(seed, tmp_path)
        kept: list[tuple[Message, bytes]] = []
        try:
            Intake(outside, kept, outside._process())
            outside.crowd.offer(40)
            outside.run(lambda: outside.crowd.done)
            _audit(outside.books, kept)
        finally:
            outside.bury()

    with pytest.raises((AssertionError, KeyError)):
        for seed in range(200):
            run(seed)


def test_a_seed_is_a_run(tmp_path: Path) -> None:
    def run(seed: int) -> list[str]:
        outside = Outside(seed, tmp_path, trouble=0.0)
        told: list[str] = []
        outside.network.tell = lambda who, what: told.append(f"{outside.machine.now_s} {who} {what}")
        StraightRelay(outside.world.loop, outside.network, PORT)
        outside.crowd.offer(20)
        outside.run(lambda: outside.crowd.done)
        outside.bury()
        return told

    assert run(5) == run(5) != run(6)
    assert any("client 1 -> straight MAIL FROM:<" in line for line in run(5))


def test_no_task_is_made_for_a_connection(outside: Outside) -> None:
    StraightRelay(outside.world.loop, outside.network, PORT)
    outside.crowd.offer(10)
    outside.run(lambda: outside.crowd.done)
    assert not asyncio.all_tasks(outside.world.loop)
