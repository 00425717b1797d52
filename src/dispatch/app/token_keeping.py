"""Refresh tokens that servers gave in place of the configured ones: delivery has control keep them.

Only the newest of a relay counts, and it is offered until control has it: on a thread, one at a time, again
each minute where control cannot be reached or cannot write. Mail never waits for that. What delivery had to
take with it, because it ended first, is lost: then a start has the token before, which some servers refuse.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec

from dispatch.app.machine import Machine
from dispatch.observe import Reporter
from dispatch.ports import Worker
from dispatch.runtime.bus import BusError
from dispatch.security.vault import Vault, VaultFault
from dispatch.settings.renewed_tokens import RenewedToken, load_tokens
from dispatch.settings.requests import Answer, KeepToken, Refused, TokenKept

AGAIN_S = 60.0

_ANSWERS: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


class TokenKeeping:
    """What is not kept yet, by relay; bounded by their number."""

    def __init__(self, machine: Machine, report: Reporter) -> None:
        self._machine = machine
        self._report = report
        self._worker: Worker | None = None
        """Made with the first token; most machines never see one."""
        self._untold: dict[str, RenewedToken] = {}
        self._busy = False
        """One is on its way, or the minute runs."""
        self._said = False

    def keep(self, relay: str, renewed: RenewedToken) -> None:
        self._untold[relay] = renewed
        if not self._busy:
            self._offer()

    def _offer(self) -> None:
        self._busy = True
        if self._worker is None:
            self._worker = self._machine.threads.worker("tokens")
        relay, renewed = next(iter(self._untold.items()))
        ask = partial(self._machine.neighbours.ask, "control", KeepToken(relay, renewed), _ANSWERS)
        self._worker.call(ask, partial(self._offered, relay, renewed))

    def _offered(self, relay: str, renewed: RenewedToken, answer: object) -> None:
        if not isinstance(answer, TokenKept):
            if not self._said:
                self._said = True
                self._report("token_not_kept", relay=relay, why=_why(answer))
            self._machine.clock.call_later(AGAIN_S, self._offer)
            return
        self._said = False
        if self._untold.get(relay) is renewed:
            del self._untold[relay]
        self._busy = False
        if self._untold:
            self._offer()


def _why(answer: object) -> str:
    """Neither control's answers nor the faults of the bus hold anything of what was asked."""
    match answer:
        case Refused(mistakes):
            return "; ".join(mistakes)
        case BusError(_, message):
            return f"control could not do it: {message}"
        case _:
            return f"control does not answer: {answer}"


def tokens_at_start(folder: Path, seal: Vault, report: Reporter) -> dict[str, RenewedToken]:
    """What was kept. Where it cannot be read, it is said, and the configured tokens are used."""
    try:
        return load_tokens(folder, seal)
    except (OSError, VaultFault, ValueError) as error:
        report("token_not_kept", why=str(error))
        return {}
