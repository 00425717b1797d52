"""The audit finds what was lost and what ended twice, and nothing else."""

from __future__ import annotations

from tests.unit.outcomes.ledger import LedgerInList, accepted, attempted, moved, result, sending
from tests.unit.store.messages import message

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mail.ids import spool_form
from dispatch.outcomes.audit import verify
from dispatch.ports import Lsn

S = DeliveryState


def test_settled_and_queued_mail_is_in_order() -> None:
    one, two = message(1, "a@example.com", "b@example.com"), message(2)
    ledger = LedgerInList(
        accepted(one),
        accepted(two),
        attempted(one.id, result(S.DELIVERED, 0), result(S.WAITING, 1)),
        attempted(two.id, S.CAPTURED),
    )
    audit = verify(ledger, {one.id})
    assert audit.sound
    assert (audit.messages, audit.accepted, audit.settled, audit.in_queue) == (2, 3, 2, 1)
    assert (audit.lost, audit.doubly_settled, audit.uncertain) == (0, 0, 0)


def test_a_message_that_is_nowhere_is_lost_and_named() -> None:
    one, two = message(1, "a@example.com", "b@example.com"), message(2)
    ledger = LedgerInList(accepted(one), attempted(one.id, result(S.DELIVERED, 1)), accepted(two))
    audit = verify(ledger, {two.id})
    assert not audit.sound
    assert (audit.lost, audit.lost_ids, audit.in_queue) == (1, (spool_form(one.id),), 1)


def test_a_second_final_outcome_is_found() -> None:
    sent = message(1)
    ledger = LedgerInList(accepted(sent), attempted(sent.id, S.DELIVERED), attempted(sent.id, S.BOUNCED))
    audit = verify(ledger, set())
    assert not audit.sound
    assert (audit.settled, audit.doubly_settled) == (1, 1)
    assert audit.doubly_settled_ids == (spool_form(sent.id),)


def test_a_reopened_delivery_may_end_again() -> None:
    sent = message(1)
    ledger = LedgerInList(
        accepted(sent),
        attempted(sent.id, S.BOUNCED),
        moved(sent.id, Move.REOPEN, S.WAITING),
        attempted(sent.id, S.DELIVERED),
    )
    audit = verify(ledger, set())
    assert audit.sound
    assert audit.settled == 1


def test_a_reopened_delivery_that_is_nowhere_is_lost() -> None:
    sent = message(1)
    ledger = LedgerInList(
        accepted(sent), attempted(sent.id, S.BOUNCED), moved(sent.id, Move.REOPEN, S.WAITING)
    )
    assert verify(ledger, set()).lost == 1
    assert verify(ledger, {sent.id}).sound


def test_what_left_without_a_reply_is_uncertain_until_something_follows() -> None:
    sent = message(1, "a@example.com", "b@example.com", "c@example.com")
    ledger = LedgerInList(
        accepted(sent),
        sending(sent.id, 0, 1, 2),
        attempted(sent.id, result(S.DELIVERED, 0), result(S.UNCERTAIN, 1)),
    )
    assert verify(ledger, {sent.id}).uncertain == 2
    ledger.append(moved(sent.id, Move.GIVE_UP, S.GAVE_UP, 1), attempted(sent.id, result(S.DELIVERED, 2)))
    audit = verify(ledger, set())
    assert audit.sound
    assert (audit.uncertain, audit.settled) == (0, 3)


def test_what_was_accepted_before_the_ledger_begins_is_counted_apart() -> None:
    old, sent = message(1), message(2)
    ledger = LedgerInList(accepted(old), accepted(sent), attempted(old.id, S.DELIVERED))
    ledger.append(moved(old.id, Move.HOLD, S.HELD), attempted(sent.id, S.DELIVERED))
    ledger.oldest = Lsn(100)
    audit = verify(ledger, set())
    assert audit.sound
    assert (audit.messages, audit.settled, audit.earlier_settled) == (1, 1, 1)


def test_damage_is_counted_and_read_past() -> None:
    one, two = message(1), message(2)
    ledger = LedgerInList(accepted(one), accepted(two), attempted(one.id, S.DELIVERED))
    ledger.payloads[1] = None
    ledger.payloads.append(b"\x09not a record")
    audit = verify(ledger, set())
    assert audit.sound
    assert (audit.messages, audit.settled, audit.unreadable) == (1, 1, 2)


def test_a_message_told_twice_is_one_message() -> None:
    sent = message(1)
    ledger = LedgerInList(accepted(sent), accepted(sent), attempted(sent.id, S.DELIVERED), accepted(sent))
    audit = verify(ledger, set())
    assert audit.sound
    assert (audit.messages, audit.settled, audit.lost) == (1, 1, 0)
