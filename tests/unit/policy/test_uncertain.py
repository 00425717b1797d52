from typing import get_args

import pytest

from dispatch.mail.delivery import DeliveryState, Move, move
from dispatch.policy.uncertain import UncertainPolicy, uncertain_move


@pytest.mark.parametrize("policy", get_args(UncertainPolicy))
def test_every_policy_is_a_way_out_of_uncertain(policy: UncertainPolicy) -> None:
    assert move(DeliveryState.UNCERTAIN, uncertain_move(policy)) is not DeliveryState.UNCERTAIN


def test_the_policies_do_what_they_are_called() -> None:
    moves = [uncertain_move(policy) for policy in get_args(UncertainPolicy)]
    assert moves == [Move.RETRY, Move.HOLD, Move.GIVE_UP]
