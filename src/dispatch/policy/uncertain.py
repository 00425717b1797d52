"""What happens to a delivery whose final reply was lost (RFC 1047).

The end of data left us and no reply came back: the relay may have the message, or not. Trying again
risks a duplicate, not trying again risks a loss, and nobody but the operator can say which is
worse for this mail. The answer is a setting; it never involves another relay by itself.
"""

from __future__ import annotations

from typing import Literal

from dispatch.mail.delivery import Move

UncertainPolicy = Literal["retry", "hold", "give_up"]

UNCERTAIN_MOVES: dict[UncertainPolicy, Move] = {
    "retry": Move.RETRY,
    "hold": Move.HOLD,
    "give_up": Move.GIVE_UP,
}

UNCERTAIN_REASONS: dict[UncertainPolicy, str] = {
    "retry": "no reply after the end of data: tried again, the recipient may get it twice",
    "hold": "no reply after the end of data: held for a person to decide",
    "give_up": "no reply after the end of data: not tried again, the recipient may not have got it",
}
"""For the operator, and in the ledger beside the move."""


def uncertain_move(policy: UncertainPolicy) -> Move:
    """The move, by the uncertain policy, of a delivery that is uncertain."""
    return UNCERTAIN_MOVES[policy]
