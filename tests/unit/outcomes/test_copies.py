"""What history, the log, notices and the audit say of mail with a copy for an archive."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from tests.unit.outcomes.ledger import LedgerInList, accepted, attempted, project, result
from tests.unit.outcomes.test_bounce import Bench
from tests.unit.outcomes.test_log_lines import said
from tests.unit.store.messages import DAY_ONE_MS, message

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.envelope import Recipient
from dispatch.outcomes.audit import unsettled, verify
from dispatch.policy.copies import joined_by
from dispatch.store.history import HistoryStore

S = DeliveryState
ARCHIVED = (Recipient("a@example.com", "NEVER", None, "archive"),)
SENT = message(1, "a@example.com", "b@example.com")
COPIED = joined_by(SENT, ARCHIVED)


@pytest.mark.parametrize("batch_bytes", [1 << 18, 1], ids=["one batch", "a record a batch"])
def test_a_message_is_delivered_whatever_becomes_of_its_copy(tmp_path: Path, batch_bytes: int) -> None:
    ledger = LedgerInList(
        accepted(COPIED),
        attempted(SENT.id, result(S.WAITING, 2), relay="archive"),
        attempted(SENT.id, result(S.DELIVERED, 0, 1), at_ms=DAY_ONE_MS + 9),
    )
    with closing(project(tmp_path / "history.db", ledger, batch_bytes=batch_bytes)) as reader:
        shown = reader.get(SENT.id)
        assert shown is not None
        assert (shown.state, shown.settled_ms) == ("delivered", DAY_ONE_MS + 9)
        told = [(each.address, each.state, each.relay, each.copy) for each in shown.deliveries]
        assert told == [
            ("a@example.com", "delivered", "smarthost", False),
            ("b@example.com", "delivered", "smarthost", False),
            ("a@example.com", "waiting", "archive", True),
        ]


def test_a_copy_that_arrives_finishes_no_message(tmp_path: Path) -> None:
    one = message(2, "a@example.com")
    copied = joined_by(one, ARCHIVED)
    ledger = LedgerInList(accepted(copied), attempted(one.id, result(S.DELIVERED, 1), relay="archive"))
    with closing(project(tmp_path / "history.db", ledger)) as reader:
        shown = reader.get(one.id)
        assert shown is not None and (shown.state, shown.settled_ms) == ("waiting", None)


def test_a_copy_alone_that_came_from_another_host_is_shown(tmp_path: Path) -> None:
    alone = message(3, "a@example.com")
    envelope = msgspec.structs.replace(alone.envelope, recipients=ARCHIVED)
    copied = msgspec.structs.replace(alone, envelope=envelope)
    ledger = LedgerInList(accepted(copied), attempted(alone.id, S.DELIVERED, relay="archive"))
    with closing(project(tmp_path / "history.db", ledger, batch_bytes=1)) as reader:
        shown = reader.get(alone.id)
        assert shown is not None and shown.state == "delivered" and shown.deliveries[0].copy


def test_a_message_that_was_accepted_twice_may_have_other_copies(tmp_path: Path) -> None:
    ledger = LedgerInList(
        accepted(SENT), accepted(COPIED), attempted(SENT.id, result(S.DELIVERED, 2), relay="archive")
    )
    with closing(project(tmp_path / "history.db", ledger, batch_bytes=1)) as reader:
        shown = reader.get(SENT.id)
        assert shown is not None and [each.state for each in shown.deliveries] == ["waiting"] * 2


@pytest.mark.parametrize("batch_bytes", [1 << 18, 1], ids=["one batch", "a record a batch"])
def test_the_line_of_a_copy_says_so(tmp_path: Path, batch_bytes: int) -> None:
    ledger = LedgerInList(
        accepted(COPIED), attempted(SENT.id, result(S.DELIVERED, 0)), attempted(SENT.id, result(S.BOUNCED, 2))
    )
    with closing(HistoryStore.open(tmp_path / "history.db")) as store:
        lines = said(store, ledger, batch_bytes=batch_bytes)
    assert [(event, fields.get("copy")) for event, fields in lines] == [("delivered", None), ("failed", True)]


def test_who_sent_it_hears_of_his_mail_and_never_of_its_copy(tmp_path: Path) -> None:
    one = message(2, "a@example.com")
    copied = joined_by(one, ARCHIVED)
    bench = Bench(tmp_path)
    try:
        bench.ledger.append(accepted(copied))
        bench.happens(attempted(one.id, result(S.DELIVERED, 1), relay="archive"))
        bench.happens(attempted(one.id, result(S.BOUNCED, 0)))
        bench.pass_time(120.0)
        assert bench.blocks() == [[("a@example.com", "failed", "5.1.1")]]
        other = message(4, "a@example.com")
        bench.ledger.append(accepted(joined_by(other, ARCHIVED)))
        bench.happens(attempted(other.id, result(S.BOUNCED, 1), relay="archive"))
        bench.pass_time(120.0)
        assert len(bench.letters()) == 1
    finally:
        bench.store.close()


def test_the_audit_counts_a_copy_that_has_no_outcome_as_lost() -> None:
    ledger = LedgerInList(accepted(COPIED), attempted(SENT.id, result(S.DELIVERED, 0, 1)))
    audit = verify(ledger, set())
    assert (audit.accepted, audit.settled, audit.lost) == (3, 2, 1)
    ledger.append(attempted(SENT.id, result(S.DELIVERED, 2), relay="archive"))
    assert verify(ledger, set()).lost == 0


def test_mail_is_unsettled_while_its_copy_is() -> None:
    ledger = LedgerInList(accepted(COPIED), attempted(SENT.id, result(S.DELIVERED, 0, 1)))
    payloads = [payload for payload in ledger.payloads if payload is not None]
    assert unsettled(payloads, [SENT]) == {SENT.id}
    ledger.append(attempted(SENT.id, result(S.DELIVERED, 2), relay="archive"))
    payloads = [payload for payload in ledger.payloads if payload is not None]
    assert unsettled(payloads, [SENT]) == set()
