"""What happens to a delivery whose final reply was lost (RFC 1047).

The end of data left us and no reply came back: the relay may have the message, or not. Trying again
risks a duplicate, not trying again risks a loss, and nobody but the operator can say which is
worse for this mail. The answer is a setting; it never involves another relay by itself.
"""

from __future__ import annotations

from typing import Literal

from dispatch.mail.delivery import Move

UncertainPolicy = Literal["retry", "hold", "give_up"]

_MOVES: dict[UncertainPolicy, Move] = {
    "retry": Move.RETRY,
    "hold": Move.HOLD,
    "give_up": Move.GIVE_UP,
}


def uncertain_move(policy: UncertainPolicy) -> Move:
    """The move, by the uncertain policy, of a delivery that is uncertain."""
    return _MOVES[policy]
