"""The states of a delivery: the task of getting one message to one recipient.

A table, so that what may happen to mail can be read in one place; the diagram in the manual is
made from it. Final states are entered once and left only by an operator's `reopen`.
"""

from __future__ import annotations

from enum import StrEnum


class DeliveryState(StrEnum):
    WAITING = "waiting"
    """In the mail log, or parked and due later."""
    ATTEMPTING = "attempting"
    UNCERTAIN = "uncertain"
    """The end of data left us, no reply came back; waits for the uncertain policy (RFC 1047)."""
    HELD = "held"
    QUARANTINED = "quarantined"
    """Was in hand, alone, each time the process died."""
    DELIVERED = "delivered"
    CAPTURED = "captured"
    BOUNCED = "bounced"
    EXPIRED = "expired"
    GAVE_UP = "gave up"
    """Uncertain, and the policy says to try no more."""
    CANCELLED = "cancelled"
    DISCARDED = "discarded"
    SUPPRESSED = "suppressed"

    @property
    def final(self) -> bool:
        return self in FINAL_STATES

    @property
    def failed(self) -> bool:
        """Final without delivery, content kept for its retention, may be reopened."""
        return self in FAILED_STATES


class Move(StrEnum):
    """What can happen to a delivery."""

    ATTEMPT = "attempt"
    DELIVER = "deliver"
    CAPTURE = "capture"
    DEFER = "defer"
    BOUNCE = "bounce"
    LOSE_REPLY = "lose reply"
    EXPIRE = "expire"
    GIVE_UP = "give up"
    RETRY = "retry"
    HOLD = "hold"
    RELEASE = "release"
    QUARANTINE = "quarantine"
    CANCEL = "cancel"
    DISCARD = "discard"
    SUPPRESS = "suppress"
    REOPEN = "reopen"


_S = DeliveryState
_M = Move

FINAL_STATES = frozenset(
    {_S.DELIVERED, _S.CAPTURED, _S.BOUNCED, _S.EXPIRED, _S.GAVE_UP, _S.CANCELLED, _S.DISCARDED, _S.SUPPRESSED}
)
FAILED_STATES = frozenset({_S.BOUNCED, _S.EXPIRED, _S.GAVE_UP})

MOVES: dict[DeliveryState, dict[Move, DeliveryState]] = {
    _S.WAITING: {
        _M.ATTEMPT: _S.ATTEMPTING,
        _M.RETRY: _S.WAITING,
        _M.HOLD: _S.HELD,
        _M.CANCEL: _S.CANCELLED,
        _M.DISCARD: _S.DISCARDED,
        _M.SUPPRESS: _S.SUPPRESSED,
        _M.BOUNCE: _S.BOUNCED,
        _M.QUARANTINE: _S.QUARANTINED,
    },
    _S.ATTEMPTING: {
        _M.DELIVER: _S.DELIVERED,
        _M.CAPTURE: _S.CAPTURED,
        _M.DEFER: _S.WAITING,
        _M.BOUNCE: _S.BOUNCED,
        _M.EXPIRE: _S.EXPIRED,
        _M.LOSE_REPLY: _S.UNCERTAIN,
        _M.QUARANTINE: _S.QUARANTINED,
    },
    _S.UNCERTAIN: {
        _M.RETRY: _S.WAITING,
        _M.HOLD: _S.HELD,
        _M.GIVE_UP: _S.GAVE_UP,
        _M.CANCEL: _S.CANCELLED,
    },
    _S.HELD: {_M.RELEASE: _S.WAITING, _M.CANCEL: _S.CANCELLED, _M.BOUNCE: _S.BOUNCED},
    _S.QUARANTINED: {_M.RELEASE: _S.WAITING, _M.CANCEL: _S.CANCELLED, _M.BOUNCE: _S.BOUNCED},
    _S.DELIVERED: {},
    _S.CAPTURED: {},
    _S.BOUNCED: {_M.REOPEN: _S.WAITING},
    _S.EXPIRED: {_M.REOPEN: _S.WAITING},
    _S.GAVE_UP: {_M.REOPEN: _S.WAITING},
    _S.CANCELLED: {},
    _S.DISCARDED: {},
    _S.SUPPRESSED: {},
}


class ImpossibleMove(AssertionError):
    """Code asked a delivery to do what its state does not allow: a broken invariant, never an outcome."""


def move(state: DeliveryState, what: Move) -> DeliveryState:
    """The state that follows; raises `ImpossibleMove` where the table has no entry."""
    try:
        return MOVES[state][what]
    except KeyError:
        raise ImpossibleMove(f"a delivery that is {state} cannot {what}") from None


def least_finished(states: frozenset[DeliveryState]) -> str:
    """How a message with these deliveries is shown: its least finished state, or how it ended."""
    for state in (_S.ATTEMPTING, _S.UNCERTAIN, _S.WAITING, _S.QUARANTINED, _S.HELD):
        if state in states:
            return state.value
    failed = states & FAILED_STATES
    if failed and states & {_S.DELIVERED, _S.CAPTURED}:
        return "partially delivered"
    if failed:
        return next(s for s in (_S.BOUNCED, _S.EXPIRED, _S.GAVE_UP) if s in failed).value
    for state in (_S.DELIVERED, _S.CAPTURED, _S.CANCELLED, _S.DISCARDED, _S.SUPPRESSED):
        if state in states:
            return state.value
    raise ImpossibleMove("a message without deliveries has no state")


def render_states() -> str:
    """The manual's page: the table of moves, as a diagram and in rows."""
    arrows = [
        f"    {state.name} --> {after.name}: {what.value}"
        for state, moves in MOVES.items()
        for what, after in moves.items()
    ]
    rows = [
        f"| {state.value} | {'yes' if state.final else ''} | "
        + (", ".join(f"{what.value} → {after.value}" for what, after in moves.items()) or "–")
        + " |"
        for state, moves in MOVES.items()
    ]
    return "\n".join(
        [
            "# States of a delivery",
            "",
            "A delivery is the task of getting one message to one recipient. This page is made from the",
            "table that the program works by.",
            "",
            "| state | final | what can happen |",
            "|---|---|---|",
            *rows,
            "",
            "```mermaid",
            "stateDiagram-v2",
            "    [*] --> WAITING: accept",
            *arrows,
            "```",
            "",
        ]
    )
