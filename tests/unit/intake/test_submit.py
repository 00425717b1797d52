"""The private socket: what is answered is durable, and a key makes it one message."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
from tests.simulation.disk import disk_full
from tests.simulation.machine import Machine, Process

from dispatch.intake.acceptance import Acceptance, AcceptanceRules
from dispatch.intake.incoming import Budget, Incoming
from dispatch.intake.submit import Answer, KnownKeys, Refused, Submit, Submitted, Submitting
from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import MessageId
from dispatch.mail.message import Message
from dispatch.policy.local_names import LocalNames
from dispatch.ports import DiskLevel
from dispatch.spool.content import ContentFolder
from dispatch.spool.log import SegmentLog
from dispatch.spool.reader import SegmentReader
from dispatch.spool.records import decode_mail

MAIL = "mail/0"
NOTICE = Submit(
    Envelope("", (Recipient("me@example.org", "NEVER"),), "8BITMIME"),
    b"Message-ID: <n1@relay.test>\r\nSubject: Not delivered\r\n\r\nNo.\r\n",
    "0" * 32,
)


class Life:
    """Intake's own door on a simulated machine, from one start to its end."""

    def __init__(self, machine: Machine) -> None:
        self.process = process = Process(machine)
        self.level = DiskLevel.AMPLE
        self.mark = machine.mark("mail")
        self.log = SegmentLog(
            process.disk,
            MAIL,
            clock=process,
            chance=process.chance,
            threads=process,
            mark=self.mark,
            segment_bytes=64 << 10,
        )
        files = ContentFolder(
            process.disk, "content/0", worker=process.worker("content"), incarnation=self.log.incarnation
        )
        acceptance = Acceptance(
            process, process.chance, self.log, AcceptanceRules("relay.test", 1_500_000, 30, 2)
        )
        self.submitting = Submitting(
            acceptance,
            partial(Incoming, acceptance, files, Budget(1 << 20)),
            lambda: self.level,
            SegmentReader(process.disk, MAIL, mark=self.mark),
            partial(process.worker, "keys"),
        )

    def ask(self, request: Submit) -> Answer:
        return self.process.run(self.submitting.handle(request))

    def together(self, *requests: Submit) -> list[Answer]:
        async def all_of_them() -> list[Answer]:
            asked: list[Awaitable[Answer]] = [self.submitting.handle(request) for request in requests]
            return list(await asyncio.gather(*asked))

        return self.process.run(all_of_them())

    @property
    def messages(self) -> list[tuple[Message, bytes]]:
        reader = SegmentReader(self.process.disk, MAIL, mark=self.mark)
        cursor, found = reader.oldest, []
        while entries := reader.read(cursor, 1 << 20):
            found += [decode_mail(entry.payload) for entry in entries]
            cursor = entries[-1].next
        reader.close()
        return found


