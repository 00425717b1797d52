"""What history shows after the ledger said so, in one batch or in many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.outcomes.ledger import (
    LedgerInList,
    accepted,
    attempted,
    moved,
    project,
    result,
    sending,
)
from tests.unit.store.messages import DAY_ONE_MS, message

from dispatch.mail.delivery import MOVES, DeliveryState, Move
from dispatch.mail.ids import MessageId
from dispatch.mail.outcome import Scope
from dispatch.spool.records import Accepted, Attempted, LedgerRecord, Moved, Parked, Result, Sending
from dispatch.store.history import HistoryStore
from dispatch.store.history_reader import HistoryReader, LoginUse
from dispatch.store.search import HistoryFilter

S = DeliveryState
DAY_ONE = DAY_ONE_MS // 86_400_000


@pytest.fixture(params=[1 << 18, 1], ids=["one batch", "a record a batch"])
def batch_bytes(request: pytest.FixtureRequest) -> int:
    size: int = request.param
    return size


def counted(reader: HistoryReader) -> dict[tuple[int, str, str], int]:
    return {(row.day - DAY_ONE, row.relay, row.kind): row.count for row in reader.counts(0, 1 << 40)}


def test_a_delivered_message_is_shown_with_its_attempt_and_the_peers_words(
    tmp_path: Path, batch_bytes: int
) -> None:
    sent = message(
        1, "alice@example.com", subject="Invoice", header_message_id="<1@example.org>", login="shop"
    )
    ledger = LedgerInList(
        accepted(sent),
        sending(sent.id, at_ms=DAY_ONE_MS + 5),
        attempted(sent.id, S.DELIVERED, at_ms=DAY_ONE_MS + 9),
    )
    with closing(project(tmp_path / "history.db", ledger, batch_bytes=batch_bytes)) as reader:
        shown = reader.get(sent.id)
        assert shown is not None
        assert (shown.state, shown.accepted_ms, shown.settled_ms) == ("delivered", DAY_ONE_MS, DAY_ONE_MS + 9)
        assert (shown.sender, shown.subject, shown.login) == ("sender@example.org", "Invoice", "shop")
        (row,) = shown.deliveries
        assert (row.address, row.state, row.relay, row.attempts) == (
            "alice@example.com",
            "delivered",
            "smarthost",
            1,
        )
        (attempt,) = shown.timeline
        assert (attempt.reply, attempt.peer, attempt.tls) == (
            "250 2.0.0 Ok: queued as 4FQk",
            "198.51.100.7:25",
            "TLSv1.3",
        )
        assert counted(reader) == {(0, "", "received"): 1, (0, "smarthost", "delivered"): 1}


def test_between_sending_and_its_outcome_a_delivery_is_attempting(tmp_path: Path, batch_bytes: int) -> None:
    sent = message(1)
    ledger = LedgerInList(accepted(sent), sending(sent.id))
    with closing(project(tmp_path / "history.db", ledger, batch_bytes=batch_bytes)) as reader:
        shown = reader.get(sent.id)
        assert shown is not None
        assert (shown.state, shown.settled_ms) == ("attempting", None)


def test_recipients_with_different_fates_show_the_least_finished_one(
    tmp_path: Path, batch_bytes: int
) -> None:
    sent = message(1, "a@example.com", "b@example.com", "c@example.com")
    first = attempted(sent.id, result(S.DELIVERED, 0), result(S.BOUNCED, 1), result(S.WAITING, 2))
    ledger = LedgerInList(accepted(sent), first)
    path = tmp_path / "history.db"
    with closing(project(path, ledger, batch_bytes=batch_bytes)) as reader:
        shown = reader.get(sent.id)
        assert shown is not None
        assert (shown.state, shown.settled_ms) == ("waiting", None)
        assert [row.state for row in shown.deliveries] == ["delivered", "bounced", "waiting"]
    ledger.append(attempted(sent.id, result(S.DELIVERED, 2), attempt=2, at_ms=DAY_ONE_MS + 86_400_000))
    with closing(project(path, ledger, batch_bytes=batch_bytes)) as reader:
        shown = reader.get(sent.id)
        assert shown is not None
        assert (shown.state, shown.settled_ms) == ("partially delivered", DAY_ONE_MS + 86_400_000)
        assert len(shown.timeline) == 4
        assert counted(reader) == {
            (0, "", "received"): 1,
            (0, "smarthost", "delivered"): 1,
            (0, "smarthost", "failed"): 1,
            (0, "smarthost", "deferred"): 1,
            (1, "smarthost", "delivered"): 1,
        }


def test_what_an_operator_did_is_in_the_timeline(tmp_path: Path, batch_bytes: int) -> None:
    sent = message(1)
    ledger = LedgerInList(
        accepted(sent),
        attempted(sent.id, S.BOUNCED, at_ms=DAY_ONE_MS + 1),
        moved(sent.id, Move.REOPEN, S.WAITING, at_ms=DAY_ONE_MS + 2, reason="typo fixed"),
        moved(sent.id, Move.CANCEL, S.CANCELLED, at_ms=DAY_ONE_MS + 3),
    )
    with closing(project(tmp_path / "history.db", ledger, batch_bytes=batch_bytes)) as reader:
        shown = reader.get(sent.id)
        assert shown is not None
        assert shown.state == "cancelled"
        assert [(row.move, row.by) for row in shown.timeline] == [
            ("bounce", ""),
            ("reopen", "operator"),
            ("cancel", "operator"),
        ]
        assert counted(reader)[0, "smarthost", "cancelled"] == 1


def test_a_message_told_twice_is_counted_and_shown_once(tmp_path: Path, batch_bytes: int) -> None:
    sent = message(1)
    ledger = LedgerInList(accepted(sent), accepted(sent), attempted(sent.id, S.DELIVERED), accepted(sent))
    with closing(project(tmp_path / "history.db", ledger, batch_bytes=batch_bytes)) as reader:
        assert [row.state for row in reader.find(HistoryFilter(), limit=9)] == ["delivered"]
        assert counted(reader)[0, "", "received"] == 1


def test_what_was_kept_of_each_login_is_counted_once(tmp_path: Path, batch_bytes: int) -> None:
    hour_ms = 3_600_000
    first = message(1, login="scanner", at_ms=DAY_ONE_MS + hour_ms)
    earlier = message(2, login="scanner")
    ledger = LedgerInList(
        *map(accepted, (first, earlier, message(3, login="shop"), message(4), first)),
        attempted(first.id, S.BOUNCED),
    )
    with closing(project(tmp_path / "history.db", ledger, batch_bytes=batch_bytes)) as reader:
        assert reader.logins() == {
            "scanner": LoginUse(2, DAY_ONE_MS + hour_ms),
            "shop": LoginUse(1, DAY_ONE_MS),
        }


def test_messages_whose_ids_differ_only_at_their_ends_are_told_apart(
    tmp_path: Path, batch_bytes: int
) -> None:
    first = message(1)
    twins = [message(0, exact_id=MessageId(first.id[:-1] + bytes([last]))) for last in range(4)]
    ledger = LedgerInList(*map(accepted, twins), attempted(twins[2].id, S.BOUNCED))
    with closing(project(tmp_path / "history.db", ledger, batch_bytes=batch_bytes)) as reader:
        shown = [reader.get(twin.id) for twin in twins]
        assert [row and row.state for row in shown] == ["waiting", "waiting", "bounced", "waiting"]


def test_a_record_about_an_unknown_message_is_counted_and_passed_over(
    tmp_path: Path, batch_bytes: int
) -> None:
    unknown, known = message(1), message(2)
    ledger = LedgerInList(
        sending(unknown.id),
        attempted(unknown.id, S.DELIVERED),
        moved(unknown.id, Move.CANCEL, S.CANCELLED),
        accepted(known),
        Parked(DAY_ONE_MS, ()),
    )
    with closing(project(tmp_path / "history.db", ledger, batch_bytes=batch_bytes)) as reader:
        assert reader.get(unknown.id) is None
        assert [row.id for row in reader.find(HistoryFilter(), limit=9)] == [known.id]
        assert counted(reader)[0, "smarthost", "delivered"] == 1


def test_deliveries_that_a_power_cut_left_without_a_trace_are_counted_and_marked(tmp_path: Path) -> None:
    sent = message(1, "a@example.com", "b@example.com")
    with closing(project(tmp_path / "history.db", LedgerInList(accepted(sent, power=True)))) as reader:
        shown = reader.get(sent.id)
        assert shown is not None
        assert shown.power
        assert counted(reader)[0, "", "uncertain (power)"] == 2


def test_what_a_power_cut_may_have_delivered_is_counted_and_told(tmp_path: Path) -> None:
    sent = message(1, "a@example.com", "b@example.com")
    mark = moved(sent.id, Move.RETRY, S.WAITING, 0, 1, reason="the machine lost power", power=True)
    ledger = LedgerInList(accepted(sent), attempted(sent.id, result(S.WAITING, 0, 1)), mark)
    with closing(project(tmp_path / "history.db", ledger)) as reader:
        shown = reader.get(sent.id)
        assert shown is not None
        assert [(told.move, told.reason) for told in shown.timeline][1:] == [
            ("retry", "the machine lost power")
        ]
        assert counted(reader)[0, "smarthost", "uncertain (power)"] == 2
        assert shown.state == "waiting"


def test_a_retry_that_a_person_asks_for_is_not_counted(tmp_path: Path) -> None:
    sent = message(1)
    ledger = LedgerInList(accepted(sent), moved(sent.id, Move.RETRY, S.WAITING))
    with closing(project(tmp_path / "history.db", ledger)) as reader:
        assert {kind for _, _, kind in counted(reader)} == {"received"}


def test_what_is_set_aside_is_counted(tmp_path: Path) -> None:
    sent = message(1)
    ledger = LedgerInList(accepted(sent), attempted(sent.id, S.QUARANTINED))
    with closing(project(tmp_path / "history.db", ledger)) as reader:
        assert counted(reader)[0, "smarthost", "quarantined"] == 1


def test_words_from_outside_lose_their_control_characters(tmp_path: Path) -> None:
    sent = message(1, subject="a\x1b[31mred\r\nBcc: x\u202e", header_message_id="<\x00>")
    words = result(S.BOUNCED, reason="bad\x07thing", text="no\x1b]0;title\x9c")
    with closing(
        project(tmp_path / "history.db", LedgerInList(accepted(sent), attempted(sent.id, words)))
    ) as reader:
        shown = reader.get(sent.id)
        assert shown is not None
        (attempt,) = shown.timeline
        assert shown.subject == "a [31mred  Bcc: x "
        assert shown.message_id == "< >"
        assert (attempt.reply, attempt.reason) == ("550 5.0.0 no ]0;title ", "bad thing")


def test_old_messages_are_forgotten_by_how_they_ended_and_counters_stay(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    good, bad, open_, young = message(1), message(2), message(3), message(4, at_ms=DAY_ONE_MS + 1000)
    ledger = LedgerInList(
        *map(accepted, (good, bad, open_, young)),
        attempted(good.id, S.DELIVERED),
        attempted(bad.id, S.BOUNCED),
        attempted(young.id, S.DELIVERED),
    )
    project(path, ledger).close()
    store = HistoryStore.open(path)
    before = DAY_ONE_MS + 500
    assert store.purge(before, failed=False, limit=10) == 1
    with closing(HistoryReader.open(path)) as reader:
        ids = {row.id for row in reader.find(HistoryFilter(), limit=9)}
        assert ids == {bad.id, open_.id, young.id}
        assert len(reader.find(HistoryFilter(text="alice"), limit=9)) == 3
        assert counted(reader)[0, "smarthost", "delivered"] == 2
    assert store.purge(before, failed=True, limit=10) == 1
    assert store.purge(before, failed=True, limit=10) == 0
    store.close()


# ---------------------------------------------------------------- any ledger, cut anywhere

messages = [message(number, *(f"r{n}@example.com" for n in range(1 + number % 3))) for number in range(4)]


@st.composite
def ledgers(draw: st.DrawFn) -> list[LedgerRecord]:
    """Records that obey the state table, about a few messages, in any order."""
    records: list[LedgerRecord] = []
    states: dict[MessageId, list[DeliveryState]] = {}
    for at_ms in range(DAY_ONE_MS, DAY_ONE_MS + draw(st.integers(1, 14))):
        sent = draw(st.sampled_from(messages))
        if sent.id not in states:
            states[sent.id] = [S.WAITING] * len(sent.envelope.recipients)
            records.append(accepted(sent))
            continue
        index = draw(st.integers(0, len(states[sent.id]) - 1))
        possible = sorted(MOVES[states[sent.id][index]].items())
        if not possible:
            continue
        what, state = draw(st.sampled_from(possible))
        states[sent.id][index] = state
        if what is Move.ATTEMPT:
            records.append(Sending(at_ms, sent.id, (index,), "smarthost"))
        elif draw(st.booleans()):
            row = Result((index,), what, state, Scope.RECIPIENT, None, "")
            records.append(Attempted(at_ms, sent.id, "smarthost", 1, (row,), 1))
        else:
            records.append(Moved(at_ms, sent.id, (index,), what, state, "operator"))
    return records


def everything(reader: HistoryReader) -> Iterator[object]:
    yield counted(reader)
    for sent in messages:
        yield reader.get(sent.id)


@given(ledgers(), st.integers(1, 400))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_how_the_ledger_was_cut_into_batches_cannot_be_seen(
    tmp_path_factory: pytest.TempPathFactory, records: list[LedgerRecord], batch_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole = project(folder / "whole.db", LedgerInList(*records))
    cut = project(folder / "cut.db", LedgerInList(*records), batch_bytes=batch_bytes)
    with closing(whole), closing(cut):
        assert list(everything(whole)) == list(everything(cut))
        final = {record.message.id for record in records if isinstance(record, Accepted)}
        assert {row.id for row in whole.find(HistoryFilter(), limit=9)} == final
