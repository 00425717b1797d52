"""The table of what may happen to a delivery: every way through it ends, and no end is left by itself."""

from __future__ import annotations

from itertools import combinations

import pytest

from dispatch.mail.delivery import (
    FAILED_STATES,
    FINAL_STATES,
    MOVES,
    DeliveryState,
    ImpossibleMove,
    Move,
    least_finished,
    move,
)

S = DeliveryState


def test_every_state_has_its_row_and_every_move_its_use() -> None:
    assert MOVES.keys() == set(DeliveryState)
    assert {what for moves in MOVES.values() for what in moves} == set(Move)


@pytest.mark.parametrize("state", [state for state in DeliveryState if state.final])
def test_an_end_is_left_by_reopening_only_and_only_where_content_is_kept(state: DeliveryState) -> None:
    assert MOVES[state].keys() == ({Move.REOPEN} if state in FAILED_STATES else set())


@pytest.mark.parametrize("state", [state for state in DeliveryState if not state.final])
def test_every_delivery_can_come_to_its_end(state: DeliveryState) -> None:
    reached, ahead = {state}, [state]
    while ahead:
        for after in MOVES[ahead.pop()].values():
            if after not in reached:
                reached.add(after)
                ahead.append(after)
    assert reached & FINAL_STATES


def test_nothing_is_delivered_that_is_not_being_attempted() -> None:
    """Uncertain mail is never delivered or failed over by itself (RFC 1047)."""
    assert [state for state in MOVES if Move.DELIVER in MOVES[state]] == [S.ATTEMPTING]
    assert S.DELIVERED not in MOVES[S.UNCERTAIN].values()


def test_a_move_that_the_table_does_not_have_is_a_broken_invariant() -> None:
    with pytest.raises(ImpossibleMove, match="delivered cannot retry"):
        move(S.DELIVERED, Move.RETRY)


def test_a_message_is_shown_with_its_least_finished_state() -> None:
    assert least_finished(frozenset({S.DELIVERED, S.WAITING, S.BOUNCED})) == "waiting"
    assert least_finished(frozenset({S.WAITING, S.ATTEMPTING})) == "attempting"
    assert least_finished(frozenset({S.DELIVERED, S.BOUNCED})) == "partially delivered"
    assert least_finished(frozenset({S.CANCELLED, S.EXPIRED})) == "expired"
    assert least_finished(frozenset({S.DELIVERED, S.CANCELLED})) == "delivered"


def test_every_mixture_of_states_is_shown_as_something() -> None:
    for count in (1, 2, 3):
        for states in combinations(DeliveryState, count):
            assert least_finished(frozenset(states))
