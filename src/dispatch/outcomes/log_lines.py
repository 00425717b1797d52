"""Log lines: every final outcome in one line that can be searched, whatever may be repeated, and every wait
on request.

One line a recipient: id, from, to (masked by default), relay, status, seconds since acceptance, and
the peer's words. Said at least once: after a crash the last batch may be said again, while this
process never says a record twice, however often the history database makes the batch come back.

Runs behind `history`, whose rows tell who a message is from and for when it was accepted long ago. No
subject and no content is ever logged; where recipients are masked, addresses in the peer's words
are masked too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from dispatch.mail.address import mask_address
from dispatch.mail.delivery import DeliveryState
from dispatch.mail.ids import MessageId, accepted_ms, spool_form
from dispatch.observe import Reporter
from dispatch.outcomes.tail import Happened
from dispatch.spool.records import Accepted, Attempted, Moved
from dispatch.store.history import HistoryStore

EVENTS: dict[DeliveryState, str] = {
    DeliveryState.DELIVERED: "delivered",
    DeliveryState.CAPTURED: "delivered",
    DeliveryState.BOUNCED: "failed",
    DeliveryState.EXPIRED: "failed",
    DeliveryState.GAVE_UP: "failed",
    DeliveryState.CANCELLED: "ended",
    DeliveryState.DISCARDED: "ended",
    DeliveryState.SUPPRESSED: "ended",
    DeliveryState.UNCERTAIN: "uncertain",
}
"""The log event (`observe.EVENTS`) of each state that is worth a line."""

RETRYING = "retrying"
UNCERTAIN = EVENTS[DeliveryState.UNCERTAIN]
LOST_POWER = "taken up again after the machine lost power: it may have been delivered without a trace"

_ADDRESS = re.compile(r"[^\s<>()\[\],;:\"']+@[\w.\-]+")


class LogRules(Protocol):
    """What of it is written: the settings `logging.*`."""

    @property
    def mask_recipient(self) -> bool: ...

    @property
    def log_delivered(self) -> bool: ...

    @property
    def log_retrying(self) -> bool: ...


class LogLines:
    """The reactor that writes the lines. `rules` may be replaced at any time."""

    def __init__(self, store: HistoryStore, report: Reporter, rules: LogRules) -> None:
        self._store = store
        self._report = report
        self.rules = rules
        self._said_below = -1
        self._accepted: dict[MessageId, Accepted] = {}

    def react(self, batch: Sequence[Happened]) -> None:
        self._accepted = {}
        for lsn, record in batch:
            if isinstance(record, Accepted):
                self._accepted[record.message.id] = record
                if record.power and lsn > self._said_below:
                    self._was_accepted(record)
            elif lsn <= self._said_below:
                continue
            elif isinstance(record, Attempted):
                self._attempted(record)
            elif isinstance(record, Moved):
                self._was_moved(record)
            self._said_below = max(self._said_below, lsn)

    def idle(self) -> bool:
        return False

    def _was_accepted(self, record: Accepted) -> None:
        """Again, after a power cut took the first record of it."""
        message = record.message
        everybody = tuple(range(len(message.envelope.recipients)))
        status = DeliveryState.WAITING
        self._say(UNCERTAIN, message.id, everybody, None, status, record.at_ms, LOST_POWER)

    def _attempted(self, record: Attempted) -> None:
        for result in record.results:
            event = self._event(result.state)
            if event is not None:
                words = result.reason if result.reply is None else str(result.reply)
                wait_s = None if result.due_ms is None else (result.due_ms - record.at_ms) / 1000
                self._say(
                    event, record.id, result.indexes, record.relay, result.state, record.at_ms, words, wait_s
                )

    def _was_moved(self, record: Moved) -> None:
        event = UNCERTAIN if record.power else EVENTS.get(record.state)
        if event is not None:
            words = f"{record.by}: {record.reason}" if record.reason else record.by
            self._say(event, record.id, record.indexes, record.relay, record.state, record.at_ms, words)

    def _event(self, state: DeliveryState) -> str | None:
        """The event of an attempt's result; None where no line is wanted."""
        if state is DeliveryState.WAITING:
            return RETRYING if self.rules.log_retrying else None
        event = EVENTS.get(state)
        return None if event == "delivered" and not self.rules.log_delivered else event

    def _say(
        self,
        event: str,
        message_id: MessageId,
        indexes: tuple[int, ...],
        relay: str | None,
        state: DeliveryState,
        at_ms: int,
        words: str,
        wait_s: float | None = None,
    ) -> None:
        sender, addresses = self._paths(message_id, indexes)
        masked = self.rules.mask_recipient
        if masked and "@" in words:
            words = _ADDRESS.sub(lambda found: mask_address(found.group()), words)
        for address, is_copy in addresses:
            fields: dict[str, object] = {
                "id": spool_form(message_id),
                "from": None if sender is None else f"<{sender}>",
                "to": f"<{mask_address(address) if masked else address}>" if address else None,
                "relay": relay,
                "status": state.value,
                "delay_s": max(0, at_ms - accepted_ms(message_id)) / 1000,
                "reply": words or None,
            }
            if is_copy:
                fields["copy"] = True
            if wait_s is not None:
                fields["retry_in_s"] = wait_s
            self._report(event, **fields)

    def _paths(
        self, message_id: MessageId, indexes: tuple[int, ...]
    ) -> tuple[str | None, list[tuple[str, bool]]]:
        """Who it is from, and the address of each of these recipients and whether it is a copy's; None and
        empty where nobody knows."""
        accepted = self._accepted.get(message_id)
        if accepted is not None:
            envelope = accepted.message.envelope
            recipients = [envelope.recipients[index] for index in indexes]
            return envelope.reverse_path, [(each.address, bool(each.copy_to)) for each in recipients]
        kept = self._store.envelope_of(message_id)
        if kept is None:
            return None, [("", False)] * len(indexes)
        sender, addresses, count = kept
        # A message that was accepted twice may have other copies than history knows.
        found = [addresses[index] if index < len(addresses) else "" for index in indexes]
        return sender, [(address, index >= count) for address, index in zip(found, indexes, strict=True)]
