"""What the queue may rely on, of any parked store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.store.messages import DAY_ONE_MS, delivery, message, number_in, park

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.envelope import Recipient
from dispatch.mail.ids import MessageId, spool_form
from dispatch.mail.message import ContentFile
from dispatch.policy.copies import joined_by
from dispatch.store.changes import DELIVERY_BYTES
from dispatch.store.parked import ParkedStore, QueueFilter, Settle, Update

NOW_MS = DAY_ONE_MS
PLENTY_BYTES = 1 << 30

HELD, BOUNCED, UNCERTAIN = DeliveryState.HELD, DeliveryState.BOUNCED, DeliveryState.UNCERTAIN


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ParkedStore]:
    opened = ParkedStore.open(tmp_path / "parked.db")
    yield opened
    opened.close()


def claimed(
    store: ParkedStore, relay: str = "smarthost", now_ms: int = NOW_MS, limit: int = 100
) -> list[int]:
    """Claim, and say which messages came, by their numbers."""
    return [number_in(found.message.id) for found in store.claim(relay, now_ms, limit, PLENTY_BYTES)]


# ---------------------------------------------------------------- keeping


def test_a_parked_message_comes_back_whole_after_a_restart(tmp_path: Path) -> None:
    sent = message(1, "alice@example.com", "bob@example.com")
    rows = (delivery(0, due_ms=7, attempts=2, reason="no route"), delivery(1, state=HELD, relay=""))
    store = ParkedStore.open(tmp_path / "parked.db")
    store.apply([park(sent, *rows, content=b"Subject: x\r\n\r\n\x00\xff")], 42)
    store.close()

    store = ParkedStore.open(tmp_path / "parked.db")
    found = store.get(sent.id, content=True)
    assert found is not None
    assert (found.message, found.deliveries, found.content) == (sent, rows, b"Subject: x\r\n\r\n\x00\xff")
    assert store.ledger_lsn == 42
    without = store.get(sent.id, content=False)
    assert without is not None
    assert without.content is None
    store.close()


def test_parking_again_adds_and_overwrites_deliveries_and_keeps_the_content(store: ParkedStore) -> None:
    sent = message(1, "a@example.com", "b@example.com")
    store.apply([park(sent, delivery(0))], 1)
    store.apply([park(sent, delivery(0, attempts=3), delivery(1, relay="other"), content=None)], 2)
    found = store.get(sent.id, content=True)
    assert found is not None
    assert found.deliveries == (delivery(0, attempts=3), delivery(1, relay="other"))
    assert found.content == b"content"
    assert store.counts() == {
        ("smarthost", DeliveryState.WAITING): 1,
        ("other", DeliveryState.WAITING): 1,
    }


@pytest.mark.parametrize(
    ("before", "now"),
    [(("",), ("", "archive")), (("", "archive"), ("",)), (("", "archive", "vault"), ("", "safe"))],
)
def test_a_message_that_is_parked_again_with_other_copies_has_a_recipient_for_each_delivery(
    store: ParkedStore, before: tuple[str, ...], now: tuple[str, ...]
) -> None:
    plain = message(1, "a@example.com")
    for lsn, relays in ((1, before), (2, now)):
        copies = tuple(Recipient("a@example.com", "NEVER", copy_to=relay) for relay in relays if relay)
        rows = [delivery(index, relay=relay or "smarthost") for index, relay in enumerate(relays)]
        store.apply([park(joined_by(plain, copies), *rows)], lsn)
    wanted = [*now, *before[len(now) :]]
    found = store.get(plain.id, content=False)
    assert found is not None
    recipients = found.message.envelope.recipients
    assert [recipient.copy_to for recipient in recipients] == wanted
    assert [row.relay for row in found.deliveries] == [relay or "smarthost" for relay in wanted]


def test_two_messages_whose_ids_differ_only_at_their_ends_are_both_kept(store: ParkedStore) -> None:
    first = message(1)
    twins = [message(0, exact_id=MessageId(first.id[:-1] + bytes([last]))) for last in range(5)]
    store.apply([park(twin, content=twin.id) for twin in twins], 1)
    for twin in twins:
        found = store.get(twin.id, content=True)
        assert found is not None
        assert (found.message, found.content) == (twin, twin.id)
    assert len(store.claim("smarthost", NOW_MS, 10, PLENTY_BYTES)) == 5
    store.apply([Settle(twin.id, (0,)) for twin in twins], 2)
    assert list(store.ids()) == []


def test_a_message_goes_with_its_last_delivery_and_its_content_file_is_named_once(store: ParkedStore) -> None:
    file = ContentFile("large", 5 << 20)
    sent = message(1, "a@example.com", "b@example.com", content_file=file)
    store.apply([park(sent)], 1)
    assert store.apply([Settle(sent.id, (0,))], 2) == []
    assert store.get(sent.id, content=False) is not None
    assert store.apply([Settle(sent.id, (1,))], 3) == [file]
    assert store.get(sent.id, content=False) is None
    assert store.apply([Settle(sent.id, (0, 1))], 4) == []


def test_updating_or_settling_what_is_not_there_does_nothing(store: ParkedStore) -> None:
    here = message(1)
    store.apply([park(here)], 1)
    store.apply([Update(message(2).id, (delivery(),)), Settle(message(3).id, (0,))], 2)
    store.apply([Update(here.id, (delivery(9),))], 3)
    assert store.counts() == {("smarthost", DeliveryState.WAITING): 1}


def test_changes_to_one_message_in_one_batch_happen_in_their_order(store: ParkedStore) -> None:
    sent = message(1)
    store.apply([park(sent), Update(sent.id, (delivery(state=HELD),)), Settle(sent.id, (0,)), park(sent)], 1)
    found = store.get(sent.id, content=True)
    assert found is not None
    assert found.deliveries == (delivery(),)
    assert found.content == b"content"
    assert store.counts() == {("smarthost", DeliveryState.WAITING): 1}


def test_failed_content_is_kept_until_its_retention_is_over(store: ParkedStore) -> None:
    early, late, waiting = message(1), message(2), message(3)
    store.apply(
        [
            park(early, delivery(state=BOUNCED, due_ms=100)),
            park(late, delivery(state=BOUNCED, due_ms=200)),
            park(waiting, delivery(due_ms=50)),
        ],
        1,
    )
    assert list(store.ids()) == [waiting.id]
    over = store.failed_before(200)
    assert over == [Settle(early.id, (0,))]
    store.apply(over, 2)
    assert store.get(early.id, content=False) is None
    assert store.get(late.id, content=False) is not None


# ---------------------------------------------------------------- claiming


def test_only_what_is_due_and_waits_for_that_relay_is_claimed(store: ParkedStore) -> None:
    store.apply(
        [
            park(message(1), delivery(due_ms=NOW_MS)),
            park(message(2), delivery(due_ms=NOW_MS + 1)),
            park(message(3), delivery(relay="other")),
            park(message(4), delivery(state=HELD)),
            park(message(5), delivery(state=UNCERTAIN)),
        ],
        1,
    )
    assert claimed(store) == [1]
    assert store.next_due_ms("smarthost") == NOW_MS + 1
    assert claimed(store, now_ms=NOW_MS + 1) == [2]
    assert store.next_due_ms("smarthost") is None
    assert store.next_due_ms("nowhere") is None
    assert claimed(store, "nowhere") == []


def test_what_is_claimed_is_not_claimed_again_until_it_is_named(store: ParkedStore) -> None:
    store.apply([park(message(number)) for number in range(1, 6)], 1)
    assert claimed(store, limit=3) == [1, 2, 3]
    assert claimed(store) == [4, 5]
    assert claimed(store) == []
    store.put_back([(message(2).id, (0,)), (message(4).id, (0,))])
    assert claimed(store) == [2, 4]
    store.apply([Update(message(1).id, (delivery(due_ms=NOW_MS + 5),)), Settle(message(2).id, (0,))], 2)
    assert store.next_due_ms("smarthost") == NOW_MS + 5
    assert claimed(store, now_ms=NOW_MS + 5) == [1]


def test_a_restart_forgets_claims(tmp_path: Path) -> None:
    store = ParkedStore.open(tmp_path / "parked.db")
    store.apply([park(message(1))], 1)
    assert claimed(store) == [1]
    store.close()
    store = ParkedStore.open(tmp_path / "parked.db")
    assert store.next_due_ms("smarthost") == 0
    assert claimed(store) == [1]
    store.close()


def test_recipients_that_share_a_relay_come_in_one_message(store: ParkedStore) -> None:
    many = message(1, *(f"r{index}@example.com" for index in range(200)))
    rows = [delivery(index, relay="other" if index % 50 == 0 else "smarthost") for index in range(200)]
    rows[7] = delivery(7, due_ms=NOW_MS + 1)
    store.apply([park(many, *rows), park(message(2))], 1)
    first, second = store.claim("smarthost", NOW_MS, 2, PLENTY_BYTES)
    assert [row.index for row in first.deliveries] == [i for i in range(200) if i % 50 and i != 7]
    assert second.message.id == message(2).id
    (later,) = store.claim("smarthost", NOW_MS + 1, 2, PLENTY_BYTES)
    assert [row.index for row in later.deliveries] == [7]
    (other,) = store.claim("other", NOW_MS, 2, PLENTY_BYTES)
    assert [row.index for row in other.deliveries] == [0, 50, 100, 150]


def test_a_message_of_many_recipients_is_not_given_out_twice_when_turns_are_short(store: ParkedStore) -> None:
    shared = [message(n, "a@example.com", "b@example.com", login=f"login{n % 2}") for n in range(1, 7)]
    store.apply([park(sent) for sent in shared], 1)
    assert sorted(claimed(store, limit=5) + claimed(store, limit=5)) == [1, 2, 3, 4, 5, 6]


def test_content_in_memory_stays_below_its_limit_but_one_message_always_goes(store: ParkedStore) -> None:
    store.apply([park(message(number), content=bytes(1000)) for number in range(1, 6)], 1)
    assert len(store.claim("smarthost", NOW_MS, 10, 3000)) == 2
    assert len(store.claim("smarthost", NOW_MS, 10, 10)) == 1
    assert claimed(store) == [4, 5]


def test_many_recipients_count_in_memory_like_content(store: ParkedStore) -> None:
    crowd = [f"r{number}@example.com" for number in range(100)]
    rows = [delivery(number) for number in range(100)]
    store.apply([park(message(number, *crowd), *rows) for number in range(1, 5)], 1)
    assert len(store.claim("smarthost", NOW_MS, 10, 2 * 100 * DELIVERY_BYTES + 100)) == 2


def test_a_suspect_is_claimed_out_of_turn_for_one_relay_at_a_time(store: ParkedStore) -> None:
    sent = message(1, "a@example.com", "b@example.com", "c@example.com")
    later = NOW_MS + 1000
    rows = (delivery(0, due_ms=later), delivery(1, relay="other"), delivery(2, state=HELD))
    store.apply([park(sent, *rows)], 1)
    first = store.claim_message(sent.id)
    assert first is not None
    assert (first.deliveries, first.content) == ((rows[0],), b"content")
    second = store.claim_message(sent.id)
    assert second is not None
    assert second.deliveries == (rows[1],)
    assert store.claim_message(sent.id) is None
    assert store.claim_message(message(2).id) is None
    assert claimed(store, now_ms=later) == []
    assert store.next_due_ms("smarthost") is None
    store.put_back([(sent.id, (0, 1))])
    assert claimed(store, now_ms=later) == [1]


# ---------------------------------------------------------------- fairness


def test_one_senders_thousands_do_not_delay_another_ones_single_message(store: ParkedStore) -> None:
    store.apply([park(message(number, login="newsletter")) for number in range(1, 1001)], 1)
    store.apply([park(message(1001, login="shop"), delivery(due_ms=NOW_MS))], 2)
    assert 1001 in claimed(store, limit=2)


def test_senders_take_turns(store: ParkedStore) -> None:
    for start, login in ((100, "a"), (200, "b"), (300, "c")):
        store.apply([park(message(start + number, login=login)) for number in range(10)], 1)
    order = [number // 100 for number in claimed(store, limit=7) + claimed(store, limit=5)]
    assert [order.count(sender) for sender in (1, 2, 3)] == [4, 4, 4]


def test_urgent_mail_goes_first_and_bulk_mail_still_moves(store: ParkedStore) -> None:
    for start, priority in ((1000, "bulk"), (2000, "normal"), (3000, "high")):
        batch = [park(message(start + number, priority=priority)) for number in range(500)]  # type: ignore[arg-type]  # literals of a tuple
        store.apply(batch, 1)
    went = [number // 1000 for number in claimed(store, limit=160)]
    assert went[0] == 3
    assert (went.count(3), went.count(2), went.count(1)) == (140, 10, 10)
    singly = [claimed(store, limit=1)[0] // 1000 for _ in range(160)]
    assert singly.count(2) in (9, 10)
    assert singly.count(1) in (9, 10)


def test_bulk_mail_alone_has_the_relay_to_itself(store: ParkedStore) -> None:
    store.apply([park(message(number, priority="bulk")) for number in range(1, 31)], 1)
    assert claimed(store, limit=30) == list(range(1, 31))


# ---------------------------------------------------------------- looking


def test_the_queue_is_found_by_every_filter_and_in_pages(store: ParkedStore) -> None:
    shop = message(1, "alice@example.com", "bob@Example.NET", sender="shop@example.org")
    odd = message(2, "100%_@example.com", sender="", at_ms=DAY_ONE_MS + 60_000)
    failed = message(3)
    store.apply(
        [
            park(shop, delivery(0, reason="Breaker open"), delivery(1, relay="other", state=HELD)),
            park(odd, delivery(0, relay="")),
            park(failed, delivery(0, state=BOUNCED)),
        ],
        1,
    )

    def found(**wanted: object) -> list[tuple[bytes, tuple[int, ...]]]:
        filter_ = QueueFilter(**wanted)  # type: ignore[arg-type]  # a table of filters
        rows = store.find(filter_, limit=10, after=None)
        assert store.count(filter_) == len(rows)
        return [(row.message.id, tuple(parked.index for parked in row.deliveries)) for row in rows]

    assert found() == [(shop.id, (0, 1)), (odd.id, (0,))]
    assert found(sender="shop@example.org") == found(sender="example.org") == [(shop.id, (0, 1))]
    assert found(recipient="example.net") == found(recipient="@EXAMPLE.net") == [(shop.id, (1,))]
    assert (
        found(recipient="net")
        == found(recipient="%@example.com")
        == found(recipient="_lice@example.com")
        == []
    )
    assert found(recipient="100%_@example.com") == [(odd.id, (0,))]
    assert found(relay="other") == [(shop.id, (1,))]
    assert found(relay="") == [(odd.id, (0,))]
    assert found(state=HELD) == [(shop.id, (1,))]
    assert found(state=BOUNCED) == [(failed.id, (0,))]
    assert found(reason="breaker") == [(shop.id, (0,))]
    assert found(accepted_before_ms=DAY_ONE_MS + 1) == [(shop.id, (0, 1))]
    assert found(id_prefix=spool_form(odd.id)[:16]) == [(odd.id, (0,))]
    assert found(id_prefix=failed.id.hex()) == [(failed.id, (0,))], (
        "by its whole id a failed one is meant too"
    )
    first = store.find(QueueFilter(), limit=1, after=None)
    assert [row.message.id for row in store.find(QueueFilter(), limit=5, after=first[0].message.id)] == [
        odd.id
    ]


def test_a_filter_means_the_same_in_memory_and_in_the_store(store: ParkedStore) -> None:
    rows = [
        (message(1, "alice@example.com", login="x"), delivery(reason="No ROUTE")),
        (message(2, "ÄRGER@example.com", sender="a_b@example.net"), delivery(state=HELD, relay="")),
        (message(3, "x@sub.example.com", sender="", at_ms=DAY_ONE_MS + 5), delivery(state=BOUNCED)),
    ]
    store.apply([park(sent, row) for sent, row in rows], 1)
    filters = [
        QueueFilter(),
        QueueFilter(sender="example.net"),
        QueueFilter(sender="A_B@example.net"),
        QueueFilter(sender="aXb@example.net"),
        QueueFilter(recipient="example.com"),
        QueueFilter(recipient="ärger@example.com"),
        QueueFilter(recipient="@example.com", state=HELD),
        QueueFilter(relay=""),
        QueueFilter(relay="smarthost", reason="route"),
        QueueFilter(state=BOUNCED),
        QueueFilter(id_prefix=rows[2][0].id.hex()),
        QueueFilter(id_prefix="0"),
        QueueFilter(accepted_before_ms=DAY_ONE_MS + 5),
    ]
    for wanted in filters:
        in_memory = [sent.id for sent, row in rows if wanted.matches(sent, row)]
        assert [found.message.id for found in store.find(wanted, limit=9, after=None)] == in_memory, wanted


def test_the_ids_are_of_what_is_in_the_queue_oldest_first(store: ParkedStore) -> None:
    failed, young, old = message(1), message(2, at_ms=DAY_ONE_MS + 9), message(3, at_ms=DAY_ONE_MS + 4)
    store.apply([park(failed, delivery(state=BOUNCED)), park(young), park(old)], 1)
    assert list(store.ids()) == [old.id, young.id]


def test_after_a_clock_jump_nothing_waits_longer_than_the_longest_delay(store: ParkedStore) -> None:
    far, near = message(1), message(2)
    store.apply([park(far, delivery(due_ms=NOW_MS + 9_000_000)), park(near, delivery(due_ms=NOW_MS + 10))], 1)
    assert store.reclamp(NOW_MS, NOW_MS + 7_200_000) == 1
    assert claimed(store, now_ms=NOW_MS + 7_200_000) == [2, 1]


def test_space_is_given_back_when_the_queue_has_emptied(tmp_path: Path) -> None:
    path = tmp_path / "parked.db"
    store = ParkedStore.open(path)
    sent = [message(number) for number in range(200)]
    store.apply([park(each, content=bytes(50_000)) for each in sent], 1)
    store.apply([Settle(each.id, (0,)) for each in sent], 2)
    assert store.shrink(1_000_000) == 0
    store.close()
    assert path.stat().st_size < 1_000_000