Start = Callable[[], Life]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Begins another life on the same machine; the one before is over then."""
    machine = Machine(7, tmp_path)
    lives: list[Life] = []

    def bury() -> None:
        if lives:
            lives.pop().process.bury()

    def begin() -> Life:
        bury()
        lives.append(Life(machine))
        return lives[-1]

    yield begin
    bury()


def test_a_notice_for_a_name_of_this_host_goes_to_the_person_behind_it(start: Start) -> None:
    life = start()
    names = LocalNames(append_domain="example.org", aliases=["root: ops@example.com"])
    life.submitting._local_names = lambda: names
    notice = msgspec.structs.replace(NOTICE, envelope=Envelope("", (Recipient("root@example.org"),)))
    assert isinstance(life.ask(notice), Submitted)
    ((message, _),) = life.messages
    assert [recipient.address for recipient in message.envelope.recipients] == ["ops@example.com"]


def test_a_notice_is_in_the_log_when_it_is_answered(start: Start) -> None:
    life = start()
    answer = life.ask(NOTICE)
    assert isinstance(answer, Submitted) and not answer.duplicate
    [(message, content)] = life.messages
    assert message.id == answer.id
    assert message.envelope == NOTICE.envelope
    assert (message.origin.source, message.idempotency_key) == ("internal", NOTICE.idempotency_key)
    assert content.endswith(NOTICE.content)
    assert content.startswith(b"Received: from relay.test ([127.0.0.1])")


def test_the_same_key_again_is_the_same_message(start: Start) -> None:
    life = start()
    first = life.ask(NOTICE)
    assert isinstance(first, Submitted)
    assert life.ask(NOTICE) == Submitted(first.id, duplicate=True)
    assert len(life.messages) == 1


def test_the_same_key_at_the_same_time_is_one_message(start: Start) -> None:
    life = start()
    answers = life.together(NOTICE, NOTICE, NOTICE)
    assert len({answer.id for answer in answers if isinstance(answer, Submitted)}) == 1
    assert len(life.messages) == 1


@pytest.mark.parametrize("killed", [True, False])
def test_a_key_is_known_after_a_start(start: Start, killed: bool) -> None:
    life = start()
    others = [msgspec.structs.replace(NOTICE, idempotency_key=f"{number:032}") for number in range(100)]
    answers = [life.ask(other) for other in others]
    if not killed:
        life.log.close()
    again = start()
    for other, answer in zip(others, answers, strict=True):
        assert isinstance(answer, Submitted)
        assert again.ask(other) == Submitted(answer.id, duplicate=True)
    assert len(again.messages) == 100


def test_a_death_at_any_step_leaves_one_message(start: Start) -> None:
    """Whoever got no answer asks again."""
    for step in range(1, 60):
        request = msgspec.structs.replace(NOTICE, idempotency_key=f"{step:032}")
        life = start()
        life.process.die_after(step)
        try:
            life.ask(request)
        except SystemExit:
            pass
        life = start()
        answer = life.ask(request)
        assert isinstance(answer, Submitted)
        kept = [m.id for m, _ in life.messages if m.idempotency_key == request.idempotency_key]
        assert kept == [answer.id], f"died at step {step}"
        life.log.close()


def test_without_a_key_each_is_a_message(start: Start) -> None:
    life = start()
    request = msgspec.structs.replace(NOTICE, idempotency_key=None)
    life.ask(request)
    life.ask(request)
    assert len(life.messages) == 2


def test_large_content_has_a_file_and_is_known_as_well(start: Start) -> None:
    life = start()
    content = NOTICE.content + (b"x" * 70 + b"\r\n") * 18_000
    request = msgspec.structs.replace(NOTICE, content=content)
    first = life.ask(request)
    assert isinstance(first, Submitted)
    assert life.ask(request) == Submitted(first.id, duplicate=True)


def test_the_limit_on_sizes_holds_here_as_well(start: Start) -> None:
    answer = start().ask(msgspec.structs.replace(NOTICE, content=NOTICE.content + b"x\r\n" * 600_000))
    assert isinstance(answer, Refused) and answer.reply.code == 552


def test_what_the_log_does_not_keep_is_refused_for_now_and_taken_later(start: Start) -> None:
    life = start()
    life.ask(msgspec.structs.replace(NOTICE, idempotency_key="f" * 32))
    life.process.machine.disk.fault = lambda operation, path: disk_full() if operation == "write" else None
    answer = life.ask(NOTICE)
    assert isinstance(answer, Refused) and answer.reply.temporary
    life.process.machine.disk.fault = None
    life.process.pass_time(10)
    answer = life.ask(NOTICE)
    assert isinstance(answer, Submitted) and not answer.duplicate


def test_a_disk_without_room_takes_nothing(start: Start) -> None:
    life = start()
    life.level = DiskLevel.SUSPENDED
    answer = life.ask(NOTICE)
    assert isinstance(answer, Refused) and answer.reply.code == 452
    assert life.messages == []


@pytest.mark.parametrize(
    "changes",
    [
        {"envelope": Envelope("", ())},
        {"envelope": Envelope("", (Recipient("a@example.org\r\nDATA"),))},
        {"envelope": Envelope("", (Recipient("a@example.org", "NEVER\r\n"),))},
        {"content": b"Subject: x\n\nbare\n"},
        {"idempotency_key": ""},
        {"idempotency_key": "k" * 129},
    ],
)
def test_what_is_malformed_is_refused_for_good(start: Start, changes: dict[str, object]) -> None:
    life = start()
    answer = life.ask(msgspec.structs.replace(NOTICE, **changes))
    assert isinstance(answer, Refused) and answer.reply.permanent
    assert life.messages == []


def test_only_so_many_keys_are_known() -> None:
    known = KnownKeys(keys_max=2)
    for number in range(3):
        known.add(str(number), MessageId(bytes([number] * 16)))
    assert [known.get(str(number)) is not None for number in range(3)] == [False, True, True]
