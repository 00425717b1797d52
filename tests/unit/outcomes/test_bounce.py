"""Senders are told what became of their mail: what, when, and once, whatever dies in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message as Letter
from pathlib import Path
from typing import cast

import msgspec
import pytest
from tests.unit.outcomes.ledger import LedgerInList, accepted, attempted, moved, result
from tests.unit.store.messages import DAY_ONE_MS, message, message_id

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.ids import MessageId, new_message_id
from dispatch.mail.message import Message, Origin, Summary
from dispatch.mail.reply import Reply, reply
from dispatch.outcomes.bounce import Accepting, Bounces, NoAnswer
from dispatch.outcomes.history import History
from dispatch.outcomes.tail import Tail
from dispatch.policy.notification import DsnRules
from dispatch.spool.records import Attempted
from dispatch.store.history import HistoryStore
from dispatch.store.history_reader import HistoryReader

RULES = DsnRules("relay.test", "MAILER-DAEMON@relay.test", default_policy="on", gather_s=60)
HOUR_MS = 3_600_000
CONTENT = b"From: me@example.org\r\nSubject: Lunch\r\n\r\nAt noon?\r\n"
REFUSED = reply(550, "5.7.1", "Not from you")
FULL = reply(452, "4.3.1", "No space")


class Died(BaseException):
    """The process ends here."""


class Death:
    """At the n-th point at which anything could be lost."""

    def __init__(self) -> None:
        self.left: int | None = None

    def may_come(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Died


class MortalStore(HistoryStore):
    """Dies before a commit, or right after it."""

    death: Death

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with super().transaction():
            yield
            self.death.may_come()
        self.death.may_come()


class Bench:
    """Control's follower over a ledger in a list, with a delivery and an intake that answer from memory.

    What intake accepts, delivery takes up at once: it stands in the ledger.
    """

    def __init__(self, folder: Path, rules: DsnRules = RULES) -> None:
        self.path = folder / "history.db"
        self.rules = rules
        self.ledger = LedgerInList()
        self.now_ms = DAY_ONE_MS
        self.death = Death()
        self.content: bytes | None = CONTENT
        self.says: Callable[[bytes], Reply | None] = lambda content: None
        """What intake answers instead of accepting."""
        self.silent = False
        self.faulty: set[MessageId] = set()
        self.asked = 0
        self.keys: dict[str, MessageId] = {}
        """What intake remembers."""
        self.sent: list[tuple[Envelope, bytes, str]] = []
        self.told: list[str] = []
        self.store: HistoryStore
        self.start()

    def start(self) -> None:
        MortalStore.death = self.death
        self.store = MortalStore.open(self.path)
        self.bounces = Bounces(
            self.store,
            self,
            self.rules,
            expires_after_ms=lambda relay: 96 * HOUR_MS,
            wall=lambda: self.now_ms / 1000,
            report=lambda event, /, **fields: self.told.append(event),
        )
        self.tail = Tail(self.ledger, self.store, self.bounces, History(self.store))

    def restart(self) -> None:
        self.store.close()
        self.start()

    def run(self) -> None:
        while self.tail.step():
            pass

    def pass_time(self, seconds: float) -> None:
        self.run()
        self.now_ms += int(seconds * 1000)
        self.run()

    def happens(self, *records: Attempted) -> None:
        self.ledger.append(*records)
        self.run()

    # ------------------------------------------------------------ `Post`

    def original(self, message: Message, *, whole: bool) -> bytes | None:
        self.asked += 1
        self.death.may_come()
        if self.silent:
            raise NoAnswer("nobody there")
        if message.id in self.faulty:
            raise ValueError("nobody foresaw this content")
        return self.content

    def submit(self, envelope: Envelope, content: bytes, key: str) -> Accepting | Reply:
        if self.silent:
            raise NoAnswer("nobody there")
        refusal = self.says(content)
        if refusal is not None:
            return refusal
        if key in self.keys:
            return Accepting(self.keys[key], duplicate=True)
        number = len(self.sent)
        self.sent.append((envelope, content, key))
        self.keys[key] = new_message_id(self.now_ms, bytes([number] * 10))
        taken_up = Message(
            self.keys[key], self.now_ms, envelope, Origin("internal", "127.0.0.1"), Summary(), len(content)
        )
        self.ledger.append(accepted(msgspec.structs.replace(taken_up, idempotency_key=key)))
        self.death.may_come()
        return Accepting(self.keys[key], duplicate=False)

    # ------------------------------------------------------------ the letters

    def letters(self) -> list[Letter]:
        return [message_from_bytes(content) for _, content, _ in self.sent]

    def blocks(self) -> list[list[tuple[str, str, str]]]:
        """For each letter, recipient, action and status of each of its blocks."""
        found = []
        for letter in self.letters():
            report = cast(list[Letter], cast(list[Letter], letter.get_payload())[1].get_payload())
            found.append([(b["Final-Recipient"].split()[-1], b["Action"], b["Status"]) for b in report[1:]])
        return found

    def counted(self, kind: str) -> int:
        reader = HistoryReader.open(self.path)
        counts = reader.counts(0, 1 << 20)
        reader.close()
        return sum(count.count for count in counts if count.kind == kind)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path)
    yield one
    one.store.close()


def asking(number: int, *recipients: Recipient, sender: str = "sender@example.org") -> Message:
    """A message with these recipients and what they ask for."""
    return msgspec.structs.replace(message(number), envelope=Envelope(sender, recipients))


BOUNCED, DELIVERED, WAITING = DeliveryState.BOUNCED, DeliveryState.DELIVERED, DeliveryState.WAITING
ID = message_id(1)


def test_the_sender_is_told_of_a_bounce_when_it_was_gathered(bench: Bench) -> None:
    bench.ledger.append(accepted(message(1, subject="Lunch")), attempted(ID, BOUNCED))
    bench.pass_time(59)
    assert bench.sent == []
    bench.pass_time(1)
    [(envelope, content, key)] = bench.sent
    assert envelope == Envelope("", (Recipient("sender@example.org", "NEVER"),))
    assert bench.blocks() == [[("alice@example.com", "failed", "5.1.1")]]
    assert b"At noon?" in content
    assert (len(key), bench.told, bench.counted("dsn_sent")) == (32, ["dsn_sent"], 1)


def test_recipients_of_one_message_share_a_notice(bench: Bench) -> None:
    bench.ledger.append(
        accepted(message(1, "a@example.com", "b@example.com", "c@example.com")),
        attempted(ID, result(BOUNCED, 0), result(DELIVERED, 1), result(WAITING, 2)),
        attempted(ID, result(BOUNCED, 2), at_ms=DAY_ONE_MS + 30_000),
    )
    bench.pass_time(61)
    assert bench.blocks() == [[("a@example.com", "failed", "5.1.1"), ("c@example.com", "failed", "5.1.1")]]


def test_what_is_in_other_batches_and_lives_is_gathered_as_well(bench: Bench) -> None:
    bench.ledger.append(accepted(message(1, "a@example.com", "b@example.com")))
    bench.run()
    bench.happens(attempted(ID, result(BOUNCED, 1)))
    bench.restart()
    bench.happens(attempted(ID, result(BOUNCED, 0)))
    bench.pass_time(61)
    assert bench.blocks() == [[("a@example.com", "failed", "5.1.1"), ("b@example.com", "failed", "5.1.1")]]


def test_nothing_is_told_of_what_has_a_null_reverse_path(bench: Bench) -> None:
    bench.ledger.append(accepted(message(1, sender="")), attempted(ID, BOUNCED))
    bench.pass_time(HOUR_MS)
    assert bench.sent == []


def test_a_notice_that_bounces_makes_none(bench: Bench) -> None:
    bench.ledger.append(accepted(message(1)), attempted(ID, BOUNCED))
    bench.pass_time(61)
    [notice] = bench.keys.values()
    bench.happens(attempted(notice, BOUNCED))
    bench.pass_time(HOUR_MS)
    assert len(bench.sent) == 1


@pytest.mark.parametrize(
    ("notify", "told"), [("NEVER", 0), ("SUCCESS", 0), ("FAILURE", 1), ("DELAY,FAILURE", 1), (None, 1)]
)
def test_it_is_as_the_sender_asked(bench: Bench, notify: str | None, told: int) -> None:
    bench.ledger.append(accepted(asking(1, Recipient("a@example.com", notify))), attempted(ID, BOUNCED))
    bench.pass_time(61)
    assert len(bench.sent) == told


@pytest.mark.parametrize("passed_on", [True, False])
def test_success_is_told_where_nobody_else_will(bench: Bench, passed_on: bool) -> None:
    """RFC 3461 section 5.2.2."""
    done = msgspec.structs.replace(attempted(ID, DELIVERED), dsn=passed_on)
    bench.ledger.append(accepted(asking(1, Recipient("a@example.com", "SUCCESS"))), done)
    bench.content = None
    bench.pass_time(61)
    assert bench.blocks() == ([] if passed_on else [[("a@example.com", "relayed", "2.0.0")]])
    assert bench.store.notices.load(ID) is None, "nothing is left to be told"


def test_the_relay_decides_whether_anybody_is_told(bench: Bench) -> None:
    bench.bounces.rules = msgspec.structs.replace(
        RULES, policies={"smarthost": "off", "other": "authenticated"}
    )
    bench.ledger.append(accepted(message(1)), attempted(ID, BOUNCED))
    bench.ledger.append(accepted(message(2)), attempted(message_id(2), BOUNCED, relay="other"))
    bench.ledger.append(accepted(message(3, login="app")), attempted(message_id(3), BOUNCED, relay="other"))
    bench.pass_time(61)
    assert len(bench.sent) == 1


# ---------------------------------------------------------------- delays


def test_a_delay_is_told_once(bench: Bench) -> None:
    bench.ledger.append(accepted(message(1, "a@example.com", "b@example.com")))
    bench.ledger.append(attempted(ID, result(WAITING, 0, 1)), attempted(ID, result(DELIVERED, 1)))
    bench.pass_time(4 * 3600 - 1)
    assert bench.sent == []
    bench.pass_time(1 + 60)
    assert bench.blocks() == [[("a@example.com", "delayed", "4.7.1")]]
    bench.happens(attempted(ID, result(WAITING, 0), at_ms=bench.now_ms))
    bench.pass_time(24 * 3600)
    assert len(bench.sent) == 1


def test_a_delay_is_told_anew_after_a_reopening(bench: Bench) -> None:
    bench.ledger.append(accepted(message(1)), attempted(ID, WAITING))
    bench.pass_time(4 * 3600 + 60)
    bench.happens(attempted(ID, BOUNCED, at_ms=bench.now_ms))
    bench.pass_time(60)
    bench.happens(moved(ID, Move.REOPEN, WAITING, at_ms=bench.now_ms))
    bench.pass_time(4 * 3600 + 60)
    assert [block[0][1] for block in bench.blocks()] == ["delayed", "failed", "delayed"]


def test_a_delay_that_ends_while_it_is_gathered_is_not_told(bench: Bench) -> None:
    bench.ledger.append(accepted(message(1)), attempted(ID, WAITING))
    bench.pass_time(4 * 3600)
    bench.happens(attempted(ID, DELIVERED, at_ms=bench.now_ms))
    bench.pass_time(3600)
    assert bench.sent == []


@pytest.mark.parametrize("after_s", [None, 4 * 3600])
def test_who_is_held_is_not_late(bench: Bench, after_s: float | None) -> None:
    bench.bounces.rules = msgspec.structs.replace(RULES, delay_notice_after_s=after_s)
    bench.ledger.append(accepted(message(1)))
    if after_s is not None:
        bench.ledger.append(moved(ID, Move.HOLD, DeliveryState.HELD))
    bench.pass_time(24 * 3600)
    assert bench.sent == []


# ---------------------------------------------------------------- intake


def test_intake_that_does_not_answer_is_asked_again(bench: Bench) -> None:
    bench.ledger.append(accepted(message(1)), attempted(ID, BOUNCED))
    bench.silent = True
    bench.pass_time(61)
    bench.run()
    assert (bench.asked, bench.told) == (1, ["dsn_put_off"]), "nobody is asked all the time"
    bench.pass_time(3600)
    bench.silent = False
    bench.pass_time(3600)
    assert len(bench.sent) == 1


def test_what_is_refused_for_now_is_tried_again_and_keeps_its_date(bench: Bench) -> None:
    bench.ledger.append(accepted(message(1)), attempted(ID, BOUNCED))
    seen: list[bytes] = []
    bench.says = lambda content: (seen.append(content), FULL)[1] if len(seen) < 3 else None
    for _ in range(5):
        bench.pass_time(1000)
    [(_, content, _)] = bench.sent
    assert set(seen) == {content}, "a repeat is the same to the byte"


def test_what_is_refused_for_good_is_given_up(bench: Bench) -> None:
    bench.ledger.append(accepted(message(1)), attempted(ID, BOUNCED))
    bench.says = lambda content: REFUSED
    bench.pass_time(61)
    bench.says = lambda content: None
    bench.pass_time(24 * 3600)
    assert (bench.sent, bench.told, bench.counted("dsn_given_up")) == ([], ["dsn_given_up"], 1)


def test_less_goes_back_where_a_notice_is_too_large(bench: Bench) -> None:
    bench.ledger.append(accepted(message(1)), attempted(ID, BOUNCED))
    bench.says = lambda content: reply(552, "5.3.4", "Too large") if b"At noon?" in content else None
    bench.pass_time(61)
    [(_, content, _)] = bench.sent
    assert b"Subject: Lunch" in content and b"At noon?" not in content


def test_content_that_is_gone_keeps_nobody_from_being_told(bench: Bench) -> None:
    bench.ledger.append(accepted(message(1)), attempted(ID, BOUNCED))
    bench.content = None
    bench.pass_time(61)
    assert len(bench.sent) == 1


def test_a_notice_that_cannot_be_written_keeps_no_other_from_being_sent(bench: Bench) -> None:
    bench.ledger.append(accepted(message(1)), attempted(ID, BOUNCED))
    bench.ledger.append(accepted(message(2)), attempted(message_id(2), BOUNCED))
    bench.faulty = {ID}
    bench.pass_time(61)
    assert sorted(bench.told) == ["dsn_given_up", "dsn_sent"]
    assert len(bench.sent) == 1


# ---------------------------------------------------------------- once


def live(bench: Bench, dies_at: int, lost: Callable[[], None]) -> bool:
    """Three notices, a delay and two failures, and one death; whether it came."""
    bench.death.left = dies_at
    steps = iter(
        [
            lambda: bench.ledger.append(
                accepted(message(1, "a@example.com", "b@example.com")),
                attempted(ID, result(WAITING, 0, 1)),
                attempted(ID, result(BOUNCED, 0)),
                accepted(message(2)),
            ),
            lambda: bench.pass_time(61),
            lambda: bench.ledger.append(attempted(message_id(2), DeliveryState.EXPIRED, at_ms=bench.now_ms)),
            lambda: bench.pass_time(4 * 3600 + 61),
            lambda: bench.pass_time(1000),
        ]
    )
    died = False
    for step in steps:
        try:
            step()
        except Died:
            died = True
            bench.store.close()
            lost()
            bench.start()
            bench.run()
    bench.death.left = None
    # What was cut short has its time now.
    bench.pass_time(5 * 3600)
    bench.pass_time(1000)
    return died


@pytest.mark.parametrize("forgets", ["nothing", "intake's keys"])
def test_whenever_control_dies_each_notice_comes_once(tmp_path: Path, forgets: str) -> None:
    deaths = 0
    for dies_at in range(1, 100):
        folder = tmp_path / str(dies_at)
        folder.mkdir()
        bench = Bench(folder)
        died = live(bench, dies_at, bench.keys.clear if forgets != "nothing" else lambda: None)
        bench.store.close()
        assert sorted(block[0] for block in bench.blocks()) == [
            ("a@example.com", "failed", "5.1.1"),
            ("alice@example.com", "failed", "4.4.7"),
            ("b@example.com", "delayed", "4.7.1"),
        ], f"died at {dies_at}"
        assert len({key for _, _, key in bench.sent}) == len(bench.sent) == 3
        assert bench.counted("dsn_sent") == 3
        if not died:
            break
        deaths += 1
    assert deaths > 20, "it dies at every point"


def test_history_made_anew_tells_nobody_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    live(bench, 1 << 30, lambda: None)
    bench.store.close()
    assert len(bench.sent) == 3
    bench.path.unlink()
    bench.keys.clear()
    bench.start()
    bench.pass_time(3600)
    assert len(bench.sent) == 3
    assert bench.counted("dsn_sent") == 3
    bench.store.close()


def test_a_second_acceptance_changes_nothing(bench: Bench) -> None:
    bench.ledger.append(accepted(message(1)), attempted(ID, DELIVERED))
    bench.run()
    bench.happens(accepted(message(1)))
    bench.pass_time(24 * 3600)
    assert bench.sent == []


def test_mail_that_arrives_leaves_no_row(bench: Bench) -> None:
    bench.ledger.append(accepted(message(1)), attempted(ID, DELIVERED), accepted(message(2)))
    bench.run()
    assert bench.store.notices.load(ID) is None
    assert bench.store.notices.load(message_id(2)) is not None
    bench.happens(attempted(message_id(2), DELIVERED))
    assert bench.store.notices.load(message_id(2)) is None


def test_what_history_forgets_gives_nothing_more_to_tell(bench: Bench) -> None:
    bench.ledger.append(accepted(message(1)), attempted(ID, BOUNCED))
    bench.pass_time(61)
    assert bench.store.notices.load(ID) is not None, "it may be reopened"
    assert bench.store.purge(bench.now_ms, failed=True, limit=10) == 1
    assert bench.store.notices.load(ID) is None


def test_settled_notices_are_forgotten_in_time(bench: Bench) -> None:
    bench.ledger.append(accepted(message(1)), attempted(ID, BOUNCED))
    bench.pass_time(61)
    assert bench.store.notices.has_settled(bench.now_ms + 1)
    bench.pass_time(31 * 24 * 3600)
    assert not bench.store.notices.has_settled(bench.now_ms + 1)
