"""The audit finds what was lost and what ended twice, and nothing else."""

from __future__ import annotations

from tests.unit.outcomes.ledger import LedgerInList, accepted, attempted, moved, result, sending
from tests.unit.store.messages import DAY_ONE_MS, message

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mail.ids import spool_form
from dispatch.outcomes.audit import Period, Witness, contradictions, unsettled, verify
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


def test_over_a_period_the_time_of_acceptance_counts() -> None:
    early, late = message(1, at_ms=DAY_ONE_MS), message(2, at_ms=DAY_ONE_MS + 1000)
    ledger = LedgerInList(
        accepted(early),
        accepted(late),
        attempted(early.id, S.DELIVERED, at_ms=DAY_ONE_MS + 5000),
        attempted(late.id, S.DELIVERED),
        attempted(late.id, S.DELIVERED),
    )
    first = verify(ledger, set(), Period(DAY_ONE_MS, DAY_ONE_MS + 1000))
    assert (first.messages, first.settled, first.doubly_settled, first.earlier_settled) == (1, 1, 0, 0)
    second = verify(ledger, set(), Period(DAY_ONE_MS + 1000))
    assert (second.messages, second.settled, second.doubly_settled, second.earlier_settled) == (1, 1, 1, 0)
    assert verify(ledger, set(), Period(None, DAY_ONE_MS)).messages == 0
    assert first.records == second.records == 5


def test_outcomes_of_the_period_whose_acceptance_was_released_are_counted_apart() -> None:
    early, late = message(1, at_ms=DAY_ONE_MS), message(2, at_ms=DAY_ONE_MS + 1000)
    ledger = LedgerInList(attempted(early.id, S.DELIVERED), attempted(late.id, S.DELIVERED))
    assert verify(ledger, set(), Period(DAY_ONE_MS + 1000)).earlier_settled == 1
    assert verify(ledger, set()).earlier_settled == 2


def test_the_oldest_record_tells_how_far_back_the_ledger_goes() -> None:
    assert verify(LedgerInList(), set()).kept_from_ms is None
    ledger = LedgerInList(attempted(message(1).id, S.DELIVERED, at_ms=DAY_ONE_MS + 7))
    assert verify(ledger, set()).kept_from_ms == DAY_ONE_MS + 7


def test_a_ledger_that_others_have_read_further_than_it_goes_is_contradicted() -> None:
    full = verify(LedgerInList(accepted(message(1))), {message(1).id})
    witnesses = [Witness("followed.mark", Lsn(100)), Witness("checkpoint.mark", Lsn(0))]
    assert contradictions(full, Lsn(100), witnesses, parked=1, mail_released=True) == ()
    (said,) = contradictions(full, Lsn(99), witnesses, parked=1, mail_released=True)
    assert "followed.mark speaks of records up to 0x64" in said


def test_an_empty_ledger_is_contradicted_by_mail_that_it_should_know() -> None:
    nothing = verify(LedgerInList(), set())
    assert contradictions(nothing, Lsn(0), [], parked=0, mail_released=False) == ()
    assert len(contradictions(nothing, Lsn(0), [], parked=2, mail_released=True)) == 2


def test_messages_without_a_final_outcome_for_each_recipient_are_unsettled() -> None:
    over, half, open_ = message(1), message(2, "a@example.com", "b@example.com"), message(3)
    ledger = LedgerInList(
        accepted(over), attempted(over.id, S.DELIVERED), attempted(half.id, result(S.BOUNCED, 1))
    )
    payloads = [payload for payload in ledger.payloads if payload is not None]
    assert unsettled(payloads, [over, half, open_]) == {half.id, open_.id}
