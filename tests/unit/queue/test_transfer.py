"""A queue moves from one host to another: nothing is lost, doubled, or delivered without the ledger."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.unit.queue.bench import LATER, TAKEN, Bench

from dispatch.mail.delivery import DeliveryState
from dispatch.outcomes.audit import Audit, verify
from dispatch.queue.archive import ArchiveError, ArchiveWriter, alone, check, read
from dispatch.queue.requests import (
    ARRIVING,
    AskParked,
    Done,
    Order,
    ParkedPage,
    Pause,
    Refused,
    TakeIn,
    TakenIn,
)
from dispatch.spool.records import Accepted
from dispatch.store.parked import ParkedMessage, QueueFilter

ALL = QueueFilter()


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Bench]:
    """The other host."""
    (tmp_path / "there").mkdir()
    there = Bench(tmp_path / "there")
    # Its messages have other ids.
    there._messages = 1000
    yield there


def deferred(bench: Bench, recipients: int = 1) -> bytes:
    message_id = bench.offer(recipients)
    bench.relay.answer(LATER)
    bench.loop.settle()
    return message_id


def given_out(bench: Bench, wanted: QueueFilter = ALL) -> tuple[ParkedMessage, ...]:
    page = bench.order(AskParked(wanted))
    assert isinstance(page, ParkedPage)
    return page.messages


def moved(bench: Bench) -> tuple[ParkedMessage, ...]:
    """As the archive has them."""
    return tuple(ParkedMessage(*alone(parked), parked.content) for parked in given_out(bench))


def audited(bench: Bench) -> Audit:
    bench.loop.settle()
    # What the audit reads ends before the last record of this ledger.
    bench.housekeeping.write_checkpoint()
    bench.loop.settle()
    return verify(bench.ledger, set())


def test_what_is_taken_in_keeps_its_age_and_attempts_and_is_delivered_once(
    bench: Bench, there: Bench
) -> None:
    message_id = deferred(bench)
    (before,) = bench.rows(message_id)
    messages = moved(bench)
    assert there.order(TakeIn(messages)) == TakenIn(1, 0)
    assert there.rows(message_id) == (before,)
    assert there.order(TakeIn(messages)) == TakenIn(0, 1), "asked again, it is known"
    there.loop.advance(30.0)
    assert [transaction.message.id for transaction, _ in there.relay.started] == [message_id]
    assert there.relay.started[0][0].content == b"A: b\r\n\r\nc\r\n"
    there.relay.answer(TAKEN)
    audit = audited(there)
    assert (audit.accepted, audit.settled) == (1, 1)


def test_only_recipients_that_wait_move(bench: Bench, there: Bench) -> None:
    message_id = bench.offer(3)
    bench.relay.answer(TAKEN, LATER, LATER)
    bench.loop.settle()
    there.order(TakeIn(moved(bench)))
    there.loop.advance(30.0)
    (transaction, _), *_ = there.relay.started
    assert transaction.message.id == message_id and transaction.indexes == (0, 1)
    assert [each.address for each in transaction.message.envelope.recipients] == [
        "r1@example.org",
        "r2@example.org",
    ]
    there.relay.answer(TAKEN)
    audit = audited(there)
    assert (audit.accepted, audit.settled) == (2, 2)


def test_a_restart_knows_what_was_taken_in(bench: Bench, there: Bench) -> None:
    own = there.offer()
    there.relay.answer(TAKEN)
    message_id = deferred(bench)
    there.order(TakeIn(moved(bench)))
    after = there.kill().resume()
    after.loop.advance(30.0)
    assert [transaction.message.id for transaction, _ in after.relay.started] == [message_id] != [own]


def test_a_death_before_the_ledger_knows_it_leaves_it_held_until_it_is_repeated(
    bench: Bench, there: Bench
) -> None:
    message_id = deferred(bench)
    messages = moved(bench)
    there.ledger.by_itself = False
    # One sync lets the row in; what the ledger is told afterwards is lost.
    with pytest.raises(AssertionError, match="hangs"):
        there.order(TakeIn(messages), lambda: there.loop.post(there.ledger.sync))
    assert there.rows(message_id) and there.of(Accepted)
    after = there.cut_power().resume(power=True)
    after.loop.advance(60.0)
    assert not after.of(Accepted) and not after.relay.started
    (row,) = after.rows(message_id)
    assert (row.state, row.reason) == (DeliveryState.HELD, ARRIVING)
    assert after.order(Order("release", ALL)) == Done(0, 0, 1), "nobody lets it go before"
    assert after.order(TakeIn(messages)) == TakenIn(1, 0)
    after.loop.advance(30.0)
    assert len(after.relay.started) == 1 and len(after.of(Accepted)) == 1


def test_what_was_held_or_has_failed_waits_for_a_person(bench: Bench, there: Bench) -> None:
    deferred(bench)
    bench.order(Order("hold", ALL))
    deferred(bench)
    bench.order(Order("bounce", QueueFilter(state=DeliveryState.WAITING), reason="no"))
    failed = given_out(bench, QueueFilter(state=DeliveryState.BOUNCED))
    there.order(TakeIn((*moved(bench), *(ParkedMessage(*alone(each), each.content) for each in failed))))
    there.loop.advance(60.0)
    rows = [row for parked in given_out(there) for row in parked.deliveries]
    assert [row.state for row in rows] == [DeliveryState.HELD] * 2 and not there.relay.started
    assert any("bounced at the other host: no" in row.reason for row in rows)


def test_a_relay_that_is_not_there_is_replaced_unless_it_may_have_delivered(
    bench: Bench, there: Bench
) -> None:
    certain = deferred(bench)
    uncertain = bench.offer()
    bench.relay.answer(None)
    bench.loop.settle()
    there.dealt = ("another",)
    there.scheduler.lanes.clear()
    there.add_relay("another").slots = 0
    there.order(TakeIn(moved(bench)))
    assert there.rows(certain)[0].relay == "another"
    assert there.rows(uncertain)[0].relay == "relay" and there.rows(uncertain)[0].uncertain


def test_what_stands_ready_is_given_out_and_what_is_under_way_is_not(bench: Bench) -> None:
    bench.relay.slots = 1
    bench.offer()
    second = bench.offer()
    assert [parked.message.id for parked in given_out(bench)] == [second]


def test_removal_asks_for_a_queue_at_rest(bench: Bench) -> None:
    first, second = deferred(bench), deferred(bench)
    removal = Order("cancel", ALL, ids=(first,), reason="exported", at_rest=True)  # type: ignore[arg-type]
    assert isinstance(bench.order(removal), Refused)
    bench.order(Pause())
    assert bench.order(removal) == Done(1, 0, 0, messages=1)
    assert not bench.rows(first) and bench.rows(second), "only what was named"


# ---------------------------------------------------------------- the file


def archive(path: Path, messages: tuple[ParkedMessage, ...]) -> Path:
    with ArchiveWriter(path, now_ms=0, made_by="test") as writer:
        for parked in messages:
            writer.add(parked, io.BytesIO(parked.content or b""))
    return path


def test_an_archive_gives_back_what_went_in(bench: Bench, tmp_path: Path) -> None:
    deferred(bench, 2)
    deferred(bench)
    file = archive(tmp_path / "queue.tar", given_out(bench))
    assert check(file) == 2
    found = [
        ParkedMessage(archived.message, archived.deliveries, archived.content.read())
        for archived in read(file)
    ]
    assert tuple(found) == moved(bench)
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        archive(file, ())


def test_a_changed_or_cut_archive_is_refused(bench: Bench, tmp_path: Path) -> None:
    deferred(bench)
    whole = archive(tmp_path / "queue.tar", given_out(bench)).read_bytes()
    broken = tmp_path / "broken.tar"
    for damaged in (
        whole.replace(b"A: b\r\n", b"A: c\r\n"),
        whole.replace(b'"attempts":1', b'"attempts":0'),
        whole[: len(whole) // 3],
        whole.replace(b'"format":1', b'"format":9'),
        b"",
        b"nonsense" * 1000,
    ):
        assert damaged != whole
        broken.write_bytes(damaged)
        with pytest.raises(ArchiveError):
            check(broken)


def test_an_archive_that_fails_half_way_is_not_there(bench: Bench, tmp_path: Path) -> None:
    deferred(bench)
    (parked,) = given_out(bench)
    with pytest.raises(ZeroDivisionError), ArchiveWriter(tmp_path / "q.tar", now_ms=0, made_by="") as writer:
        writer.add(parked, io.BytesIO(b""))
        raise ZeroDivisionError
    assert not list(tmp_path.glob("q.tar*"))


def test_recipients_are_counted_anew(bench: Bench) -> None:
    deferred(bench, 3)
    (parked,) = given_out(bench)
    message, rows = alone(msgspec.structs.replace(parked, deliveries=parked.deliveries[1:]))
    assert [row.index for row in rows] == [0, 1]
    assert [each.address for each in message.envelope.recipients] == ["r1@example.org", "r2@example.org"]
