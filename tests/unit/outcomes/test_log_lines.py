"""One line for every final outcome: what an operator searches for, and nothing that is private."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.unit.outcomes.ledger import LedgerInList, accepted, attempted, moved, result, sending
from tests.unit.store.messages import DAY_ONE_MS, message

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mail.ids import spool_form
from dispatch.observe import EVENTS
from dispatch.outcomes import log_lines
from dispatch.outcomes.history import History
from dispatch.outcomes.log_lines import LogLines
from dispatch.outcomes.tail import Tail
from dispatch.store.history import HistoryStore

S = DeliveryState


class Rules(msgspec.Struct):
    mask_recipient: bool = True
    log_delivered: bool = True
    log_retrying: bool = True


@pytest.fixture
def store(tmp_path: Path) -> Iterator[HistoryStore]:
    opened = HistoryStore.open(tmp_path / "history.db")
    yield opened
    opened.close()


def said(
    store: HistoryStore, ledger: LedgerInList, rules: Rules | None = None, batch_bytes: int = 1 << 18
) -> list[tuple[str, dict[str, object]]]:
    lines: list[tuple[str, dict[str, object]]] = []

    def report(event: str, /, **fields: object) -> None:
        lines.append((event, fields))

    tail = Tail(
        ledger, store, History(store), LogLines(store, report, rules or Rules()), batch_bytes=batch_bytes
    )
    while tail.step():
        pass
    return lines


@pytest.mark.parametrize("batch_bytes", [1 << 18, 1], ids=["one batch", "a record a batch"])
def test_a_delivery_is_one_line_with_everything_in_it(store: HistoryStore, batch_bytes: int) -> None:
    sent = message(1, "alice@example.com", subject="secret")
    delivered = attempted(sent.id, S.DELIVERED, at_ms=DAY_ONE_MS + 1500)
    ledger = LedgerInList(accepted(sent), sending(sent.id), delivered)
    assert said(store, ledger, batch_bytes=batch_bytes) == [
        (
            "delivered",
            {
                "id": spool_form(sent.id),
                "from": "<sender@example.org>",
                "to": "<a***@example.com>",
                "relay": "smarthost",
                "status": "delivered",
                "delay_s": 1.5,
                "reply": "250 2.0.0 Ok: queued as 4FQk",
            },
        )
    ]


def test_each_recipient_has_its_own_line(store: HistoryStore) -> None:
    sent = message(1, "a@example.com", "b@example.com", sender="")
    ledger = LedgerInList(accepted(sent), attempted(sent.id, result(S.DELIVERED, 0), result(S.BOUNCED, 1)))
    lines = said(store, ledger, Rules(mask_recipient=False))
    assert [(event, fields["to"], fields["from"]) for event, fields in lines] == [
        ("delivered", "<a@example.com>", "<>"),
        ("failed", "<b@example.com>", "<>"),
    ]


def test_addresses_in_the_peers_words_are_masked_with_the_recipient(store: HistoryStore) -> None:
    sent = message(1, "alice@example.com")
    words = result(S.BOUNCED, text="<alice@example.com>: mailbox of alice.b@example.com is gone")
    ledger = LedgerInList(accepted(sent), attempted(sent.id, words))
    ((_, fields),) = said(store, ledger)
    assert fields["reply"] == "550 5.0.0 <a***@example.com>: mailbox of a***@example.com is gone"


def test_settings_decide_about_lines_of_success_and_of_waiting_but_not_of_failure(
    store: HistoryStore,
) -> None:
    sent = message(1)
    states = (S.WAITING, S.UNCERTAIN, S.DELIVERED, S.BOUNCED)
    ledger = LedgerInList(accepted(sent), *(attempted(sent.id, state) for state in states))
    quiet = said(store, ledger, Rules(log_delivered=False, log_retrying=False))
    assert [event for event, _ in quiet] == ["uncertain", "failed"]


def test_waiting_is_said_where_it_is_wanted(store: HistoryStore) -> None:
    sent = message(1)
    ledger = LedgerInList(accepted(sent), attempted(sent.id, S.WAITING))
    ((event, fields),) = said(store, ledger)
    assert (event, fields["status"], fields["reply"]) == ("retrying", "waiting", "451 4.7.1 Try again")


def test_a_cancelled_message_says_who_did_it_and_a_held_one_says_nothing(store: HistoryStore) -> None:
    sent = message(1)
    ledger = LedgerInList(
        accepted(sent),
        moved(sent.id, Move.HOLD, S.HELD),
        moved(sent.id, Move.CANCEL, S.CANCELLED, reason="wrong list"),
    )
    ((event, fields),) = said(store, ledger)
    assert (event, fields["status"], fields["reply"]) == ("ended", "cancelled", "operator: wrong list")


def test_whatever_a_power_cut_may_have_delivered_has_a_line(store: HistoryStore) -> None:
    """Taken up again from the log, and put back into its place in the queue."""
    again, known = message(1), message(2)
    mark = moved(known.id, Move.RETRY, S.WAITING, reason="lost power", by="recovery", power=True)
    lines = said(store, LedgerInList(accepted(known), accepted(again, power=True), mark))
    assert [(event, fields["id"], fields["status"]) for event, fields in lines] == [
        ("uncertain", spool_form(again.id), "waiting"),
        ("uncertain", spool_form(known.id), "waiting"),
    ]
    assert lines[0][1]["reply"] == log_lines.LOST_POWER and lines[1][1]["reply"] == "recovery: lost power"


def test_an_outcome_of_an_unknown_message_is_said_without_addresses(store: HistoryStore) -> None:
    ((event, fields),) = said(store, LedgerInList(attempted(message(1).id, S.DELIVERED)))
    assert (event, fields["from"], fields["to"]) == ("delivered", None, None)


def test_a_batch_that_comes_back_is_not_said_again(store: HistoryStore) -> None:
    sent = message(1)
    ledger = LedgerInList(accepted(sent), attempted(sent.id, S.DELIVERED))
    events: list[str] = []

    def report(event: str, /, **fields: object) -> None:
        events.append(event)

    class Trouble:
        left = 3

        def react(self, batch: object) -> None:
            if self.left:
                self.left -= 1
                raise OSError

        def idle(self) -> bool:
            return False

    tail = Tail(ledger, store, History(store), LogLines(store, report, Rules()), Trouble())
    for _ in range(3):
        with pytest.raises(OSError):
            tail.step()
    tail.step()
    assert events == ["delivered"]


def test_every_event_is_declared() -> None:
    assert {*log_lines.EVENTS.values(), log_lines.RETRYING} <= EVENTS.keys()
