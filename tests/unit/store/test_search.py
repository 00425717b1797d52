"""Finding messages in history, whether the search index has caught up or not."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.unit.outcomes.ledger import LedgerInList, accepted, attempted, result
from tests.unit.store.messages import DAY_ONE_MS, message, number_in

from dispatch.mail.delivery import DeliveryState
from dispatch.outcomes.history import History
from dispatch.outcomes.tail import Tail
from dispatch.store.history import HistoryStore
from dispatch.store.history_reader import HistoryReader
from dispatch.store.search import HistoryFilter

MINUTE_MS = 60_000

INVOICE = message(
    1,
    "alice@example.com",
    "bob@example.net",
    sender="shop@example.org",
    subject="Invoice 4711 café",
    header_message_id="<a.1@shop.example.org>",
    login="shop",
)
NEWS = message(
    2,
    "carol@sub.example.com",
    sender="news@example.org",
    subject='50% off_ "now"',
    at_ms=DAY_ONE_MS + MINUTE_MS,
    client="198.51.100.9",
)
EMPTY = message(3, "alice@example.com.example", sender="", at_ms=DAY_ONE_MS + 2 * MINUTE_MS)


@pytest.fixture(params=["indexed", "not indexed", "indexed in part", "told late"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A history of three messages, with its search index in each state it can be in."""
    path = tmp_path / "history.db"
    store = HistoryStore.open(path)
    outcomes = [
        attempted(INVOICE.id, result(DeliveryState.DELIVERED, 0, 1)),
        attempted(NEWS.id, DeliveryState.BOUNCED, relay="other"),
    ]
    first, last = [INVOICE, NEWS], [EMPTY]
    if request.param == "told late":
        first, last = last, first
    ledger = LedgerInList(*map(accepted, first))
    tail = Tail(ledger, store, History(store), batch_bytes=1 << 20)
    tail.step()
    if request.param in ("indexed in part", "told late"):
        store.index(10)
    ledger.append(*map(accepted, last), *outcomes)
    tail.step()
    if request.param == "indexed":
        store.index(10)
    store.close()
    return path


def found(path: Path, **wanted: Any) -> list[int]:
    wanted["states"] = frozenset(wanted.get("states", ()))
    with closing(HistoryReader.open(path)) as reader:
        return [number_in(row.id) for row in reader.find(HistoryFilter(**wanted), limit=10)]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ({}, [3, 2, 1]),
        ({"since_ms": DAY_ONE_MS + 1}, [3, 2]),
        ({"before_ms": DAY_ONE_MS + MINUTE_MS}, [1]),
        ({"since_ms": DAY_ONE_MS + 1, "before_ms": DAY_ONE_MS + 2 * MINUTE_MS}, [2]),
        ({"states": ["bounced"]}, [2]),
        ({"states": ["delivered", "bounced"]}, [2, 1]),
        ({"states": ["waiting"]}, [3]),
        ({"sender": "shop@example.org"}, [1]),
        ({"sender": "EXAMPLE.org"}, [2, 1]),
        ({"sender": "example"}, []),
        ({"sender": "%@example.org"}, []),
        ({"recipient": "alice@example.com"}, [1]),
        ({"recipient": "example.net"}, [1]),
        ({"recipient": "@example.com"}, [1]),
        ({"recipient": "sub.example.com"}, [2]),
        ({"recipient": "%"}, []),
        ({"subject": "invoice"}, [1]),
        ({"subject": "4711 invo"}, [1]),
        ({"subject": "invoice news"}, []),
        ({"subject": "50% off_"}, [2]),
        ({"subject": '"now"'}, [2]),
        ({"text": "alice"}, [3, 1]),
        ({"text": "alice shop"}, [1]),
        ({"text": "sender:shop"}, []),
        ({"text": 'AND OR NOT ( * "'}, []),
        ({"text": "*"}, [3, 2, 1]),
        ({"message_id": "<a.1@shop.example.org>"}, [1]),
        ({"message_id": "a.1@shop.example.org"}, [1]),
        ({"message_id": "1@shop.example.org"}, []),
        ({"relay": "other"}, [2]),
        ({"client": "198.51.100.9"}, [2]),
        ({"client": "shop"}, [1]),
        ({"client": "shop", "recipient": "example.net", "subject": "invoice"}, [1]),
        ({"client": "shop", "recipient": "sub.example.com"}, []),
    ],
    ids=str,
)
def test_a_filter_finds_exactly_what_it_says(path: Path, wanted: dict[str, Any], numbers: list[int]) -> None:
    assert found(path, **wanted) == numbers


@pytest.mark.parametrize("wanted", [HistoryFilter(), HistoryFilter(text="example")], ids=["all", "words"])
def test_pages_follow_each_other_without_gap_or_repetition(path: Path, wanted: HistoryFilter) -> None:
    with closing(HistoryReader.open(path)) as reader:
        numbers = []
        after = None
        while page := reader.find(wanted, limit=1, after=after):
            numbers.append(number_in(page[0].id))
            after = page[-1].place
    assert numbers == [3, 2, 1]


def test_a_row_of_a_page_says_who_to_whom_and_how_it_stands(path: Path) -> None:
    with closing(HistoryReader.open(path)) as reader:
        (row,) = reader.find(HistoryFilter(client="shop"), limit=5)
    assert (row.sender, row.recipient, row.recipients) == ("shop@example.org", "alice@example.com", 2)
    assert (row.subject, row.relay, row.accepted_ms) == ("Invoice 4711 café", "smarthost", DAY_ONE_MS)


def test_accents_do_not_matter_once_a_message_is_indexed(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    store = HistoryStore.open(path)
    Tail(LedgerInList(accepted(INVOICE)), store, History(store)).step()
    assert store.index(10) == 1
    assert store.index(10) == 0
    store.close()
    assert found(path, subject="cafe") == [1]


def test_no_page_reads_a_table_from_end_to_end(tmp_path: Path) -> None:
    """Newest first by key, or through an index: so a page costs the same among ten million messages."""
    path = tmp_path / "history.db"
    store = HistoryStore.open(path)
    sent = [message(number, at_ms=DAY_ONE_MS + number, subject=f"word{number}") for number in range(1000)]
    records = [*map(accepted, sent), *(attempted(each.id, DeliveryState.DELIVERED) for each in sent)]
    tail = Tail(LedgerInList(*records, accepted(message(2000))), store, History(store), batch_bytes=1 << 30)
    while tail.step():
        pass
    store.close()
    with closing(HistoryReader.open(path)) as reader:
        steps = 0

        def count() -> bool:
            nonlocal steps
            steps += 1
            return False

        reader._connection.set_progress_handler(count, 10)
        for wanted in (
            HistoryFilter(),
            HistoryFilter(subject="word7"),
            HistoryFilter(sender="example.org"),
            HistoryFilter(states=frozenset({"waiting"})),
            HistoryFilter(states=frozenset({"delivered"})),
        ):
            steps = 0
            assert reader.find(wanted, limit=1)
            assert steps < 150, wanted  # all rows would be 1,000 and more
